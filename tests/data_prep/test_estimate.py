"""A dry run foresees what the real one makes, and says how far it may be off."""

import os

import cv2
import numpy as np
import pytest

from cmp.video import write_video
from cmp.video.find import VideoSource
from cmp.video.probe import open_container
from data_prep import estimate
from data_prep.estimate import Amount, estimate_folder, read_header, scale_up
from data_prep.job import prepare_folder
from data_prep.settings import PrepareSettings

SETTINGS = PrepareSettings(interval_frames=2, stride_frames=3, short_side_px=48)
pytestmark = pytest.mark.usefixtures("prepared_in_this_process")


def make_clip(path, seed, count, size_hw=(56, 72)):
    height, width = size_hw
    ground = np.random.default_rng(seed).integers(0, 255, (10, 30, 3), np.uint8)
    ground = cv2.resize(ground, (width + 3 * count, height))
    write_video(path, (ground[:, 3 * i : 3 * i + width] for i in range(count)), 25)


def test_a_ratio_estimate_by_hand():
    # ratio 2; residuals 1, -1; 4 items of 12 in all; t(0.975, 1 degree) = 12.7062
    amount = scale_up(np.array([3.0, 5.0]), np.array([1.0, 3.0]), np.array([1.0, 3.0, 2.0, 6.0]))
    assert amount.value == pytest.approx(2 * 12)
    assert amount.spread == pytest.approx(12.7062 * 12 / 2 * np.sqrt((1 - 2 / 4) * 2 / 2), rel=1e-4)


def test_a_sample_of_all_has_no_spread_and_a_sample_of_one_cannot_tell():
    weights = np.array([1.0, 2.0, 4.0])
    assert scale_up(np.array([5.0, 1.0, 7.0]), weights, weights) == Amount(13.0, 0.0)
    assert scale_up(np.array([5.0]), weights[:1], weights) == Amount(35.0, float("inf"))
    assert scale_up(np.zeros(2), np.zeros(2), weights) == Amount(0.0, float("inf"))


def test_the_truth_lies_within_the_spread_about_as_often_as_is_said():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(400):
        weights = rng.uniform(1, 9, 80)
        values = weights * rng.normal(3, 0.6, 80)
        sample = rng.permutation(80)[:16]
        amount = scale_up(values[sample], weights[sample], weights)
        hits += abs(amount.value - values.sum()) <= amount.spread
    assert 0.9 < hits / 400 < 0.98


def test_with_every_video_in_the_sample_pairs_and_bytes_are_those_of_the_real_run(tmp_path):
    videos, out = tmp_path / "videos", tmp_path / "store"
    videos.mkdir()
    for seed, count in enumerate((8, 11, 20)):
        make_clip(videos / f"{seed}.mp4", seed, count)
    (videos / "text.mp4").write_text("not a video")
    estimate = estimate_folder(videos, SETTINGS, num_workers=1, show_progress=False)
    assert (estimate.found, estimate.readable, estimate.sampled) == (4, 3, 3)
    report = prepare_folder(videos, out, SETTINGS, num_workers=1, show_progress=False)
    assert estimate.chosen == 2 + 3 + 6 and estimate.pairs == Amount(float(report.store_pairs), 0.0)
    good = [path for path in [*out.glob("shards/*"), *out.glob("videos/*")] if not path.name.startswith("text")]
    assert estimate.bytes == Amount(float(sum(path.stat().st_size for path in good)), 0.0)
    assert estimate.core_hours.value > 0 and estimate.lost == {}


def test_a_sample_is_drawn_by_its_seed_and_what_it_loses_is_told(tmp_path):
    for seed in range(6):
        make_clip(tmp_path / f"{seed}.mp4", seed, 8)
    write_video(tmp_path / "still.mp4", [np.zeros((56, 72, 3), np.uint8)] * 8, 25)
    first, again = (
        estimate_folder(tmp_path, SETTINGS, num_videos=7, num_workers=1, show_progress=False) for _ in range(2)
    )
    assert first.pairs == again.pairs == Amount(12.0, 0.0) and list(first.lost.values()) == [1]
    assert first.kept_share == pytest.approx(12 / 14)


def test_headers_give_pairs_and_stored_size_and_a_pipe_is_not_opened(tmp_path, monkeypatch):
    make_clip(tmp_path / "v.mp4", 0, 11)
    (tmp_path / "text.mp4").write_text("not a video")
    (tmp_path / "frames").mkdir()
    for number in range(5):
        cv2.imwrite(str(tmp_path / "frames" / f"{number}.png"), np.zeros((40, 50, 3), np.uint8))
    os.mkfifo(tmp_path / "pipe.mp4")
    opened = []
    monkeypatch.setattr(estimate, "open_container", lambda path: opened.append(path.name) or open_container(path))
    results = [
        read_header((str(tmp_path), VideoSource(name, kind), SETTINGS), lambda value: None)
        for name, kind in [("v.mp4", "file"), ("frames", "frames"), ("text.mp4", "file"), ("gone.mp4", "file"),
                           ("pipe.mp4", "file")]
    ]  # fmt: skip
    assert results == [(3, 48 * 62), (1, 40 * 50), None, None, None]
    assert opened == ["v.mp4", "text.mp4"]


def test_folders_that_tell_nothing_are_refused(tmp_path):
    with pytest.raises(ValueError, match="contains no videos"):
        estimate_folder(tmp_path, SETTINGS)
    with pytest.raises(ValueError, match="num_videos must be at least 1, got 0"):
        estimate_folder(tmp_path, SETTINGS, num_videos=0)
    (tmp_path / "text.mp4").write_text("not a video")
    with pytest.raises(ValueError, match="no video whose header"):
        estimate_folder(tmp_path, SETTINGS, num_workers=1, show_progress=False)
