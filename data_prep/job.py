"""Prepare a whole folder of videos: find what is still to do, run it in workers, and report what became of it."""

from __future__ import annotations

import os
import secrets
from collections import Counter
from collections.abc import Callable, Collection
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import av
import cv2
from tqdm import tqdm

from cmp.datasets.pair_store import (
    begin_store,
    discard_index,
    finish_store,
    iterate_records,
    lock_store,
    read_manifest,
    shard_path,
    summarize,
    write_file,
)
from cmp.version import __version__
from cmp.video.find import VideoSource, find_videos, fingerprint, nothing_found
from data_prep.deadlines import Deadline
from data_prep.decisions import decide_again
from data_prep.executors import LocalExecutor, Outcome, check_limits
from data_prep.parts import PARTS, Part, check_part, find_parts
from data_prep.pipeline import VideoTask, finish_record, initialize_worker, new_record, prepare_video
from data_prep.ray_executor import RayCluster, RayExecutor, call_once, check_shared, connected
from data_prep.settings import PrepareSettings

_MAX_KILLS = 3  # of the processes of one video in one job; after more the video is failed as "killed"


@dataclass(frozen=True)
class PrepareReport:
    """What became of the videos of one call of `prepare_folder`, and what the store contains now.

    found: number of videos in the folder, or in the task's share.
    videos, pairs: number of videos and pairs that this call wrote.
    earlier_videos: number of videos that had been done before.
    store_pairs: number of pairs in the store that was written to.
    skipped, failed: number of videos per reason, over all videos found.
    dropped: number of pairs per reason, over all videos found.
    failures: (path, reason, detail) of every failed video of those found.
    out_of_reach: paths of the videos that could be read earlier and cannot be read now; their pairs stay in the store.
    """

    found: int
    videos: int
    pairs: int
    earlier_videos: int
    store_pairs: int
    skipped: dict[str, int]
    failed: dict[str, int]
    dropped: dict[str, int]
    failures: list[tuple[str, str, str]]
    out_of_reach: list[str]


@dataclass(frozen=True)
class _Limits:
    """How the job runs; nothing in the store depends on it. See `prepare_folder`."""

    num_workers: int | None
    stall_s: float | None
    deadline: Deadline | None
    cluster: RayCluster | None
    show_progress: bool


@dataclass(frozen=True)
class _Targets:
    """The store that is written to, and the one it is merged into; they are the same without array jobs.

    merged: summaries of the records that earlier array jobs have brought into `whole`, by video id.
    """

    store: Path
    whole: Path
    merged: dict[str, dict]


