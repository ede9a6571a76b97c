"""Prepare videos that are at an address, or write the store to one, with little local disk.

Videos are downloaded in small batches to a temporary folder, prepared there as on one machine (`data_prep.job`), and
deleted; finished shards are uploaded and deleted. Videos and settings being equal, the store has the bytes of a local
job.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from cmp.addresses import is_address
from cmp.datasets.pair_store import begin_store, lock_store, read_records, shard_path
from cmp.video.find import find_videos, nothing_found
from data_prep.deadlines import Deadline
from data_prep.executors import available_cores, check_limits
from data_prep.job import PrepareReport, prepare_folder, store_about
from data_prep.remote_store import RemoteStore
from data_prep.remote_videos import DownloadError, RemoteVideo, RemoteVideos
from data_prep.settings import PrepareSettings

MAX_VIDEO_BYTES = 4_000_000_000


def prepare_addresses(
    videos: str,
    out: str,
    settings: PrepareSettings,
    *,
    num_workers: int | None = None,
    stall_s: float | None = 300.0,
    deadline: Deadline | None = Deadline(),  # noqa: B008 (frozen)
    retry_failed: bool = False,
    max_video_bytes: int = MAX_VIDEO_BYTES,
    spool_dir: str | os.PathLike | None = None,
    show_progress: bool = True,
) -> PrepareReport:
    """Bring a pair store up to date with videos, where the videos, the store or both are at an address.

    The call may be killed at any moment and made again: videos whose record and shard are in the store are not done
    again unless their size has changed. A video that cannot be downloaded costs only itself. It gets no record, so the
    next call tries it again.

    Args:
        videos: an address (`RemoteVideos`), or a folder.
        out: an address (`RemoteStore`), or a folder.
        settings, stall_s, deadline, retry_failed, show_progress: as for `prepare_folder`.
        num_workers: processes, and the largest number of videos that are on the local disk at the same time; None: one
            per core.
        max_video_bytes: larger videos are not downloaded; at least 1.
        spool_dir: an existing folder for videos and shards while they are worked on; None: the system's for temporary
            files.

    Returns:
        As `prepare_folder`. `failures` has videos that were not downloaded too, with the reason "download" or
        "too_large".

    Raises:
        ModuleNotFoundError: fsspec or a package for this kind of address is missing.
        OSError, ValueError, RuntimeError: as `prepare_folder`; an address cannot be listed or written.
    """
    check_limits(num_workers, stall_s)
    if max_video_bytes < 1:
        raise ValueError(f"max_video_bytes must be at least 1, got {max_video_bytes}")
    remote = RemoteVideos(videos) if is_address(videos) else None
    store = RemoteStore(out) if is_address(out) else None
    found = remote.find() if remote else _find_local(videos, out)
    if not found:
        raise ValueError(nothing_found(videos))
    with tempfile.TemporaryDirectory(prefix="cmp-prepare-", dir=spool_dir) as spool:
        begun, target = Path(spool) / "begun", Path(spool) / "store" if store else Path(out)
        before = _begin(store, begun, settings) if store else _records_of(out)
        todo = [video for video in found if not _is_done(before.get(video.source.video_id), video, retry_failed)]
        records, wrote = dict(before), []
        lost: list[tuple[str, str, str]] = []
        size = num_workers or available_cores()
        options = dict(num_workers=num_workers, stall_s=stall_s, deadline=deadline, show_progress=False)
        bar = tqdm(total=len(todo), unit="video", desc="preparing", disable=not show_progress, dynamic_ncols=True)
        with bar:
            for batch, folder in _batches(remote, videos, todo, size, Path(spool), max_video_bytes, lost):
                if batch:
                    if store and not wrote:
                        store.discard_index()
                    new = _prepare_batch(batch, folder, target, store, begun, settings, options)
                    records |= new
                    wrote += new.values()
                bar.update(min(size, bar.total - bar.n))
        if store and (wrote or not store.is_finished()):
            store.finish(begun, records)
    return _report(found, records, wrote, len(found) - len(todo), lost)


def _prepare_batch(
    batch: Sequence[RemoteVideo],
    folder: str,
    target: Path,
    store: RemoteStore | None,
    begun: Path,
    settings: PrepareSettings,
    options: Mapping[str, Any],
) -> dict[str, dict]:
    """Prepare videos that are in a local folder, and upload what they give; returns their records by video id.

    Args:
        target: the local store; or, with `store`, where one is made for this batch and removed again.
        begun: folder with the store.json of `store`.
        options: of `prepare_folder`.
    """
    if store:
        target.mkdir()
        shutil.copyfile(begun / "store.json", target / "store.json")
    ids = {video.source.video_id for video in batch}
    prepare_folder(folder, target, settings, redo=ids, **options)
    new = {video_id: record for video_id, record in read_records(target).items() if video_id in ids}
    if store:
        for record in new.values():
            store.put_video(target, record)
        shutil.rmtree(target)
    return new


def _begin(store: RemoteStore, folder: Path, settings: PrepareSettings) -> dict[str, dict]:
    """Begin the store at its address, or check that it has these settings; returns its records. `folder` is made."""
    folder.mkdir()
    about = store.read_about(folder)
    try:
        with lock_store(folder):
            begin_store(folder, settings.as_stored(), store_about(settings))
    except ValueError as error:
        raise ValueError(str(error).replace(str(folder), store.address)) from error
    if about is None:
        store.put_about(folder)
        return {}
    return store.read_records()


def _records_of(out: str) -> dict[str, dict]:
    """The records of a local store whose shards are there; empty where there is no store."""

    def is_whole(record: dict) -> bool:
        path = shard_path(out, record["video_id"])
        return record["shard"] is None or path.is_file() and path.stat().st_size == record["shard"]["bytes"]

    return {video_id: record for video_id, record in read_records(out, whole=True).items() if is_whole(record)}


def _find_local(root: str, out: str) -> list[RemoteVideo]:
    """The videos of a folder; of frames the size is not looked at."""
    return [
        RemoteVideo(source, (Path(root) / source.path).stat().st_size if source.kind == "file" else None)
        for source in find_videos(root, leave_out=out)
    ]


def _is_done(record: dict | None, video: RemoteVideo, retry_failed: bool) -> bool:
    """Whether a video needs no work: it has a record, and as many bytes as then, where the size is known."""
    if record is None or record["reason"] == "killed" or (retry_failed and record["status"] == "failed"):
        return False
    return video.size is None or record["source"].get("bytes") == video.size


def _batches(
    remote: RemoteVideos | None,
    videos: str,
    todo: Sequence[RemoteVideo],
    size: int,
    spool: Path,
    max_bytes: int,
    lost: list[tuple[str, str, str]],
) -> Iterator[tuple[list[RemoteVideo], str]]:
    """Batches of videos, each with the local folder they are in; what cannot be downloaded is added to `lost`."""
    for start in range(0, len(todo), size):
        batch = list(todo[start : start + size])
        if remote is None:
            yield batch, videos
            continue
        with tempfile.TemporaryDirectory(dir=spool) as folder:
            here = []
            for video in batch:
                try:
                    remote.download(video, Path(folder), max_bytes=max_bytes)
                    here.append(video)
                except DownloadError as error:
                    lost.append((video.source.path, error.reason, str(error)))
            known = set(find_videos(folder))
            lost += [(v.source.path, "not_a_video", "a still image") for v in here if v.source not in known]
            yield [video for video in here if video.source in known], folder


def _report(
    found: Sequence[RemoteVideo],
    records: dict[str, dict],
    wrote: list[dict],
    earlier: int,
    lost: list[tuple[str, str, str]],
) -> PrepareReport:
    here = [records[video.source.video_id] for video in found if video.source.video_id in records]
    failures = [(r["source"]["path"], r["reason"], r["detail"]) for r in here if r["status"] == "failed"] + lost
    return PrepareReport(
        found=len(found),
        videos=sum(record["status"] == "done" for record in wrote),
        pairs=sum(len(record["samples"]) for record in wrote),
        earlier_videos=earlier,
        store_pairs=sum(len(record["samples"]) for record in records.values()),
        skipped=dict(Counter(r["reason"] for r in here if r["status"] == "skipped")),
        failed=dict(Counter(reason for _, reason, _ in failures)),
        dropped=dict(Counter(pair["reasons"][0] for r in here for pair in r["dropped"])),
        failures=failures,
        out_of_reach=[],
    )
