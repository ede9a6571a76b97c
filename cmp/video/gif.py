"""What FFmpeg gets wrong in GIFs: it merges frames that have no delay, and returns an image that is cut off."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

MAX_BYTES = 1 << 28  # 256 MiB, as of images; longer clips are smaller as any kind of video
_STARTS = (b"GIF87a", b"GIF89a")
_HEADER_BYTES = 13
_EXTENSION, _IMAGE, _END, _DELAY = 0x21, 0x2C, 0x3B, 0xF9
_NO_DELAY = bytes((_EXTENSION, _DELAY, 4, 0, 0, 0, 0, 0))


class GifFix(NamedTuple):
    """How a GIF is to be read.

    file: what FFmpeg is to read in place of the file; None for the file itself.
    problem: what is wrong with the file, or None.
    """

    file: BinaryIO | None = None
    problem: str | None = None


def fix_gif(path: str | os.PathLike) -> GifFix:
    """Find out whether FFmpeg reads a GIF rightly, and copy it with the changes that it needs where it does not.

    FFmpeg takes all images before the first graphic control extension, which holds the delay of a frame, for one frame
    and drops all but the first: old GIFs have none. It also returns an image whose data is cut off as a whole frame.
    The copy begins with an extension that states no delay, and ends after the last whole image.

    Args:
        path: any ordinary file; of files that are not GIFs only the first bytes are read.

    Raises:
        OSError: the file cannot be read.
        ValueError: the first image is cut off, or the file is a GIF larger than `MAX_BYTES`.
    """
    with open(path, "rb") as file:
        if not file.read(6).startswith(_STARTS):
            return GifFix()
        size = os.fstat(file.fileno()).st_size
        if size > MAX_BYTES:
            raise ValueError(
                f"{path}: a GIF may have {MAX_BYTES >> 20} MiB at most, got {size} bytes; convert it to another format"
            )
        file.seek(0)
        data = file.read(MAX_BYTES)
    images, first, end, has_delay, is_cut = 0, len(data), len(data), False, True
    for kind, start, stop in _blocks(data):
        if kind == _IMAGE:
            first = start if images == 0 else first
            images, end = images + 1, stop
        has_delay |= kind == _DELAY and images == 0
        is_cut = kind in (_EXTENSION, _IMAGE, _DELAY)  # else it has its end mark, or continues in another way
    if is_cut and images == 0:
        raise ValueError(f"{path}: breaks off before the end of its first frame")
    if has_delay and not is_cut:
        return GifFix()
    rest = data[first:end] + bytes([_END]) if is_cut else data[first:]
    start_of_file = data[:first] + (b"" if has_delay else _NO_DELAY)
    problem = f"breaks off after {images} whole frame{'s' * (images > 1)}" if is_cut else None
    return GifFix(io.BytesIO(start_of_file + rest), problem)


def _blocks(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield kind, start and end of each whole block: an extension, a delay, an image, the end, or anything else.

    Ends after the end mark, after the first byte that begins no block, and where the data end.
    """
    position, size = _HEADER_BYTES, len(data)
    if size < position:
        return
    position += _table_bytes(data[10])
    while position < size:
        start, kind = position, data[position]
        if kind == _IMAGE:
            if start + 10 > size:
                return
            position += 11 + _table_bytes(data[start + 9])  # the last byte before the data states the size of codes
        elif kind == _EXTENSION:
            kind = _DELAY if start + 1 < size and data[start + 1] == _DELAY else kind
            position += 2
        else:
            yield kind, start, start + 1
            return
        while position < size and data[position]:
            position += 1 + data[position]
        position += 1
        if position > size:
            return
        yield kind, start, position


def _table_bytes(flags: int) -> int:
    """The size of the color table that these flags state, bytes."""
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0
