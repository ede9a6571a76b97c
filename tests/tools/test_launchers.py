"""The launching scripts, with stand-ins for Python, srun and scontrol that say how they were called."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parents[2] / "tools"


def stand_in(folder, name, text):
    path = folder / name
    path.write_text("#!/usr/bin/env bash\n" + text)
    path.chmod(0o755)
    return path


def launch(script, *arguments, folder, **environment):
    """Start a script with the stand-ins first on PATH; environment replaces variables, None removes one."""
    merged = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", **environment}
    merged = {key: value for key, value in merged.items() if value is not None}
    return subprocess.Popen(
        ["bash", str(TOOLS / script), *arguments], cwd=folder, env=merged, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


@pytest.fixture
def torchrun(tmp_path):
    return str(
        stand_in(tmp_path, "fake_python", 'echo "$@"; [ -z "${SAY:-}" ] || echo "$SAY" >"$CMP_STATUS_FILE"; exit 1')
    )


def test_one_machine_needs_no_address(torchrun, tmp_path):
    process = launch("dist_train.sh", "c.py", "4", "--resume", folder=tmp_path, PYTHON=torchrun, MASTER_PORT=None)
    out, _ = process.communicate(timeout=30)
    assert f"--nproc-per-node 4 --max-restarts 3 --standalone {TOOLS}/train.py c.py --resume" in out
    process = launch("dist_train.sh", "c.py", "4", folder=tmp_path, PYTHON=torchrun, PORT="1234", MAX_RESTARTS="0")
    assert "--max-restarts 0 --master-port 1234" in process.communicate(timeout=30)[0]


def test_several_machines_meet_at_the_first(torchrun, tmp_path):
    names = dict(PYTHON=torchrun, NNODES="2", MASTER_ADDR="first", MASTER_PORT="29501")
    for rank, host in (("0", "is_host=1"), ("1", "is_host=0")):
        process = launch("dist_train.sh", "c.py", "8", folder=tmp_path, NODE_RANK=rank, **names)
        meet = f"--nnodes 2 --rdzv-backend c10d --rdzv-endpoint first:29501 --rdzv-id cmp-29501 --rdzv-conf {host}"
        assert meet in process.communicate(timeout=30)[0]
    process = launch("dist_train.sh", "c.py", "8", folder=tmp_path, NODE_RANK=None, **names)
    assert "NODE_RANK: is needed with NNODES" in process.communicate(timeout=30)[1] and process.returncode != 0


def test_the_status_is_the_processes_own(torchrun, tmp_path):
    for said, status in (("75", 75), (None, 1)):
        process = launch("dist_train.sh", "c.py", "2", folder=tmp_path, PYTHON=torchrun, SAY=said)
        process.communicate(timeout=30)
        assert process.returncode == status


@pytest.mark.parametrize("number", (signal.SIGTERM, signal.SIGUSR1))
def test_a_signal_reaches_torchrun_once_and_its_end_is_waited_for(number, tmp_path):
    trap = """told=0; trap "echo told; told=1" TERM; echo ready
    while [ $told = 0 ]; do sleep 0.1 & wait $!; done
    for _ in 1 2 3 4 5 6 7 8; do sleep 0.1 & wait $!; done; echo 75 >$CMP_STATUS_FILE; exit 1"""
    fake = str(stand_in(tmp_path, "fake_python", trap))
    process = launch("dist_train.sh", "c.py", "2", folder=tmp_path, PYTHON=fake)
    assert process.stdout.readline() == "ready\n"
    for _ in range(3):
        process.send_signal(number)
        time.sleep(0.05)
    assert process.wait(timeout=30) == 75
    assert process.stdout.read() == "told\n"
    process.stdout.close(), process.stderr.close()


def test_a_run_that_is_stopped_before_it_can_say_anything_is_started_again(tmp_path):
    fake = str(stand_in(tmp_path, "fake_python", r'trap "kill \$!; exit $STATUS" TERM; echo ready; sleep 30 & wait $!'))
    for own, status in (("1", 75), ("0", 0)):  # at its end it may still say 0
        process = launch("dist_train.sh", "c.py", "2", folder=tmp_path, PYTHON=fake, STATUS=own)
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == status
        assert ("before the run could save" in process.stderr.read()) == (status == 75)
        process.stdout.close(), process.stderr.close()


SRUN = """echo "srun $1"; shift
for task in 0 1; do SLURM_PROCID=$task SLURM_LOCALID=$task SLURM_NTASKS=2 "$@" || status=$?; done; exit ${status:-0}"""
TRAIN = 'echo "$RANK $LOCAL_RANK $WORLD_SIZE $MASTER_ADDR:$MASTER_PORT $*"; exit ${STATUS:-0}'


def slurm(folder, *arguments, **environment):
    stand_in(folder, "srun", SRUN)
    stand_in(folder, "scontrol", 'if [ "$1" = show ]; then echo "$3-1"; echo "$3-2"; else echo "scontrol $*"; fi')
    python = str(stand_in(folder, "fake_python", TRAIN))
    job = dict(SLURM_JOB_ID="41", SLURM_JOB_NODELIST="node", SLURM_SUBMIT_DIR=str(TOOLS.parent), PYTHON=python)
    job |= dict(MASTER_ADDR=None, MASTER_PORT=None)
    process = launch("slurm_train.sh", *arguments, folder=folder, **{**job, **environment})
    out, err = process.communicate(timeout=30)
    return process.returncode, out.splitlines(), err


def test_slurms_tasks_are_torchs_ranks_and_go_on_from_the_newest_checkpoint(tmp_path):
    status, lines, _ = slurm(tmp_path, "c.py", "--work-dir", "a b")
    train = f"{TOOLS}/train.py c.py --resume --work-dir a b"
    assert status == 0 and lines[0] == "srun --kill-on-bad-exit=1"
    assert lines[1:] == [f"{rank} {rank} 2 node-1:20041 {train}" for rank in (0, 1)]


def test_a_job_back_from_the_queue_is_known_as_started_again(tmp_path):
    python = str(stand_in(tmp_path, "say_count", 'echo "count $TORCHELASTIC_RESTART_COUNT"'))
    for count, said in ((None, "count 0"), ("2", "count 2")):
        _, lines, _ = slurm(tmp_path, "c.py", PYTHON=python, SLURM_RESTART_COUNT=count)
        assert lines[1:] == [said] * 2


def test_a_job_that_was_stopped_goes_back_in_the_queue_and_one_that_failed_does_not(tmp_path):
    status, lines, _ = slurm(tmp_path, "c.py", STATUS="75")
    assert status == 75 and lines[-1] == "scontrol requeue 41"
    status, lines, _ = slurm(tmp_path, "c.py", STATUS="2")
    assert status == 2 and not any("requeue" in line for line in lines)


def test_what_is_missing_is_named(tmp_path):
    status, _, error = slurm(tmp_path, "c.py", SLURM_SUBMIT_DIR=str(tmp_path))
    assert status == 2 and "is not the checkout" in error
    status, _, error = slurm(tmp_path, "c.py", SLURM_JOB_ID=None)
    assert status != 0 and "submit this with sbatch" in error
    status, lines, _ = slurm(tmp_path, "--help")
    assert status == 0 and any("sbatch --nodes 2" in line for line in lines)


def test_the_signal_that_slurm_sends_comes_before_the_time_is_up():
    assert "#SBATCH --signal=USR1@180" in (TOOLS / "slurm_train.sh").read_text()
