"""Array jobs: tasks that know nothing of each other share the videos of a folder; one command merges their work.

Task i of n does the videos whose hash leaves i when divided by n: no listing is compared, and a video that is added
changes no other's place. Each task fills a pair store of its own, OUT/parts/<i>-of-<n>, so tasks share no file and no
lock, and may run in any order, at the same time or after each other, on any machine that sees OUT. `merge_parts`
renames their shards and records into OUT, which then holds the bytes that a single job would have made.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cmp.datasets.pair_store import (
    begin_store,
    discard_index,
    finish_store,
    lock_store,
    read_about,
    read_records,
    record_path,
    shard_path,
    sync_folder,
)

PARTS = "parts"  # folder inside the store
_NAME = re.compile(r"([0-9]+)-of-([0-9]+)")


@dataclass(frozen=True)
class Part:
    """Task `index` (from 0) of `num_tasks`."""

    index: int
    num_tasks: int

    def __post_init__(self) -> None:
        if self.num_tasks < 1:
            raise ValueError(f"the number of tasks must be at least 1, got {self.num_tasks}")
        if not 0 <= self.index < self.num_tasks:
            last = self.num_tasks - 1
            raise ValueError(f"the index of a task of {self.num_tasks} must lie in 0 .. {last}, got {self.index}")

    def takes(self, video_id: str) -> bool:
        """Whether a video falls to this task; ids end in hexadecimal digits of a hash."""
        return int(video_id.rpartition("-")[2], 16) % self.num_tasks == self.index

    def path(self, out_dir: str | os.PathLike) -> Path:
        """The store of this task."""
        return Path(out_dir) / PARTS / f"{self.index:05d}-of-{self.num_tasks:05d}"


@dataclass(frozen=True)
class MergeReport:
    """num_tasks: parts merged, 0 if there were none; videos, pairs: in the whole store now.

    other_versions: tasks that ran with other versions of the libraries than store.json names.
    """

    num_tasks: int
    videos: int
    pairs: int
    other_versions: list[int]


def find_parts(out_dir: str | os.PathLike) -> list[Part]:
    """The parts that wait in a store, sorted; empty if none do.

    Raises ValueError if they are of arrays of different lengths.
    """
    folder = Path(out_dir) / PARTS
    names = [match for match in map(_NAME.fullmatch, os.listdir(folder) if folder.is_dir() else ()) if match]
    parts = sorted((Part(int(match[1]), int(match[2])) for match in names), key=lambda part: part.index)
    lengths = sorted({part.num_tasks for part in parts})
    if len(lengths) > 1:
        raise ValueError(
            f"{folder}: holds parts of arrays of {' and '.join(map(str, lengths))} tasks; delete the wrong"
        )
    return parts


def check_part(out_dir: str | os.PathLike, part: Part, settings: dict) -> None:
    """Raise ValueError where a task would not fit to what is there: another number of tasks, other settings.

    Args:
        settings: as store.json keeps them.
    """
    parts = find_parts(out_dir)
    if parts and parts[0].num_tasks != part.num_tasks:
        raise ValueError(
            f"{Path(out_dir) / PARTS}: holds parts of an array of {parts[0].num_tasks} tasks, this is one of "
            f"{part.num_tasks}; merge them before with tools/merge_stores.py, or delete them"
        )
    _check_same_settings([Path(out_dir), *(other.path(out_dir) for other in parts)], settings)


def merge_parts(out_dir: str | os.PathLike) -> MergeReport:
    """Make one store of the parts in OUT/parts, by renaming; what OUT already holds stays.

    May be killed at any moment and called again, also when all is done: it then changes nothing.

    Raises:
        FileNotFoundError: no such folder, or neither parts nor a store in it.
        ValueError: tasks are missing or have not finished (all are named), parts were made with different settings, or
            a shard is missing. Nothing has been changed then.
        RuntimeError: a task, or another job, still writes.
        StoreWriteError: the store cannot be written.
    """
    out_dir = Path(out_dir)
    if not out_dir.is_dir():
        raise FileNotFoundError(f"{out_dir}: no such folder")
    parts = find_parts(out_dir)
    if not parts:
        read_about(out_dir)  # there must be a store, then
    with lock_store(out_dir):
        if parts:
            _check_complete(out_dir, parts)
            about = read_about(parts[0].path(out_dir))
            _check_same_settings([out_dir, *(part.path(out_dir) for part in parts)], about["settings"])
            for part in parts:
                _check_shards(out_dir, part)
            begin_store(out_dir, about["settings"], about["about"])
            discard_index(out_dir)
            for part in parts:
                with lock_store(part.path(out_dir)):
                    _move(out_dir, part)
        if parts or not (out_dir / "index.npz").is_file() or not (out_dir / "manifest.jsonl").is_file():
            finish_store(out_dir)
        versions = read_about(out_dir)["about"]
        other_versions = [p.index for p in parts if read_about(p.path(out_dir))["about"] != versions]
        if parts:
            _retire(out_dir, parts)
        shutil.rmtree(out_dir / ".tmp", ignore_errors=True)  # what stays is removed by the next job
    records = read_records(out_dir).values()
    pairs = sum(len(record["samples"]) for record in records)
    return MergeReport(len(parts), len(records), pairs, other_versions)


def _check_same_settings(stores: Iterable[Path], settings: dict) -> None:
    for store in stores:
        if not (store / "store.json").is_file():
            continue
        there = read_about(store)["settings"]
        names = sorted(name for name in there.keys() | settings.keys() if there.get(name) != settings.get(name))
        if names:
            changes = ", ".join(f"{name} is {there.get(name)!r} there, {settings.get(name)!r} here" for name in names)
            raise ValueError(f"{store}: made with other settings: {changes}")


def _check_complete(out_dir: Path, parts: list[Part]) -> None:
    num_tasks = parts[0].num_tasks
    absent = sorted(set(range(num_tasks)) - {part.index for part in parts})
    derived = ("index.npz", "manifest.jsonl")
    unfinished = [p.index for p in parts if not all((p.path(out_dir) / name).is_file() for name in derived)]
    if absent or unfinished:
        found = [f"{_ranges(absent)} not started"] * bool(absent) + [f"{_ranges(unfinished)} not finished"] * bool(
            unfinished
        )
        again = _ranges(sorted(absent + unfinished))
        raise ValueError(f"{out_dir}: of {num_tasks} tasks {'; '.join(found)}. Run again: --array={again}")


def _check_shards(out_dir: Path, part: Part) -> None:
    store = part.path(out_dir)
    for video_id, record in read_records(store).items():
        places = [shard_path(root, video_id) for root in (store, out_dir)]  # moved by a merge that was killed
        if record["shard"] is not None and not any(
            path.is_file() and path.stat().st_size == record["shard"]["bytes"] for path in places
        ):
            raise ValueError(f"{places[0]}: missing or cut; run task {part.index} of {part.num_tasks} again")


def _move(out_dir: Path, part: Part) -> None:
    store = part.path(out_dir)
    records = read_records(store)
    # A record is the commit point of its video: an old one goes before the shard, the new one comes after it.
    for video_id in records:
        record_path(out_dir, video_id).unlink(missing_ok=True)
    for video_id, record in records.items():
        if record["shard"] is not None and shard_path(store, video_id).is_file():
            os.replace(shard_path(store, video_id), shard_path(out_dir, video_id))
    sync_folder(out_dir / "shards")
    for video_id in records:
        os.replace(record_path(store, video_id), record_path(out_dir, video_id))
    sync_folder(out_dir / "videos")


def _retire(out_dir: Path, parts: list[Part]) -> None:
    """Give up the emptied parts; by one rename, so that a kill never leaves some of them."""
    for part in parts:
        if read_records(part.path(out_dir)):
            raise RuntimeError(f"task {part.index} of {part.num_tasks} has begun to write again; merge when it is done")
    debris = out_dir / ".tmp"
    debris.mkdir(exist_ok=True)
    os.replace(out_dir / PARTS, debris / PARTS)


def _ranges(numbers: list[int]) -> str:
    """[1, 2, 3, 7] -> "1-3,7", as Slurm writes arrays."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(f"{first}-{last}" if last > first else str(first) for first, last in runs)
