"""The record of one video in a pair store: reading it, and refusing one that no writer of this package made.

See `cmp.datasets.pair_store.format` for what a record contains.
"""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from cmp.datasets.pair_store.format import (
    MAX_MEMBER_BYTES,
    MAX_NUMBER,
    MAX_RECORD_BYTES,
    MEMBERS,
    REJECTED_FOLDER,
    REQUIRED,
    TAR_BLOCK_BYTES,
    check_video_id,
    parse_object,
)
from cmp.flow.bounded import read_plain_file

_FIELDS_READ = ("video_id", "status", "shard", "samples", "dropped")
_FIELDS = (*_FIELDS_READ, "source", "reason", "detail")


def read_records(root: str | os.PathLike, *, whole: bool = False) -> dict[str, dict]:
    """Read all records, by video id; as `iterate_records`, for stores whose records fit in memory."""
    return {record["video_id"]: record for record in iterate_records(root, whole=whole)}


def iterate_records(root: str | os.PathLike, *, whole: bool = False) -> Iterator[dict]:
    """Read all records one after the other, in the order of their file names.

    The records of a million pairs take 3 GB of memory at once.

    Args:
        root: the store.
        whole: see `check_record`.

    Returns:
        One record per video; none if there is no folder "videos".

    Raises:
        ValueError: a .json file in the folder is not a valid record; the message names it.
    """
    for video_id in recorded_videos(root):
        yield read_record(Path(root) / "videos" / f"{video_id}.json", whole=whole)


def recorded_videos(root: str | os.PathLike) -> list[str]:
    """The names of the records in a store without ".json", in the order of the file names; none of them is read."""
    folder = Path(root) / "videos"
    if not folder.is_dir():
        return []
    return [name.removesuffix(".json") for name in sorted(os.listdir(folder)) if name.endswith(".json")]


def summarize(record: Mapping) -> dict:
    """The object that the manifest has for a record: counts in place of lists."""
    line = {key: value for key, value in record.items() if key not in ("samples", "dropped")}
    line["pairs"] = len(record["samples"])
    line["dropped"] = dict(Counter(pair["reasons"][0] for pair in record["dropped"]))
    return line


def read_record(path: Path, *, whole: bool = False) -> dict:
    """Read one record. Raises OSError, or ValueError as `read_records`."""
    try:
        record = parse_object(read_plain_file(path, MAX_RECORD_BYTES), path)
        check_record(record, whole=whole)
        if record["video_id"] != path.stem:
            raise ValueError(f"it belongs to the video {record['video_id']!r}")
    except ValueError as error:
        reason = str(error).removeprefix(f"{path}: ")
        raise ValueError(f"{path}: not a video record ({reason}); delete it to have the video done again") from error
    return record


def read_manifest(root: str | os.PathLike) -> list[dict]:
    """Read manifest.jsonl of a finished store: one object per video, in the order of the ids.

    Raises FileNotFoundError if the store is not finished, ValueError if a line is not a JSON object.
    """
    return list(iterate_manifest(root))


def iterate_manifest(root: str | os.PathLike) -> Iterator[dict]:
    """The lines of the manifest, one after the other; as `read_manifest`."""
    path = Path(root) / "manifest.jsonl"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: missing; run tools/prepare_flow.py again to finish this store")
    lines = io.BytesIO(read_plain_file(path, MAX_RECORD_BYTES))
    for number, line in enumerate(lines, 1):
        if line != b"\n":
            yield parse_object(line, f"{path}:{number}")


def stored_rows(record: Mapping, rejected: bool) -> list[dict]:
    """The rows of a record's kept (or rejected) pairs whose members are in its shard, in the order of their frames."""
    return [row for row in record["dropped" if rejected else "samples"] if row.get("members") is not None]


