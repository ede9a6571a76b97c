"""The order in which pairs are drawn for training."""

from collections.abc import Iterator, Sized

import numpy as np
from mmengine.dist import get_dist_info
from torch.utils.data import Sampler


class PairSampler(Sampler):
    """Endless draws (index, epoch): one permutation of the dataset after another, dealt out over the processes.

    The order depends on the seed, the epoch and nothing else; process r of n takes every n-th draw from r on. Every
    pair is drawn once an epoch (the authors shuffle the whole run at once, and leave a quarter of a first epoch out).

    Args:
        dataset: what is drawn from; mmengine passes it.
        seed: of the permutations; the same in every process. mmengine passes the run's.
        balance_videos: instead of permutations draw a video, each as often, and then one of its pairs; an epoch is as
            many draws as there are pairs. For few videos of unequal length. Off in every published recipe.

    Raises:
        ValueError: balance_videos with a dataset that does not say which video its items are of (`video_ids`).

    Attributes:
        start: draws of this process to leave out at the beginning: what a resumed run has already seen.
    """

    def __init__(self, dataset: Sized, seed: int | None = 0, balance_videos: bool = False) -> None:
        self.rank, self.world_size = get_dist_info()
        self.size, self.seed, self.start = len(dataset), seed or 0, 0
        self.video_ids = getattr(dataset, "video_ids", None) if balance_videos else None
        if balance_videos and self.video_ids is None:
            raise ValueError(f"balance_videos needs a dataset with video_ids, got {type(dataset).__name__}")

    def __iter__(self) -> Iterator[tuple[int, int]]:
        draw = self.rank + self.start * self.world_size
        permutation, permuted_epoch = np.empty(0, int), -1
        while True:
            epoch, position = divmod(draw, self.size)
            if epoch != permuted_epoch:
                permutation, permuted_epoch = self._draws(epoch), epoch
            yield int(permutation[position]), epoch
            draw += self.world_size

    def _draws(self, epoch: int) -> np.ndarray:
        """Items of one epoch in the order they are drawn."""
        rng = np.random.default_rng((self.seed, epoch))
        if self.video_ids is None:
            return rng.permutation(self.size)
        by_video, counts = np.argsort(self.video_ids, kind="stable"), np.bincount(self.video_ids)
        videos = rng.integers(0, len(counts), self.size)
        within = (rng.random(self.size) * counts[videos]).astype(int)
        return by_video[counts.cumsum()[videos] - counts[videos] + within]

    def __len__(self) -> int:
        """Draws of this process in one epoch, rounded up; the draws themselves never end."""
        return -(-self.size // self.world_size)
