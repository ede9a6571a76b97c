"""Say what a path or a file is, where it is not what a command needs: for messages, in one place for all formats."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import NamedTuple

HEAD_BYTES = 1024  # enough for `recognize`


class Kind(NamedTuple):
    """What a file is by its first bytes, with an article, and what to do about it."""

    name: str
    advice: str


_UNPACK = "unpack it first, and give the file in it"
_DOWNLOAD = "download the file itself, not the page about it"
_SAVE = "save the weights with torch.save(model.state_dict(), PATH) or safetensors"
_OTHER = "give the file that was meant"

# (position, bytes there, kind); the first that fits
_MAGIC: tuple[tuple[int, bytes, Kind], ...] = (
    (0, b"\x1f\x8b", Kind("compressed with gzip", _UNPACK)),
    (0, b"BZh", Kind("compressed with bzip2", _UNPACK)),
    (0, b"\xfd7zXZ\x00", Kind("compressed with xz", _UNPACK)),
    (0, b"\x28\xb5\x2f\xfd", Kind("compressed with zstd", _UNPACK)),
    (0, b"\x04\x22\x4d\x18", Kind("compressed with lz4", _UNPACK)),
    (0, b"\x1f\x9d", Kind("compressed with compress", _UNPACK)),
    (0, b"Rar!\x1a\x07", Kind("a RAR archive", _UNPACK)),
    (0, b"7z\xbc\xaf\x27\x1c", Kind("a 7z archive", _UNPACK)),
    (257, b"ustar", Kind("a tar archive", _UNPACK)),
    (0, b"PK\x05\x06", Kind("an empty zip archive", "copy or download it again")),
    (0, b"\x93NUMPY", Kind("a NumPy array (.npy)", _OTHER)),
    (0, b"\x89HDF\r\n\x1a\n", Kind("an HDF5 file, as Keras writes them", _SAVE)),
    (0, b"GGUF", Kind("a GGUF file", _SAVE)),
    (4, b"TFL3", Kind("a TensorFlow Lite file", _SAVE)),
    (0, b"\x89PNG\r\n\x1a\n", Kind("a PNG image", _OTHER)),
    (0, b"\xff\xd8\xff", Kind("a JPEG image", _OTHER)),
    (0, b"GIF8", Kind("a GIF image", _OTHER)),
    (8, b"WEBP", Kind("a WebP image", _OTHER)),
    (0, b"II*\x00", Kind("a TIFF image", _OTHER)),
    (0, b"MM\x00*", Kind("a TIFF image", _OTHER)),
    (4, b"ftyp", Kind("a video (MP4 or QuickTime)", _OTHER)),
    (0, b"\x1a\x45\xdf\xa3", Kind("a video (Matroska or WebM)", _OTHER)),
    (8, b"AVI ", Kind("a video (AVI)", _OTHER)),
    (0, b"%PDF", Kind("a PDF document", _OTHER)),
    (0, b"\x7fELF", Kind("a program or library (ELF)", _OTHER)),
    (0, b"PIEH", Kind("a Middlebury flow file (.flo)", _OTHER)),
)


def recognize(head: bytes, size: int) -> Kind | None:
    """Recognize a file by its first bytes; None if it can be anything.

    Zip archives, pickles and safetensors files, which weights are, are not recognized here: their readers check them.

    Args:
        head: the first `HEAD_BYTES`, or all if there are fewer.
        size: of the whole file, bytes.
    """
    if not head:
        return Kind("empty (0 bytes)", "copy or download it again")
    if head.startswith(b"version https://git-lfs"):
        return Kind(f"a Git LFS pointer ({size} bytes of text)", "run `git lfs pull`")
    for position, magic, kind in _MAGIC:
        if head.startswith(magic, position):
            return kind
    if not any(head):
        return Kind(f"nothing but zeros at its start ({size} bytes)", "copy or download it again")
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if re.match(rb"<[!?/a-zA-Z]", text):
        return Kind("a web page (HTML) or another text in XML", _DOWNLOAD)
    try:
        text.rpartition(b"\n")[0].decode() if len(text) > 4 and size > len(head) else text.decode()
    except UnicodeDecodeError:
        return None
    if re.search(rb"[\x00-\x08\x0e-\x1f]", text):
        return None
    if text[:1] in (b"{", b"["):
        return Kind("JSON or another text in braces", _OTHER)
    start = text[:40].decode(errors="ignore").split("\n")[0].strip()
    return Kind(f"a text that begins with {start!r}", _OTHER)


def special_kind(mode: int) -> str | None:
    """What a path is by the mode of `os.stat`, with an article; None for an ordinary file."""
    kinds = {
        stat.S_IFDIR: "a folder",
        stat.S_IFIFO: "a pipe (FIFO)",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    return None if stat.S_ISREG(mode) else kinds.get(stat.S_IFMT(mode), "not an ordinary file")


def existing_file(path: str | os.PathLike, what: str = "file") -> Path:
    """Look for an ordinary file, without opening it.

    Args:
        path: the file.
        what: for the message, such as "config".

    Raises:
        FileNotFoundError: there is nothing of this name, or a folder, or a link that leads to nothing.
        ValueError: it is a pipe, a socket or a device, or cannot be looked at; the message says what it is.
    """
    path = Path(path)
    try:
        kind = special_kind(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError) as error:
        link = f" (a link to {os.readlink(path)}, which is not there)" if path.is_symlink() else ""
        raise FileNotFoundError(f"no such {what}: {path}{link}") from error
    except (OSError, ValueError) as error:  # the latter for a name with a zero byte
        raise ValueError(f"{path} cannot be opened: {getattr(error, 'strerror', None) or error}") from error
    if kind == "a folder":
        raise FileNotFoundError(f"no such {what}: {path} (a folder has this name)")
    if kind is not None:
        raise ValueError(f"{path} is {kind}, not a file: save what comes from it as a file first")
    return path
