"""Estimate the pairs, bytes and hours of a preparation from a random sample of the videos.

The header of every video is read: length, rate and size. They give the approximate number of pairs that would be
chosen, and the weight of the video: chosen pairs times pixels. For a random sample the pairs are really made, in a
temporary folder. The result per unit of weight is applied to all videos (a ratio estimate). How much the videos of the
sample differ gives the interval of the estimate.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from tqdm import tqdm

from cmp.datasets.pair_store import begin_store, lock_store, read_records
from cmp.video.find import VideoSource, find_videos, nothing_found
from cmp.video.probe import open_container
from cmp.video.readers import open_video
from data_prep.deadlines import Deadline
from data_prep.executors import LocalExecutor, available_cores, check_limits
from data_prep.job import limit_to_open
from data_prep.pipeline import VideoTask, initialize_worker, prepare_video
from data_prep.settings import PrepareSettings

_HEADER_S = 60.0  # for reading one header
_HEADERS_PER_WORKER = 10_000  # starting a worker takes as long as hundreds of headers


@dataclass(frozen=True)
class Amount:
    """An estimate, and half the width of its 95 % interval (for the choice of the sample only)."""

    value: float
    spread: float


@dataclass(frozen=True)
class Estimate:
    """What `estimate_folder` found.

    found: number of videos in the folder.
    readable: number of videos whose header gives a length and a size.
    sampled: number of videos that were really prepared.
    chosen: number of pairs over all videos, by the lengths in the headers.
    kept_share: share of the chosen pairs that were kept, in the sample.
    pairs, bytes: of the finished store.
    core_hours: with one worker on this machine; hours: with `num_workers` workers.
    lost: number of sampled videos without pairs, per reason.
    """

    found: int
    readable: int
    sampled: int
    chosen: int
    kept_share: float
    pairs: Amount
    bytes: Amount
    core_hours: Amount
    hours: Amount
    num_workers: int
    lost: dict[str, int]


def estimate_folder(
    video_dir: str | os.PathLike,
    settings: PrepareSettings,
    *,
    num_videos: int = 16,
    seed: int = 0,
    num_workers: int | None = None,
    stall_s: float | None = 300.0,
    deadline: Deadline | None = Deadline(),  # noqa: B008 (frozen)
    show_progress: bool = True,
) -> Estimate:
    """Estimate what `prepare_folder` would make of a folder. What a store already contains is not considered.

    Args:
        num_videos: size of the sample; all readable videos if there are fewer.
        seed: of the choice of the sample.
        num_workers, stall_s, deadline: see `prepare_folder`; the hours are for this number of workers.

    Raises:
        FileNotFoundError, NotADirectoryError: `video_dir` is not a folder.
        ValueError: it contains no videos, or none whose header gives a length and a size; or num_videos is below 1.
        RuntimeError: a worker could not start.
    """
    if num_videos < 1:
        raise ValueError(f"num_videos must be at least 1, got {num_videos}")
    check_limits(num_workers, stall_s)
    sources = find_videos(video_dir)
    if not sources:
        raise ValueError(nothing_found(str(video_dir)))
    num_workers = num_workers or available_cores()
    options: dict[str, Any] = {"num_workers": num_workers, "initialize": initialize_worker}
    headers_of = [(str(video_dir), source, settings) for source in sources]
    executor = LocalExecutor(read_header, stall_s=_HEADER_S, tasks_per_worker=_HEADERS_PER_WORKER, **options)
    headers = _results(executor, headers_of, None, "headers", show_progress)
    readable = [(source, *header) for source, header in zip(sources, headers) if header]
    if not readable:
        raise ValueError(f"{video_dir}: contains no video whose header gives a length and a size")
    chosen = np.asarray([pairs for _, pairs, _ in readable], np.float64)
    weights = chosen * np.asarray([pixels for _, _, pixels in readable])
    rng = np.random.default_rng(seed)
    sample = np.sort(rng.permutation(len(readable))[:num_videos])
    with tempfile.TemporaryDirectory(prefix="dry-run-") as out:
        with lock_store(out):
            begin_store(out, settings.as_stored(), {})
        tasks = [
            VideoTask(str(video_dir), out, source, settings, (_backend(source, settings),), deadline)
            for source, _, _ in (readable[i] for i in sample)
        ]
        limit_s = None if deadline is None else limit_to_open
        executor = LocalExecutor(timed_prepare, stall_s=stall_s, limit_s=limit_s, **options)
        seconds = np.asarray(_results(executor, tasks, stall_s or 0.0, "sample", show_progress), np.float64)
        records = read_records(out)
        found = [records.get(readable[i][0].video_id) for i in sample]
        pairs = np.asarray([len(record["samples"]) if record else 0 for record in found], np.float64)
        num_bytes = np.asarray([_stored_bytes(out, record) for record in found], np.float64)
    core_hours = scale_up(seconds / 3600, weights[sample], weights)
    return Estimate(
        found=len(sources),
        readable=len(readable),
        sampled=len(sample),
        chosen=int(chosen.sum()),
        kept_share=float(pairs.sum() / max(1.0, chosen[sample].sum())),
        pairs=scale_up(pairs, chosen[sample], chosen),
        bytes=scale_up(num_bytes, weights[sample], weights),
        core_hours=core_hours,
        hours=Amount(core_hours.value / num_workers, core_hours.spread / num_workers),
        num_workers=num_workers,
        lost=dict(Counter((r["reason"] if r else "crashed or stalled") for r in found if not r or r["reason"])),
    )


def scale_up(values: np.ndarray, weights: np.ndarray, all_weights: np.ndarray) -> Amount:
    """Estimate a sum over N items from n of them, drawn without replacement (ratio estimate).

    Args:
        values, weights: (n,) of the sample; all_weights: (N,).

    Returns:
        sum(all_weights) * sum(values) / sum(weights), and the half width of its 95 % interval: Student's t for n - 1
        degrees of freedom, times the standard error of the residuals, with the correction for finite populations. The
        half width is 0 if the sample contains all items, and infinite for a sample of one.

    Source: Cochran, Sampling Techniques, 1977, section 6.4.
    """
    n, total = len(values), len(all_weights)
    if weights.sum() == 0:
        return Amount(0.0, 0.0 if n == total else float("inf"))
    ratio = values.sum() / weights.sum()
    value = float(ratio * all_weights.sum())
    if n == total:
        return Amount(value, 0.0)
    if n == 1:
        return Amount(value, float("inf"))
    variance = ((values - ratio * weights) ** 2).sum() / (n - 1)
    from scipy.special import stdtrit  # here: every worker imports this module too, and never needs it

    # Scaled by the mean weight of the sample, as the ratio is: sum(all) / mean(weights) takes the place of N.
    error = all_weights.sum() / weights.mean() * np.sqrt((1 - n / total) * variance / n)
    return Amount(value, float(stdtrit(n - 1, 0.975) * error))


def read_header(task: tuple[str, VideoSource, PrepareSettings], progress: Callable) -> tuple[int, int] | None:
    """(pairs, pixels of a stored frame) by a video's header; None if it gives no length or size. Runs in a worker."""
    video_dir, source, settings = task
    path = Path(video_dir) / source.path
    try:
        if source.kind == "frames":
            with open_video(path, folder_fps=settings.folder_fps) as reader:
                times_s, size_hw = reader.times_s, reader.size_hw
        else:
            if not path.is_file():  # a pipe or a device may have no end
                return None
            with open_container(path) as (container, stream):
                rate = float(stream.average_rate or stream.guessed_rate or 25)
                length_s = float(stream.duration * stream.time_base) if stream.duration else 0.0
                if not length_s and container.duration:
                    length_s = container.duration / av.time_base
                count = stream.frames or round(length_s * rate)
                size_hw = (stream.height, stream.width)
            times_s = np.arange(min(count, 10**8)) / rate
        if not len(times_s) or min(size_hw) < 1:
            return None
        height, width = settings.stored_size(size_hw)
        return len(settings.choose(times_s)), height * width
    except Exception:  # whatever a library raises for a strange file: the job itself will name what is wrong
        return None


