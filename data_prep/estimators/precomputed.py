"""Read flow that was computed before, from files."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np

from cmp.flow.geometry import resize_flow
from cmp.flow.io import read_flow

SUFFIXES = (".flo", ".npz", ".png")


class PrecomputedFlow:
    """The flow files of one video: `FOLDER/<video without its suffix>/<first>_<second>.flo` (or .npz, KITTI's .png).

    The two numbers are positions of the frames in the video, with or without leading zeros. Flow of another size than
    the stored frames (for example that of the video) is resized, each component by its ratio. Preparation drops a pair
    with unknown pixels as "bad_flow".

    Args:
        folder: the folder of the flow files, with one sub-folder per video, in the same tree as the videos.
        video: path of the video relative to the folder of videos.

    Raises:
        FileNotFoundError: the folder of this video does not exist.
        ValueError: two files are of the same pair.
    """

    batch_size = 1

    def __init__(self, folder: str | os.PathLike, video: str) -> None:
        self._folder = Path(folder) / os.path.splitext(video)[0]
        if not self._folder.is_dir():
            raise FileNotFoundError(f"{self._folder}: no such folder of flow files")
        self._files: dict[tuple[int, int], Path] = {}
        for path in sorted(self._folder.iterdir()):
            # Files of other names are ignored, for example drawings of the flow.
            numbers = re.fullmatch("([0-9]{1,12})_([0-9]{1,12})", path.stem)
            if numbers is None or path.suffix.lower() not in SUFFIXES:
                continue
            other = self._files.setdefault((int(numbers[1]), int(numbers[2])), path)
            if other != path:
                raise ValueError(f"{path} and {other.name}: are flow of the same pair; move one away")

    def read(self, frames: tuple[int, int], size_hw: tuple[int, int]) -> np.ndarray:
        """(H, W, 2) float32 px of frames of `size_hw`; NaN where the file says unknown.

        Raises:
            FileNotFoundError: there is no flow file for these frames; it is named.
            ValueError: the file is damaged; it is named.
        """
        path = self._files.get(frames)
        if path is None:
            raise FileNotFoundError(f"{self._folder / '{}_{}'.format(*frames)}.flo: no flow for this pair")
        flow = read_flow(path)
        return flow if flow.shape[:2] == tuple(size_hw) else resize_flow(flow, size_hw)

    @staticmethod
    def describe() -> dict:
        return {"name": "files", "version": "", "settings": {}}
