"""A whole folder of videos to a pair store: what is still to do, who does it, and what became of it."""

from __future__ import annotations

import os
import secrets
from collections import Counter
from collections.abc import Collection
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import av
import cv2
from tqdm import tqdm

from cmp.datasets.pair_store import (
    begin_store,
    discard_index,
    finish_store,
    lock_store,
    read_records,
    shard_path,
    write_file,
)
from cmp.version import __version__
from cmp.video.find import VideoSource, find_videos, fingerprint
from data_prep.deadlines import Deadline
from data_prep.executors import LocalExecutor, Outcome, check_limits
from data_prep.parts import PARTS, Part, check_part, find_parts
from data_prep.pipeline import VideoTask, commit_verdict, initialize_worker, new_record, prepare_video
from data_prep.ray_executor import RayCluster, RayExecutor, call_once, check_shared, connected
from data_prep.settings import PrepareSettings
from data_prep.verdicts import rejudge_records

_MAX_KILLS = 3  # of one video's processes in one job, before they are taken to be its own fault


@dataclass(frozen=True)
class PrepareReport:
    """What became of the videos of one call of `prepare_folder`, and what the store holds now.

    found: videos of the folder, or of the task's share; videos, pairs: written by this call; earlier_videos: had a
        verdict before; store_pairs: pairs in the store written to.
    skipped, failed: reasons with their number of videos, over all videos found.
    dropped: reasons with their number of pairs, over all videos found.
    failures: (path, reason, detail) of every failed video of those found.
    out_of_reach: paths of those that could be read earlier and cannot now; what was made of them stays.
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

    May be killed at any moment and called again: the store then becomes what an undisturbed call makes, byte for byte.
    Videos with a verdict are not touched unless their file changed; videos that have left the folder stay in the store.
    No video ends the job: a reader that crashes, hangs or never comes to an end costs its process, the next reader is
    tried, and when none is left the video is failed with the reason. "killed" (by the system when memory ran out, or by
    a person) says little about a video: it is tried again by the next call.

    Args:
        video_dir: searched with all its sub-folders.
        out_dir: the store; made if it does not exist.
        num_workers: processes; all available cores if None, or all that the cluster offers.
        stall_s: a video whose process makes no progress for so long is tried with the next reader, then failed.
        deadline: the same for one that takes longer than its length allows; None for no limit.
        retry_failed: do failed videos again.
        redo: ids of videos to do again whatever their verdict, and no others.
        once_good: of those, the ones whose pairs the store had: if they fail now, the reason is "lost".
        part: do the share of one task of an array job, into a store of its own; see `data_prep.parts`.
        cluster: a Ray cluster to run on, all of whose nodes see both folders; None for processes on this machine.
        show_progress: draw a progress bar on stderr.

    Raises:
        FileNotFoundError, NotADirectoryError: `video_dir` is no folder.
        ValueError: it holds no video, or is the store; fewer workers than 1, or no time; the store was begun with other
            settings, or waits for its parts to be merged.
        RuntimeError: another job holds the store, a worker could not start or could not write, no cluster answers, or
            one of its nodes does not see the folders.
        ModuleNotFoundError: a package is missing that the estimator or the cluster needs.
        StoreWriteError: the store cannot be written.
    """
    check_limits(num_workers, stall_s)
    if os.path.realpath(video_dir) == os.path.realpath(out_dir):
        raise ValueError(
            f"{out_dir}: is the folder of the videos; choose another one, which may lie in it, for the store"
        )
    sources = find_videos(video_dir, leave_out=out_dir)
    if redo is not None:
        sources = [source for source in sources if source.video_id in redo]
    if not sources:
        raise ValueError(f"{video_dir}: holds no video (looked for video files and folders of frames, also below it)")
    if cluster is not None:  # its workers run in other folders
        video_dir, out_dir, settings = os.path.abspath(video_dir), os.path.abspath(out_dir), settings.anywhere()
    whole = store = Path(out_dir)
    merged: dict[str, dict] = {}  # what earlier array jobs have brought into the whole store
    if part is not None:
        check_part(whole, part, settings.as_stored())
        store = part.path(whole)
        merged = read_records(whole)
        sources = [source for source in sources if part.takes(source.video_id)]
    elif find_parts(whole):
        raise ValueError(f"{whole / PARTS}: parts of an array job wait here; merge them first (tools/merge_stores.py)")
    with nullcontext() if cluster is None else connected(cluster):
        # What is missing is said before anything is written.
        about = _about(settings) if cluster is None else call_once(cluster, _about, settings)
        with lock_store(store):
            begin_store(store, settings.as_stored(), about)
            records = read_records(store)
            if redo is not None:
                records = {video_id: record for video_id, record in records.items() if video_id not in redo}
            if not (store / "index.npz").is_file():  # new thresholds may have reached a part of the records only
                records = rejudge_records(store, records, settings.thresholds)
            now = {
                source.video_id: _fingerprint(video_dir, source)
                for source in sources
                if source.video_id in records or source.video_id in merged
            }
            todo = [
                source
                for source in sources
                if not _is_settled(store, source, records.get(source.video_id), now, retry_failed)
                and not _is_settled(whole, source, merged.get(source.video_id), now, retry_failed)
            ]
            if todo:
                discard_index(store)
                _run(
                    video_dir, store, todo, settings, num_workers, stall_s, deadline, cluster, show_progress, once_good
                )
                records = read_records(store)
            if todo or not (store / "index.npz").is_file() or not (store / "manifest.jsonl").is_file():
                finish_store(store)
    return _report(sources, todo, records, merged, now)


