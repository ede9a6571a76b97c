"""Which frames become pairs."""

import numpy as np
import pytest

from data_prep.pairs import choose_pairs

TIMES = np.arange(10) / 10


def test_a_number_of_pairs_is_spread_evenly():
    # 7 first frames, 3 equal parts: their middles are 1.17, 3.5, 5.83.
    pairs = choose_pairs(TIMES, interval_frames=3, pairs_per_video=3)
    assert pairs.tolist() == [[1, 4], [3, 6], [5, 8]] and pairs.dtype == np.int64
    assert choose_pairs(TIMES, interval_frames=3, pairs_per_video=50).tolist() == [[i, i + 3] for i in range(7)]


def test_strides_start_at_the_first_frame():
    assert choose_pairs(TIMES, interval_frames=2, stride_frames=3).tolist() == [[0, 2], [3, 5], [6, 8]]
    assert choose_pairs(TIMES, interval_frames=2, stride_s=0.3).tolist() == [[0, 2], [3, 5], [6, 8]]
    assert choose_pairs(TIMES, interval_frames=1, stride_s=0.45).tolist() == [[0, 1], [5, 6]]
    assert choose_pairs(TIMES, interval_frames=1, stride_s=0.01).tolist() == [[i, i + 1] for i in range(9)]


def test_an_interval_in_seconds_takes_the_nearest_frame_and_follows_a_rate_that_varies():
    assert choose_pairs(TIMES, interval_s=0.24, stride_frames=4).tolist() == [[0, 2], [4, 6]]
    assert choose_pairs(TIMES, interval_s=0.01, stride_frames=4).tolist() == [[0, 1], [4, 5], [8, 9]]
    varying = np.array([0, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 1.1])
    assert choose_pairs(varying, interval_s=0.2, stride_frames=1).tolist() == [
        [0, 2], [1, 3], [3, 4], [4, 5], [5, 6], [6, 7],
    ]  # fmt: skip


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_a_video_shorter_than_the_interval_gives_no_pair(count):
    for interval in ({"interval_frames": 5}, {"interval_s": 0.5}):
        for rule in ({"pairs_per_video": 4}, {"stride_frames": 2}, {"stride_s": 1.0}):
            pairs = choose_pairs(np.arange(count) / 10, **interval, **rule)
            assert pairs.shape == (0, 2) and pairs.dtype == np.int64


@pytest.mark.parametrize(
    "arguments",
    [
        {"interval_frames": 5},
        {"pairs_per_video": 5},
        {"interval_frames": 5, "interval_s": 1.0, "pairs_per_video": 3},
        {"interval_frames": 5, "stride_frames": 1, "stride_s": 1.0},
        {"interval_frames": 0, "stride_frames": 1},
        {"interval_s": -0.1, "stride_frames": 1},
        {"interval_frames": 5, "stride_s": float("nan")},
    ],
)
def test_rules_that_are_missing_doubled_or_not_positive_are_refused(arguments):
    with pytest.raises(ValueError, match="exactly one|above 0"):
        choose_pairs(TIMES, **arguments)
