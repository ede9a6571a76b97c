"""What all readers of videos have in common: their interface, closing, and the check of the requested positions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol

import numpy as np


class Frame(NamedTuple):
    """One decoded frame: its position from 0, seconds since the first frame, and (H, W, 3) uint8 RGB, upright."""

    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody calls on a frame
    time_s: float
    image: np.ndarray


class VideoReader(Protocol):
    """The interface of all readers. Use a reader as a context manager, or call `close`."""

    backend: str  # "pyav", "decord", "torchcodec", "torchcodec-cuda" or "frames"
    num_frames: int  # frames in the file, found without decoding them; fewer may be readable
    fps: float  # frames per second, averaged over the file
    size_hw: tuple[int, int]  # upright height and width, px
    times_s: np.ndarray  # (num_frames,) float64, seconds since the first frame, rising
    problem: str | None  # what was found wrong with the file so far; complete once `read` has ended

    def read(self, indices: Iterable[int]) -> Iterator[Frame]:
        """Yield the frames at these strictly rising positions. Call it once per reader.

        It ends early, with `problem` set, if the file breaks off.

        Raises ValueError if the positions do not rise, or are outside [0, num_frames).
        """

    def close(self) -> None: ...

    def __enter__(self) -> VideoReader: ...

    def __exit__(self, *exc: object) -> None: ...


class Reader:
    """The part that all readers share: closing, and the check of the requested positions."""

    num_frames: int
    problem: str | None

    def close(self) -> None:
        pass

    def __enter__(self):
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _checked(self, indices: Iterable[int]) -> list[int]:
        wanted = [int(i) for i in indices]
        if any(b <= a for a, b in zip(wanted, wanted[1:])):
            raise ValueError("frame positions must rise strictly")
        if wanted and (wanted[0] < 0 or wanted[-1] >= self.num_frames):
            raise ValueError(f"frame positions must be in [0, {self.num_frames}), got {wanted[0]} .. {wanted[-1]}")
        return wanted

    def _note(self, problem: str) -> None:
        if self.problem is None:
            self.problem = problem
