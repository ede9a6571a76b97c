"""Make the samples of one video: decode, estimate flow, score, encode, write. This runs in a worker."""

from __future__ import annotations

import ctypes
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import cv2
import numpy as np

from cmp.datasets.pair_store import ShardWriter, StoreWriteError, commit_record
from cmp.flow.codec import encode_flow
from cmp.video.find import VideoSource, fingerprint
from cmp.video.reader import VideoReader
from cmp.video.readers import open_video
from data_prep.deadlines import Deadline
from data_prep.decisions import kept_and_dropped
from data_prep.estimators import FlowEstimator, PrecomputedFlow
from data_prep.executors import TimeLimit
from data_prep.quality import drop_reasons, score_pair
from data_prep.settings import PrepareSettings

_KEPT_BYTES = 64 << 20  # of freed memory that a worker keeps: what a pair needs, and frames of 4K
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's mallopt


@dataclass(frozen=True)
class VideoTask:
    """One video to prepare.

    backends: the readers still to try. The first is used now; the others if its process dies, hangs or is late.
    deadline: see `Deadline`; None for no limit.
    earlier: how the last try ended, if this is not the first; a record with the status "failed" keeps it.
    once_good: the store had the pairs of this video and lost them, so a failure gets the reason "lost".
    """

    video_dir: str
    out_dir: str
    source: VideoSource
    settings: PrepareSettings
    backends: tuple[str, ...]
    deadline: Deadline | None = None
    earlier: str = ""
    once_good: bool = False


def prepare_video(task: VideoTask, progress: Callable[[int | TimeLimit], None]) -> None:
    """Prepare one video: write its shard, then its record. Runs in a worker.

    A video that cannot be read, or gives no pairs, gets a record with the reason. Only trouble with the store raises.
    `progress` is called often, with the number of pairs written since the last call. If the task has a deadline, it is
    called once with a `TimeLimit` too, as soon as the length of the video is known.
    """
    record = new_record(task.source)
    try:
        record["source"].update(fingerprint(task.video_dir, task.source))
        path = Path(task.video_dir) / task.source.path
        reader = open_video(path, task.backends[0], folder_fps=task.settings.folder_fps, on_work=lambda: progress(0))
    except (OSError, ValueError, MemoryError) as error:
        record.update(status="failed", reason="unreadable", detail=_without_folder(error, task.video_dir))
        finish_record(task, record)
        return
    except Exception as error:  # as below
        record.update(status="failed", reason="broke", detail=_without_folder(repr(error), task.video_dir))
        finish_record(task, record)
        return
    seldom = _Seldom(progress)
    with reader, ShardWriter(task.out_dir, task.source.video_id) as shard:
        try:
            _write_samples(task, reader, shard, record, seldom)
        except StoreWriteError:
            raise
        except Exception as error:  # whatever a library raises for a strange video must cost only that video
            record = new_record(task.source) | {"source": record["source"], "reason": "broke", "detail": repr(error)}
        else:
            if shard.rows:
                record["shard"] = shard.close()
    seldom.flush()
    finish_record(task, record)


class _Seldom:
    """Calls `progress` at most ten times a second, with the sum of the numbers since; with time limits at once.

    Every message wakes the parent process, which runs on the same cores.
    """

    def __init__(self, progress: Callable[[int | TimeLimit], None]) -> None:
        self._progress, self._count, self._passed_on = progress, 0, time.monotonic()

    def __call__(self, value: int | TimeLimit) -> None:
        if isinstance(value, TimeLimit):
            self._progress(value)
            return
        self._count += value
        if time.monotonic() >= self._passed_on + 0.1:
            self.flush()

    def flush(self) -> None:
        self._progress(self._count)
        self._count, self._passed_on = 0, time.monotonic()


