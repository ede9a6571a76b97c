"""The frames of a video at the size that training wants, decoded once and kept on the disk.

A video becomes two files:

    NAME.rgb  N frames (h, w, 3) uint8, one after another, nothing else: mapped into memory, so that a clip is read
              without decoding and all processes share one copy
    NAME.npz  `shape`: (N, h, w, 3); `grey`: (N, g, g') uint8, the frames tiny and in grey, to judge how much moves

NAME is made of the video's id, a hash of its content (`cmp.video.find.fingerprint`) and the size, so a video that
changed is another entry. A file gets its name when it is whole, `.npz` last: processes that meet at one video do its
work twice and harm nothing. The folder may be deleted between runs; what is missing or damaged is made again.
"""

import logging
import os
import secrets
from os import PathLike
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile

import cv2
import numpy as np

from cmp.video import open_video
from cmp.video.find import VideoSource, fingerprint

GREY_SHORT_SIDE_PX = 32  # coarse enough that the noise of cameras and codecs averages out

logger = logging.getLogger(__name__)


class CachedVideo(NamedTuple):
    """Small frames of a video: the file they are in, (N, h, w, 3), and (N, g, g') uint8 grey pictures."""

    path: Path
    shape: tuple[int, int, int, int]
    grey: np.ndarray


def cache_video(
    root: str | PathLike, source: VideoSource, folder: str | PathLike, *, short_side_px: int
) -> CachedVideo:
    """Decode a video into the cache if it is not there yet.

    Args:
        root, source: the video, as `cmp.video.find.find_videos` finds it in root.
        folder: the cache; made if it is missing.
        short_side_px: of the kept frames; the long side follows, rounded. Averages where it shrinks.

    Returns:
        As many frames as can be read from the start without a gap; where that is not all, a warning is logged.

    Raises:
        ValueError: the video cannot be read; it is named.
        OSError: the cache cannot be written.
    """
    video = Path(root) / source.path
    try:
        mark = fingerprint(root, source)
    except OSError as error:
        raise ValueError(f"{video}: cannot be read ({error})") from error
    name = f"{source.video_id}-{mark['bytes']:x}-{mark['sha256_ends'][:12]}-{short_side_px}px"
    path, about_path = Path(folder) / f"{name}.rgb", Path(folder) / f"{name}.npz"
    try:
        with np.load(about_path) as about:
            cached = CachedVideo(path, tuple(about["shape"].tolist()), about["grey"])
        if path.stat().st_size == np.prod(cached.shape):
            return cached
    except (FileNotFoundError, ValueError, KeyError, EOFError, BadZipFile):
        pass
    Path(folder).mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "wb") as file:
            shape, grey = _decode(video, file, short_side_px)
        os.replace(temporary, path)
        with open(temporary, "wb") as file:
            np.savez(file, shape=shape, grey=grey)
        os.replace(temporary, about_path)
    finally:
        temporary.unlink(missing_ok=True)
    return CachedVideo(path, shape, grey)


def map_frames(path: Path, shape: tuple[int, int, int, int]) -> np.ndarray:
    """The frames of a cached video, (N, h, w, 3) uint8, read-only and not yet read.

    Raises:
        FileNotFoundError, ValueError: the file is gone or has another length.
    """
    return np.memmap(path, np.uint8, "r", shape=shape)


def _decode(video: Path, file, short_side_px: int) -> tuple[tuple[int, int, int, int], np.ndarray]:
    """Write a video's small frames; their shape, and the grey ones."""
    grey = []
    with open_video(video) as reader:
        height, width = _small(reader.size_hw, short_side_px)
        grey_height, grey_width = _small(reader.size_hw, GREY_SHORT_SIDE_PX)
        for frame in reader.read(range(reader.num_frames)):
            if frame.index != len(grey):  # one is missing: those after it would come too early
                break
            small = cv2.resize(frame.image, (width, height), interpolation=cv2.INTER_AREA)
            file.write(np.ascontiguousarray(small).data)
            tiny = cv2.resize(frame.image, (grey_width, grey_height), interpolation=cv2.INTER_AREA)
            grey.append(cv2.cvtColor(tiny, cv2.COLOR_RGB2GRAY))
    if not grey:
        raise ValueError(f"{video}: no frame can be decoded ({reader.problem})")
    if len(grey) < reader.num_frames or reader.problem:
        logger.warning("%s: %d of %d frames are used (%s)", video, len(grey), reader.num_frames, reader.problem)
    return (len(grey), height, width, 3), np.stack(grey)


def _small(size_hw: tuple[int, int], short_side_px: int) -> tuple[int, int]:
    ratio = short_side_px / min(size_hw)
    return round(size_hw[0] * ratio), round(size_hw[1] * ratio)
