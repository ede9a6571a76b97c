"""Array jobs: independent tasks share the videos of a folder, and one command merges their stores.

Task i of n does the videos whose hash modulo n is i: tasks compare no listings, and a new video does not move the
others to other tasks. Each task fills a separate pair store, OUT/parts/<i>-of-<n>. So tasks share no file and no lock,
and may run in any order, at the same time or one after another, on any machine that sees OUT. `merge_parts` renames
their shards and records into OUT, which then has the bytes that a single job would have written.
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
    foreign_entries,
    lock_store,
    not_a_plain_file,
    read_about,
    read_record,
    record_path,
    recorded_videos,
    shard_path,
)
from cmp.datasets.pair_store.index import load_index
from cmp.files import sync_folder

PARTS = "parts"  # folder inside the store
MAX_TASKS = 1_000_000
_NAME = re.compile(r"([0-9]{1,9})-of-([0-9]{1,9})")
_DERIVED = ("index.npz", "manifest.jsonl")
_MAX_NAMED = 20  # files that an error names


@dataclass(frozen=True)
class Part:
    """Task `index` (from 0) of `num_tasks`."""

    index: int
    num_tasks: int

    def __post_init__(self) -> None:
        if not 1 <= self.num_tasks <= MAX_TASKS:
            raise ValueError(f"the number of tasks must lie in 1 .. {MAX_TASKS}, got {self.num_tasks}")
        if not 0 <= self.index < self.num_tasks:
            last = self.num_tasks - 1
            raise ValueError(f"the index of a task of {self.num_tasks} must lie in 0 .. {last}, got {self.index}")

    def takes(self, video_id: str) -> bool:
        """Whether this task does a video; its id ends in hexadecimal digits of a hash."""
        return int(video_id.rpartition("-")[2], 16) % self.num_tasks == self.index

    def path(self, out_dir: str | os.PathLike) -> Path:
        """The store of this task."""
        return Path(out_dir) / PARTS / f"{self.index:05d}-of-{self.num_tasks:05d}"


@dataclass(frozen=True)
class MergeReport:
    """What `merge_parts` did.

    num_tasks: number of parts merged; 0 if there were none.
    videos, pairs: number of videos and pairs in the whole store now.
    other_versions: indices of the tasks that ran with other versions of the libraries than store.json names.
    """

    num_tasks: int
    videos: int
    pairs: int
    other_versions: list[int]


def find_parts(out_dir: str | os.PathLike) -> list[Part]:
    """The parts in a store that have not been merged, sorted; empty if there are none.

    Raises:
        ValueError: they are of arrays of different lengths, or a folder is named like a part that cannot exist.
    """
    folder = Path(out_dir) / PARTS
    names = [match for match in map(_NAME.fullmatch, os.listdir(folder) if folder.is_dir() else ()) if match]
    parts = []
    for match in names:
        try:
            parts.append(Part(int(match[1]), int(match[2])))
        except ValueError as error:
            raise ValueError(f"{folder / match[0]}: not a part of an array job ({error}); move it away") from error
    parts.sort(key=lambda part: part.index)
    lengths = sorted({part.num_tasks for part in parts})
    if len(lengths) > 1:
        raise ValueError(
            f"{folder}: contains parts of arrays of {' and '.join(map(str, lengths))} tasks; delete the wrong"
        )
    return parts


def check_part(out_dir: str | os.PathLike, part: Part, settings: dict) -> None:
    """Raise ValueError where a task does not agree with the store: another number of tasks, other settings.

    Args:
        settings: as store.json keeps them.
    """
    parts = find_parts(out_dir)
    if parts and parts[0].num_tasks != part.num_tasks:
        raise ValueError(
            f"{Path(out_dir) / PARTS}: contains parts of an array of {parts[0].num_tasks} tasks, this is one of "
            f"{part.num_tasks}; merge them first with tools/merge_stores.py, or delete them"
        )
    _check_same_settings([Path(out_dir), *(other.path(out_dir) for other in parts)], settings)


def merge_parts(out_dir: str | os.PathLike) -> MergeReport:
    """Merge the parts in OUT/parts into OUT, by renaming; what OUT already contains stays.

    The call may be killed at any moment and made again. A call without parts changes nothing.

    Raises:
        FileNotFoundError: the folder does not exist, or contains neither parts nor a store.
        ValueError: tasks are missing or have not finished (all are named); parts were made with different settings; a
            shard is missing or cut; a record is not valid; or the parts contain links or files that are not of a store
            (one line each). Nothing has been changed then.
        RuntimeError: a task, or another job, is still writing.
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
            problems = [problem for part in parts for problem in _problems(out_dir, part)] + _foreign(out_dir, parts)
            if problems:
                more = [f"and {len(problems) - _MAX_NAMED} more"] * (len(problems) > _MAX_NAMED)
                raise ValueError("\n".join(problems[:_MAX_NAMED] + more))
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
        shutil.rmtree(out_dir / ".tmp", ignore_errors=True)  # the next job removes what stays
        pairs = load_index(out_dir / "index.npz")["video"].size
    return MergeReport(len(parts), len(recorded_videos(out_dir)), pairs, other_versions)


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
    unfinished = [p.index for p in parts if not all((p.path(out_dir) / name).is_file() for name in _DERIVED)]
    if absent or unfinished:
        found = [f"{_ranges(absent)} not started"] * bool(absent) + [f"{_ranges(unfinished)} not finished"] * bool(
            unfinished
        )
        again = _ranges(sorted(absent + unfinished))
        raise ValueError(f"{out_dir}: of {num_tasks} tasks {'; '.join(found)}. Run again: --array={again}")


