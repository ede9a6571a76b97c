"""The loader benchmark runs, leaves nothing behind, and its plain loader makes what ours is compared with."""

import tempfile

import cv2
import numpy as np
import pytest
import torch

from cmp.datasets import PairList
from cmp.video.writers import write_video
from tools.benchmark import loader
from tools.benchmark.loader import main


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Two clips in which noise slides by 1 px a frame, and a file that is none."""
    folder = tmp_path_factory.mktemp("videos")
    for seed in range(2):
        noise = np.random.default_rng(seed).integers(0, 255, (10, 30, 3), np.uint8)
        ground = cv2.resize(noise, (120, 72))
        write_video(folder / f"{seed}.mp4", (ground[:, i : i + 96] for i in range(8)), 25)
    (folder / "text.mp4").write_text("not a video")
    return folder


@pytest.fixture(autouse=True)
def as_many_threads_as_before():
    before = torch.get_num_threads(), cv2.getNumThreads()
    yield
    torch.set_num_threads(before[0])
    cv2.setNumThreads(before[1])


def test_every_loader_and_both_stores_are_measured_and_nothing_is_left(videos, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    arguments = ["--sizes", "72x96", "--pairs", "2", "--rounds", "1", "--large-samples", "300"]
    assert main([str(videos), *arguments]) == 0
    printed = capsys.readouterr()
    assert "skipped text.mp4" in printed.err and "96x72, 2 pairs" in printed.out
    for name in ("plain loader", "ours, the same files", "ours, a pair store", "ours, points on the device"):
        assert printed.out.count(f"  {name} ") == 1
    assert "1.0x" in printed.out and "collate" in printed.out
    sizes = [line.split()[0] for line in printed.out.splitlines() if line.count(" s ") == 2]
    assert sizes == ["3", "300"]
    assert printed.out.splitlines()[-1].startswith("measured 1 sizes and 2 stores")
    assert list(tmp_path.iterdir()) == []


def test_a_plain_sample_has_both_normalised_frames_and_the_flow_at_its_guides(videos, tmp_path):
    pairs = loader.real_pairs(videos, (72, 96), 2)
    assert len(pairs) == 2 and abs(np.median(pairs[0][2][..., 0]) + 5) < 1  # 5 frames of 1 px to the left
    sample = loader.PlainDataset(PairList(loader.write_files(tmp_path, pairs)))[1]
    assert sample["images"].shape == (6, 320, 320) and abs(sample["images"].mean()) < 1.5
    assert sample["flow"].shape == (2, 320, 320)
    assert torch.equal(sample["guidance"], sample["flow"] * sample["mask"]) and sample["mask"].sum() >= 2


def test_a_folder_without_videos_is_named(tmp_path, capsys):
    assert main([str(tmp_path)]) == 2
    assert tmp_path.name in capsys.readouterr().err


@pytest.mark.parametrize("arguments, message", ((["--sizes", "foo"], "got 'foo'"), (["--rounds", "0"], "at least 1")))
def test_nothing_to_measure_is_refused(arguments, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_:
        main([str(tmp_path), *arguments])
    assert exit_.value.code == 2 and message in capsys.readouterr().err.splitlines()[-1]