def _about(settings: PrepareSettings) -> dict:
    """What store.json says about those who made it; raises what the estimator raises if something is missing."""
    estimator = settings.create_estimator().describe()
    return {"package": __version__, "estimator": estimator, "opencv": cv2.__version__, "pyav": av.__version__}


def _fingerprint(video_dir: str | os.PathLike, source: VideoSource) -> dict | None:
    try:
        return fingerprint(video_dir, source)
    except OSError:
        return None


def _is_settled(
    store: Path, source: VideoSource, record: dict | None, now: dict[str, dict | None], retry_failed: bool
) -> bool:
    """Whether nothing is to be done for a video; `now` has its fingerprint, or None where it cannot be read."""
    if record is None or record["reason"] == "killed" or (retry_failed and record["status"] == "failed"):
        return False
    if record["shard"] is not None:
        shard = shard_path(store, source.video_id)
        if not shard.is_file() or shard.stat().st_size != record["shard"]["bytes"]:
            return False
    if now[source.video_id] is None:
        return True  # trying again could only lose what was made when it could be read
    return record["source"] == {"path": source.path, "kind": source.kind, **now[source.video_id]}


def _run(
    video_dir: str | os.PathLike,
    out_dir: str | os.PathLike,
    todo: list[VideoSource],
    settings: PrepareSettings,
    num_workers: int | None,
    stall_s: float | None,
    deadline: Deadline | None,
    cluster: RayCluster | None,
    show_progress: bool,
    once_good: Collection[str],
) -> None:
    pairs = 0
    kills: Counter = Counter()
    bar = tqdm(total=len(todo), unit="video", desc="preparing", disable=not show_progress, dynamic_ncols=True)

    def count(written: int) -> None:
        nonlocal pairs
        pairs += written
        bar.set_postfix(pairs=pairs, refresh=False)
        bar.update(0)

    options = {
        "num_workers": num_workers,
        "initialize": initialize_worker,
        "stall_s": stall_s,
        "limit_s": None if deadline is None else limit_to_open,
        "on_progress": count,
    }
    if cluster is None:
        executor = LocalExecutor(prepare_video, **options)
    else:
        token = Path(out_dir) / ".tmp" / f"seen-{secrets.token_hex(8)}"
        write_file(out_dir, token.relative_to(out_dir), b"")
        check = partial(check_shared, str(token), str(video_dir))
        executor = RayExecutor(prepare_video, cluster=cluster, check=check, **options)
    with bar, executor:
        for source in _largest_first(video_dir, todo):
            # A process that dies is tried the same way once more, then with the other reader.
            backends = (settings.reader,) * 2
            if source.kind == "frames":
                backends = ("frames",) * 2
            elif settings.reader == "auto":
                backends += ("decord",)
            good = source.video_id in once_good
            task = VideoTask(str(video_dir), str(out_dir), source, settings, backends, deadline, once_good=good)
            executor.submit(task)
        for task, outcome in executor.outcomes():
            if outcome.status == "error":
                # `prepare_video` answers for the video itself: what it lets through is trouble with the store.
                raise RuntimeError(f"stopped at {task.source.path!r}: {outcome.detail.strip().splitlines()[-1]}")
            if outcome.status != "done":
                if outcome.status == "killed":
                    kills[task.source.video_id] += 1
                forgiven = outcome.status == "killed" and kills[task.source.video_id] <= _MAX_KILLS
                again = task if forgiven else _next_try(task, outcome)
                if again is not None:
                    executor.submit(again)
                    continue
                _commit_loss(task, outcome)
            bar.update(1)


