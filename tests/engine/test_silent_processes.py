"""A process that stops answering is named by the others. Run by hand, this file is one of two such processes."""

import os
import signal
import socket
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from mmengine.config import Config  # noqa: E402

from cmp.engine.processes import any_process, join_processes, leave_together, watch_processes  # noqa: E402
from tests.tools.script_process import ScriptProcess  # noqa: E402


def work(folder, hang):
    """What one of two processes does: vote, for ever, or until it is to hang or to end."""
    config = Config(dict(env_cfg=dict(dist_cfg=dict(backend="nccl", timeout=4))))
    join_processes(config)
    watch_processes(folder, config)
    rank = int(os.environ["RANK"])
    for vote in range(10**6):
        if any_process((folder / "end").exists()):
            break
        if vote == 3:
            (folder / f"began_{rank}").touch()
        while hang and rank == 1 and vote == 5:
            time.sleep(0.1)
        time.sleep(0.01)
    leave_together()
    print("left")


@pytest.fixture
def two(tmp_path):
    """Starts two processes that vote; they are killed at the end."""
    processes = []

    def start(hang=""):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        for rank in range(2):
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "MASTER_PORT": str(port)}
            environment |= dict(MASTER_ADDR="127.0.0.1", RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2")
            folder = tmp_path / f"process{rank}"
            folder.mkdir()
            arguments = [tmp_path, hang]
            processes.append(ScriptProcess(__file__, arguments, folder=folder, environment=environment))
        while not all((tmp_path / f"began_{rank}").exists() for rank in range(2)):
            assert all(process.returncode is None for process in processes), processes[0].communicate()[1]
            time.sleep(0.05)
        return processes

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("silent", (1, 0))
def test_a_suspended_process_is_named_by_the_other_which_then_ends(two, silent):
    processes = two()
    os.kill(processes[silent].pid, signal.SIGSTOP)
    _, said = processes[1 - silent].communicate(timeout=100)
    assert processes[1 - silent].returncode == 1
    (line,) = [line for line in said.splitlines() if line.startswith("test_silent_processes.py: ")]
    assert f"rank {silent} (host {os.uname().nodename}, process {processes[silent].pid})" in line
    assert "has not answered for 4 s (env_cfg.dist_cfg.timeout)" in line


def test_a_process_that_hangs_while_the_others_wait_is_named(two):
    processes = two("hang")
    _, said = processes[0].communicate(timeout=100)
    assert processes[0].returncode == 1
    assert f"rank 1 (host {os.uname().nodename}, process {processes[1].pid}) is alive, but the others have" in said


def test_processes_that_answer_leave_together_and_leave_no_file(two, tmp_path):
    processes = two()
    time.sleep(6)  # longer than the time-out
    (tmp_path / "end").touch()
    for process in processes:
        assert process.communicate(timeout=100)[0] == "left\n" and process.returncode == 0
    assert not (tmp_path / ".alive").exists()


if __name__ == "__main__":
    work(Path(sys.argv[1]), sys.argv[2])
