"""From videos to a pair store: one video to its samples, and a whole folder of them."""

from __future__ import annotations

import io
import json
import os
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, field
from pathlib import Path

import av
import cv2
import numpy as np
from tqdm import tqdm

from cmp.datasets.pair_store import (
    ShardWriter,
    StoreWriteError,
    begin_store,
    commit_record,
    discard_index,
    finish_store,
    lock_store,
    read_records,
    shard_path,
)
from cmp.flow.codec import CODECS, encode_flow
from cmp.guidance.watershed import local_maxima, motion_edges, watershed_map
from cmp.version import __version__
from cmp.video.readers import BACKENDS, VideoReader, open_video
from data_prep.estimators import DEFAULT_ESTIMATOR, FlowEstimator, PrecomputedFlow, check_estimator, create_estimator
from data_prep.estimators.weights import weights_label
from data_prep.executors import LocalExecutor, Outcome
from data_prep.pairs import choose_pairs
from data_prep.quality import Thresholds, drop_reasons, score_pair
from data_prep.videos import VideoSource, find_videos, fingerprint


@dataclass(frozen=True)
class PrepareSettings:
    """Everything the samples of a store depend on; kept in its store.json.

    interval_*, pairs_per_video, stride_*: see `choose_pairs`; 5 frames and 50 pairs a video where nothing is given.
    short_side_px: frames are made smaller to this short side (area filter); 0 keeps their size.
    enlarge: also make smaller frames larger (bicubic).
    estimator, codec: names, see `data_prep.estimators` and `cmp.flow.encode_flow`.
    estimator_weights: a local file of weights, for RAFT and ptlflow; None for the library's own.
    estimator_device: "cpu", "cuda", "cuda:1", ... or "auto", for the same.
    jpeg_quality: of the stored frames, 1 to 100.
    store_second: store frame t+k too.
    candidates_kernel: store the maxima of the watershed map under this odd kernel (before thinning); None for none.
    max_flow_px: range of the training bins at stored size, for the score beyond_share.
    reader: a name of `cmp.video.readers.BACKENDS` but "frames", for files.
    folder_fps: frames per second assumed for folders of frames.
    """

    interval_frames: int | None = None
    interval_s: float | None = None
    pairs_per_video: int | None = None
    stride_frames: int | None = None
    stride_s: float | None = None
    short_side_px: int = 416
    enlarge: bool = False
    estimator: str = DEFAULT_ESTIMATOR
    estimator_weights: str | None = None
    estimator_device: str = "auto"
    codec: str = "half16"
    jpeg_quality: int = 92
    store_second: bool = False
    candidates_kernel: int | None = None
    max_flow_px: float = 50.0
    thresholds: Thresholds = field(default_factory=Thresholds)
    reader: str = "auto"
    folder_fps: float = 25.0

    def __post_init__(self) -> None:
        if self.interval_frames is None and self.interval_s is None:
            object.__setattr__(self, "interval_frames", 5)
        if self.pairs_per_video is None and self.stride_frames is None and self.stride_s is None:
            object.__setattr__(self, "pairs_per_video", 50)
        self.choose(np.arange(3) / 25)  # checks intervals and strides
        check_estimator(self.estimator, self.estimator_weights)
        if self.codec not in CODECS:
            raise ValueError(f"codec must be one of {', '.join(CODECS)}, got {self.codec!r}")
        if self.reader not in BACKENDS or self.reader == "frames":
            raise ValueError(f"reader must be auto, decord or pyav, got {self.reader!r}")
        if self.short_side_px != 0 and self.short_side_px < 16:
            raise ValueError(f"short_side_px must be 0 (keep) or at least 16, got {self.short_side_px}")
        if self.enlarge and self.short_side_px == 0:
            raise ValueError("enlarge needs a short_side_px to enlarge to")
        if not 1 <= self.jpeg_quality <= 100:
            raise ValueError(f"jpeg_quality must lie in 1 .. 100, got {self.jpeg_quality}")
        if self.candidates_kernel is not None and (self.candidates_kernel < 3 or self.candidates_kernel % 2 == 0):
            raise ValueError(f"candidates_kernel must be odd and at least 3, got {self.candidates_kernel}")
        if self.folder_fps <= 0 or self.max_flow_px <= 0:
            raise ValueError(f"folder_fps and max_flow_px must be above 0, got {self.folder_fps}, {self.max_flow_px}")

    def choose(self, times_s: np.ndarray) -> np.ndarray:
        """(N, 2) int64 positions of the pairs; see `choose_pairs`."""
        return choose_pairs(
            times_s,
            interval_frames=self.interval_frames,
            interval_s=self.interval_s,
            pairs_per_video=self.pairs_per_video,
            stride_frames=self.stride_frames,
            stride_s=self.stride_s,
        )

    def as_stored(self) -> dict:
        """What store.json keeps and a later job must agree with: no paths of this machine, and not the device.

        A file of weights is kept as a hash of its content, a folder of flow files as "files".
        """
        kept = asdict(self)
        del kept["estimator_device"]
        if self.estimator_weights is not None:
            kept["estimator_weights"] = weights_label(self.estimator_weights)
        if self.estimator.startswith("files:"):
            kept["estimator"] = "files"
        return kept

    @classmethod
    def from_stored(cls, kept: dict, estimator_weights: str | None = None) -> PrepareSettings:
        """The settings that a store was made with; weights that it knows by their hash have to be given again.

        Raises ValueError if they are of another version, or the flow came from files.
        """
        if kept.get("estimator") == "files":
            raise ValueError("the flow of this store came from files: run tools/prepare_flow.py with its flags instead")
        try:
            thresholds = Thresholds(**kept["thresholds"])
            return cls(**kept | {"thresholds": thresholds, "estimator_weights": estimator_weights})
        except (KeyError, TypeError) as error:
            raise ValueError(f"settings of another version of this package ({error})") from error

    def stored_size(self, size_hw: tuple[int, int]) -> tuple[int, int]:
        """Height and width at which frames of this size are stored, px."""
        short = min(size_hw)
        if self.short_side_px == 0 or (short < self.short_side_px and not self.enlarge):
            return size_hw
        # Whole numbers, half rounded up: the same on every machine.
        height, width = ((2 * side * self.short_side_px + short) // (2 * short) for side in size_hw)
        return height, width


@dataclass(frozen=True)
class VideoTask:
    """One unit of work. `backends` are the readers still to try: the first is used, the rest if its process dies."""

    video_dir: str
    out_dir: str
    source: VideoSource
    settings: PrepareSettings
    backends: tuple[str, ...]


@dataclass(frozen=True)
class PrepareReport:
    """What became of the videos of one call of `prepare_folder`, and what the store holds now.

    videos, pairs: written by this call; earlier_videos: had a verdict before; store_pairs: pairs in the whole store.
    skipped, failed: reasons with their number of videos, over all videos of the folder.
    dropped: reasons with their number of pairs, over all videos of the folder.
    failures: (path, reason, detail) of every failed video of the folder.
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


def prepare_folder(
    video_dir: str | os.PathLike,
    out_dir: str | os.PathLike,
    settings: PrepareSettings,
    *,
    num_workers: int | None = None,
    stall_s: float | None = 300.0,
    retry_failed: bool = False,
    redo: Collection[str] | None = None,
    show_progress: bool = True,
) -> PrepareReport:
    """Bring a pair store up to date with a folder of videos.

    May be killed at any moment and called again: the store then becomes what an undisturbed call makes, byte for byte.
    Videos with a verdict are not touched unless their file changed; videos that have left the folder stay in the store.

    Args:
        video_dir: searched with all its sub-folders.
        out_dir: the store; made if it does not exist.
        num_workers: processes; all available cores if None.
        stall_s: a video whose process makes no progress for so long is tried with the next reader, then failed.
        retry_failed: do failed videos again.
        redo: ids of videos to do again whatever their verdict, and no others.
        show_progress: draw a progress bar on stderr.

    Raises:
        FileNotFoundError, NotADirectoryError: `video_dir` is no folder.
        ValueError: it holds no video; or the store was begun with other settings.
        RuntimeError: another job holds the store, or a worker could not start or could not write.
        StoreWriteError: the store cannot be written.
    """
    sources = find_videos(video_dir, leave_out=out_dir)
    if redo is not None:
        sources = [source for source in sources if source.video_id in redo]
    if not sources:
        raise ValueError(f"{video_dir}: holds no video (looked for video files and folders of frames, also below it)")
    estimator = _create_estimator(settings, "").describe()  # what is missing is said before anything is written
    about = {"package": __version__, "estimator": estimator, "opencv": cv2.__version__, "pyav": av.__version__}
    with lock_store(out_dir):
        begin_store(out_dir, settings.as_stored(), about)
        records = read_records(out_dir)
        if redo is not None:
            records = {video_id: record for video_id, record in records.items() if video_id not in redo}
        todo = [s for s in sources if not _is_settled(video_dir, out_dir, s, records.get(s.video_id), retry_failed)]
        if todo:
            discard_index(out_dir)
            _run(video_dir, out_dir, todo, settings, num_workers, stall_s, show_progress)
            records = read_records(out_dir)
        if todo or not (Path(out_dir) / "index.npz").is_file() or not (Path(out_dir) / "manifest.jsonl").is_file():
            finish_store(out_dir)
    return _report(sources, todo, records)


def prepare_video(task: VideoTask, progress: Callable[[int], None]) -> None:
    """Do one video: write its shard, then its record. Runs in a worker.

    A video that cannot be read, or gives nothing, gets a record that says why; only trouble with the store raises.
    `progress` is told the number of pairs written since the last call, often.
    """
    record = new_record(task.source)
    try:
        record["source"].update(fingerprint(task.video_dir, task.source))
        path = Path(task.video_dir) / task.source.path
        reader = open_video(path, task.backends[0], folder_fps=task.settings.folder_fps)
    except (OSError, ValueError, MemoryError) as error:
        record.update(status="failed", reason="unreadable", detail=_without_folder(error, task.video_dir))
        commit_record(task.out_dir, record)
        return
    with reader, ShardWriter(task.out_dir, task.source.video_id) as shard:
        try:
            _write_samples(task, reader, shard, record, progress)
        except StoreWriteError:
            raise
        except Exception as error:  # whatever a library makes of a strange video must cost that video alone
            record = new_record(task.source) | {"source": record["source"], "reason": "broke", "detail": repr(error)}
        else:
            if shard.samples:
                record["samples"] = shard.samples
                record["shard"] = shard.close()
    commit_record(task.out_dir, record)


def new_record(source: VideoSource) -> dict:
    """The record of a video about which nothing is known yet: the shape that all records have."""
    return {
        "video_id": source.video_id,
        "source": {"path": source.path, "kind": source.kind},
        "status": "failed",  # "done", "skipped" or "failed"
        "reason": None,  # one word, unless done
        "detail": None,  # a sentence
        "video": None,  # reader, num_frames, fps, size_hw, stored_size_hw, problem (text if it broke off)
        "pairs_chosen": 0,
        "samples": [],  # frames and places of members: see cmp.datasets.pair_store
        "dropped": [],  # frames, reasons, quality
        "shard": None,  # bytes, sha256
    }


def initialize_worker() -> None:
    """Settings of a worker process: one thread, and no chatter of native libraries between progress bars."""
    os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")  # for torch, which is not imported yet
    cv2.setNumThreads(1)
    av.logging.set_level(av.logging.PANIC)


def _write_samples(
    task: VideoTask, reader: VideoReader, shard: ShardWriter, record: dict, progress: Callable[[int], None]
) -> None:
    settings = task.settings
    estimator = _create_estimator(settings, task.source.path)
    size_hw = settings.stored_size(reader.size_hw)
    pairs = settings.choose(reader.times_s)
    record["pairs_chosen"] = len(pairs)
    first_of = {second: first for first, second in pairs.tolist()}
    last_use: dict[int, int] = {}
    for first, second in pairs.tolist():
        last_use[first] = max(second, last_use.get(first, 0))
    held: dict[int, tuple[float, np.ndarray]] = {}
    waiting: list[_Pair] = []  # until there are enough for the estimator

    def write_waiting() -> int:
        written = 0
        for pair, flow in zip(waiting, _flows(estimator, waiting), strict=True):
            written += _write_pair(pair, flow, task.source, reader, settings, estimator.describe(), shard, record)
        waiting.clear()
        return written

    read = 0
    for frame in reader.read(np.unique(pairs).tolist()):
        read += 1
        image = _resized(frame.image, size_hw)
        partner = first_of.get(frame.index)
        written = 0
        if partner in held:
            frames, times_s = (partner, frame.index), (held[partner][0], frame.time_s)
            waiting.append(_Pair(frames, times_s, (held[partner][1], image)))
            if len(waiting) == estimator.batch_size:
                written = write_waiting()
        if frame.index in last_use:
            held[frame.index] = (frame.time_s, image)
        held = {index: value for index, value in held.items() if last_use[index] > frame.index}
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
    if shard.samples:
        record["status"] = "done"
    elif len(pairs) == 0:
        record.update(status="skipped", reason="too_short", detail=f"{reader.num_frames} frames hold no pair")
    elif record["dropped"]:
        reasons = Counter(pair["reasons"][0] for pair in record["dropped"])
        text = "dropped: " + ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
        record.update(status="skipped", reason=f"all_{max(sorted(reasons), key=reasons.get)}", detail=text)
    else:
        detail = f"{read} of the frames asked for could be read, and no pair among them; {reader.problem}"
        record.update(status="failed", reason="unreadable", detail=detail)


@dataclass(frozen=True)
class _Pair:
    frames: tuple[int, int]
    times_s: tuple[float, float]
    images: tuple[np.ndarray, np.ndarray]


def _create_estimator(settings: PrepareSettings, video: str) -> FlowEstimator | PrecomputedFlow:
    """What finds or holds the flow of a video, given by its path ("" for what all of them share)."""
    if settings.estimator.startswith("files:"):
        return PrecomputedFlow(settings.estimator.removeprefix("files:"), video)
    return create_estimator(settings.estimator, weights=settings.estimator_weights, device=settings.estimator_device)


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
    record: dict,
) -> int:
    """Judge a pair and write it or note why not; returns how many were written."""
    scores: dict = {}
    reasons = ["bad_flow"]
    if np.isfinite(flow).all():
        scores = score_pair(*pair.images, flow, max_flow_px=settings.max_flow_px)
        reasons = drop_reasons(scores, settings.thresholds)
    if not reasons:
        try:
            payload, header = encode_flow(flow, settings.codec)
        except ValueError:  # vectors longer than the codec holds
            reasons = ["bad_flow"]
    if reasons:
        record["dropped"].append({"frames": list(pair.frames), "reasons": reasons, "quality": scores})
        return 0
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
    if settings.candidates_kernel is not None:
        points_yx = local_maxima(watershed_map(motion_edges(flow)), settings.candidates_kernel)
        buffer = io.BytesIO()
        np.save(buffer, points_yx.astype(np.int32), allow_pickle=False)
        members["guides.npy"] = buffer.getvalue()
    members["json"] = json.dumps(meta, sort_keys=True).encode()
    shard.add(*pair.frames, members)
    return 1


def _resized(image: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    if image.shape[:2] == size_hw:
        return image
    smaller = size_hw[0] < image.shape[0] or size_hw[1] < image.shape[1]
    return cv2.resize(image, size_hw[::-1], interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC)


def _jpeg(image: np.ndarray, quality: int) -> bytes:
    flags = [cv2.IMWRITE_JPEG_QUALITY, quality]
    return cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), flags)[1].tobytes()


def _is_settled(
    video_dir: str | os.PathLike,
    out_dir: str | os.PathLike,
    source: VideoSource,
    record: dict | None,
    retry_failed: bool,
) -> bool:
    if record is None or (retry_failed and record["status"] == "failed"):
        return False
    if record["status"] == "done":
        shard = shard_path(out_dir, source.video_id)
        if not shard.is_file() or shard.stat().st_size != record["shard"]["bytes"]:
            return False
    try:
        return record["source"] == {"path": source.path, "kind": source.kind, **fingerprint(video_dir, source)}
    except OSError:
        return "bytes" not in record["source"]  # could not be read then either


def _run(
    video_dir: str | os.PathLike,
    out_dir: str | os.PathLike,
    todo: list[VideoSource],
    settings: PrepareSettings,
    num_workers: int | None,
    stall_s: float | None,
    show_progress: bool,
) -> None:
    pairs = 0
    bar = tqdm(total=len(todo), unit="video", desc="preparing", disable=not show_progress, dynamic_ncols=True)

    def count(written: int) -> None:
        nonlocal pairs
        pairs += written
        bar.set_postfix(pairs=pairs, refresh=False)
        bar.update(0)

    with (
        bar,
        LocalExecutor(
            prepare_video, num_workers=num_workers, initialize=initialize_worker, stall_s=stall_s, on_progress=count
        ) as executor,
    ):
        for source in todo:
            # A process that dies may have been killed from outside (memory): the same once more, then the other reader.
            backends = (settings.reader,) * 2
            if source.kind == "frames":
                backends = ("frames",) * 2
            elif settings.reader == "auto":
                backends += ("pyav",)
            executor.submit(VideoTask(str(video_dir), str(out_dir), source, settings, backends))
        for task, outcome in executor.outcomes():
            if outcome.status == "error":
                # `prepare_video` answers for the video itself: what it lets through is trouble with the store.
                raise RuntimeError(f"stopped at {task.source.path!r}: {outcome.detail.strip().splitlines()[-1]}")
            if outcome.status != "done":
                again = _next_try(task, outcome)
                if again is not None:
                    executor.submit(again)
                    continue
                _commit_loss(task, outcome)
            bar.update(1)


def _next_try(task: VideoTask, outcome: Outcome) -> VideoTask | None:
    rest = task.backends[1:]
    if outcome.status == "stalled":  # the same reader would stall again
        rest = tuple(backend for backend in rest if backend != task.backends[0])
    return VideoTask(task.video_dir, task.out_dir, task.source, task.settings, rest) if rest else None


def _commit_loss(task: VideoTask, outcome: Outcome) -> None:
    record = new_record(task.source)
    try:
        record["source"].update(fingerprint(task.video_dir, task.source))
    except OSError:
        pass
    reason = "crashed" if outcome.status == "died" else outcome.status
    record.update(reason=reason, detail=f"with every reader: {outcome.detail}")
    commit_record(task.out_dir, record)


def _report(sources: list[VideoSource], todo: list[VideoSource], records: dict[str, dict]) -> PrepareReport:
    here = [records[source.video_id] for source in sources]
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
    )


def _without_folder(error: BaseException, folder: str) -> str:
    """The error as text that does not depend on where the videos lie, so that records do not."""
    return str(error).replace(os.path.abspath(folder) + os.sep, "").replace(str(folder).rstrip(os.sep) + os.sep, "")
