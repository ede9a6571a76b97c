"""The order in which pairs are drawn for training."""

from collections.abc import Iterator, Sized

import numpy as np
from mmengine.dist import get_dist_info
from torch.utils.data import Sampler


class EpochSampler(Sampler):
    """Draw (index, epoch) without end: one permutation of the dataset after another, divided among the processes.

    The order depends only on the seed and the epoch. Process r of n takes every n-th draw, starting at r. Every pair is
    drawn once per epoch. (Zhan et al.'s code shuffles the whole run at once, and skips a quarter of the pairs in what
    would be the first epoch.)

    Args:
        dataset: the dataset to draw from; mmengine passes it.
        seed: seed of the permutations, the same in every process; mmengine passes the run's.
        balance_videos: instead of permutations draw a video, each equally often, and then one of its pairs. An epoch
            has as many draws as there are pairs. For few videos of unequal length. Off in every published recipe.
        balance_folders: the same with folders instead of videos: for clips of one scene that share a folder. A video
            outside of any folder counts as one folder.

    Raises:
        ValueError: balance_videos or balance_folders with a dataset that lacks the numbers of videos or scenes
            (`video_ids`, `scene_ids`).

    Attributes:
        start: number of draws of this process to skip at the beginning: those that a resumed run has already made.
    """

    def __init__(
        self, dataset: Sized, seed: int | None = 0, balance_videos: bool = False, balance_folders: bool = False
    ) -> None:
        self.rank, self.world_size = get_dist_info()
        self.size, self.seed, self.start = len(dataset), seed or 0, 0
        balanced = balance_videos or balance_folders
        needed = "scene_ids" if balance_folders else "video_ids"
        if balanced and getattr(dataset, needed, None) is None:
            raise ValueError(f"balancing needs a dataset with {needed}, got {type(dataset).__name__}")
        self.groups = getattr(dataset, needed) if balanced else None  # number of the video or folder of each item

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
        """The items of one epoch in the order of the draws."""
        rng = np.random.default_rng((self.seed, epoch))
        if self.groups is None:
            return rng.permutation(self.size)
        by_group, counts = np.argsort(self.groups, kind="stable"), np.bincount(self.groups)
        groups = rng.integers(0, len(counts), self.size)
        within = (rng.random(self.size) * counts[groups]).astype(int)
        return by_group[counts.cumsum()[groups] - counts[groups] + within]

    def __len__(self) -> int:
        """Draws of this process in one epoch, rounded up; the draws themselves never end."""
        return -(-self.size // self.world_size)
