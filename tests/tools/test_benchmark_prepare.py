"""The benchmark of the preparation runs on any folder and prints every rate."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from cmp.video import write_video

TOOL = Path(__file__).resolve().parents[2] / "tools" / "benchmark" / "prepare.py"


@pytest.fixture(scope="module")
def main():
    spec = importlib.util.spec_from_file_location("benchmark_prepare", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


def test_every_rate_is_printed_for_a_folder_with_one_good_video(main, tmp_path, capsys):
    ground = np.random.default_rng(0).integers(0, 255, (7, 14, 3), np.uint8).repeat(8, axis=0).repeat(8, axis=1)
    write_video(tmp_path / "a.mp4", (ground[:, 3 * i : 3 * i + 72] for i in range(9)), 25)
    (tmp_path / "text.mp4").write_text("not a video")
    assert main([str(tmp_path), "--pairs-per-video", "2"]) == 0
    captured = capsys.readouterr()
    assert "2 pairs of 1 videos" in captured.out and "text.mp4" in captured.err
    rows = {line.split("|")[1].strip(): line.split("|")[2:-1] for line in captured.out.splitlines() if "|" in line}
    rates = ["bare loop", "two bare loops at once", "pipeline, same process", "job, 1 worker", "job, 2 workers"]
    assert list(rows)[2:] == rates
    assert all(float(rows[name][0]) > 0 and float(rows[name][3]) > 0 for name in rates)
    assert "job of one pair" in captured.out and "of what two bare loops do at once" in captured.out


def test_a_folder_without_videos_is_refused(main, tmp_path, capsys):
    assert main([str(tmp_path / "absent")]) == 1 and "no such folder" in capsys.readouterr().err
    assert main([str(tmp_path)]) == 1 and "no video is long enough for a pair" in capsys.readouterr().err
