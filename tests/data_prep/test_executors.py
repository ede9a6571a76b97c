"""Workers that crash, hang or fail cost their own task only."""

import importlib
import subprocess
import sys
import time

import pytest

from data_prep.executors import LocalExecutor

WORK = """
import ctypes, os, signal, sys, time
from data_prep.executors import TimeLimit
held = []
def work(task, progress):
    kind, value = task
    if kind == "crash": os.kill(os.getpid(), value)
    if kind == "exit": os._exit(value)
    if kind == "sleep": time.sleep(value)
    if kind == "raise": raise ValueError(value)
    if kind == "beat":
        for _ in range(value):
            time.sleep(0.3)
            progress(1)
    if kind == "hang": ctypes.PyDLL(None).sleep(value)  # native code that keeps the interpreter's lock
    if kind == "for ever":
        for limit_s in value: progress(TimeLimit(limit_s))
        while True:
            time.sleep(0.05)
            progress(1)
    if kind == "swell":
        held.append(bytearray(value << 20))
        return os.getpid()
    if kind == "pid": return os.getpid()
    return value
def fail(): sys.exit(7)
def killed_five_times():
    marks = os.path.join(os.path.dirname(__file__), "marks")
    with open(marks, "a") as file: file.write("x")
    if os.path.getsize(marks) <= 5: os.kill(os.getpid(), 9)
"""


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    folder = tmp_path_factory.mktemp("work")
    (folder / "executor_test_work.py").write_text(WORK)
    sys.path.insert(0, str(folder))  # workers take over the path
    yield importlib.import_module("executor_test_work")
    sys.path.remove(str(folder))


def run(executor, tasks):
    for task in tasks:
        executor.submit(task)
    return dict(executor.outcomes())


def test_every_task_gets_its_outcome_and_a_crash_costs_only_its_own(work):
    tasks = [("value", i) for i in range(8)] + [("crash", 11), ("exit", 3), ("raise", "no such thing")]
    with LocalExecutor(work.work, num_workers=2) as executor:
        outcomes = run(executor, tasks[5:] + tasks[:5])
    assert set(outcomes) == set(tasks)
    assert all(outcomes["value", i].status == "done" and outcomes["value", i].value == i for i in range(8))
    assert outcomes["crash", 11].status == "died" and "SIGSEGV" in outcomes["crash", 11].detail
    assert outcomes["exit", 3].status == "died" and "status 3" in outcomes["exit", 3].detail
    raised = outcomes["raise", "no such thing"]
    assert raised.status == "error" and "ValueError: no such thing" in raised.detail


def test_a_silent_worker_is_killed_and_one_that_reports_progress_is_not(work):
    heard = []
    start = time.monotonic()
    with LocalExecutor(work.work, num_workers=2, stall_s=1.2, on_progress=heard.append) as executor:
        outcomes = run(executor, [("sleep", 60), ("beat", 6), ("value", 1)])
    assert outcomes["sleep", 60].status == "stalled" and time.monotonic() - start < 30
    assert outcomes["beat", 6].status == "done" and heard == [1] * 6 and outcomes["value", 1].value == 1


def test_a_worker_hanging_in_native_code_with_the_interpreters_lock_is_ended(work):
    start = time.monotonic()
    with LocalExecutor(work.work, num_workers=1, stall_s=1.0) as executor:
        outcomes = run(executor, [("hang", 600), ("value", 1)])
    assert outcomes["hang", 600].status == "stalled" and outcomes["value", 1].value == 1
    with LocalExecutor(work.work, num_workers=1, limit_s=lambda task: 1.0) as executor:
        outcomes = run(executor, [("hang", 600)])
    assert outcomes["hang", 600].status == "late" and time.monotonic() - start < 60


def test_progress_without_end_does_not_keep_a_task_alive_and_its_own_limit_counts_once(work):
    start = time.monotonic()
    tasks = [("for ever", ()), ("for ever", (0.5, 600.0)), ("value", 1)]
    with LocalExecutor(work.work, num_workers=1, stall_s=5, limit_s=lambda task: 600 if task[1] else 1) as executor:
        outcomes = run(executor, tasks)
    assert [outcomes[task].status for task in tasks] == ["late", "late", "done"] and time.monotonic() - start < 60
    assert "1 s" in outcomes[tasks[0]].detail


def test_a_process_killed_from_outside_is_told_from_one_that_crashes(work):
    with LocalExecutor(work.work, num_workers=1) as executor:
        outcomes = run(executor, [("crash", 9), ("crash", 6)])
    assert outcomes["crash", 9].status == "killed" and outcomes["crash", 6].status == "died"


def test_a_worker_that_has_grown_is_replaced(work):
    tasks = [("swell", 30), ("swell", 1), ("swell", 31), ("swell", 2), ("swell", 3)]
    with LocalExecutor(work.work, num_workers=1, max_growth_bytes=20 << 20) as executor:
        outcomes = run(executor, tasks)
    pids = [outcomes[task].value for task in tasks]
    assert pids[0] == pids[1] == pids[2] != pids[3] == pids[4]  # what the first task needed is no growth


def test_workers_are_recycled_and_tasks_may_be_added_while_running(work):
    with LocalExecutor(work.work, num_workers=1, tasks_per_worker=2) as executor:
        executor.submit(("pid", 0))
        pids = []
        for task, outcome in executor.outcomes():
            pids.append(outcome.value)
            if task[1] < 3:
                executor.submit(("pid", task[1] + 1))
    assert pids[0] == pids[1] != pids[2] == pids[3]


def test_workers_that_cannot_start_end_the_run(work):
    with LocalExecutor(work.work, num_workers=1, initialize=work.fail) as executor:
        with pytest.raises(RuntimeError, match=r"cannot start .*status 7"):
            run(executor, [("value", 1)])


def test_workers_killed_while_they_start_do_not_end_the_run_at_once(work):
    with LocalExecutor(work.work, num_workers=1, initialize=work.killed_five_times) as executor:
        outcomes = run(executor, [("value", 1)])
    assert outcomes["value", 1].value == 1


def test_wrong_numbers_are_refused(work):
    for arguments in ({"num_workers": 0}, {"tasks_per_worker": 0}, {"max_growth_bytes": 0}, {"stall_s": 0}):
        with pytest.raises(ValueError, match=next(iter(arguments))):
            LocalExecutor(work.work, **arguments)


def test_a_first_worker_does_not_receive_ctrl_c_while_it_imports(tmp_path):
    program = (
        "import signal\n"
        "from pathlib import Path\n"
        "from data_prep.executors import _Worker\n"
        "if __name__ == '__main__':\n"
        "    worker = _Worker(print, None)\n"
        "    status = Path(f'/proc/{worker.process.pid}/status').read_text()\n"
        "    blocked = int(status.partition('SigBlk:')[2].split()[0], 16)\n"
        "    print(bool(blocked >> (signal.SIGINT - 1) & 1))\n"
        "    worker.kill()\n"
    )
    (tmp_path / "program.py").write_text(program)
    found = subprocess.run([sys.executable, tmp_path / "program.py"], capture_output=True, text=True)
    assert found.stdout == "True\n", found.stderr
