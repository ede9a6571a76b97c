"""Find the videos of a folder and tell them apart."""

from __future__ import annotations

import hashlib
import os
import re
import stat
import unicodedata
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from cmp.images import read_header
from cmp.video.frames import IMAGE_SUFFIXES, is_frame_name, list_frames

VIDEO_SUFFIXES = (
    ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".m2v", ".ts", ".mts", ".m2ts", ".wmv", ".asf",
    ".flv", ".f4v", ".3gp", ".3g2", ".ogv", ".ogg", ".vob", ".divx", ".mjpeg", ".mjpg", ".y4m", ".qt", ".m1v", ".mxf",
    ".dv", ".rm", ".rmvb", ".h264", ".264", ".hevc", ".265", ".ivf", ".nut", ".wtv", ".gif", ".apng",
)  # fmt: skip
_MAYBE_STILL = (".gif", ".apng")
_END_BYTES = 64 << 10  # read from each end of a file for its fingerprint


@dataclass(frozen=True)
class VideoSource:
    """One video: its path relative to the folder that was searched ("." for that folder), and "file" or "frames"."""

    path: str
    kind: str

    @cached_property
    def video_id(self) -> str:
        """The name of the video in a store: a readable part and a hash of its relative path.

        It consists of letters, digits, "_" and "-".
        """
        stem = os.path.splitext(self.path)[0] if self.kind == "file" else self.path
        plain = unicodedata.normalize("NFKD", stem).encode("ascii", "ignore").decode()
        slug = re.sub(r"[^A-Za-z0-9_]+", "-", plain).strip("-_")[-40:].strip("-_") or "video"
        return f"{slug}-{hashlib.sha256(os.fsencode(self.path)).hexdigest()[:12]}"


def find_videos(root: str | os.PathLike, *, leave_out: str | os.PathLike | None = None) -> list[VideoSource]:
    """Find video files by their suffix, and folders of frames, in a folder and all folders below it.

    A folder is a video if it directly contains at least two images (by suffix: `IMAGE_SUFFIXES`) and no video file
    (images next to videos are taken for thumbnails). A .gif or .apng file with a single image counts as neither. Hidden
    files and folders are skipped; links to folders are followed once.

    Args:
        root: the folder to search.
        leave_out: a folder to skip (the store, if it is inside root).

    Returns:
        The videos, sorted by path; empty if there are none.

    Raises:
        FileNotFoundError, NotADirectoryError: `root` is not a folder.
        ValueError: two videos get the same id (the message names both).
    """
    root = Path(root)
    if not root.exists():
        raise FileNotFoundError(f"{root}: no such folder")
    if not root.is_dir():
        raise NotADirectoryError(f"{root}: not a folder; give the folder that contains the videos")
    seen = {os.path.realpath(leave_out)} if leave_out is not None else set()
    found = []
    for folder, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        relative = os.path.relpath(folder, root)
        videos = [n for n in names if n.lower().endswith(VIDEO_SUFFIXES) and not n.startswith(".")]
        videos = [n for n in videos if not (n.lower().endswith(_MAYBE_STILL) and _is_still(os.path.join(folder, n)))]
        found += [VideoSource(os.path.normpath(os.path.join(relative, name)), "file") for name in videos]
        if not videos and sum(map(is_frame_name, names)) >= 2:
            found.append(VideoSource(relative, "frames"))
    found.sort(key=lambda source: os.fsencode(source.path))
    by_id: dict[str, VideoSource] = {}
    for source in found:
        if source.video_id in by_id:
            raise ValueError(f"{source.path!r} and {by_id[source.video_id].path!r} get the same id; rename one")
        by_id[source.video_id] = source
    return found


def _is_still(path: str) -> bool:
    try:
        return not read_header(path, look_for_more=True).is_animated
    except (ValueError, OSError):  # broken: it counts as a video, and the job will state what is wrong with it
        return False


def nothing_found(where: str) -> str:
    """The message for a folder in which `find_videos` found nothing; it lists what would have counted."""
    return (
        f"{where}: contains no videos; looked, also in subfolders, for files ending in {', '.join(VIDEO_SUFFIXES)} and "
        f"for folders with at least two frames ({', '.join(IMAGE_SUFFIXES)})"
    )


def fingerprint(root: str | os.PathLike, source: VideoSource) -> dict:
    """Make a cheap fingerprint of a video, to see later whether it has changed: {"bytes", "sha256_ends"}.

    The hash of a file covers its first and last 64 KiB; that of frames covers all names and sizes and the first frame.

    Raises:
        OSError: the file cannot be read, or is a pipe, a device or a socket (which is not opened: that can block).
    """
    path = Path(root) / source.path
    digest = hashlib.sha256()
    if source.kind == "file":
        if not stat.S_ISREG(path.stat().st_mode):
            raise OSError(f"{path}: is a pipe, a device or a socket, not a file")
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            digest.update(file.read(_END_BYTES))
            file.seek(max(0, size - _END_BYTES))
            digest.update(file.read(_END_BYTES))
        return {"bytes": size, "sha256_ends": digest.hexdigest()}
    names = list_frames(path)
    sizes = [(path / name).stat().st_size for name in names]
    for name, size in zip(names, sizes):
        digest.update(os.fsencode(name) + b"\0%d\0" % size)
    if names:
        with open(path / names[0], "rb") as file:
            digest.update(file.read(_END_BYTES))
    return {"bytes": sum(sizes), "sha256_ends": digest.hexdigest()}
