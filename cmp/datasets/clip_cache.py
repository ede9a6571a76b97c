"""Cache of decoded video frames at the size used in training, on disk.

A video becomes two files:

    NAME.rgb  N frames (h, w, 3) uint8, one after another, nothing else: mapped into memory, so that a clip is read
              without decoding and all processes share one copy
    NAME.npz  `shape`: (N, h, w, 3); `grey`: (N, g, g') uint8, the frames in gray at a short side of 32 px, to measure
              motion

NAME is made of the video's id, a hash of its content (`cmp.video.find.fingerprint`) and the size, so a changed
video gets another name. A file gets its final name when it is complete, `.npz` last: if two processes decode the same
video, the work is done twice, and the files are correct. The folder can be deleted between runs; missing or damaged
files are made again.
"""

import logging
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from cmp.files import NewFile
from cmp.flow.bounded import read_npz
from cmp.pixels import size_at_short_side
from cmp.video import open_video
from cmp.video.find import VideoSource, fingerprint

GRAY_SHORT_SIDE_PX = 32  # coarse enough that the noise of cameras and codecs averages out

logger = logging.getLogger(__name__)


class CachedVideo(NamedTuple):
    """The cached frames of a video: their file, their shape (N, h, w, 3), and gray frames (N, g, g') uint8."""

    path: Path
    shape: tuple[int, int, int, int]
    gray: np.ndarray


def cache_video(
    root: str | PathLike, source: VideoSource, folder: str | PathLike, *, short_side_px: int
) -> CachedVideo:
    """Decode a video to the cache, unless it is already there.

    Args:
        root, source: the video, as found in root by `cmp.video.find.find_videos`.
        folder: of the cache; created if it is missing.
        short_side_px: short side of the cached frames; the long side is rounded. Shrinking averages pixels.

    Returns:
        The frames from the first one up to the first that cannot be read; a warning is logged if that is not all.

    Raises:
        ValueError: the video cannot be read; the message names it.
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
        about = read_npz(about_path, str(about_path), keys=("shape", "grey"))
        cached = CachedVideo(path, tuple(about["shape"].tolist()), about["grey"])
        if path.stat().st_size == np.prod(cached.shape, dtype=object):
            return cached
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        pass
    Path(folder).mkdir(parents=True, exist_ok=True)
    with NewFile(path, stop_at_once=True) as file:
        shape, gray = _decode(video, file, short_side_px)
    with NewFile(about_path) as file:
        np.savez(file, shape=shape, grey=gray)
    return CachedVideo(path, shape, gray)


def map_frames(path: Path, shape: tuple[int, int, int, int]) -> np.ndarray:
    """Map the frames of a cached video into memory: (N, h, w, 3) uint8, read-only, read on access.

    Raises:
        FileNotFoundError, ValueError: the file is missing or has another length.
    """
    return np.memmap(path, np.uint8, "r", shape=shape)


def _decode(video: Path, file, short_side_px: int) -> tuple[tuple[int, int, int, int], np.ndarray]:
    """Write a video's resized frames to a file; return their shape, and the gray frames."""
    gray = []
    with open_video(video) as reader:
        height, width = size_at_short_side(reader.size_hw, short_side_px)
        gray_height, gray_width = size_at_short_side(reader.size_hw, GRAY_SHORT_SIDE_PX)
        for frame in reader.read(range(reader.num_frames)):
            if frame.index != len(gray):  # a frame is missing: the next ones would be at the wrong times
                break
            small = cv2.resize(frame.image, (width, height), interpolation=cv2.INTER_AREA)
            file.write(np.ascontiguousarray(small).data)
            tiny = cv2.resize(frame.image, (gray_width, gray_height), interpolation=cv2.INTER_AREA)
            gray.append(cv2.cvtColor(tiny, cv2.COLOR_RGB2GRAY))
    if not gray:
        raise ValueError(f"{video}: no frame can be decoded ({reader.problem})")
    if len(gray) < reader.num_frames or reader.problem:
        logger.warning("%s: %d of %d frames are used (%s)", video, len(gray), reader.num_frames, reader.problem)
    return (len(gray), height, width, 3), np.stack(gray)
