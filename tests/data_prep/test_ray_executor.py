"""A Ray cluster makes the store that this machine alone makes, loses nothing with a worker, and never hangs the job."""

import importlib
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from cmp.video import write_video
from data_prep import ray_executor
from data_prep.job import prepare_folder
from data_prep.ray_executor import RayCluster, RayExecutor, call_once, check_shared, connected
from data_prep.settings import PrepareSettings

SETTINGS = PrepareSettings(interval_frames=2, pairs_per_video=30, short_side_px=120)
WORK = """
import os, time
def work(task, progress):
    kind, value = task
    if kind == "crash": os.kill(os.getpid(), value)
    if kind == "sleep": time.sleep(value)
    if kind == "raise": raise ValueError(value)
    if kind == "count":
        for _ in range(value): progress(2)
    if kind == "pid": return os.getpid()
    return value
"""


def test_without_the_package_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ModuleNotFoundError, match=r"cmp-motion\[ray\]"), connected(RayCluster()):
        pass


def test_a_share_of_a_gpu_below_none_is_refused():
    with pytest.raises(ValueError, match="gpus_per_task must be at least 0, got -1"):
        RayCluster(gpus_per_task=-1)


def test_a_node_that_does_not_see_the_folders_says_so(tmp_path):
    (tmp_path / "videos").mkdir()
    (tmp_path / "store" / ".tmp").mkdir(parents=True)
    token = tmp_path / "store" / ".tmp" / "seen"
    with pytest.raises(RuntimeError, match=rf"does not see {re.escape(str(tmp_path / 'store'))}: OUT_DIR"):
        check_shared(str(token), str(tmp_path / "videos"))
    token.touch()
    with pytest.raises(RuntimeError, match="videos: the videos must lie"):
        check_shared(str(token), str(tmp_path / "videos"))  # an empty mount point