def prepare_folder(
    video_dir: str | os.PathLike,
    out_dir: str | os.PathLike,
    settings: PrepareSettings,
    *,
    num_workers: int | None = None,
    stall_s: float | None = 300.0,
    deadline: Deadline | None = Deadline(),  # noqa: B008 (frozen)
    retry_failed: bool = False,
    redo: Collection[str] | None = None,
    once_good: Collection[str] = (),
    part: Part | None = None,
    cluster: RayCluster | None = None,
    show_progress: bool = True,
) -> PrepareReport:
    """Bring a pair store up to date with a folder of videos.

    The call may be killed at any moment and made again: the store then contains what an undisturbed call writes, byte
    for byte. Videos that were done before are not read again unless their file changed. Videos that have left the
    folder stay in the store. No video ends the job: a reader that crashes, hangs or never ends costs only its process.
    After a crash the video is tried once more with the same reader; then it is failed with the reason. The reason
    "killed" (by the system when memory ran out, or by a person) says little about a video: the next call tries it
    again.

    Args:
        video_dir: searched with all its sub-folders.
        out_dir: the store; made if it does not exist.
        num_workers: number of processes; all available cores if None, or all that the cluster offers.
        stall_s: a video whose process makes no progress for this long is failed; None for no limit.
        deadline: a video that takes longer than its length allows is failed too; None for no limit.
        retry_failed: do failed videos again.
        redo: ids of the videos to do again, whatever became of them; no other video is done.
        once_good: ids of those whose pairs the store had: if they fail now, the reason is "lost".
        part: do the share of one task of an array job, into a separate store; see `data_prep.parts`.
        cluster: a Ray cluster to run on, all of whose nodes see both folders; None for processes on this machine.
        show_progress: draw a progress bar on stderr.

    Raises:
        FileNotFoundError, NotADirectoryError: `video_dir` is not a folder.
        ValueError: it contains no videos, or is the store; num_workers is below 1, or stall_s not above 0; the store
            was begun with other settings, or its parts have not been merged.
        RuntimeError: another job holds the store, a worker could not start or could not write, no cluster answers, or
            one of its nodes does not see the folders.
        ModuleNotFoundError: a package is missing that the estimator or the cluster needs.
        StoreWriteError: the store cannot be written.
    """
    check_limits(num_workers, stall_s)
    sources = _find_sources(video_dir, out_dir, redo)
    if cluster is not None:  # its workers run in other folders
        video_dir, out_dir, settings = os.path.abspath(video_dir), os.path.abspath(out_dir), settings.anywhere()
    targets = _find_targets(Path(out_dir), part, settings)
    if part is not None:
        sources = [source for source in sources if part.takes(source.video_id)]
    limits = _Limits(num_workers, stall_s, deadline, cluster, show_progress)
    with nullcontext() if cluster is None else connected(cluster):
        # A missing package is named before anything is written.
        about = store_about(settings) if cluster is None else call_once(cluster, store_about, settings)
        with lock_store(targets.store):
            begin_store(targets.store, settings.as_stored(), about)
            return _update_store(
                video_dir, targets, sources, settings, limits, retry_failed=retry_failed, redo=redo, once_good=once_good
            )


def _find_sources(
    video_dir: str | os.PathLike, out_dir: str | os.PathLike, redo: Collection[str] | None
) -> list[VideoSource]:
    """The videos of the folder, or those of `redo`; raises ValueError if there are none, or the folders overlap."""
    if os.path.realpath(video_dir) == os.path.realpath(out_dir):
        raise ValueError(
            f"{out_dir}: is the folder of the videos; choose another one, which may lie in it, for the store"
        )
    if Path(os.path.realpath(video_dir)).is_relative_to(os.path.realpath(out_dir)):
        raise ValueError(f"{video_dir}: lies in {out_dir}, the folder of the store, which would remove files; move it")
    sources = find_videos(video_dir, leave_out=out_dir)
    if redo is not None:
        sources = [source for source in sources if source.video_id in redo]
    if not sources:
        raise ValueError(nothing_found(str(video_dir)))
    return sources


def _find_targets(out_dir: Path, part: Part | None, settings: PrepareSettings) -> _Targets:
    if part is not None:
        check_part(out_dir, part, settings.as_stored())
        return _Targets(part.path(out_dir), out_dir, _read_summaries(out_dir))
    if find_parts(out_dir):
        raise ValueError(f"{out_dir / PARTS}: contains parts of an array job; merge them first (tools/merge_stores.py)")
    return _Targets(out_dir, out_dir, {})


