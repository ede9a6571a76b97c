"""List files of Zhan et al.'s code as a source of pairs: frames and flow that already exist, read as they are."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cmp.datasets.list_file import MAX_NAMED, ListFile
from cmp.flow import DenseFlow, FlowField, read_flow
from cmp.flow.io import open_flow_pair
from cmp.images import read_image


class ListedPair(NamedTuple):
    """The files that one line of a list file names."""

    first: Path
    second: Path
    flow: Path | tuple[Path, Path]


class PairList:
    """Frames and flow named by a text file.

    A line is `first second flow.flo` (also .png in KITTI's format, or .npz), or `first second flow_x.jpg flow_y.jpg`,
    separated by spaces or tabs, with paths relative to root. The second frame is named but never read. For empty lines,
    comments and the like see `cmp.datasets.list_file`. `check_files` and `read_pair` look for the files; a missing one
    is an error that names the line.

    Args:
        list_file: the text file.
        root: folder that the paths in it start from; default: the folder of the list file.

    Raises:
        FileNotFoundError: the list file does not exist.
        ValueError: a line has neither 3 nor 4 entries, or the file has no lines; file and line number are named.

    Source: the format of the code of Zhan et al., CVPR 2019 (https://github.com/XiaohangZhan/conditional-motion-propagation).
    """

    def __init__(self, list_file: str | os.PathLike, root: str | os.PathLike | None = None) -> None:
        self.list_file = Path(list_file)
        self._lines = ListFile(list_file)
        self.root = Path(root) if root is not None else self.list_file.parent
        for index in range(len(self._lines)):
            num_entries = len(self._lines.words(index))
            if num_entries not in (3, 4):
                raise ValueError(
                    f"{self._lines.where(index)}: want `first second flow.flo` or `first second flow_x.jpg "
                    f"flow_y.jpg`, got {num_entries} entries"
                )
        if not len(self._lines):
            raise ValueError(f"{self.list_file} lists no pairs")

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, index: int) -> ListedPair:
        """The files that one line names."""
        first, second, flow, *flow_y = (self.root / entry for entry in self._entries(index))
        return ListedPair(first, second, (flow, flow_y[0]) if flow_y else flow)

    @property
    def pair_videos(self) -> Sequence[str]:
        """The video of every pair, in order: the folder of its first frame. Pairs of a video share one string object.

        A folder is the same video however it is written: `a`, `./a`, `b/../a`, relative or absolute.
        """
        root, full, same = os.path.abspath(self.root), {}, {}
        videos = []
        for i in range(len(self)):
            folder = os.path.dirname(self._entries(i)[0])
            if folder not in full:
                path = os.path.normpath(os.path.join(root, folder))
                full[folder] = same.setdefault(path, path)
            videos.append(full[folder])
        return videos

    def _entries(self, index: int) -> list[str]:
        """The files of a line. Backslashes count as separators if the first frame cannot be found otherwise."""
        words = self._lines.words(index)
        if "\\" in words[0] and not (self.root / words[0]).is_file():
            words = [word.replace("\\", "/") for word in words]
        return words

    def check_files(self, indices: Iterable[int]) -> None:
        """Look for the files of these lines. FileNotFoundError names up to 5 missing ones, each with list and line."""
        missing = []
        for index in indices:
            missing += self._missing(int(index))
            if len(missing) >= MAX_NAMED:
                break
        if missing:
            raise FileNotFoundError("; ".join(missing))

    def _missing(self, index: int) -> list[str]:
        pair = self[index]
        named = [("image", pair.first)]
        named += [("flow file", path) for path in ((pair.flow,) if isinstance(pair.flow, Path) else pair.flow)]
        place = self._lines.where(index)
        return [f"no such {kind}: {path} (listed in {place})" for kind, path in named if not path.is_file()]

    def read_pair(self, index: int) -> tuple[np.ndarray, FlowField, np.ndarray]:
        """Read the pair of one line: image (H, W, 3) uint8 RGB, flow (H, W, 2) px, valid (H, W) bool.

        The image is read by the rules of `cmp.images`, but never rotated: flow belongs to the stored pixels, whatever
        orientation the EXIF data of the image states.

        Raises:
            FileNotFoundError: a file is missing; file, list and line are named.
            ValueError: a file is broken, or image and flow differ in size; the file is named.
        """
        pair = self[index]
        if missing := self._missing(index):
            raise FileNotFoundError(missing[0])
        image = read_image(pair.first, upright=False)
        if isinstance(pair.flow, tuple):  # bytes, of which all are known
            flow: FlowField = open_flow_pair(pair.flow)
            valid = np.ones(flow.shape[:2], bool)
        else:
            dense, valid = read_flow(pair.flow, return_valid=True)
            flow = DenseFlow(dense)
        if image.shape[:2] != flow.shape[:2]:
            raise ValueError(
                f"{pair.first} is {image.shape[1]}x{image.shape[0]} px as stored, its flow "
                f"{flow.shape[1]}x{flow.shape[0]}"
            )
        return image, flow, valid
