"""Writing files whole, and refusing outputs that would destroy inputs.

Every file of this project that must not be half-written is written here: under a temporary name in the same folder, to
the disk (fsync), and only then under its own name. Layer 0: imports nothing of this project.
"""

from __future__ import annotations

import errno
import fcntl
import io
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # no space, quota used up, file size limit
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")
_HOW_TO_GET = {
    "s3": "mount the bucket (mount-s3, s3fs) or copy the data here first (aws s3 cp)",
    "gs": "mount the bucket (gcsfuse) or copy the data here first (gcloud storage cp)",
    "http": "download it first (curl -LO)",
    "https": "download it first (curl -LO)",
    "ftp": "download it first (curl -O)",
    "file": "leave out file://",
}

PathValue = str | os.PathLike


class NewFile:
    """A file that gets its name when it is whole and on the disk; until then nothing is visible under that name.

    As a context manager it gives the binary file to write to, commits at the end of the block and discards on an
    exception. A file that was there before is replaced in one step, and stays as it was if anything fails.

    Args:
        path: the file. Its folder must exist.
        folder: where the temporary file lies, on the same file system (default: the folder of the file).
        stop_at_once: raise as soon as the disk is full. Otherwise the error is raised at the end, and what would have
            followed is counted, so that the message gives the whole size. Some libraries end the process when a write
            raises; long work, such as encoding a video, should stop at once.

    Raises:
        FileNotFoundError: the folder of the file does not exist.
        IsADirectoryError: there is a folder under that name.
        OSError: the file cannot be written. The message names the file and, on a full disk, the bytes that it needs.
    """

    def __init__(self, path: PathValue, *, folder: PathValue | None = None, stop_at_once: bool = False) -> None:
        self.path = Path(path)
        check_writable(self.path)
        name = self.path.name if len(os.fsencode(self.path.name)) <= 200 else "file"  # names have at most 255 bytes
        self._temporary = Path(folder or self.path.parent) / f".{name}.{secrets.token_hex(6)}.tmp"
        try:
            self._raw = _CountingFile(self._temporary, stop_at_once)
        except OSError as error:
            raise self._named(error, None) from error
        self.file: BinaryIO = io.BufferedWriter(self._raw, 1 << 20)

    def commit(self) -> None:
        """Write everything to the disk and give the file its name; discards it and raises OSError where that fails."""
        try:
            self.file.flush()
            if self._raw.error:
                raise self._raw.error
            os.fsync(self._raw.descriptor)
            os.replace(self._temporary, self.path)
            sync_folder(self.path.parent)
        except OSError as error:
            self.discard()
            raise self._named(error, self._raw.size) from error
        except BaseException:
            self.discard()
            raise
        self._raw.close()

    def discard(self) -> None:
        """Remove the temporary file; the file itself stays as it was."""
        self._raw.close()  # and not the buffer, which would write what is left in it
        self._temporary.unlink(missing_ok=True)

    def __enter__(self) -> BinaryIO:
        return self.file

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if kind is None:
            self.commit()
            return
        self.discard()
        if self._raw.error is not None and isinstance(error, Exception):  # whatever a library made of a full disk
            raise self._named(self._raw.error, self._raw.size) from error

    def _named(self, error: OSError, size: int | None) -> OSError:
        return name_write_error(error, self.path, size)


def write_file(path: PathValue, data: bytes | str, *, folder: PathValue | None = None) -> None:
    """Write a whole file (text as UTF-8); arguments and errors as `NewFile`."""
    with NewFile(path, folder=folder) as file:
        file.write(data.encode() if isinstance(data, str) else data)


@contextmanager
def staging_folder(out: PathValue) -> Iterator[Path]:
    """A temporary folder next to `out`, for files that are checked before `move_into_place` gives them their names.

    It is removed at the end, whatever happens. An error of writing a file in it names the final file.
    """
    out = Path(out)
    check_parent(out)
    folder = out.parent / f".{out.name[:40]}.{secrets.token_hex(6)}.tmp"
    try:
        folder.mkdir()
    except OSError as error:
        raise name_write_error(error, out) from error
    try:
        yield folder
    except OSError as error:
        if str(folder) not in str(error):
            raise
        raise type(error)(str(error).replace(str(folder), str(out.parent))) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def move_into_place(made: PathValue, path: PathValue) -> None:
    """Give a file that was written by `NewFile` on the same file system its final name, replacing what is there."""
    try:
        os.replace(made, path)
        sync_folder(Path(path).parent)
    except OSError as error:
        raise name_write_error(error, path) from error