def finish_record(task: VideoTask, record: dict) -> None:
    """Write the record of a video. If it failed, the record also keeps the earlier try and whether pairs were lost."""
    if record["status"] == "failed" and task.earlier:
        record["detail"] = f"{record['detail']}; {task.earlier}"
    if record["status"] == "failed" and task.once_good:
        record.update(reason="lost", detail=f"its pairs cannot be made again: {record['reason']}, {record['detail']}")
    commit_record(task.out_dir, record)


def new_record(source: VideoSource) -> dict:
    """A record with all its fields, for a video about which nothing is known yet."""
    return {
        "video_id": source.video_id,
        "source": {"path": source.path, "kind": source.kind},
        "status": "failed",  # "done", "skipped" or "failed"
        "reason": None,  # one word, unless done
        "detail": None,  # a sentence
        "video": None,  # reader, num_frames, fps, size_hw, stored_size_hw, problem (text if reading ended early)
        "pairs_chosen": 0,
        "samples": [],  # rows of pairs: see cmp.datasets.pair_store.format
        "dropped": [],
        "shard": None,  # bytes, sha256
    }


def initialize_worker() -> None:
    """Set up a worker process: one thread, freed memory kept, no messages of native libraries in the progress bar."""
    os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")  # for torch, which is not imported yet
    cv2.setNumThreads(1)
    av.logging.set_level(av.logging.PANIC)
    _keep_freed_memory()


