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

    Attributes:
        start: draws of this process to leave out at the beginning: what a resumed run has already seen.
    """

    def __init__(self, dataset: Sized, seed: int | None = 0) -> None:
        self.rank, self.world_size = get_dist_info()
        self.size, self.seed, self.start = len(dataset), seed or 0, 0

    def __iter__(self) -> Iterator[tuple[int, int]]:
        draw = self.rank + self.start * self.world_size
        permutation, permuted_epoch = np.empty(0, int), -1
        while True:
            epoch, position = divmod(draw, self.size)
            if epoch != permuted_epoch:
                permutation, permuted_epoch = np.random.default_rng((self.seed, epoch)).permutation(self.size), epoch
            yield int(permutation[position]), epoch
            draw += self.world_size

    def __len__(self) -> int:
        """Draws of this process in one epoch, rounded up; the draws themselves never end."""
        return -(-self.size // self.world_size)
