"""Write frames as MP4 or GIF."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path

import av
import numpy as np
from PIL import Image

SLOWEST_FPS, FASTEST_FPS = 0.01, 1000  # a GIF cannot say that a frame lasts for more than eleven minutes


def check_video_path(path: str | os.PathLike) -> Path:
    """The path, if `write_video` could write there: to be asked before the work that the film shows.

    Raises:
        ValueError: another suffix than .mp4 and .gif.
        FileNotFoundError: the folder is missing.
    """
    path = Path(path)
    if path.suffix.lower() not in (".mp4", ".gif"):
        raise ValueError(f"{path}: expected a name ending in .mp4 or .gif")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: no such folder: {path.parent}")
    return path


def write_video(path: str | os.PathLike, frames: Iterable[np.ndarray], fps: float, *, crf: int = 18) -> None:
    """Write frames to a file, which gets its name only when it is whole.

    Args:
        path: ends in .mp4 (H.264) or .gif.
        frames: (H, W, 3) uint8 RGB arrays, all of one size; consumed one by one.
        fps: frames per second, 0.01 to 1000. A GIF counts in hundredths of a second, so its rate is rounded to that.
        crf: H.264 quality, 0 (nearly lossless) to 51; 18 looks like the original.

    Raises:
        ValueError: another suffix, fps out of range, no frames, frames of another shape or dtype, or of changing size.
        FileNotFoundError: the folder is missing.

    Sides that are odd keep their size by full-resolution colour (yuv444p), which some players cannot show.
    """
    path = check_video_path(path)
    suffix = path.suffix.lower()
    if not SLOWEST_FPS <= fps <= FASTEST_FPS:  # NaN is not
        raise ValueError(f"fps must be in {SLOWEST_FPS}..{FASTEST_FPS}, got {fps}")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        (_write_mp4 if suffix == ".mp4" else _write_gif)(temporary, _checked(frames), fps, crf)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _checked(frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    shape = None
    for frame in frames:
        frame = np.asarray(frame)
        if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
            raise ValueError(f"frames must be (H, W, 3) uint8, got {frame.shape} {frame.dtype}")
        if shape is not None and frame.shape != shape:
            raise ValueError(f"frames must be of one size, got {frame.shape} after {shape}")
        shape = frame.shape
        yield np.ascontiguousarray(frame)
    if shape is None:
        raise ValueError("there are no frames to write")


def _write_mp4(path: Path, frames: Iterator[np.ndarray], fps: float, crf: int) -> None:
    first = next(frames)
    height, width = first.shape[:2]
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
        stream.width, stream.height = width, height
        stream.pix_fmt = "yuv444p" if height % 2 or width % 2 else "yuv420p"
        stream.options = {"crf": str(crf)}
        for frame in chain([first], frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def _write_gif(path: Path, frames: Iterator[np.ndarray], fps: float, crf: int) -> None:
    first = Image.fromarray(next(frames))
    rest = (Image.fromarray(frame) for frame in frames)
    first.save(path, format="GIF", save_all=True, append_images=rest, duration=max(20, round(1000 / fps)), loop=0)
