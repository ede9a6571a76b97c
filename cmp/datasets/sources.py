"""One source of pairs from a path, or from several."""

import bisect
import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from cmp.datasets.pair_list import PairList
from cmp.datasets.pair_store import PairStore
from cmp.flow import FlowField


def open_pairs(paths: str | Sequence[str], root: str | None = None) -> "PairStore | PairList | JoinedPairs":
    """Open pairs for training: a pair store (a folder), a list file (see `PairList`), or several of them as one source.

    Args:
        paths: one path or several.
        root: folder that the paths inside list files start from; default: each list file's own.

    Raises:
        FileNotFoundError: a path does not exist, or is a folder without a pair store.
        ValueError: paths is empty, or as `PairStore` and `PairList`.
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
    """Several sources as one, in order. Videos of different sources stay different even if their names are equal.

    Args:
        sources: pair sources.
        names: one name per source, which is put in front of the names of its videos.
    """

    def __init__(self, sources: Sequence, names: Sequence[str]) -> None:
        self.sources = list(sources)
        self.ends = list(itertools.accumulate(len(source) for source in self.sources))
        self.names = list(names)

    @property
    def pair_videos(self) -> list[str]:
        """The video of every pair, in order, as "source:video". Pairs of a video share one string object."""
        joined = []
        for name, source in zip(self.names, self.sources):
            videos = source.pair_videos
            full = {video: f"{name}:{video}" for video in set(videos)}
            joined += [full[video] for video in videos]
        return joined

    def names_for_lists(self) -> dict[str, tuple[str, ...]]:
        """The names that a line of a `val_list` may use for each video of `pair_videos`: those of its source."""
        names = {}
        for name, source in zip(self.names, self.sources):
            if hasattr(source, "names_for_lists"):
                own = source.names_for_lists()
            else:
                own = {video: (video,) for video in set(source.pair_videos)}
            names |= {f"{name}:{video}": called for video, called in own.items()}
        return names

    def check_files(self, indices: Iterable[int]) -> None:
        """As `PairList.check_files`, for the sources that have it."""
        indices = np.asarray(list(indices), np.int64)
        for start, end, source in zip([0, *self.ends], self.ends, self.sources):
            if hasattr(source, "check_files"):
                source.check_files(indices[(indices >= start) & (indices < end)] - start)

    def __len__(self) -> int:
        return self.ends[-1]

    def read_pair(self, index: int) -> tuple[np.ndarray, FlowField, np.ndarray]:
        """Read the pair at this position of all pairs; see `PairSource.read_pair`. IndexError if it is out of range."""
        if not 0 <= index < len(self):
            raise IndexError(f"index must be in 0..{len(self) - 1}, got {index}")
        which = bisect.bisect_right(self.ends, index)
        return self.sources[which].read_pair(index - (self.ends[which - 1] if which else 0))
