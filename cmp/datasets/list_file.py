"""Read text files in which a user lists names, one per line, by the same rules for all of them.

The rules: lines end in LF or CRLF. Spaces and tabs around a line are dropped. Empty lines and lines that begin with "#"
are skipped (a name that begins with "#" is written "./#name"). A byte order mark is skipped; UTF-16 with a mark is
read too. No other byte is special: U+3000, U+00A0, U+0085 and U+2028 are parts of file names, not separators.
"""

import codecs
import json
import os
import re
from array import array
from collections.abc import Sequence
from pathlib import Path

import numpy as np

MAX_NAMED = 5  # lines that an error quotes
_UTF16 = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}
_BLANKS = b" \t"
_BETWEEN_WORDS = re.compile(rb"[ \t]+")
_CLASS_NUMBER = re.compile(rb"[ \t]+[0-9]+\Z")  # behind a name, as in UCF-101's lists


class ListFile:
    """The lines of a list, without those that are empty or comments.

    The text is kept as bytes, with an array of the positions of its lines. Millions of lines as Python objects would
    take gigabytes, and as much again in every worker process that reads them.

    Args:
        path: the text file.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: a line contains a zero byte (not a text file), or the text is broken UTF-16.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"no such list file: {self.path}")
        self._text = _read_text(self.path)
        starts, ends, numbers = array("q"), array("q"), array("q")
        start = 0
        for number, line in enumerate(self._text.split(b"\n"), 1):
            end = start + len(line)
            kept = line.removesuffix(b"\r").strip(_BLANKS)
            if kept and not kept.startswith(b"#"):
                if b"\0" in kept:
                    raise ValueError(f"{self.path}:{number}: contains a zero byte; give a text file")
                first = start + line.index(kept)
                starts.append(first)
                ends.append(first + len(kept))
                numbers.append(number)
            start = end + 1
        self._bounds, self._numbers = np.array([starts, ends], np.int64).T, np.array(numbers, np.int64)

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int) -> bytes:
        """One line, without the blanks around it; IndexError if it is out of range."""
        if not 0 <= index < len(self):
            raise IndexError(f"{self.path} has {len(self)} lines, there is no entry {index}")
        start, end = self._bounds[index]
        return self._text[start:end]

    def words(self, index: int, maxsplit: int = 0) -> list[str]:
        """One line split at spaces and tabs only, at most `maxsplit` times (0: everywhere)."""
        return [os.fsdecode(word) for word in _BETWEEN_WORDS.split(self[index], maxsplit=maxsplit)]

    def where(self, index: int) -> str:
        """File and line number of one line, for messages."""
        return f"{self.path}:{self._numbers[index]}"


def find_in_list(path: str | os.PathLike, names: Sequence[Sequence[str]]) -> list[bool]:
    """Find which items, such as videos, a list names.

    A line names every item whose path ends in it: `v_1.avi` and `Archery/v_1.avi` both name `/data/Archery/v_1.avi`. An
    absolute path names that file alone. "./" and "//" in a line are ignored. "\\" separates folders if no item has a
    name with it. A number behind the name is ignored if the line matches no item with it: UCF-101's lists have class
    numbers there.

    Args:
        path: the list.
        names: for each item its names, one or several, with "/" between folders.

    Returns:
        For each item, whether a line names it.

    Raises:
        FileNotFoundError: the list does not exist.
        ValueError: lines that match no item (the first 5 are quoted with line numbers), or a list without lines.
    """
    lines = ListFile(path)
    if not len(lines):
        raise ValueError(f"{path}: names nothing: every line is empty or a comment")
    readings = [_readings(lines[index]) for index in range(len(lines))]
    matches: dict[tuple[str, ...], set[int]] = {parts: set() for several in readings for parts in several}
    for number, own in enumerate(names):
        for parts in map(_parts, own):
            for start in range(len(parts)):
                if parts[start:] in matches:
                    matches[parts[start:]].add(number)
    found, unknown = [False] * len(names), []
    for index, several in enumerate(readings):
        named = next(filter(None, (matches[parts] for parts in several)), None)
        if named is None:
            unknown.append(f"{lines.where(index)}: {os.fsdecode(lines[index])!r}")
        for number in named or ():
            found[number] = True
    if unknown:
        lists = "; ".join(unknown[:MAX_NAMED]) + (f" and {len(unknown) - MAX_NAMED} more" * (len(unknown) > MAX_NAMED))
        videos = f"any of the {len(names)} videos{f' (the first is {names[0][0]})' if names else ''}"
        said = f"{path}: no line matches {videos}: {lists}"
        if len(unknown) < len(lines):
            said = f"{lists}: does not match {videos}"
        raise ValueError(f"{said}; write the end of a video's path in each line, or remove the line")
    return found


def read_json_file(path: str | os.PathLike) -> object:
    """Read JSON that a user wrote. As in lists, a byte order mark and lines that begin with "#" are skipped.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not valid JSON; file and line are named.
    """
    lines = _read_text(Path(path)).split(b"\n")
    text = b"\n".join(b"" if line.lstrip(_BLANKS).startswith(b"#") else line for line in lines)
    try:
        return json.loads(text.decode())
    except UnicodeDecodeError as error:
        number = text.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}:{number}: is not UTF-8 text, so it is not valid JSON") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}:{error.lineno}: is not valid JSON: {error.msg} (column {error.colno})") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; lists within lists
        raise ValueError(f"{path}: is not valid JSON: {error}") from error


def _read_text(path: Path) -> bytes:
    """The bytes of a text file without a byte order mark. UTF-16 becomes UTF-8; other bytes stay as they are."""
    data = path.read_bytes()
    for mark, encoding in _UTF16.items():
        if data.startswith(mark):
            try:
                return data[len(mark) :].decode(encoding).encode()
            except UnicodeError as error:
                raise ValueError(f"{path}: begins as UTF-16 text and is broken ({error}); save it as UTF-8") from error
    return data.removeprefix(codecs.BOM_UTF8)


def _readings(line: bytes) -> list[tuple[str, ...]]:
    """The paths, in parts, that a line may mean, the literal meaning first."""
    texts = [line, *([_CLASS_NUMBER.sub(b"", line)] if _CLASS_NUMBER.search(line) else ())]
    texts += [text.replace(b"\\", b"/") for text in texts if b"\\" in text]
    return [_parts(os.fsdecode(text)) for text in texts]


def _parts(name: str) -> tuple[str, ...]:
    """The parts of a path without "." and empty ones; an absolute path begins with the part "/"."""
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    return ("/", *parts) if name.startswith("/") else parts