def _update_store(
    video_dir: str | os.PathLike,
    targets: _Targets,
    sources: list[VideoSource],
    settings: PrepareSettings,
    limits: _Limits,
    *,
    retry_failed: bool,
    redo: Collection[str] | None,
    once_good: Collection[str],
) -> PrepareReport:
    """Do the videos that are not done yet, and finish the store. Call it with the lock held."""
    store, merged = targets.store, targets.merged
    redo = set() if redo is None else set(redo)
    if not (store / "index.npz").is_file():  # a killed call may have applied new thresholds to some of the records
        decide_again(store, settings.thresholds, leave_out=redo)
    records = _read_summaries(store)
    for video_id in redo:
        records.pop(video_id, None)
    now = {
        source.video_id: _fingerprint(video_dir, source)
        for source in sources
        if source.video_id in records or source.video_id in merged
    }
    todo = [
        source
        for source in sources
        if not _is_done(store, source, records.get(source.video_id), now, retry_failed)
        and not _is_done(targets.whole, source, merged.get(source.video_id), now, retry_failed)
    ]
    if todo:
        discard_index(store)
        _run(video_dir, store, todo, settings, limits, once_good)
    if todo or not (store / "index.npz").is_file() or not (store / "manifest.jsonl").is_file():
        finish_store(store)
    if todo:
        records = {line["video_id"]: line for line in read_manifest(store)}
    return _report(sources, todo, records, merged, now)


def _read_summaries(store: Path) -> dict[str, dict]:
    """What a job needs of all records, by video id: the lists of pairs of a large store would fill the memory."""
    return {record["video_id"]: summarize(record) for record in iterate_records(store, whole=True)}


def store_about(settings: PrepareSettings) -> dict:
    """The versions that store.json keeps; raises what the estimator raises if something is missing."""
    estimator = settings.create_estimator().describe()
    return {"package": __version__, "estimator": estimator, "opencv": cv2.__version__, "pyav": av.__version__}


def _fingerprint(video_dir: str | os.PathLike, source: VideoSource) -> dict | None:
    try:
        return fingerprint(video_dir, source)
    except OSError:
        return None


def _is_done(
    store: Path, source: VideoSource, record: dict | None, now: dict[str, dict | None], retry_failed: bool
) -> bool:
    """Whether a video needs no work. `now` has its fingerprint, or None where it cannot be read."""
    if record is None or record["reason"] == "killed" or (retry_failed and record["status"] == "failed"):
        return False
    if record["shard"] is not None:
        shard = shard_path(store, source.video_id)
        if not shard.is_file() or shard.stat().st_size != record["shard"]["bytes"]:
            return False
    fingerprint = now[source.video_id]
    if fingerprint is None:
        return True  # doing it again could only lose its pairs
    return record["source"] == {"path": source.path, "kind": source.kind, **fingerprint}


def _run(
    video_dir: str | os.PathLike,
    out_dir: Path,
    todo: list[VideoSource],
    settings: PrepareSettings,
    limits: _Limits,
    once_good: Collection[str],
) -> None:
    """Do all videos of `todo`, each in a worker; a video whose workers are lost gets a record with the reason."""
    pairs = 0
    kills: Counter = Counter()
    bar = tqdm(total=len(todo), unit="video", desc="preparing", disable=not limits.show_progress, dynamic_ncols=True)

    def count(written: int) -> None:
        nonlocal pairs
        pairs += written
        bar.set_postfix(pairs=pairs, refresh=False)
        bar.update(0)

    executor = _create_executor(video_dir, out_dir, limits, count)
    with bar, executor:
        for source in _largest_first(video_dir, todo):
            # A process that dies is tried the same way once more: it may have been the machine. Not with another
            # reader: a file that breaks the newest decoders must not meet decord's, which are years older.
            backends = ("frames" if source.kind == "frames" else settings.reader,) * 2
            good = source.video_id in once_good
            task = VideoTask(str(video_dir), str(out_dir), source, settings, backends, limits.deadline, once_good=good)
            executor.submit(task)
        for task, outcome in executor.outcomes():
            if outcome.status == "error":
                # `prepare_video` catches what a video causes: any other error is trouble with the store.
                raise RuntimeError(f"stopped at {task.source.path!r}: {outcome.last_line}")
            if outcome.status != "done":
                if outcome.status == "killed":
                    kills[task.source.video_id] += 1
                forgiven = outcome.status == "killed" and kills[task.source.video_id] <= _MAX_KILLS
                again = task if forgiven else _next_try(task, outcome)
                if again is not None:
                    executor.submit(again)
                    continue
                _record_lost_worker(task, outcome)
            bar.update(1)


