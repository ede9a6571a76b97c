"""Folders of frames: which files are frames, in what order, and a reader of them."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from cmp.images import SUFFIXES as IMAGE_SUFFIXES
from cmp.images import ImageHeader, Levels, read_header, read_image, read_levels
from cmp.video.reader import Frame, Reader

_MAX_HEADERS = 1024  # headers that are read to find the common size of a folder of frames
_MAX_NOTES = 5  # files of a folder that a problem names; the others are counted
_MAX_LEVELS = 16  # frames from whose values black and white are found, in a folder of frames of more than 8 bits


def natural_key(name: str) -> tuple:
    """A sort key that puts frame10 after frame9. Only the digits 0 to 9 are numbers, not those of other scripts."""
    parts = re.split(r"([0-9]+)", name)  # text and digits in turn
    return tuple((0, int(part), part) if i % 2 else (1, 0, part) for i, part in enumerate(parts))


def list_frames(folder: str | os.PathLike) -> list[str]:
    """Names of the image files directly in a folder, in natural order; hidden files are left out."""
    with os.scandir(os.fspath(folder)) as entries:
        names = [entry.name for entry in entries if is_frame_name(entry.name) and _is_file(entry)]
    return sorted(names, key=natural_key)


def _is_file(entry: os.DirEntry) -> bool:
    """Whether an entry is an ordinary file, or a link to one; False for a link that leads to itself."""
    try:
        return entry.is_file()
    except OSError:
        return False


def is_frame_name(name: str) -> bool:
    """Whether a file of this name counts as one frame of a folder."""
    return name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")


class FramesReader(Reader):
    """A folder of image files in natural order; the video has the most common size among them.

    Files of another size, and broken ones, are skipped and named in `problem`. At the beginning and the end (for
    example a cover) they do not count as positions; in between they do, so that the times of the other frames stay
    right.

    Sizes are read from the headers of all files, or of 1024 spread over a longer folder. Images of more than 8 bits
    are all scaled by the same levels, found in 16 of them, so that the brightness does not jump; see `cmp.images`.
    """

    backend = "frames"

    def __init__(self, folder: str | os.PathLike, *, fps: float = 25.0) -> None:
        if fps <= 0:
            raise ValueError(f"fps must be above 0, got {fps}")
        self._folder = Path(folder)
        self._notes: list[str] = []
        self.problem = None
        names = list_frames(folder)
        if not names:
            raise ValueError(f"{folder}: contains no {', '.join(IMAGE_SUFFIXES)} frames")
        self._headers: dict[str, ImageHeader | str] = {}  # or what is wrong with the file
        for position in _spread(len(names), _MAX_HEADERS):
            self._header(names[position])
        known = [header for header in self._headers.values() if isinstance(header, ImageHeader)]
        if not known:
            raise ValueError(f"{folder}: none of its frames can be read; {self._headers[names[0]]}")
        (self.size_hw, _), *_ = Counter(header.size_hw for header in known).most_common(1)
        begin = next(i for i in range(len(names)) if self._fits(names[i]))
        end = next(i for i in range(len(names), 0, -1) if self._fits(names[i - 1]))
        self._names = names = names[begin:end]
        self._levels = self._common_levels(names)
        self._headers.clear()
        self.num_frames, self.fps = len(names), float(fps)
        self.times_s = np.arange(self.num_frames) / self.fps
        first = self._load(names[0])
        if not isinstance(first, str):
            self.size_hw = first.shape[:2]  # may differ from the header's, see `read_header`

    def read(self, indices: Iterable[int]) -> Iterator[Frame]:
        wanted = self._checked(indices)
        return self._read(wanted)

    def _read(self, wanted: list[int]) -> Iterator[Frame]:
        for index in wanted:
            image = self._load(self._names[index])
            if isinstance(image, str):
                self._note(image)
            elif image.shape[:2] != self.size_hw:
                self._note_size(self._names[index], image.shape[:2])
            else:
                yield Frame(index, float(self.times_s[index]), image)

    def _load(self, name: str) -> np.ndarray | str:
        """Read a frame; returns what is wrong with it, as text, if it cannot be read."""
        try:
            return read_image(self._folder / name, levels=self._levels)
        except (ValueError, OSError) as error:
            return self._without_folder(error)

    def _header(self, name: str) -> ImageHeader | str:
        if name not in self._headers:
            try:
                self._headers[name] = read_header(self._folder / name)
            except (ValueError, OSError) as error:
                self._headers[name] = self._without_folder(error)
        return self._headers[name]

    def _fits(self, name: str) -> bool:
        header = self._header(name)
        if isinstance(header, str):
            self._note(header)
        elif header.size_hw != self.size_hw:
            self._note_size(name, header.size_hw)
        else:
            return True
        return False

    def _common_levels(self, names: list[str]) -> Levels | None:
        deep = [name for name in names if getattr(self._headers.get(name), "is_deep", False)]
        found: list[Levels] = []
        for position in _spread(len(deep), _MAX_LEVELS):
            try:
                levels = read_levels(self._folder / deep[position])
            except (ValueError, OSError):
                continue  # named when the frame is asked for
            found += [] if levels is None else [levels]
        return Levels(min(each.black for each in found), max(each.white for each in found)) if found else None

    def _without_folder(self, error: Exception) -> str:
        return str(error).replace(f"{self._folder}{os.sep}", "", 1)  # records must not depend on the videos' folder

    def _note_size(self, name: str, size_hw: tuple[int, int]) -> None:
        self._note(f"{name} is {size_hw} instead of {self.size_hw} (height, width)")

    def _note(self, problem: str) -> None:
        if problem not in self._notes:
            self._notes.append(problem)
        more = len(self._notes) - _MAX_NOTES
        self.problem = "; ".join(self._notes[:_MAX_NOTES]) + (f"; and {more} more" if more > 0 else "")


def _spread(count: int, at_most: int) -> list[int]:
    """At most at_most positions below count, evenly spread from the first to the last."""
    return np.unique(np.linspace(0, count - 1, min(count, at_most)).round().astype(int)).tolist() if count else []