def _largest_first(video_dir: str | os.PathLike, sources: list[VideoSource]) -> list[VideoSource]:
    """The order to do videos in, so that no worker is left alone with a long one at the end; folders come first."""

    def size(source: VideoSource) -> float:
        try:
            return os.stat(os.path.join(video_dir, source.path)).st_size if source.kind == "file" else float("inf")
        except OSError:
            return 0

    return sorted(sources, key=size, reverse=True)  # stable: equal ones stay in the order of their paths


def _next_try(task: VideoTask, outcome: Outcome) -> VideoTask | None:
    rest = task.backends[1:]
    if outcome.status in ("stalled", "late"):  # the same reader would be so again
        rest = tuple(backend for backend in rest if backend != task.backends[0])
    earlier = f"before that, reader {task.backends[0]}: {outcome.status}, {outcome.detail}"
    return replace(task, backends=rest, earlier=earlier) if rest else None


def limit_to_open(task: VideoTask) -> float:
    """Seconds that a video may take before it has told its length; see `LocalExecutor`."""
    try:
        num_bytes = os.stat(os.path.join(task.video_dir, task.source.path)).st_size
    except OSError:
        num_bytes = 0
    return task.deadline.to_open(num_bytes)


def _commit_loss(task: VideoTask, outcome: Outcome) -> None:
    record = new_record(task.source)
    try:
        record["source"].update(fingerprint(task.video_dir, task.source))
    except OSError:
        pass
    reason = "crashed" if outcome.status == "died" else outcome.status
    record.update(reason=reason, detail=f"with every reader: {outcome.detail}")
    commit_verdict(replace(task, earlier=""), record)


def _report(
    sources: list[VideoSource],
    todo: list[VideoSource],
    records: dict[str, dict],
    merged: dict[str, dict],
    now: dict[str, dict | None],
) -> PrepareReport:
    verdicts = merged | records
    here = [verdicts[source.video_id] for source in sources]
    done_now = [records[source.video_id] for source in todo]
    failures = [(r["source"]["path"], r["reason"], r["detail"]) for r in here if r["status"] == "failed"]
    return PrepareReport(
        found=len(sources),
        videos=sum(record["status"] == "done" for record in done_now),
        pairs=sum(len(record["samples"]) for record in done_now),
        earlier_videos=len(sources) - len(todo),
        store_pairs=sum(len(record["samples"]) for record in records.values()),
        skipped=dict(Counter(r["reason"] for r in here if r["status"] == "skipped")),
        failed=dict(Counter(reason for _, reason, _ in failures)),
        dropped=dict(Counter(pair["reasons"][0] for r in here for pair in r["dropped"])),
        failures=failures,
        out_of_reach=[
            source.path
            for source in sources
            if now.get(source.video_id, "new") is None and "bytes" in verdicts[source.video_id]["source"]
        ],
    )
