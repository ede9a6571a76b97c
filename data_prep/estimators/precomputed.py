"""Flow that something else has computed, read from files beside the videos."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from cmp.flow.geometry import resize_flow
from cmp.flow.io import read_flow

SUFFIXES = (".flo", ".npz", ".png")


class PrecomputedFlow:
    """The flow files of one video: `FOLDER/<video without its suffix>/<first>_<second>.flo` (or .npz, KITTI's .png).

    The two numbers are positions of the frames in the video, with or without leading zeros. Flow of another size than
    the stored frames (that of the video, say) is resized, each component by its own ratio. Preparation drops a pair
    with unknown pixels as "bad_flow".

    Args:
        folder: where the flow lies, a sub-folder for each video, laid out as the videos are.
        video: path of the video relative to the folder of videos.

    Raises:
        FileNotFoundError: there is no folder for this video.
    """

    batch_size = 1

    def __init__(self, folder: str | os.PathLike, video: str) -> None:
        self._folder = Path(folder) / os.path.splitext(video)[0]
        if not self._folder.is_dir():
            raise FileNotFoundError(f"{self._folder}: no such folder of flow files")
        self._files: dict[tuple[int, int], Path] = {}
        for path in sorted(self._folder.iterdir()):
            first, _, second = path.stem.partition("_")
            if path.suffix in SUFFIXES and first.isdecimal() and second.isdecimal():
                self._files.setdefault((int(first), int(second)), path)

    def read(self, frames: tuple[int, int], size_hw: tuple[int, int]) -> np.ndarray:
        """(H, W, 2) float32 px of frames of `size_hw`; NaN where the file says unknown.

        Raises:
            FileNotFoundError: there is no flow for these frames.
            ValueError: the file is damaged. Both name it.
        """
        path = self._files.get(frames)
        if path is None:
            raise FileNotFoundError(f"{self._folder / '{}_{}'.format(*frames)}.flo: no flow for this pair")
        flow = read_flow(path)
        return flow if flow.shape[:2] == tuple(size_hw) else resize_flow(flow, size_hw)

    @staticmethod
    def describe() -> dict:
        return {"name": "files", "version": "", "settings": {}}