def _problems(out_dir: Path, part: Part) -> list[str]:
    """What is wrong with the files of a part, one line each."""
    store = part.path(out_dir)
    if store.is_symlink():
        return [f"{store}: is a link (to {os.readlink(store)!r}); parts are plain folders: copy what it points to"]
    problems = [f"{store / name}: {problem}" for name, problem in foreign_entries(store)]
    if problems:
        return problems
    again = f"run task {part.index} of {part.num_tasks} again"
    for path in sorted((store / "videos").glob("*.json")):
        try:
            record = read_record(path, whole=True)
        except (OSError, ValueError) as error:
            problems.append(f"{error} ({again})")
            continue
        if record["shard"] is None:
            continue
        # It is in the whole store already if a merge was killed.
        places = [shard_path(root, path.stem) for root in (store, out_dir)]
        plain = [place for place in places if not not_a_plain_file(place)]
        if not any(place.stat().st_size == record["shard"]["bytes"] for place in plain):
            sizes = ", ".join(f"{place.stat().st_size} of {record['shard']['bytes']} bytes" for place in plain)
            problems.append(f"{places[0]}: missing or cut; {again}{f' ({sizes})' if sizes else ''}")
    return problems


def _foreign(out_dir: Path, parts: list[Part]) -> list[str]:
    """Files next to and in the parts that are not of them, and would be deleted; foreign files in the store itself."""
    known = {part.path(out_dir) for part in parts}
    names = {"store.json", "shards", "videos", ".lock", ".tmp", *_DERIVED}
    others = [path for path in (out_dir / PARTS).iterdir() if path not in known]
    others += [path for store in known for path in store.iterdir() if path.name not in names]
    found = [f"{path}: is not a file of a part; move it away, it would be deleted" for path in sorted(others)]
    for name, problem in foreign_entries(out_dir):
        found.append(f"{out_dir / name}: {problem}")
    return found


def _move(out_dir: Path, part: Part) -> None:
    store = part.path(out_dir)
    videos = recorded_videos(store)  # all of them valid: `_problems`
    # A record is the commit point of its video: an old one is removed before the shard, the new one is added after it.
    for video_id in videos:
        record_path(out_dir, video_id).unlink(missing_ok=True)
    for video_id in videos:
        if shard_path(store, video_id).is_file():  # `finish_store` removes it if the record has none
            os.replace(shard_path(store, video_id), shard_path(out_dir, video_id))
    sync_folder(out_dir / "shards")
    for video_id in videos:
        os.replace(record_path(store, video_id), record_path(out_dir, video_id))
    sync_folder(out_dir / "videos")


def _retire(out_dir: Path, parts: list[Part]) -> None:
    """Remove the emptied parts, by one rename, so that a kill never leaves some of them."""
    for part in parts:
        if recorded_videos(part.path(out_dir)):
            raise RuntimeError(f"task {part.index} of {part.num_tasks} has begun to write again; merge when it is done")
    leftover = out_dir / ".tmp"
    leftover.mkdir(exist_ok=True)
    os.replace(out_dir / PARTS, leftover / PARTS)


def _ranges(numbers: list[int]) -> str:
    """[1, 2, 3, 7] -> "1-3,7", as Slurm writes arrays."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(f"{first}-{last}" if last > first else str(first) for first, last in runs)