def timed_prepare(task: VideoTask, progress: Callable) -> float:
    """Prepare one video; returns the seconds it took. Runs in a worker."""
    start = time.perf_counter()
    prepare_video(task, progress)
    return time.perf_counter() - start


def _results(executor: LocalExecutor, tasks: list, lost: object, name: str, show_progress: bool) -> list:
    """The result of each task, in their order; `lost` for a task whose process crashed, hung or took too long."""
    results = [lost] * len(tasks)
    places = {id(task): place for place, task in enumerate(tasks)}
    bar = tqdm(total=len(tasks), unit="video", desc=name, disable=not show_progress, dynamic_ncols=True)
    with bar, executor:
        for task in tasks:
            executor.submit(task)
        for task, outcome in executor.outcomes():
            if outcome.status == "error":
                raise RuntimeError(f"stopped: {outcome.last_line}")
            if outcome.status == "done":
                results[places[id(task)]] = outcome.value
            bar.update(1)
    return results


def _backend(source: VideoSource, settings: PrepareSettings) -> str:
    return "frames" if source.kind == "frames" else settings.reader


def _stored_bytes(out: str, record: dict | None) -> int:
    if not record:
        return 0
    size = (Path(out) / "videos" / f"{record['video_id']}.json").stat().st_size
    return size + (record["shard"]["bytes"] if record["shard"] else 0)
