"""The script of all GPU checks, with a stand-in for Python that states how it was called."""

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "tools" / "benchmark" / "gpu.sh"
FAKE = """#!/usr/bin/env bash
case "$*" in
    *guidance.py*) echo "kernel broke" >&2; exit 3 ;;
    *inference.py*) exit 124 ;;  # the status of a command that timeout ended
    *) echo "called with $*" ;;
esac
"""


def run(tmp_path, *arguments):
    python = tmp_path / "fake_python"
    python.write_text(FAKE)
    python.chmod(0o755)
    environment = {**os.environ, "PYTHON": str(python)}
    command = ["bash", str(SCRIPT), *arguments]
    return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("device", ("cuda", "cpu"))
def test_a_step_that_fails_or_hangs_costs_only_itself(tmp_path, device):
    (tmp_path / "clips").mkdir()
    weights = tmp_path / "raft.pth"
    process = run(tmp_path, "--device", device, "--videos", "clips", "--weights", f"raft-small={weights}", "out")
    assert process.returncode == 1
    tables = (tmp_path / "out" / "tables.txt").read_text()
    assert "guidance: failed with status 3" in tables and "kernel broke" in tables
    assert "inference: stopped after its limit of" in tables
    assert process.stdout.splitlines()[-1].startswith("failed: guidance inference in ")
    selected = "-m gpu tests" if device == "cuda" else "-m not gpu tests/gpu"
    assert selected in (tmp_path / "out" / "tests.txt").read_text()
    loader = (tmp_path / "out" / "loader.txt").read_text()
    assert f"--device {device}" in loader and f"--data {tmp_path / 'out' / 'pairs'}" in loader
    raft = (tmp_path / "out" / "raft.txt").read_text()  # comes after the step that hangs
    assert f"--estimator raft-small --estimator-weights {weights} --estimator-device {device}" in raft


def test_when_the_time_is_over_the_steps_left_are_named(tmp_path):
    (tmp_path / "clips").mkdir()
    (tmp_path / "hangs").write_text('#!/usr/bin/env bash\ncase "$*" in *pytest*) sleep 60 ;; esac\n')
    (tmp_path / "hangs").chmod(0o755)
    process = subprocess.run(
        ["bash", str(SCRIPT), "--device", "cpu", "--videos", "clips", "--limit-s", "1", "out"],
        cwd=tmp_path,
        env={**os.environ, "PYTHON": str(tmp_path / "hangs")},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert process.returncode == 1
    assert "guidance: left out, because the 1 s of --limit-s are over" in process.stdout


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--device", "tpu"], "--device takes cuda or cpu, got tpu"),
        (["--videos", "nowhere"], "no such folder: "),
        (["--weights", "raft.pth"], "--weights takes NAME=FILE, got raft.pth"),
        (["--limit-s", "soon"], "--limit-s takes whole seconds, got soon"),
        (["--fast"], "unknown option --fast"),
        (["a", "b"], "want one OUT_DIR, got a and b"),
        (["--device"], "--device needs a value"),
    ],
)
def test_wrong_arguments_are_named(tmp_path, arguments, message):
    process = run(tmp_path, *arguments)
    assert process.returncode == 2 and message in process.stderr
    assert not (tmp_path / "gpu_out").exists()