def sync_folder(folder: PathValue) -> None:
    """Make the names in a folder last through a power cut, where the file system can do that."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems
            raise
    finally:
        os.close(descriptor)


def remove_leftovers(folder: PathValue, name: str) -> None:
    """Remove temporary files that killed processes left of `folder/NAME`; one that is being written now stays.

    Args:
        name: a file name, or a pattern as for `Path.glob`.
    """
    for path in Path(folder).glob(f".{name}.*.tmp"):
        try:
            with open(path, "rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # its writer holds the lock while it lives
                path.unlink(missing_ok=True)
        except OSError:
            continue


def name_write_error(error: OSError, path: PathValue, size: int | None = None, *, is_whole: bool = True) -> OSError:
    """The error as one of the same type whose message names the file and, on a full disk, the bytes it needs.

    Args:
        size: bytes of the file as far as they are known.
        is_whole: whether size is that of the whole file; else it is the part that was to be written so far.
    """
    path = Path(path)
    text = f"{path}: cannot be written ({error.strerror or error})"
    if error.errno in _FULL and size is not None:
        free = "an unknown number"
        try:
            free = f"{shutil.disk_usage(path.parent).free:,}"
        except OSError:
            pass
        least = "" if is_whole else "at least "
        text += f"; it needs {least}{size:,} bytes, {free} are free: make space or choose another place"
    named = type(error)(text)
    named.errno = error.errno
    return named


class _CountingFile(io.RawIOBase):
    """A new file that after its first failed write only counts (or raises, with stop_at_once)."""

    def __init__(self, path: Path, stop_at_once: bool) -> None:
        self.descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        self.name, self._stop_at_once = str(path), stop_at_once
        self.error: OSError | None = None
        self.size = self._position = 0
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # see `remove_leftovers`
        except OSError:  # a file system without locks
            pass

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}[whence]
        return self._position

    def tell(self) -> int:
        return self._position

    def write(self, data) -> int:
        view = memoryview(data).cast("B")
        self.size = max(self.size, self._position + len(view))
        written = 0
        while self.error is None and written < len(view):
            try:
                written += os.pwrite(self.descriptor, view[written:], self._position + written)
            except OSError as error:
                self.error = error
        self._position += len(view)
        if self.error is not None and self._stop_at_once:
            raise self.error
        return len(view)

    def close(self) -> None:
        if not self.closed:
            super().close()
            os.close(self.descriptor)


# ------------------------------------------------------------------------------------- paths of a command line


def check_paths(
    *,
    reads: Mapping[str, PathValue | Iterable[PathValue] | None],
    writes: Mapping[str, PathValue | Iterable[PathValue] | None] = {},
    folders: Mapping[str, PathValue | None] = {},
    may_lie_in: Iterable[str] = (),
) -> None:
    """Check the paths of a command before its work.

    The rule for all commands:

    - The folder of an output file must exist; an output folder is made, with its parents, when the work begins.
    - No output file is one of the inputs, by whatever name (links too), or lies in a folder that is read.
    - No output folder is a folder that is read, or lies in one.
    - Addresses (s3://, https://) are not paths.

    Args:
        reads: argument's name to file or folder, or several; None and missing files are passed over.
        writes: the same for output files.
        folders: the same for output folders.
        may_lie_in: names of folders that are read in which outputs may lie, because only some files of them are read.

    Raises:
        ValueError: an output is an input, two outputs are one file, or a path is an address.
        FileNotFoundError, IsADirectoryError, OSError: an output file has no folder, is a folder, or is not a file.
    """
    read, written, made = (
        [(name, path) for name, value in group.items() for path in _paths(value)] for group in (reads, writes, folders)
    )
    whole = [(name, path) for name, path in read if path.is_dir() and name not in may_lie_in]
    for name, path in (*read, *written, *made):
        if advice := how_to_get(path):
            if (name, path) not in read:
                advice = "write to a local path and copy the result"
            raise ValueError(f"{path}: {name} must be a local path, got an address; {advice}")
    for number, (name, path) in enumerate(written):
        check_writable(path)
        for other, earlier in written[:number]:
            if _same(path, earlier):
                raise ValueError(f"{path}: {other} and {name} must be two files; choose another name for one of them")
        for other, source in read:
            if _same(path, source):
                raise ValueError(f"{path}: {name} would overwrite {other}, which is read; choose another {name}")
        for other, source in whole:
            if _inside(path, source):
                raise ValueError(f"{path}: {name} lies in {other} ({source}), which is read; choose another {name}")
    for name, path in made:
        existing = next(folder for folder in (path, *path.absolute().parents) if os.path.lexists(folder))
        if not existing.is_dir():
            raise NotADirectoryError(f"{path}: {name} must be a folder, but {existing} is not one")
        for other, source in whole:
            if _same(path, source) or _inside(path, source):
                raise ValueError(
                    f"{path}: {name} is or lies in {other} ({source}), which is read; choose another place"
                )


def files_in(folder: PathValue | None, names: Iterable[str]) -> list[Path]:
    """Output files of an output folder for `check_paths`; empty if the folder does not exist yet."""
    return [] if folder is None or not Path(folder).is_dir() else [Path(folder) / name for name in names]


def check_parent(path: PathValue) -> None:
    """Raise FileNotFoundError if the folder that the path names does not exist."""
    if not Path(path).parent.is_dir():
        raise FileNotFoundError(f"{path}: no such folder: {Path(path).parent} (make it first)")


def check_writable(path: PathValue) -> None:
    """Raise an OSError that names the path if no file can be put there: no folder, or something else than a file."""
    path = Path(path)
    check_parent(path)
    try:
        mode = path.stat().st_mode  # of a link: of what it leads to
    except OSError:
        return
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(f"{path}: is a folder, a file is to be written; name a file")
    if not stat.S_ISREG(mode):
        raise OSError(f"{path}: is not a regular file and is not replaced; choose another name")


def how_to_get(path: PathValue) -> str | None:
    """What to do with an address (s3://bucket/file) where a path is expected; None for paths, and if it exists."""
    match = _ADDRESS.match(os.fspath(path) if isinstance(path, (str, Path)) else "")
    if match is None or os.path.lexists(path):
        return None
    return _HOW_TO_GET.get(match[1].lower(), "copy the data to a local folder, or mount it, and give that path")


def _paths(value: PathValue | Iterable[PathValue] | None) -> list[Path]:
    if value is None:
        return []
    return [Path(value)] if isinstance(value, (str, os.PathLike)) else [Path(path) for path in value]


def _same(one: Path, other: Path) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:  # one does not exist, or cannot be reached
        return os.path.realpath(one) == os.path.realpath(other)


def _inside(path: Path, folder: Path) -> bool:
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))
