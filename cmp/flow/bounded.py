"""Read files from untrusted sources: the size that a file claims is checked before memory is allocated.

| file | bound |
| --- | --- |
| any that is read whole | a plain file, of at most the caller's number of bytes |
| .npy | the header is at most 10,000 bytes and describes exactly the bytes that follow it |
| .npz, a limit given | all arrays that are read have at most this many bytes in all, after decompression |
| .npz, no limit given | arrays are stored, not compressed, as `numpy.savez` does: never more bytes than the file has |
"""

import io
import os
import zipfile
from collections.abc import Callable, Iterable
from typing import IO, BinaryIO

import numpy as np

from cmp.file_kinds import HEAD_BYTES, existing_file, recognize, special_kind

MAX_HEADER_BYTES = 10_000  # numpy's own limit, which it checks only after it has read the header
MAX_DEFLATE_RATIO = 1032  # the largest compression ratio, according to zlib's manual
_CHUNK = 1 << 20
_HEADERS = {(1, 0): (2, np.lib.format.read_array_header_1_0), (2, 0): (4, np.lib.format.read_array_header_2_0)}

Check = Callable[[str, tuple[int, ...], np.dtype], None]  # key, shape, dtype; raises ValueError


def read_plain_file(path: str | os.PathLike, max_bytes: int) -> bytes:
    """Read a file of at most max_bytes.

    Raises:
        OSError: it cannot be read.
        ValueError: it is a folder, a pipe or a device, or has more than max_bytes.
    """
    with open(path, "rb", opener=open_without_waiting) as file:
        about = os.fstat(file.fileno())
        kind = special_kind(about.st_mode)
        if kind is not None:
            raise ValueError(f"{path}: is {kind}, not a file")
        if about.st_size > max_bytes:
            raise ValueError(f"{path}: has {about.st_size} bytes, at most {max_bytes} are read")
        return file.read(about.st_size)


def read_npz(
    source: bytes | str | os.PathLike,
    name: str,
    *,
    max_bytes: int | None = None,
    keys: Iterable[str] | None = None,
    check: Check | None = None,
) -> dict[str, np.ndarray]:
    """Read arrays of an .npz file, by name; pickles are refused.

    Args:
        source: the file's bytes, or its path.
        name: for messages.
        max_bytes: of all arrays read; None: any number, but stored, not compressed.
        keys: the arrays to read; names that the file lacks are left out. None: all.
        check: called with name, shape and dtype before the values are read; raises ValueError to refuse them.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: it is not an .npz file, claims another size than it has, or more than max_bytes; `name` is in the
            message.
    """
    try:
        file: BinaryIO
        if isinstance(source, bytes):
            file, num_bytes = io.BytesIO(source), len(source)
        else:
            num_bytes = existing_file(source).stat().st_size
            file = open(source, "rb", opener=open_without_waiting)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ValueError(f"{name}: cannot be read ({error})") from error
    with file:
        kind = recognize(file.read(HEAD_BYTES), num_bytes)
        if kind is not None:
            raise ValueError(f"{name}: not an .npz file, it is {kind.name}: {kind.advice}")
        try:
            return _read_arrays(file, max_bytes, keys, check)
        except Exception as error:  # numpy, zipfile and zlib each raise their own
            raise ValueError(f"{name}: not an .npz file that can be read ({error})") from error


def _read_arrays(
    file: BinaryIO, max_bytes: int | None, keys: Iterable[str] | None, check: Check | None
) -> dict[str, np.ndarray]:
    num_bytes = file.seek(0, os.SEEK_END)
    arrays, total = {}, 0
    with zipfile.ZipFile(file) as archive:
        if any(name.endswith("/data.pkl") for name in archive.namelist()):
            raise ValueError("it is a torch file, which contains no arrays of NumPy")
        wanted = {name: name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")}
        for member, key in wanted.items():
            if keys is not None and key not in keys:
                continue
            entry = archive.getinfo(member)
            ratio = {zipfile.ZIP_STORED: 1, zipfile.ZIP_DEFLATED: MAX_DEFLATE_RATIO}.get(entry.compress_type, 0)
            if not ratio or (ratio > 1 and max_bytes is None):
                raise ValueError(f'"{key}" is compressed by an unsupported method')
            if entry.compress_size > num_bytes or entry.file_size > ratio * entry.compress_size:
                raise ValueError(f'"{key}" claims {entry.file_size} bytes, more than the file can hold')
            total += entry.file_size
            if max_bytes is not None and total > max_bytes:
                raise ValueError(f'"{key}": {total} bytes of arrays are more than the {max_bytes} that are read')
            with archive.open(entry) as opened:
                arrays[key] = _read_array(opened, entry.file_size, key, check)
    return arrays


def _read_array(file: IO[bytes], num_bytes: int, name: str, check: Check | None) -> np.ndarray:
    version = np.lib.format.read_magic(file)
    if version not in _HEADERS:
        raise ValueError(f"array format {version} is not supported")
    width, read_header = _HEADERS[version]
    prefix = file.read(width)
    length = int.from_bytes(prefix, "little")
    if length > MAX_HEADER_BYTES:
        raise ValueError(f'the header of "{name}" claims {length} bytes, at most {MAX_HEADER_BYTES} are read')
    shape, is_fortran, dtype = read_header(io.BytesIO(prefix + file.read(length)))
    left = num_bytes - np.lib.format.MAGIC_LEN - width - length
    claimed = int(np.prod(shape, dtype=object)) * dtype.itemsize
    if dtype.hasobject or not dtype.itemsize or claimed != left:
        raise ValueError(f'the header of "{name}" says {dtype} {shape}, {claimed} bytes, and {left} follow')
    if check is not None:
        check(name, shape, dtype)
    values = bytearray(left)
    view, place = memoryview(values), 0
    while place < left:
        count = file.readinto(view[place : place + _CHUNK])  # type: ignore[attr-defined]  # every binary file has it
        if not count:
            raise ValueError(f'"{name}" is cut: {place} of {left} bytes')
        place += count
    return np.ndarray(shape, dtype, buffer=values, order="F" if is_fortran else "C")


def open_without_waiting(path: str, flags: int) -> int:
    """An opener for `open` that returns at once; opening a pipe that nobody writes to would block."""
    return os.open(path, flags | os.O_NONBLOCK)
