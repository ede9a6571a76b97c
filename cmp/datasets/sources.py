"""One source of pairs from a path, or from several."""

import bisect
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cmp.datasets.pair_list import PairList
from cmp.datasets.pair_store import PairStore


def open_pairs(paths: str | Sequence[str], root: str | None = None) -> "PairStore | PairList | JoinedPairs":
    """Open pairs for training: a pair store (a folder) or one of the authors' list files (a file), or several at once.

    Args:
        paths: one path or several.
        root: folder that the paths inside list files start from; default: each list file's own.

    Raises:
        FileNotFoundError, ValueError: a path is missing or is neither; paths is empty.
    """
    paths = [paths] if isinstance(paths, (str, Path)) else list(paths)
    if not paths:
        raise ValueError("paths must name at least one pair store or list file")
    for path in paths:
        if not Path(path).exists():
            raise FileNotFoundError(f"no pair store (folder) or list file here: {path}")
    sources = [PairStore(path) if Path(path).is_dir() else PairList(path, root) for path in paths]
    return sources[0] if len(sources) == 1 else JoinedPairs(sources, paths)


class JoinedPairs:
    """Several sources one after another; videos of different sources stay different under one name.

    Args:
        sources: pair sources. names: what to call each, in front of its videos' names.
    """

    def __init__(self, sources: Sequence, names: Sequence[str]) -> None:
        self.sources = list(sources)
        self.ends = list(itertools.accumulate(len(source) for source in self.sources))
        self.names = list(names)

    @property
    def pair_videos(self) -> list[str]:
        """For every pair its video, behind the name of its source; pairs of one video share one string."""
        joined = []
        for name, source in zip(self.names, self.sources):
            videos = source.pair_videos
            full = {video: f"{name}:{video}" for video in set(videos)}
            joined += [full[video] for video in videos]
        return joined

    def __len__(self) -> int:
        return self.ends[-1]

    def read_pair(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The pair at this position of the whole; see `PairSource.read_pair`."""
        if not 0 <= index < len(self):
            raise IndexError(f"index must be in 0..{len(self) - 1}, got {index}")
        which = bisect.bisect_right(self.ends, index)
        return self.sources[which].read_pair(index - (self.ends[which - 1] if which else 0))