def check_record(record: Any, *, whole: bool = True) -> None:
    """Refuse a record that no writer of this package made, even if its hash is right.

    Args:
        record: the content of its JSON file.
        whole: True checks all fields that preparation writes, False only those that reading samples needs.

    Raises:
        ValueError: a field is missing or has another type, a number is out of range, or a member is outside its shard.
    """
    _want(isinstance(record, dict), "", record, "an object")
    check_video_id(record.get("video_id"))
    _want(
        record.get("status") in ("done", "skipped", "failed"), "status", record.get("status"), "done, skipped or failed"
    )
    for name in ("reason", "detail"):
        _want(record.get(name) is None or isinstance(record[name], str), name, record.get(name), "text or null")
    missing = [name for name in (_FIELDS if whole else _FIELDS_READ) if name not in record]
    if missing:
        raise ValueError(f"has no {', '.join(missing)}")
    if whole or "source" in record:
        source = record["source"]
        _want(isinstance(source, dict), "source", source, "an object")
        for name in ("path", "kind"):
            _want(isinstance(source.get(name), str), f"source.{name}", source.get(name), "text")
    shard = record["shard"]
    _want(shard is None or isinstance(shard, dict), "shard", shard, "an object or null")
    if shard is not None:
        _want(_is_number(shard.get("bytes")), "shard.bytes", shard.get("bytes"), "a whole number")
        digest = shard.get("sha256")
        _want(isinstance(digest, str) and len(digest) == 64, "shard.sha256", digest, "64 digits")
    for name in ("samples", "dropped"):
        _want(isinstance(record[name], list), name, record[name], "a list")
        for number, row in enumerate(record[name]):
            _check_row(row, f"{name}[{number}]", shard and shard["bytes"], name == "dropped", whole)


def _check_row(row: object, name: str, shard_bytes: int | None, is_dropped: bool, whole: bool) -> None:
    if not isinstance(row, dict):
        _refuse(name, row, "an object")
    frames = row.get("frames")
    if not (isinstance(frames, list) and len(frames) == 2 and _is_number(frames[0]) and _is_number(frames[1])):
        _refuse(f"{name}.frames", frames, "two whole numbers")
    if row.get("folder") not in ("", REJECTED_FOLDER):
        _refuse(f"{name}.folder", row.get("folder"), f"'' or {REJECTED_FOLDER!r}")
    if whole or "quality" in row:
        quality = row.get("quality")
        if not isinstance(quality, dict) or not all(type(v) is float or _is_number(v) for v in quality.values()):
            _refuse(f"{name}.quality", quality, "an object of numbers")
    if is_dropped:
        reasons = row.get("reasons")
        if not isinstance(reasons, list) or not reasons or not all(isinstance(reason, str) for reason in reasons):
            _refuse(f"{name}.reasons", reasons, "a list of text that is not empty")
    members = row.get("members", False)
    if members is None and is_dropped:
        return
    if not isinstance(members, list) or len(members) != len(MEMBERS):
        _refuse(f"{name}.members", members, f"a list of {len(MEMBERS)} places")
    if shard_bytes is None:
        _refuse("shard", None, f"an object, because {name} has members in it")
    for column, place in enumerate(members):
        if not _is_place(place, column, shard_bytes):
            expected = f"offset, size and checksum inside the {shard_bytes} bytes of the shard"
            _refuse(f"{name}, place of {MEMBERS[column]}", place, expected)


def _is_place(place: object, column: int, shard_bytes: int) -> bool:
    if not isinstance(place, list) or len(place) != 3 or not all(_is_number(number, -1) for number in place):
        return False
    offset, size, crc32 = place
    if size < 0:
        return column not in REQUIRED
    return TAR_BLOCK_BYTES <= offset <= shard_bytes - size and size <= MAX_MEMBER_BYTES and 0 <= crc32 < 2**32


def _is_number(value: object, least: int = 0) -> bool:
    return type(value) is int and least <= value <= MAX_NUMBER


def _want(good: object, name: str, value: object, expected: str) -> None:
    if not good:
        _refuse(name, value, expected)


def _refuse(name: str, value: object, expected: str) -> NoReturn:
    raise ValueError(f"{name or 'it'} must be {expected}, got {repr(value)[:80]}")