def test_an_address_where_nothing_answers_is_an_error_and_no_wait(monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.setattr(ray_executor, "_CONNECT_S", 1.0)
    with pytest.raises(RuntimeError, match=r"no Ray cluster at '127.0.0.1:9'"), connected(RayCluster("127.0.0.1:9")):
        pass


def descendants(pid):
    """{pid: command line} of all processes below one."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    commands = {}
    for child in found - {pid}:
        try:
            commands[child] = Path(f"/proc/{child}/cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
    return commands


@pytest.fixture(scope="module")
def head():
    """A cluster of its own processes: (process, address); this process is connected to it."""
    pytest.importorskip("ray")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="r", ignore_cleanup_errors=True) as folder:  # short: it holds sockets
        (Path(folder) / "ray_test_work.py").write_text(WORK)
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--num-cpus", "2"]
        command += [f"--port={port}", "--include-dashboard=false", "--disable-usage-stats", f"--temp-dir={folder}"]
        process = subprocess.Popen(
            command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("PYTHONPATH", folder)
                patch.syspath_prepend(folder)
                end = time.monotonic() + 60
                while socket.socket().connect_ex(("127.0.0.1", port)) and time.monotonic() < end:
                    time.sleep(0.2)
                with connected(RayCluster(f"127.0.0.1:{port}")):
                    yield process, f"127.0.0.1:{port}"
        finally:
            below = descendants(process.pid)
            process.send_signal(signal.SIGTERM)
            process.wait(30)
            for pid in below:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass


@pytest.fixture(scope="module")
def work(head):
    return importlib.import_module("ray_test_work").work


@pytest.mark.slow
def test_outcomes_on_a_cluster_are_those_of_local_processes(work):
    heard = []
    tasks = [("value", 5), ("crash", 11), ("raise", "no such thing"), ("sleep", 60), ("count", 7)]
    with RayExecutor(work, cluster=RayCluster(), stall_s=3.0, on_progress=heard.append) as executor:
        for task in tasks:
            executor.submit(task)
        outcomes = dict(executor.outcomes())
    assert outcomes["value", 5].status == "done" and outcomes["value", 5].value == 5
    assert outcomes["crash", 11].status == "died" and "SIGSEGV" in outcomes["crash", 11].detail
    assert outcomes["raise", "no such thing"].status == "error"
    assert "ValueError: no such thing" in outcomes["raise", "no such thing"].detail
    assert outcomes["sleep", 60].status == "stalled"
    assert outcomes["count", 7].status == "done" and sum(heard) == 14


@pytest.mark.slow
def test_the_child_process_of_a_worker_serves_its_next_tasks_and_not_those_of_another_job(work):
    pids = []
    for _ in range(2):
        with RayExecutor(work, cluster=RayCluster(), num_workers=1) as executor:
            for number in range(4):
                executor.submit(("pid", number))
            pids.append({outcome.value for _, outcome in executor.outcomes()})
    assert len(pids[0]) <= 2 and len(pids[1]) <= 2 and not pids[0] & pids[1]


@pytest.mark.slow
def test_a_check_that_fails_on_a_node_is_the_error_of_its_tasks(work):
    def check():
        raise RuntimeError("node x does not see it")

    with RayExecutor(work, cluster=RayCluster(), check=check) as executor:
        executor.submit(("value", 1))
        ((_, outcome),) = executor.outcomes()
    assert outcome.status == "error" and "node x does not see it" in outcome.detail.strip().splitlines()[-1]
    with pytest.raises(RuntimeError, match="node x"):
        call_once(RayCluster(), check)


@pytest.mark.slow
def test_a_task_whose_ray_worker_is_lost_again_and_again_was_killed_and_is_no_crash(work):
    def die():
        os.kill(os.getpid(), signal.SIGKILL)

    with RayExecutor(work, cluster=RayCluster(), check=die) as executor:
        executor.submit(("value", 1))
        ((_, outcome),) = executor.outcomes()
    assert outcome.status == "killed" and "lost 4 times" in outcome.detail  # so the next job tries again


def contents(root):
    """Every file of a store but the empty lock."""
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file() and p.name != ".lock"}


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """A folder of eight clips and a file that is none; the store that this machine makes of it."""
    folder = tmp_path_factory.mktemp("clips") / "videos"
    folder.mkdir()
    for seed in range(8):
        rng = np.random.default_rng(seed)
        ground = rng.integers(0, 255, (15, 80, 3), np.uint8).repeat(8, axis=0).repeat(8, axis=1)
        write_video(folder / f"{seed}.mp4", (ground[:, 3 * i : 3 * i + 160] for i in range(60)), 25)
    (folder / "text.mp4").write_text("not a video")
    prepare_folder(folder, folder.parent / "local", SETTINGS, num_workers=2, show_progress=False)
    return folder, contents(folder.parent / "local")


@pytest.mark.slow
def test_killed_ray_workers_lose_nothing(head, videos, tmp_path):
    process, address = head
    out, killed, over = tmp_path / "ray", set(), threading.Event()

    def kill_busy_workers():
        """Kill Ray workers in the middle of a video: the first four that are seen with one."""
        while not over.is_set() and len(killed) < 4:
            time.sleep(0.02)
            if not list((out / ".tmp").glob("*.tar.*")):
                continue
            for pid, command in descendants(process.pid).items():
                if command.startswith("ray::_run_task") and pid not in killed and len(killed) < 4:
                    os.kill(pid, signal.SIGKILL)
                    killed.add(pid)
                    time.sleep(0.5)
                    break

    killer = threading.Thread(target=kill_busy_workers)
    killer.start()
    try:
        report = prepare_folder(videos[0], out, SETTINGS, cluster=RayCluster(address), show_progress=False)
    finally:
        over.set()
        killer.join()
    assert len(killed) >= 2 and report.failed == {"unreadable": 1}
    assert contents(out) == videos[1]


@pytest.mark.slow
def test_a_killed_command_takes_its_tasks_along_and_the_next_one_goes_on(head, videos, tmp_path):
    tool = Path(__file__).resolve().parents[2] / "tools" / "prepare_flow.py"
    out = tmp_path / "out"
    flags = ["--interval-frames", "2", "--pairs-per-video", "30", "--short-side", "120", "--quiet"]
    command = [sys.executable, str(tool), str(videos[0]), str(out), *flags, "--executor", "ray"]
    command += ["--ray-address", head[1]]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 90
    while not list(out.glob("videos/*.json")) and process.poll() is None and time.monotonic() < end:
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL and not (out / "index.npz").exists()

    def at_work():
        return [pid for pid, name in descendants(head[0].pid).items() if name.startswith("ray::_run_task")]

    while at_work() and time.monotonic() < end:
        time.sleep(0.2)
    assert not at_work()
    assert subprocess.run(command, capture_output=True, timeout=120).returncode == 0
    assert contents(out) == videos[1]


@pytest.mark.slow
def test_the_command_runs_on_the_cluster_from_any_folder(head, tmp_path):
    videos = tmp_path / "videos"
    videos.mkdir()
    ground = np.random.default_rng(0).integers(0, 255, (7, 14, 3), np.uint8).repeat(8, axis=0).repeat(8, axis=1)
    write_video(videos / "a.mp4", (ground[:, 3 * i : 3 * i + 72] for i in range(8)), 25)
    tool = Path(__file__).resolve().parents[2] / "tools" / "prepare_flow.py"
    flags = ["--executor", "ray", "--ray-address", head[1], "--pairs-per-video", "3", "--interval-frames", "2"]
    found = subprocess.run(
        [sys.executable, str(tool), "videos", "out", *flags], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert found.returncode == 0 and found.stdout.strip().endswith("3 pairs in out"), found.stderr
    assert "preparing: 100%" in found.stderr and "pairs=3" in found.stderr
