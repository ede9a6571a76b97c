import itertools

import numpy as np
import pytest

from cmp.datasets import EpochSampler, sampler


def draws(count, *, size=7, rank=0, world_size=1, start=0, seed=0, monkeypatch):
    monkeypatch.setattr(sampler, "get_dist_info", lambda: (rank, world_size))
    pairs = EpochSampler(range(size), seed=seed)
    pairs.start = start
    return list(itertools.islice(pairs, count))


def test_every_pair_is_drawn_once_an_epoch_and_epochs_are_shuffled_apart(monkeypatch):
    drawn = draws(5 * 7, monkeypatch=monkeypatch)
    epochs = [drawn[i : i + 7] for i in range(0, 35, 7)]
    for number, epoch in enumerate(epochs):
        assert sorted(index for index, _ in epoch) == list(range(7))
        assert {e for _, e in epoch} == {number}
    assert len({tuple(index for index, _ in epoch) for epoch in epochs}) == 5


@pytest.mark.parametrize("world_size", (2, 3))
def test_processes_draw_different_pairs_and_together_all_of_them(world_size, monkeypatch):
    alone = draws(42, monkeypatch=monkeypatch)
    for rank in range(world_size):
        dealt = draws(42 // world_size, rank=rank, world_size=world_size, monkeypatch=monkeypatch)
        assert dealt == alone[rank::world_size]


@pytest.mark.parametrize("world_size", (1, 2))
@pytest.mark.parametrize("start", (3, 7, 20))
def test_start_goes_on_exactly_where_a_run_stopped(start, world_size, monkeypatch):
    rank = world_size - 1
    whole = draws(start + 10, rank=rank, world_size=world_size, monkeypatch=monkeypatch)
    assert draws(10, rank=rank, world_size=world_size, start=start, monkeypatch=monkeypatch) == whole[start:]


def test_the_order_follows_from_the_seed(monkeypatch):
    assert draws(7, seed=1, monkeypatch=monkeypatch) == draws(7, seed=1, monkeypatch=monkeypatch)
    assert draws(7, seed=1, monkeypatch=monkeypatch) != draws(7, seed=2, monkeypatch=monkeypatch)


def test_its_length_is_a_processes_share_of_an_epoch(monkeypatch):
    monkeypatch.setattr(sampler, "get_dist_info", lambda: (0, 3))
    assert len(EpochSampler(range(7))) == 3


class OfVideos(list):
    """Items 0..N-1, and which video each is of."""

    def __init__(self, video_ids, scene_ids=None):
        super().__init__(range(len(video_ids)))
        self.video_ids, self.scene_ids = np.array(video_ids), np.array(scene_ids)


def test_balanced_draws_take_each_video_and_within_it_each_pair_equally_often_and_resume_alike():
    dataset = OfVideos([2, 0, 0, 0, 0, 0, 0, 0, 2, 1])
    sampler = EpochSampler(dataset, seed=3, balance_videos=True)
    draws = list(itertools.islice(sampler, 6000))
    counts = np.bincount([index for index, _ in draws], minlength=10) / len(draws)
    expected = [1 / 6] + [1 / 21] * 7 + [1 / 6, 1 / 3]
    np.testing.assert_allclose(counts, expected, atol=0.02)
    assert [epoch for _, epoch in draws[:21]] == [0] * 10 + [1] * 10 + [2]
    resumed = EpochSampler(dataset, seed=3, balance_videos=True)
    resumed.start = 13
    assert list(itertools.islice(resumed, 20)) == draws[13:33]


def test_balanced_folders_are_drawn_equally_often():
    # One folder has videos 0 and 2 with five pairs; the folders of videos 1 and 3 have one pair each.
    dataset = OfVideos([0, 0, 0, 0, 2, 1, 3], [1, 1, 1, 1, 1, 0, 2])
    sampler = EpochSampler(dataset, seed=3, balance_folders=True)
    draws = [index for index, _ in itertools.islice(sampler, 6000)]
    np.testing.assert_allclose(np.bincount(draws) / 6000, [1 / 15] * 5 + [1 / 3] * 2, atol=0.02)


@pytest.mark.parametrize("balance, needed", (("balance_videos", "video_ids"), ("balance_folders", "scene_ids")))
def test_balanced_draws_need_to_know_the_videos(balance, needed):
    with pytest.raises(ValueError, match=f"{needed}, got list"):
        EpochSampler([1, 2, 3], **{balance: True})
