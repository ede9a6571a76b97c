"""Find damage in a pair store: any flipped bit, and what is missing."""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cmp.datasets.pair_store import (
    MEMBERS,
    derive_files,
    member_header,
    read_about,
    record_path,
    sample_key,
    sealed_json,
    shard_path,
    stored_rows,
)

_BLOCK = 512  # tar's unit


@dataclass(frozen=True)
class Damage:
    """Something wrong with a store.

    file: path inside the store; member: of a shard, "" for the whole file; problem: a sentence.
    video_id: the video to do again; None if nothing of a video is lost (what is derived, store.json).
    """

    file: str
    member: str
    problem: str
    video_id: str | None

    def __str__(self) -> str:
        return f"{self.file}{': member ' * bool(self.member)}{self.member}: {self.problem}"


def check_store(root: str | os.PathLike, on_bytes: Callable[[int], None] | None = None) -> list[Damage]:
    """Read a whole store and say what is wrong with it; an empty list if nothing is.

    Args:
        root: the store.
        on_bytes: told the number of bytes of shards read since the last call.

    Raises FileNotFoundError if there is no store.json and no folder videos: no store.
    """
    root = Path(root)
    if not (root / "store.json").is_file() and not (root / "videos").is_dir():
        raise FileNotFoundError(f"{root}: no pair store here (no store.json)")
    found = []
    about_is_good = _check_about(root, found)
    records = _check_records(root, found)
    for video_id, record in records.items():
        if record.get("reason") in ("damaged", "lost"):  # left by a repair: that was killed, or that failed
            what = "an earlier repair has not finished" if record["reason"] == "damaged" else record["detail"]
            found.append(Damage(f"videos/{video_id}.json", "", what, video_id))
        if record["shard"] is not None:
            found += _check_shard(root, record, on_bytes or (lambda count: None))
    known = records.keys() | {damage.video_id for damage in found}
    derivable = about_is_good and all(d.video_id is None or d.file.startswith("shards/") for d in found)
    found += _check_missing(root, known)
    known |= {damage.video_id for damage in found}
    for path in sorted((root / "shards").glob("*")):
        if path.stem not in known or records.get(path.stem, {"shard": ""})["shard"] is None:
            lost = path.stem if path.stem not in records else None
            found.append(Damage(f"shards/{path.name}", "", "no record speaks of it", lost))
    if derivable:
        for name, data in derive_files(root, records)[1].items():
            found += _check_derived(root, name, data)
    return found


def _check_about(root: Path, found: list[Damage]) -> bool:
    try:
        content = read_about(root)
        good = (root / "store.json").read_bytes() == sealed_json(content, indent=1)
    except (OSError, ValueError):
        good = False
    if not good:
        found.append(Damage("store.json", "", "damaged: it does not agree with its checksum", None))
    return good


def _check_records(root: Path, found: list[Damage]) -> dict[str, dict]:
    """The records that are whole, by video id."""
    records = {}
    for path in sorted((root / "videos").glob("*.json")):
        data = path.read_bytes()
        try:
            record = json.loads(data)
            good = sealed_json(record) == data and record["video_id"] == path.stem
        except (ValueError, TypeError, AttributeError, KeyError, RecursionError):
            good = False
        if good:
            records[path.stem] = record
        else:
            found.append(Damage(f"videos/{path.name}", "", "damaged: it does not agree with its checksum", path.stem))
    return records


def _check_missing(root: Path, known: set) -> Iterator[Damage]:
    """Records that the manifest speaks of and that are gone: for videos without a shard nothing else does."""
    path = root / "manifest.jsonl"
    for line in path.read_bytes().splitlines() if path.is_file() else []:
        try:
            video_id = json.loads(line)["video_id"]
            name = record_path(root, video_id).name
        except (ValueError, TypeError, KeyError):
            continue
        if video_id not in known:
            yield Damage(f"videos/{name}", "", "missing, and the manifest has it", video_id)


def _check_derived(root: Path, name: str, expected: bytes) -> Iterator[Damage]:
    path = root / name
    if not path.is_file():
        yield Damage(name, "", "missing: the job that writes this store has not finished", None)
    elif path.read_bytes() != expected:
        yield Damage(name, "", "damaged: it is not what the records say", None)


def _check_shard(root: Path, record: dict, on_bytes: Callable[[int], None]) -> list[Damage]:
    video_id = record["video_id"]
    path = shard_path(root, video_id)
    name = f"shards/{path.name}"
    if not path.is_file():
        return [Damage(name, "", "missing", video_id)]
    size, expected = path.stat().st_size, record["shard"]["bytes"]
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
            on_bytes(len(block))
        if digest.hexdigest() == record["shard"]["sha256"]:
            return []
        found = [] if size == expected else [Damage(name, "", f"has {size} bytes instead of {expected}", video_id)]
        end = 0
        rows = stored_rows(record, rejected=False) + stored_rows(record, rejected=True)
        for row in sorted(rows, key=lambda row: row["frames"]):
            for member, (offset, length, crc32) in zip(MEMBERS, row["members"]):
                if length < 0:
                    continue
                key = f"{row['folder']}{sample_key(video_id, *row['frames'])}.{member}"
                file.seek(offset - _BLOCK)
                header, data = file.read(_BLOCK), file.read(length)
                padding = file.read(-length % _BLOCK)
                if zlib.crc32(data) != crc32 or len(data) != length:
                    found.append(Damage(name, key, "its checksum differs", video_id))
                elif header != member_header(key, length) or any(padding):
                    found.append(Damage(name, key, "its content is whole, its tar header or padding is not", video_id))
                end = offset + length + -length % _BLOCK
        file.seek(end)
        if any(file.read(2 * _BLOCK)):
            found.append(Damage(name, "", "the end mark of the tar file is damaged", video_id))
    return found or [Damage(name, "", "its checksum differs", video_id)]
