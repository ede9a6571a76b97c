"""Write frames as MP4 or GIF, and single images as PNG."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np
from PIL import Image

from cmp.files import NewFile, check_writable

MAX_GIF_PIXELS = 1 << 29  # Pillow keeps all frames of a GIF in memory until it is written: a byte or two per pixel
SLOWEST_FPS, FASTEST_FPS = 0.01, 1000  # a frame of a GIF lasts at most eleven minutes


def check_video_path(path: str | os.PathLike) -> Path:
    """Return the path if `write_video` can write there. Call it before the long work that makes the frames.

    Raises:
        ValueError: the suffix is not .mp4 or .gif.
        FileNotFoundError: the folder does not exist.
        OSError: the name is already that of a folder, or of something else that is not a file.
    """
    path = Path(path)
    if path.suffix.lower() not in (".mp4", ".gif"):
        raise ValueError(f"{path}: expected a name ending in .mp4 or .gif")
    check_writable(path)
    return path


def check_gif_size(path: str | os.PathLike, num_frames: int, size_hw: tuple[int, int]) -> None:
    """Raise ValueError if a GIF of num_frames frames of this size has more than MAX_GIF_PIXELS; MP4 has no limit."""
    if Path(path).suffix.lower() == ".gif" and num_frames * size_hw[0] * size_hw[1] > MAX_GIF_PIXELS:
        raise ValueError(
            f"{path}: a GIF may have {MAX_GIF_PIXELS:,} pixels in all its frames, as all are kept in memory, got "
            f"{num_frames} frames of {size_hw[1]} x {size_hw[0]}; write .mp4, or fewer or smaller frames"
        )


def write_video(path: str | os.PathLike, frames: Iterable[np.ndarray], fps: float, *, crf: int = 18) -> None:
    """Write frames to a video file, which gets its name only when it is complete.

    Args:
        path: ends in .mp4 (H.264) or .gif.
        frames: (H, W, 3) uint8 RGB arrays, all of one size; consumed one by one.
        fps: frames per second, 0.01 to 1000. A GIF counts in hundredths of a second, so its rate is rounded to that.
        crf: H.264 quality, 0 (nearly lossless) to 51; 18 looks like the original.

    Raises:
        ValueError: another suffix, fps out of range, no frames, frames of another shape or dtype, or of changing size,
            or a GIF of more than MAX_GIF_PIXELS in all. An MP4 of any length needs the memory of a few frames.
        FileNotFoundError: the folder does not exist.
        OSError: the file cannot be written; the message names it.

    A video with an odd side is stored with full-resolution color (yuv444p), which some players cannot show.
    """
    path = check_video_path(path)
    suffix = path.suffix.lower()
    if not SLOWEST_FPS <= fps <= FASTEST_FPS:  # NaN is not
        raise ValueError(f"fps must be in {SLOWEST_FPS}..{FASTEST_FPS}, got {fps}")
    with NewFile(path, stop_at_once=True) as file:
        (_write_mp4 if suffix == ".mp4" else _write_gif)(file, _checked(frames, path), fps, crf)


def write_png(path: str | os.PathLike, image: np.ndarray) -> None:
    """Write a PNG file, which gets its name only when it is complete.

    Args:
        path: the file; its folder must exist.
        image: (H, W, 3) uint8 RGB, or (H, W) uint8 gray.

    Raises:
        FileNotFoundError, OSError: as `write_video`.
    """
    with NewFile(path) as file:
        Image.fromarray(image).save(file, format="PNG")


def _checked(frames: Iterable[np.ndarray], path: Path) -> Iterator[np.ndarray]:
    shape = None
    for number, frame in enumerate(frames, 1):
        frame = np.asarray(frame)
        if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
            raise ValueError(f"frames must be (H, W, 3) uint8, got {frame.shape} {frame.dtype}")
        if shape is not None and frame.shape != shape:
            raise ValueError(f"frames must be of one size, got {frame.shape} after {shape}")
        shape = frame.shape
        check_gif_size(path, number, shape[:2])
        yield np.ascontiguousarray(frame)
    if shape is None:
        raise ValueError("there are no frames to write")


def _write_mp4(file: BinaryIO, frames: Iterator[np.ndarray], fps: float, crf: int) -> None:
    first = next(frames)
    height, width = first.shape[:2]
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
        stream.width, stream.height = width, height
        stream.pix_fmt = "yuv444p" if height % 2 or width % 2 else "yuv420p"
        stream.options = {"crf": str(crf)}
        for frame in chain([first], frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def _write_gif(file: BinaryIO, frames: Iterator[np.ndarray], fps: float, crf: int) -> None:
    first = Image.fromarray(next(frames))
    rest = (Image.fromarray(frame) for frame in frames)
    first.save(file, format="GIF", save_all=True, append_images=rest, duration=max(20, round(1000 / fps)), loop=0)