def _keep_freed_memory() -> None:
    """Make glibc keep freed memory, up to a bound, for the next array; without glibc this does nothing.

    By default glibc returns large blocks to the system, which clears every page again for the next pair: 1,000 page
    faults per pair, a seventh of its time.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(_M_MMAP_THRESHOLD, 32 << 20)  # the most that glibc takes
    mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)


def _write_samples(
    task: VideoTask,
    reader: VideoReader,
    shard: ShardWriter,
    record: dict,
    progress: Callable[[int | TimeLimit], None],
) -> None:
    settings = task.settings
    estimator = settings.create_estimator(task.source.path)
    size_hw = settings.stored_size(reader.size_hw)
    pairs = settings.choose(reader.times_s)
    record["pairs_chosen"] = len(pairs)
    if task.deadline is not None:
        num_bytes = record["source"]["bytes"]
        progress(TimeLimit(task.deadline.in_all(num_bytes, reader.num_frames, reader.size_hw, len(pairs))))
    read = 0
    rows: list[dict] = []  # one per pair, with the reasons against it
    waiting: list[_Pair] = []  # until there are enough for the estimator

    def write_waiting() -> int:
        written = 0
        for pair, flow in zip(waiting, _flows(estimator, waiting), strict=True):
            rows.append(_write_pair(pair, flow, task.source, reader, settings, estimator.describe(), shard))
            written += not rows[-1]["reasons"]
        waiting.clear()
        return written

    for pair in _pairs_of_frames(reader, pairs, size_hw):
        read += 1
        written = 0
        if pair is not None:
            waiting.append(pair)
            if len(waiting) == estimator.batch_size:
                written = write_waiting()
        progress(written)
    progress(write_waiting())
    record["video"] = {
        "reader": reader.backend,
        "num_frames": reader.num_frames,
        "fps": reader.fps,
        "size_hw": list(reader.size_hw),
        "stored_size_hw": list(size_hw),
        "problem": reader.problem,
    }
    if len(pairs) == 0:
        record.update(status="skipped", reason="too_short", detail=f"{reader.num_frames} frames are too few for a pair")
    elif rows:
        record.update(kept_and_dropped(sorted(rows, key=lambda row: row["frames"])))
    else:
        detail = f"{read} of the requested frames could be read, and no pair among them; {reader.problem}"
        record.update(status="failed", reason="unreadable", detail=detail)


@dataclass(frozen=True)
class _Pair:
    frames: tuple[int, int]
    times_s: tuple[float, float]
    images: tuple[np.ndarray, np.ndarray]


def _pairs_of_frames(reader: VideoReader, pairs: np.ndarray, size_hw: tuple[int, int]) -> Iterator[_Pair | None]:
    """Read the frames of all pairs, each once and in order.

    Yields one item per frame: the pair that the frame completes, or None. A frame is kept until its last partner came.

    Args:
        pairs: (N, 2) int64 positions of the frames, rising in both columns.
        size_hw: size at which frames are stored.
    """
    first_of = {second: first for first, second in pairs.tolist()}
    last_use: dict[int, int] = {}
    for first, second in pairs.tolist():
        last_use[first] = max(second, last_use.get(first, 0))
    held: dict[int, tuple[float, np.ndarray]] = {}
    for frame in reader.read(np.unique(pairs).tolist()):
        image = resized(frame.image, size_hw)
        partner = first_of.get(frame.index)
        pair = None
        if partner in held:
            frames, times_s = (partner, frame.index), (held[partner][0], frame.time_s)
            pair = _Pair(frames, times_s, (held[partner][1], image))
        if frame.index in last_use:
            held[frame.index] = (frame.time_s, image)
        held = {index: value for index, value in held.items() if last_use[index] > frame.index}
        yield pair


def _flows(estimator: FlowEstimator | PrecomputedFlow, pairs: list[_Pair]) -> list[np.ndarray]:
    if isinstance(estimator, PrecomputedFlow):
        return [estimator.read(pair.frames, pair.images[0].shape[:2]) for pair in pairs]
    return estimator.estimate_batch([pair.images[0] for pair in pairs], [pair.images[1] for pair in pairs])


def _write_pair(
    pair: _Pair,
    flow: np.ndarray,
    source: VideoSource,
    reader: VideoReader,
    settings: PrepareSettings,
    estimator: dict,
    shard: ShardWriter,
) -> dict:
    """Score a pair and write it. Returns its row for the record, with the reasons against it (empty: it is kept)."""
    row = {"frames": list(pair.frames), "quality": {}, "members": None, "folder": "", "reasons": ["bad_flow"]}
    try:
        payload, header = encode_flow(flow, settings.codec)
    except ValueError:  # not finite, or vectors longer than the codec holds
        if np.isfinite(flow).all():
            row["quality"] = score_pair(*pair.images, flow, max_flow_px=settings.max_flow_px)
        return row
    scores = row["quality"] = score_pair(*pair.images, flow, max_flow_px=settings.max_flow_px)
    row["reasons"] = drop_reasons(scores, settings.thresholds)
    if row["reasons"] and settings.forget_dropped:
        return row
    meta = {
        "video": {"id": source.video_id, "path": source.path, "fps": reader.fps, "size_hw": list(reader.size_hw)},
        "frames": list(pair.frames),
        "times_s": [round(time_s, 6) for time_s in pair.times_s],
        "size_hw": list(flow.shape[:2]),
        "flow": header,
        "estimator": estimator,
        "quality": scores,
    }
    members = {"first.jpg": _jpeg(pair.images[0], settings.jpeg_quality), "flow.bin": payload}
    if settings.store_second:
        members["second.jpg"] = _jpeg(pair.images[1], settings.jpeg_quality)
    members["json"] = json.dumps(meta, sort_keys=True).encode()
    row.update(shard.add(*pair.frames, members, rejected=bool(row["reasons"])))
    return row


def resized(image: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """Resize a frame to the size at which it is stored, (H, W, 3) uint8; the same array if it has that size."""
    if image.shape[:2] == size_hw:
        return image
    smaller = size_hw[0] < image.shape[0] or size_hw[1] < image.shape[1]
    return cv2.resize(image, size_hw[::-1], interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC)


def _jpeg(image: np.ndarray, quality: int) -> bytes:
    flags = [cv2.IMWRITE_JPEG_QUALITY, quality]
    return cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), flags)[1].tobytes()


def _without_folder(error: BaseException | str, folder: str) -> str:
    """The text of an error without the path of the videos, so that records do not depend on it."""
    return str(error).replace(os.path.abspath(folder) + os.sep, "").replace(str(folder).rstrip(os.sep) + os.sep, "")
