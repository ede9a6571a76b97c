"""The authors' list files as a source of pairs: frames and flow that others prepared, read without conversion."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from cmp.flow import read_flow


class ListedPair(NamedTuple):
    """What one line of a list file points to."""

    first: Path
    second: Path
    flow: Path | tuple[Path, Path]


class PairList:
    """Frames and flow named by a text file.

    A line is `first second flow.flo` (also .png as KITTI's, or .npz), or `first second flow_x.jpg flow_y.jpg`,
    separated by spaces, paths relative to root. The second frame is named but never read; empty lines are skipped.

    Args:
        list_file: the text file.
        root: folder that the paths in it start from; default: the folder of the list file.

    Raises:
        FileNotFoundError: there is no list file.
        ValueError: a line has neither 3 nor 4 entries, or there is no line; file and line number are named.

    Source: the authors' code of Zhan et al., CVPR 2019.
    """

    def __init__(self, list_file: str | os.PathLike, root: str | os.PathLike | None = None) -> None:
        self.list_file = Path(list_file)
        if not self.list_file.is_file():
            raise FileNotFoundError(f"no such list file: {self.list_file}")
        self.root = Path(root) if root is not None else self.list_file.parent
        # Millions of paths as Python objects would take gigabytes, and again in every worker that touches them.
        self._text = self.list_file.read_bytes().removeprefix(b"\xef\xbb\xbf")  # some editors' mark of UTF-8
        bounds, end = [], 0
        for number, line in enumerate(self._text.splitlines(keepends=True), 1):
            start, end = end, end + len(line)
            num_entries = len(line.split())
            if num_entries in (3, 4):
                bounds.append((start, end))
            elif num_entries:
                raise ValueError(
                    f"{self.list_file}:{number}: want `first second flow.flo` or `first second flow_x.jpg flow_y.jpg`, "
                    f"got {num_entries} entries"
                )
        if not bounds:
            raise ValueError(f"{self.list_file} lists no pairs")
        self._bounds = np.array(bounds)

    def __len__(self) -> int:
        return len(self._bounds)

    def __getitem__(self, index: int) -> ListedPair:
        """The files that one line names."""
        first, second, *flow = (self.root / entry for entry in self._entries(index))
        return ListedPair(first, second, flow[0] if len(flow) == 1 else tuple(flow))

    @property
    def pair_videos(self) -> Sequence[str]:
        """For every pair the video it is taken from: the folder of its first frame. Pairs of one share one string."""
        full: dict[str, str] = {}
        videos = []
        for i in range(len(self)):
            folder = os.path.dirname(self._entries(i)[0])
            if folder not in full:
                full[folder] = os.path.join(self.root, folder)
            videos.append(full[folder])
        return videos

    def _entries(self, index: int) -> list[str]:
        start, end = self._bounds[index]
        return os.fsdecode(self._text[start:end]).split()  # any bytes that a file name may hold

    def read_pair(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Image (H, W, 3) uint8 RGB, flow (H, W, 2) float32 px, valid (H, W) bool of one line.

        Raises:
            FileNotFoundError, ValueError: a file is missing or broken, or image and flow differ in size.
        """
        pair = self[index]
        if not pair.first.is_file():
            raise FileNotFoundError(f"no such image: {pair.first} (listed in {self.list_file})")
        image = cv2.imread(str(pair.first), cv2.IMREAD_COLOR)
        if image is None:
            raise ValueError(f"{pair.first} cannot be read as an image")
        flow, valid = read_flow(pair.flow, return_valid=True)
        if image.shape[:2] != flow.shape[:2]:
            raise ValueError(
                f"{pair.first} is {image.shape[1]}x{image.shape[0]} px, its flow {flow.shape[1]}x{flow.shape[0]}"
            )
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB), flow, valid
