import tracemalloc

import numpy as np
import pytest

from cmp.datasets import split_positions
from cmp.datasets.splits import number_videos, split_by_list


def test_with_five_videos_whole_ones_are_kept_the_last_by_name():
    videos = ["e", "a", "c", "b", "d", "e", "a", "d"]
    np.testing.assert_array_equal(split_positions(videos, "val", val_share=0.4), [0, 4, 5, 7])
    np.testing.assert_array_equal(split_positions(videos, "train", val_share=0.4), [1, 2, 3, 6])


@pytest.mark.parametrize("num_videos", (1, 2, 4, 5, 23))
@pytest.mark.parametrize("val_share", (0.02, 0.3, 0.9))
def test_no_pair_is_in_both_parts_and_neither_is_empty(num_videos, val_share):
    rng = np.random.default_rng(0)
    videos = np.sort([f"v{i}" for i in rng.integers(0, num_videos, 20 * num_videos)])
    train, val = (split_positions(videos, part, val_share=val_share) for part in ("train", "val"))
    assert len(train) and len(val) and not set(train) & set(val)
    assert (np.diff(train) > 0).all() and (np.diff(val) > 0).all()
    if num_videos >= 5:
        assert not set(videos[train]) & set(videos[val]) and len(train) + len(val) == len(videos)
    else:
        assert set(videos[train]) == set(videos[val])


def test_with_four_videos_the_end_of_each_is_kept_and_a_gap_before_it_left_out():
    videos = ["b", "a"] * 50
    val, train = (split_positions(videos, part, val_share=0.2) for part in ("val", "train"))
    np.testing.assert_array_equal(val, np.arange(80, 100))
    np.testing.assert_array_equal(train, np.arange(76))  # 4 % of 50 pairs are 2 of each video


def test_a_video_too_short_to_divide_is_trained_on():
    videos = ["a", "a", *["b"] * 30]
    assert {0, 1} <= set(split_positions(videos, "train", val_share=0.1))


def test_adding_pairs_to_other_videos_does_not_move_a_video():
    few = np.repeat(list("abcdefghij"), 3)
    many = np.repeat(list("abcdefghij"), 30)
    for part in ("train", "val"):
        kept = [set(videos[split_positions(videos, part, val_share=0.2)]) for videos in (few, many)]
        assert kept[0] == kept[1]


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="part must be 'train' or 'val', got 'test'"):
        split_positions(["a"], "test", val_share=0.1)
    for share in (0, 1, -0.5):
        with pytest.raises(ValueError, match="val_share"):
            split_positions(["a"], "val", val_share=share)


@pytest.mark.parametrize("num_videos", [5, 7, 57])
def test_two_videos_at_least_are_held_out_so_that_each_has_another_one(num_videos):
    videos = [f"v{i:02}" for i in range(num_videos) for _ in range(4)]
    held_out = {videos[i] for i in split_positions(videos, "val", val_share=0.02)}
    assert held_out == {f"v{num_videos - 2:02}", f"v{num_videos - 1:02}"}


def test_videos_are_numbered_by_name():
    videos = ["b", "a", "b", "c", "a"]
    names, ids = number_videos(iter(videos))
    assert names == ["a", "b", "c"] and [names[i] for i in ids] == videos
    assert number_videos([])[0] == [] and len(number_videos([])[1]) == 0


def test_a_long_name_takes_no_memory_for_each_of_its_pairs():
    videos = [name for name in ("a" * 4000, "b" * 4000) for _ in range(50_000)]
    tracemalloc.start()
    try:
        assert len(split_positions(videos, "train", val_share=0.5)) > 0
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 100 * len(videos)  # an array of names would take 16,000 bytes for each


def test_a_list_names_the_videos_held_out_and_every_line_must_name_one(tmp_path):
    videos = ["b", "a", "b", "c"]
    (tmp_path / "val.txt").write_text("./x/a.mp4\nnever.mp4 3\n")
    names = {"a": ("a", "x/a.mp4"), "b": ("b", "x/b.mp4"), "none": ("none", "never.mp4")}  # "c" has its own name alone
    for part, expected in (("val", [1]), ("train", [0, 2, 3]), ("all", [0, 1, 2, 3])):
        np.testing.assert_array_equal(split_by_list(videos, part, tmp_path / "val.txt", names), expected)
    (tmp_path / "val.txt").write_text("c\nx/a.mp4\n")
    np.testing.assert_array_equal(split_by_list(videos, "val", tmp_path / "val.txt", names), [1, 3])
    for part in ("train", "val", "all"):
        with pytest.raises(ValueError, match=r"val\.txt:2: 'x/a\.mp4': does not match any of the 3 videos .* is a"):
            split_by_list(videos, part, tmp_path / "val.txt")
