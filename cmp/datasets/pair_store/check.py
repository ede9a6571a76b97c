"""Find damage in a pair store: any flipped bit, and missing files."""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cmp.datasets.pair_store.format import (
    MAX_RECORD_BYTES,
    MEMBERS,
    TAR_BLOCK_BYTES,
    foreign_entries,
    member_header,
    not_a_plain_file,
    parse_object,
    read_about,
    record_path,
    sample_key,
    sealed_json,
    shard_path,
)
from cmp.datasets.pair_store.index import IndexBuilder
from cmp.datasets.pair_store.records import check_record, stored_rows
from cmp.flow.bounded import read_plain_file


@dataclass(frozen=True)
class Damage:
    """One problem of a store.

    file: path inside the store; member: of a shard, "" for the whole file; problem: a sentence.
    video_id: the video to prepare again; None if nothing of a video is lost (derived files, store.json).
    """

    file: str
    member: str
    problem: str
    video_id: str | None

    def __str__(self) -> str:
        return f"{self.file}{': member ' * bool(self.member)}{self.member}: {self.problem}"


def check_store(root: str | os.PathLike, on_bytes: Callable[[int], None] | None = None) -> list[Damage]:
    """Read a whole store and list what is wrong with it; the list is empty if nothing is.

    Args:
        root: the store.
        on_bytes: called with the number of bytes of shards that were read since the last call.

    Raises FileNotFoundError if the folder is not a store: it has neither store.json nor a folder "videos".
    """
    root = Path(root)
    if not (root / "store.json").is_file() and not (root / "videos").is_dir():
        raise FileNotFoundError(f"{root}: no pair store here (no store.json)")
    found: list[Damage] = []  # first what is wrong with records
    inside: list[Damage] = []  # then what is wrong with the videos of undamaged records
    about_is_good = _check_about(root, found)
    foreign = dict(foreign_entries(root))
    builder, has_shard = IndexBuilder(), {}
    for record in _good_records(root, found, foreign):
        builder.add(record)
        video_id = record["video_id"]
        has_shard[video_id] = record["shard"] is not None
        if record.get("reason") in ("damaged", "lost"):  # left by a repair that was killed, or that failed
            what = "an earlier repair has not finished" if record["reason"] == "damaged" else record["detail"]
            inside.append(Damage(f"videos/{video_id}.json", "", what, video_id))
        if has_shard[video_id]:
            inside += _check_shard(root, record, on_bytes or (lambda count: None))
    found += inside
    known = has_shard.keys() | {damage.video_id for damage in found}
    derivable = about_is_good and not any(d.file.startswith("videos/") for d in found)
    found += _check_missing(root, known)
    known |= {damage.video_id for damage in found}
    named = {damage.file for damage in found}
    for path in sorted((root / "shards").glob("*")):
        name = f"shards/{path.name}"
        if name in foreign or name in named:
            continue
        if path.stem not in known or not has_shard.get(path.stem, True):
            lost = path.stem if path.stem not in has_shard else None
            found.append(Damage(name, "", "no record mentions it", lost))
    found += [Damage(name, "", problem, None) for name, problem in foreign.items() if name not in named]
    if derivable:
        for name, data in builder.files(root)[1].items():
            found += _check_derived(root, name, data)
    return found


def _check_about(root: Path, found: list[Damage]) -> bool:
    try:
        content = read_about(root)
        good = (root / "store.json").read_bytes() == sealed_json(content, indent=1)
        problem = "" if good else "damaged: it does not agree with its checksum"
    except (OSError, ValueError) as error:
        problem = "damaged: " + str(error).removeprefix(f"{root / 'store.json'}: ")
    problem = problem or not_a_plain_file(root / "store.json") or ""
    if problem:
        found.append(Damage("store.json", "", problem, None))
    return not problem


def _good_records(root: Path, found: list[Damage], foreign: dict[str, str]) -> Iterator[dict]:
    """The undamaged records, one after the other; the others are added to found."""
    for path in sorted((root / "videos").glob("*.json")):
        name, problem = f"videos/{path.name}", ""
        if name in foreign:
            try:
                shard_path(root, path.stem)
            except ValueError:  # not the name of a video; `foreign` lists it
                continue
            found.append(Damage(name, "", foreign[name], path.stem))
            continue
        try:
            data = read_plain_file(path, MAX_RECORD_BYTES)
            record = parse_object(data, name)
            if sealed_json(record) != data:
                problem = "damaged: it does not agree with its checksum"
        except (OSError, ValueError, RecursionError):
            problem = "damaged: it does not agree with its checksum"
        if not problem:
            try:
                check_record(record)
                if record["video_id"] != path.stem:
                    problem = f"belongs to the video {record['video_id']!r}"
            except ValueError as error:
                problem = f"agrees with its checksum, but is not a video record: {error}"
        if problem:
            found.append(Damage(name, "", problem, path.stem))
        else:
            yield record


def _check_missing(root: Path, known: set) -> Iterator[Damage]:
    """Find missing records that the manifest mentions. Of videos without a shard only the manifest shows them."""
    path = root / "manifest.jsonl"
    if not path.is_file() or path.stat().st_size > MAX_RECORD_BYTES:  # `_check_derived` finds this
        return
    for line in path.read_bytes().split(b"\n"):
        try:
            video_id: Any = parse_object(line, "manifest.jsonl").get("video_id")
            name = record_path(root, video_id).name
        except ValueError:
            continue
        if video_id not in known:
            yield Damage(f"videos/{name}", "", "missing, and the manifest has it", video_id)


def _check_derived(root: Path, name: str, expected: bytes) -> Iterator[Damage]:
    path = root / name
    if problem := not_a_plain_file(path):
        problem = "missing: the job that writes this store has not finished" if problem == "missing" else problem
        yield Damage(name, "", problem, None)
    elif path.stat().st_size != len(expected) or path.read_bytes() != expected:
        yield Damage(name, "", "damaged: it does not agree with the records", None)


def _check_shard(root: Path, record: dict, on_bytes: Callable[[int], None]) -> list[Damage]:
    video_id = record["video_id"]
    path = shard_path(root, video_id)
    name = f"shards/{path.name}"
    if problem := not_a_plain_file(path):
        return [Damage(name, "", problem, video_id)]
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
                file.seek(offset - TAR_BLOCK_BYTES)
                header, data = file.read(TAR_BLOCK_BYTES), file.read(length)
                padding = file.read(-length % TAR_BLOCK_BYTES)
                if zlib.crc32(data) != crc32 or len(data) != length:
                    found.append(Damage(name, key, "its checksum differs", video_id))
                elif header != member_header(key, length) or any(padding):
                    problem = "its content is whole, but its tar header or padding is damaged"
                    found.append(Damage(name, key, problem, video_id))
                end = offset + length + -length % TAR_BLOCK_BYTES
        file.seek(end)
        if any(file.read(2 * TAR_BLOCK_BYTES)):
            found.append(Damage(name, "", "the end mark of the tar file is damaged", video_id))
    return found or [Damage(name, "", "its checksum differs", video_id)]