def _create_executor(
    video_dir: str | os.PathLike, out_dir: Path, limits: _Limits, on_progress: Callable[[int], None]
) -> LocalExecutor | RayExecutor:
    options: dict[str, Any] = {
        "num_workers": limits.num_workers,
        "initialize": initialize_worker,
        "stall_s": limits.stall_s,
        "limit_s": None if limits.deadline is None else limit_to_open,
        "on_progress": on_progress,
    }
    if limits.cluster is None:
        return LocalExecutor(prepare_video, **options)
    token = out_dir / ".tmp" / f"seen-{secrets.token_hex(8)}"
    write_file(out_dir, token.relative_to(out_dir), b"")
    check = partial(check_shared, str(token), str(video_dir))
    return RayExecutor(prepare_video, cluster=limits.cluster, check=check, **options)


def _largest_first(video_dir: str | os.PathLike, sources: list[VideoSource]) -> list[VideoSource]:
    """The order to do videos in: folders, then files by size, so that the last worker does not wait for a long one."""

    def size(source: VideoSource) -> float:
        try:
            return os.stat(os.path.join(video_dir, source.path)).st_size if source.kind == "file" else float("inf")
        except OSError:
            return 0

    return sorted(sources, key=size, reverse=True)  # stable: equal ones stay in the order of their paths


def _next_try(task: VideoTask, outcome: Outcome) -> VideoTask | None:
    rest = task.backends[1:]
    if outcome.status in ("stalled", "late"):  # the same reader would stall again
        rest = tuple(backend for backend in rest if backend != task.backends[0])
    earlier = f"before that, reader {task.backends[0]}: {outcome.status}, {outcome.detail}"
    return replace(task, backends=rest, earlier=earlier) if rest else None


def limit_to_open(task: VideoTask) -> float:
    """Seconds that a video with a deadline may take before its length is known; see `LocalExecutor`."""
    assert task.deadline is not None
    try:
        num_bytes = os.stat(os.path.join(task.video_dir, task.source.path)).st_size
    except OSError:
        num_bytes = 0
    return task.deadline.to_open(num_bytes)


def _record_lost_worker(task: VideoTask, outcome: Outcome) -> None:
    """Write the record of a video whose worker crashed, hung, was late or was killed for the last time."""
    record = new_record(task.source)
    try:
        record["source"].update(fingerprint(task.video_dir, task.source))
    except OSError:
        pass
    reason = "crashed" if outcome.status == "died" else outcome.status
    record.update(reason=reason, detail=f"with every reader: {outcome.detail}")
    finish_record(replace(task, earlier=""), record)


def _report(
    sources: list[VideoSource],
    todo: list[VideoSource],
    records: dict[str, dict],
    merged: dict[str, dict],
    now: dict[str, dict | None],
) -> PrepareReport:
    known = merged | records
    here = [known[source.video_id] for source in sources]
    done_now = [records[source.video_id] for source in todo]
    dropped: Counter = Counter()
    for record in here:
        dropped.update(record["dropped"])
    failures = [(r["source"]["path"], r["reason"], r["detail"]) for r in here if r["status"] == "failed"]
    return PrepareReport(
        found=len(sources),
        videos=sum(record["status"] == "done" for record in done_now),
        pairs=sum(record["pairs"] for record in done_now),
        earlier_videos=len(sources) - len(todo),
        store_pairs=sum(record["pairs"] for record in records.values()),
        skipped=dict(Counter(r["reason"] for r in here if r["status"] == "skipped")),
        failed=dict(Counter(reason for _, reason, _ in failures)),
        dropped=dict(dropped),
        failures=failures,
        out_of_reach=[
            source.path
            for source in sources
            if now.get(source.video_id, "new") is None and "bytes" in known[source.video_id]["source"]
        ],
    )
