"""The tasks of an array job as commands, at the same time, and the command that merges them."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cmp.video import write_video

TOOLS = Path(__file__).resolve().parents[2] / "tools"
FLAGS = ["--interval-frames", "2", "--pairs-per-video", "3", "--short-side", "48", "--workers", "1", "--quiet"]


@pytest.fixture(scope="module")
def merge():
    spec = importlib.util.spec_from_file_location("merge_stores", TOOLS / "merge_stores.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


def contents(root):
    """Every file of a store but the empty lock."""
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file() and p.name != ".lock"}


def test_tasks_at_the_same_time_and_one_merge_make_the_store_of_one_job(merge, tmp_path, capsys):
    videos = tmp_path / "videos"
    videos.mkdir()
    for seed in range(5):
        ground = np.random.default_rng(seed).integers(0, 255, (7, 14, 3), np.uint8).repeat(8, axis=0).repeat(8, axis=1)
        write_video(videos / f"{seed}.mp4", (ground[:, 3 * i : 3 * i + 72] for i in range(8)), 25)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    jobs = [["single"], *(["array", "--task-index", str(index), "--num-tasks", "3"] for index in range(3))]
    running = [
        subprocess.Popen(
            [sys.executable, str(TOOLS / "prepare_flow.py"), str(videos), str(tmp_path / out), *FLAGS, *flags],
            env=environment,
            stdout=subprocess.DEVNULL,
        )
        for out, *flags in jobs
    ]
    assert [process.wait(120) for process in running] == [0] * 4
    out = tmp_path / "array"
    assert merge([str(out)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"merged 3 tasks; 5 videos, 15 pairs in {out}"
    assert contents(out) == contents(tmp_path / "single")
    assert merge([str(out)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"nothing to merge; 5 videos, 15 pairs in {out}"


def test_missing_tasks_are_named_and_the_command_fails(merge, tmp_path, capsys):
    (tmp_path / "parts" / "00001-of-00003").mkdir(parents=True)
    assert merge([str(tmp_path)]) == 2
    assert "of 3 tasks 0,2 not started; 1 not finished. Run again: --array=0-2" in capsys.readouterr().err
