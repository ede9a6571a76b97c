import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from cmp import folder_lock
from cmp.folder_lock import FolderInUse, hold_folder

ROOT = Path(__file__).resolve().parents[1]
HOLD = """
import os, sys, time
if "a slow start" in sys.argv:
    os.register_at_fork(after_in_child=lambda: time.sleep(1))  # before the hook that gives up the lock
sys.path.insert(0, sys.argv[1])
from cmp.folder_lock import hold_folder
with hold_folder(sys.argv[2]):
    if len(sys.argv) > 3 and os.fork() == 0:
        time.sleep(60)  # a loader's worker that outlives its run
    print("held", flush=True)
    sys.stdin.read()
"""


def holder(folder, *more):
    """A process that holds a folder until its stdin is closed."""
    command = [sys.executable, "-c", HOLD, str(ROOT), str(folder), *more]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout.readline() == "held\n"
    return process


def test_the_second_is_refused_with_the_firsts_host_and_process_and_may_follow_it(tmp_path):
    process = holder(tmp_path)
    with pytest.raises(FolderInUse) as refused, hold_folder(tmp_path):
        pass
    assert f"(host {os.uname().nodename}, process {process.pid}, since 20" in str(refused.value)
    assert str(refused.value).startswith(f"{tmp_path}: another run writes into this folder (host ")
    process.communicate("", timeout=30)
    with hold_folder(tmp_path):
        assert [path.name for path in tmp_path.iterdir()] == [".lock"]
        with pytest.raises(FolderInUse, match=f"process {os.getpid()}"), hold_folder(tmp_path):
            pass
        with hold_folder(tmp_path, name=".other"):
            pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("more", ((), ("with a worker",), ("with a worker", "a slow start")))
def test_a_killed_process_blocks_nobody_not_even_by_a_worker_that_it_forked(tmp_path, more):
    process = holder(tmp_path, *more)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert json.loads((tmp_path / ".lock").read_text())["pid"] == process.pid
    began = time.monotonic()
    with hold_folder(tmp_path, watch_s=1000):  # not watched: the system's lock is free, on this machine
        assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()
    assert time.monotonic() - began < 100
    os.killpg(process.pid, signal.SIGKILL) if more else None
    process.stdin.close(), process.stdout.close()


def locked_elsewhere(path):
    """Lock a file as its owner would, through a handle that nothing else shares."""
    handle = os.open(path, os.O_RDWR)
    fcntl.flock(handle, fcntl.LOCK_EX)
    return handle


def dead_process():
    """The number of a process that has ended."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_a_lock_whose_owner_is_not_seen_here_is_refused_as_soon_as_it_beats(tmp_path):
    left_by(tmp_path, folder_lock._machine(), pid=dead_process())  # as of a container with its own process numbers
    handle = locked_elsewhere(tmp_path / ".lock")
    timer = threading.Timer(0.5, left_by, (tmp_path, folder_lock._machine(), 1))
    timer.start()
    with pytest.raises(FolderInUse, match="host node7, process 99"), hold_folder(tmp_path, watch_s=1000):
        pass
    timer.join()
    os.close(handle)


def test_a_lock_that_a_dead_owners_worker_keeps_is_refused_in_the_end(tmp_path):
    left_by(tmp_path, folder_lock._machine(), pid=(dead := dead_process()))
    handle = locked_elsewhere(tmp_path / ".lock")
    with pytest.raises(FolderInUse, match=f"process {dead}"), hold_folder(tmp_path, watch_s=0.3):
        pass
    os.close(handle)


@pytest.mark.parametrize("machine", ("here", "another"))
def test_a_lock_whose_owner_may_live_is_refused_at_once(tmp_path, machine):
    machine, pid = (folder_lock._machine(), os.getpid()) if machine == "here" else (machine, dead_process())
    left_by(tmp_path, machine, pid=pid)
    handle = locked_elsewhere(tmp_path / ".lock")
    with pytest.raises(FolderInUse, match=f"process {pid}"), hold_folder(tmp_path, watch_s=1000):
        pass
    os.close(handle)


def left_by(folder, machine="another", beat=0, pid=99):
    text = json.dumps(dict(host="node7", pid=pid, machine=machine, start="1", since="2026-01-01", beat=beat))
    file = folder / ".lock"
    with open(file, "r+" if file.exists() else "w") as opened:  # never empty in between
        opened.write(text)
        opened.truncate()


def test_a_lock_of_another_machine_that_does_not_beat_is_taken_over(tmp_path):
    left_by(tmp_path)
    with hold_folder(tmp_path, watch_s=0.3):
        assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("no_flock", (False, True))
def test_a_lock_of_another_machine_that_beats_is_refused(tmp_path, monkeypatch, no_flock):
    def none(*_):
        raise OSError(folder_lock.errno.ENOLCK, "no locks available")

    if no_flock:
        monkeypatch.setattr(folder_lock.fcntl, "flock", none)
    left_by(tmp_path)
    refused = threading.Event()

    def beat():
        number = 0
        while not refused.wait(0.3):
            number += 1
            left_by(tmp_path, "another", number)

    owner = threading.Thread(target=beat)
    owner.start()
    try:
        with pytest.raises(FolderInUse, match="host node7, process 99"), hold_folder(tmp_path, watch_s=60):
            pass
    finally:
        refused.set()
        owner.join()
    assert json.loads((tmp_path / ".lock").read_text())["host"] == "node7"


def test_without_the_systems_lock_a_living_owner_is_known_by_its_beats(tmp_path, monkeypatch):
    def none(*_):
        raise OSError(folder_lock.errno.ENOLCK, "no locks available")

    monkeypatch.setattr(folder_lock.fcntl, "flock", none)
    with hold_folder(tmp_path, beat_s=0.1), pytest.raises(FolderInUse), hold_folder(tmp_path, watch_s=60):
        pass
    left_by(tmp_path, folder_lock._machine())
    with hold_folder(tmp_path, watch_s=0.3):
        pass


def test_a_file_that_says_nothing_is_no_owner(tmp_path):
    for text in ("", "{", "[]"):
        (tmp_path / ".lock").write_text(text)
        with hold_folder(tmp_path, watch_s=1000):
            assert json.loads((tmp_path / ".lock").read_text())["host"] == os.uname().nodename
