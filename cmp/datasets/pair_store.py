"""The pair store: frame pairs with flow on disk, written video by video and read by position.

    OUT/
      store.json            format, version, and every setting the samples were made with
      manifest.jsonl        one line a video, sorted by id: done, skipped (why) or failed (why), counts, checksum
      index.npz             where every member of every sample lies: random access without unpacking
      shards/<video_id>.tar the samples of one video, in the WebDataset layout
      videos/<video_id>.json  the verdict on one video: its pairs with scores and places, the dropped ones with reasons
      parts/<i>-of-<n>/     stores of the tasks of an array job, until they are merged (data_prep.parts)
    .lock                 held while a job writes (empty; may be deleted between jobs)

A sample is a run of tar members that share a key, `<video_id>-<first frame>-<second frame>` (no dots):

    <key>.first.jpg    frame t, JPEG
    <key>.second.jpg   frame t+k; only in stores made with it
    <key>.flow.bin     flow from t to t+k in pixels of the stored frame; payload of `cmp.flow.encode_flow`
    <key>.guides.npy   (N, 2) int32 guidance candidates (y, x); only in stores made with them
    <key>.json         video, frame numbers, time stamps, sizes, estimator, quality scores, and the flow's header
                       ("flow": codec, bound, step, measured error), which decodes the payload

A pair that was rejected is stored all the same, unless the store was made to forget it: other thresholds may bring it
back. Its members then lie in the shard's folder `__rejected__/`, a name that the webdataset package passes over, so
that it reads the pairs that were kept. Shards never change: after new thresholds (`data_prep.verdicts`) it is the
records and the index that say what is kept, and the folder what was kept when the shard was written.

What holds it together:
  - A record has two lists, "samples" and "dropped", of rows {"frames", "quality" (scores), "members" (offset, size,
    crc32 of each of `MEMBERS`; null if not stored), "folder" (before their names)}, and "reasons" in dropped ones.
  - A record in videos/ is the commit point of its video. It is written (temporary file, fsync, rename, fsync of the
    folder) after the shard has been, so a shard that a record calls done is whole. A shard without a record is debris.
  - Nothing in the store depends on time, host, process or order: the same videos and settings give the same bytes,
    however often the job was killed on the way.
  - store.json is written first. manifest.jsonl and index.npz are derived from the records by `finish_store`, and
    removed when a job starts to change the store: a store without index.npz is unfinished, and still readable.
  - Names are built from video ids of letters, digits, "_" and "-", so nothing read from a file can lead out of the
    folder.

index.npz (no pickles; V videos with samples, N samples, M = 5 members in the order of `MEMBERS`):
    format_version () int64; members (M,) str; video_ids (V,) str, sorted; shard_bytes (V,) int64;
    video (N,) int32 row of video_ids; frames (N, 2) int64; offset (N, M) int64 of the payload in its shard;
    size (N, M) int32, -1 where a sample lacks the member; crc32 (N, M) uint32 of the payload;
    store_json (bytes,) uint8 copy of store.json

store.json and the records carry a hash of themselves ("sha256"), the records one of their shard; what is derived can be
derived again. So `cmp.datasets.store_check` finds any flipped bit.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import logging
import os
import re
import shutil
import tarfile
import threading
import zlib
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

from cmp.flow.codec import HalfSizeFlow, open_flow

FORMAT_NAME = "cmp-pairs"
FORMAT_VERSION = 1
MEMBERS = ("first.jpg", "second.jpg", "flow.bin", "guides.npy", "json")
_REQUIRED = [MEMBERS.index(name) for name in ("first.jpg", "flow.bin", "json")]
_VIDEO_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_BLOCK = 512  # tar's unit
REJECTED_FOLDER = "__rejected__/"  # inside a shard
_TEMPORARY = ".tmp"  # folder inside the store; emptied when a job starts

logger = logging.getLogger(__name__)


class StoreWriteError(OSError):
    """The store itself cannot be written (disk full, no permission): the job must stop, no video is to blame."""


# ---------------------------------------------------------------------------------------------------- reading


@dataclass(frozen=True)
class PairSample:
    """One pair as stored.

    first: (H, W, 3) uint8 RGB, frame t; second: the same of frame t+k, or None if not asked for.
    flow: (H, W, 2) float32, px of the stored frame from t to t+k; channel 0 is x (right), 1 is y (down).
    candidates: (N, 2) int64 guidance candidates (y, x), or None if the store has none.
    meta: the sample's JSON (see the module).
    """

    first: np.ndarray
    second: np.ndarray | None
    flow: np.ndarray
    candidates: np.ndarray | None
    meta: dict


class PairStore:
    """Read a pair store by position. Samples are ordered by video id, then by frame.

    Opening reads the index alone. Shards are opened when first needed, at most `max_open_shards` at a time for each
    thread, and read with one positioned read a member; checksums are checked. Instances may be pickled, forked and
    used from several threads.

    Args:
        path: folder that `tools/prepare_flow.py` wrote.
        rejected: read the rejected pairs that are stored instead of the others; takes longer, as they have no index.
        max_open_shards: bound on open files, at least 1.

    Raises:
        FileNotFoundError: no such folder, or no store in it.
        ValueError: the store is of another format or version, or its index is damaged (the message names the file).

    An unfinished store (no index.npz) is read from its records, which takes longer; a warning is logged.
    """

    def __init__(self, path: str | os.PathLike, *, rejected: bool = False, max_open_shards: int = 64) -> None:
        if max_open_shards < 1:
            raise ValueError(f"max_open_shards must be at least 1, got {max_open_shards}")
        self.path = Path(path)
        self.about = read_about(self.path)
        index_path = self.path / "index.npz"
        if index_path.is_file() and not rejected:
            index = _load_index(index_path)
        else:
            if not rejected:
                logger.warning("%s has no index.npz (its job has not finished): reading its records instead", self.path)
            index = _build_index(read_records(self.path).values(), rejected)
            index = _check_index(index, self.path / "videos")
        self._set_index(index)
        self._max_open_shards = max_open_shards
        self._local = threading.local()

    def _set_index(self, index: Mapping[str, np.ndarray]) -> None:
        self.videos: list[str] = index["video_ids"].tolist()
        self.video_numbers = index["video"]  # (N,) int32, row of `videos` for each sample
        self.frames = index["frames"]  # (N, 2) int64 positions of both frames in their video
        self._shard_bytes = index["shard_bytes"]
        self._offset, self._size, self._crc32 = index["offset"], index["size"], index["crc32"]

    def __len__(self) -> int:
        return len(self.video_numbers)

    def __getitem__(self, position: int) -> PairSample:
        return self.read(position)

    def video_of(self, position: int) -> str:
        """The id of the video that a sample comes from: split training and validation by it."""
        return self.videos[self.video_numbers[self._checked(position)]]

    def key_of(self, position: int) -> str:
        """The sample's key in its tar shard."""
        position = self._checked(position)
        return sample_key(self.video_of(position), *self.frames[position].tolist())

    def has(self, position: int, member: str) -> bool:
        """Whether a sample holds a member, one of `MEMBERS`."""
        return bool(self._size[self._checked(position), MEMBERS.index(member)] >= 0)

    def read(self, position: int, *, second: bool = False) -> PairSample:
        """Read one sample; the second frame only where asked for.

        Raises:
            IndexError: the position is out of range (negative ones count from the end).
            FileNotFoundError, ValueError: the shard is missing or damaged, or the second frame was not stored; the
                message names shard and member.
        """
        position = self._checked(position)
        if second and not self.has(position, "second.jpg"):
            raise ValueError(f"{self.path}: {self.key_of(position)} was stored without its second frame")
        meta, flow = self._meta_and_flow(position)
        first = self._image(position, "first.jpg", flow.shape[:2])
        candidates = None
        if self.has(position, "guides.npy"):
            array = np.load(io.BytesIO(self.read_member(position, "guides.npy")), allow_pickle=False)
            candidates = array.astype(np.int64)
        return PairSample(
            first=first,
            second=self._image(position, "second.jpg", flow.shape[:2]) if second else None,
            flow=np.asarray(flow),
            candidates=candidates,
            meta=meta,
        )

    @property
    def pair_videos(self) -> list[str]:
        """For every sample the id of its video; samples of one video share one string."""
        return [self.videos[number] for number in self.video_numbers.tolist()]

    def read_pair(self, position: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What training needs: image (H, W, 3) uint8 RGB, flow (see `PairSource`), valid (H, W) bool, all True."""
        position = self._checked(position)
        _, flow = self._meta_and_flow(position)
        size_hw = flow.shape[:2]
        return self._image(position, "first.jpg", size_hw), flow, np.ones(size_hw, bool)

    def read_member(self, position: int, member: str) -> bytes:
        """The stored bytes of one member, one of `MEMBERS`; the checksum has been checked."""
        position = self._checked(position)
        column = MEMBERS.index(member)
        size, offset = int(self._size[position, column]), int(self._offset[position, column])
        if size < 0:
            raise ValueError(f"{self._place(position, member)} is not in this store")
        data = os.pread(self._shard(position, member).fileno(), size, offset)
        if len(data) != size:
            raise ValueError(f"{self._place(position, member)} is cut: {len(data)} of {size} bytes")
        if zlib.crc32(data) != int(self._crc32[position, column]):
            raise ValueError(f"{self._place(position, member)} is damaged: its checksum differs")
        return data

    def manifest(self) -> list[dict]:
        """The verdict on every video of a finished store: the lines of manifest.jsonl."""
        path = self.path / "manifest.jsonl"
        if not path.is_file():
            raise FileNotFoundError(f"{path}: missing; run tools/prepare_flow.py again to finish this store")
        return [json.loads(line) for line in path.read_text("utf-8").splitlines()]

    def _checked(self, position: int) -> int:
        count = len(self)
        if not -count <= position < count:
            raise IndexError(f"position {position} is out of range for a store of {count} samples")
        return int(position) % count

    def _place(self, position: int, member: str) -> str:
        return f"{shard_path(self.path, self.video_of(position))}: member {self.key_of(position)}.{member}"

    def _meta_and_flow(self, position: int) -> tuple[dict, np.ndarray | HalfSizeFlow]:
        try:
            meta = json.loads(self.read_member(position, "json"))
            return meta, open_flow(self.read_member(position, "flow.bin"), meta["flow"])
        except (ValueError, KeyError, TypeError) as error:
            if isinstance(error, ValueError) and str(self.path) in str(error):
                raise
            raise ValueError(f"{self._place(position, 'flow.bin')} cannot be decoded ({error!r})") from error

    def _image(self, position: int, member: str, size_hw: tuple[int, int]) -> np.ndarray:
        data = np.frombuffer(self.read_member(position, member), np.uint8)
        image = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB) if data.size else None
        if image is None or image.shape[:2] != size_hw:
            what = "is no image" if image is None else f"is {image.shape[:2]} and its flow {size_hw}"
            raise ValueError(f"{self._place(position, member)} {what}")
        return image

    def _shard(self, position: int, member: str) -> io.FileIO:
        # One set of handles a thread: none is closed while another thread reads from it. Positioned reads leave no
        # state behind, so handles inherited by fork stay good.
        handles: OrderedDict[int, io.FileIO] | None = getattr(self._local, "handles", None)
        if handles is None:
            handles = self._local.handles = OrderedDict()
        number = int(self.video_numbers[position])
        if number in handles:
            handles.move_to_end(number)
            return handles[number]
        path = shard_path(self.path, self.videos[number])
        try:
            handle = open(path, "rb", buffering=0)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{self._place(position, member)}: the shard is missing") from error
        found, expected = os.fstat(handle.fileno()).st_size, int(self._shard_bytes[number])
        if found != expected:
            handle.close()
            raise ValueError(f"{self._place(position, member)}: the shard has {found} bytes instead of {expected}")
        if len(handles) >= self._max_open_shards:
            handles.popitem(last=False)[1].close()
        handles[number] = handle
        return handle

    def __getstate__(self) -> dict:
        return {key: value for key, value in self.__dict__.items() if key != "_local"}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._local = threading.local()


def read_about(root: str | os.PathLike) -> dict:
    """The content of store.json: "format", "format_version", "settings", "about".

    Raises FileNotFoundError if there is none, ValueError if it is not one this version reads.
    """
    path = Path(root) / "store.json"
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{root}: no pair store here (no store.json)") from error
    except ValueError as error:
        raise ValueError(f"{path}: not readable ({error})") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT_NAME:
        raise ValueError(f"{path}: not a {FORMAT_NAME} store")
    if content.get("format_version") != FORMAT_VERSION:
        raise ValueError(f"{path}: format version {content.get('format_version')}, this package reads {FORMAT_VERSION}")
    return content


def sample_key(video_id: str, first_frame: int, second_frame: int) -> str:
    """The key of a sample; sorts by video, then by frame."""
    return f"{_checked_id(video_id)}-{first_frame:08d}-{second_frame:08d}"


def shard_path(root: str | os.PathLike, video_id: str) -> Path:
    """Where a video's tar shard lies; ValueError for an id that could lead out of the store."""
    return Path(root) / "shards" / f"{_checked_id(video_id)}.tar"


def record_path(root: str | os.PathLike, video_id: str) -> Path:
    """Where the verdict on a video lies; ValueError as for `shard_path`."""
    return Path(root) / "videos" / f"{_checked_id(video_id)}.json"


def _checked_id(video_id: str) -> str:
    if not isinstance(video_id, str) or not _VIDEO_ID.fullmatch(video_id):
        raise ValueError(f"not a video id (letters, digits, '_' and '-', at most 64): {video_id!r}")
    return video_id


def _load_index(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            index = {name: archive[name] for name in archive.files}
    except Exception as error:  # numpy, zipfile and zlib each raise their own
        raise ValueError(f"{path}: damaged ({error}); delete it and run tools/prepare_flow.py again") from error
    return _check_index(index, path)


def _check_index(index: dict[str, np.ndarray], path: Path) -> dict[str, np.ndarray]:
    try:
        if int(index["format_version"]) != FORMAT_VERSION or index["members"].tolist() != list(MEMBERS):
            raise ValueError("of another version")
        for video_id in index["video_ids"].tolist():
            _checked_id(video_id)
        count, videos = len(index["video"]), len(index["video_ids"])
        shapes = {"frames": (count, 2), "shard_bytes": (videos,)} | dict.fromkeys(
            ("offset", "size", "crc32"), (count, len(MEMBERS))
        )
        for name, shape in shapes.items():
            if index[name].shape != shape:
                raise ValueError(f"{name} has shape {index[name].shape} instead of {shape}")
        present = index["size"] >= 0
        ends = index["offset"] + index["size"]
        if count and not (0 <= index["video"].min() and index["video"].max() < videos):
            raise ValueError("samples of videos that are not listed")
        if not present[:, _REQUIRED].all():
            raise ValueError("samples without frame, flow or description")
        if count and (index["offset"].min() < 0 or (ends > index["shard_bytes"][index["video"], None])[present].any()):
            raise ValueError("members outside their shard")
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: not a valid index ({error}); rebuild it with tools/prepare_flow.py") from error
    return index


# ---------------------------------------------------------------------------------------------------- writing


@contextmanager
def lock_store(root: str | os.PathLike) -> Iterator[None]:
    """Hold the store for one writing job; made if it does not exist. The lock goes with the process, however it ends.

    Raises:
        RuntimeError: another job holds it.
        StoreWriteError: the folder cannot be made or written.
    """
    root = Path(root)
    with _writing(root):
        root.mkdir(parents=True, exist_ok=True)
        handle = open(root / ".lock", "a")
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RuntimeError(f"{root}: another job is writing this store; wait for it to end") from error
        yield
    finally:
        handle.close()


def begin_store(root: str | os.PathLike, settings: Mapping, about: Mapping) -> None:
    """Make a store ready for writing; call it with the lock held.

    Args:
        root: the store's folder; made if it does not exist.
        settings: JSON values that every sample depends on; an existing store must have been begun with the same.
        about: further JSON values kept for the reader (versions); not compared.

    Raises:
        ValueError: the folder holds something else, or a store made with other settings (the message names them).
        StoreWriteError: it cannot be written.
    """
    root = Path(root)
    settings = json.loads(json.dumps(settings))
    if (root / "store.json").is_file():
        before, now = _flat(read_about(root)["settings"]), _flat(settings)
        names = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
        if names:
            changes = ", ".join(f"{name} was {before.get(name)!r} and is now {now.get(name)!r}" for name in names)
            raise ValueError(f"{root}: begun with other settings: {changes}. Use the old ones, or another folder")
    else:
        foreign = sorted(entry.name for entry in root.iterdir() if entry.name not in (".lock", _TEMPORARY, "parts"))
        if foreign:
            raise ValueError(f"{root}: not empty and no pair store (holds {foreign[0]!r}); choose another folder")
    with _writing(root):
        shutil.rmtree(root / _TEMPORARY, ignore_errors=True)
    if not (root / "store.json").is_file():  # before the folders: without it they would pass for somebody else's
        content = {"format": FORMAT_NAME, "format_version": FORMAT_VERSION, "settings": settings, "about": dict(about)}
        write_file(root, Path("store.json"), sealed_json(content, indent=1))
    with _writing(root):
        for name in ("shards", "videos"):
            (root / name).mkdir(exist_ok=True)


def _flat(settings: dict) -> dict:
    """Settings within settings as one level, to name those that differ alone."""
    inner = {f"{name}.{k}": v for name, value in settings.items() if isinstance(value, dict) for k, v in value.items()}
    return {name: value for name, value in settings.items() if not isinstance(value, dict)} | inner


def read_records(root: str | os.PathLike) -> dict[str, dict]:
    """All verdicts by video id, sorted. Raises ValueError naming a record that is not readable."""
    records = {}
    folder = Path(root) / "videos"
    if not folder.is_dir():
        return records
    for name in sorted(entry.name for entry in os.scandir(folder) if entry.name.endswith(".json")):
        path = folder / name
        try:
            record = json.loads(path.read_text("utf-8"))
            if record["video_id"] != path.stem:
                raise ValueError(f"speaks of {record['video_id']!r}")
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}: not a video record ({error}); delete it to have the video done again") from error
        records[path.stem] = record
    return records


def commit_record(root: str | os.PathLike, record: Mapping) -> None:
    """Write the verdict on a video. Its shard, if it has one, must be in place."""
    write_file(root, Path("videos") / f"{_checked_id(record['video_id'])}.json", sealed_json(record))


def sealed_json(content: Mapping, indent: int | None = None) -> bytes:
    """JSON with a hash of the rest under "sha256" (an old one is replaced); equal content gives equal bytes."""
    content = {key: value for key, value in content.items() if key != "sha256"}
    separators = (",", ":") if indent is None else None
    digest = hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    text = json.dumps(content | {"sha256": digest}, sort_keys=True, indent=indent, separators=separators)
    return (text + "\n").encode()


def discard_index(root: str | os.PathLike) -> None:
    """Mark the store as unfinished before it changes."""
    with _writing(root):
        for name in ("index.npz", "manifest.jsonl"):
            (Path(root) / name).unlink(missing_ok=True)


def finish_store(root: str | os.PathLike) -> dict[str, np.ndarray]:
    """Derive manifest.jsonl and index.npz from the records, and remove what no record vouches for.

    Returns the index (see the module).
    """
    root = Path(root)
    records = read_records(root)
    index, derived = derive_files(root, records)
    wanted = {f"{video_id}.tar" for video_id, record in records.items() if record["shard"] is not None}
    with _writing(root):
        for entry in list(os.scandir(root / "shards")):
            if entry.name not in wanted:
                os.unlink(entry.path)
    for name, data in derived.items():
        write_file(root, Path(name), data)
    with _writing(root):
        shutil.rmtree(root / _TEMPORARY, ignore_errors=True)
    return index


def derive_files(
    root: str | os.PathLike, records: Mapping[str, dict]
) -> tuple[dict[str, np.ndarray], dict[str, bytes]]:
    """The index (see the module), and the bytes of manifest.jsonl and index.npz, in the order to write them."""
    index = _build_index(records.values())
    index["store_json"] = np.frombuffer((Path(root) / "store.json").read_bytes(), np.uint8)
    lines = (json.dumps(_summary(record), sort_keys=True) for record in records.values())
    buffer = io.BytesIO()
    np.savez(buffer, **index)  # its zip entries carry a fixed date
    return index, {
        "manifest.jsonl": "".join(line + "\n" for line in lines).encode(),
        "index.npz": buffer.getvalue(),
    }


def _summary(record: Mapping) -> dict:
    """A record's line in the manifest: lists become counts."""
    line = {key: value for key, value in record.items() if key not in ("samples", "dropped")}
    line["pairs"] = len(record["samples"])
    line["dropped"] = dict(Counter(pair["reasons"][0] for pair in record["dropped"]))
    return line


def stored_rows(record: Mapping, rejected: bool) -> list[dict]:
    """The rows of a record's kept, or of its rejected pairs that lie in its shard, in the order of their frames."""
    return [row for row in record["dropped" if rejected else "samples"] if row.get("members") is not None]


def _build_index(records: Iterable[Mapping], rejected: bool = False) -> dict[str, np.ndarray]:
    done = sorted((r for r in records if stored_rows(r, rejected)), key=lambda record: record["video_id"])
    rows_of = [stored_rows(record, rejected) for record in done]
    rows = [row for rows in rows_of for row in rows]
    places = np.asarray([row["members"] for row in rows], np.int64).reshape(len(rows), len(MEMBERS), 3)
    return {
        "format_version": np.int64(FORMAT_VERSION),
        "members": np.asarray(MEMBERS),
        "video_ids": np.asarray([record["video_id"] for record in done], np.str_),
        "shard_bytes": np.asarray([record["shard"]["bytes"] for record in done], np.int64),
        "video": np.repeat(np.arange(len(done), dtype=np.int32), [len(rows) for rows in rows_of]),
        "frames": np.asarray([row["frames"] for row in rows], np.int64).reshape(-1, 2),
        "offset": places[..., 0],
        "size": places[..., 1].astype(np.int32),
        "crc32": places[..., 2].astype(np.uint32),
    }


class ShardWriter:
    """Write the tar shard of one video; it gets its name in `close`, whole and synced.

    As a context manager it throws the shard away unless `close` was called. Raises StoreWriteError where the disk
    refuses.
    """

    def __init__(self, root: str | os.PathLike, video_id: str) -> None:
        self._root, self._video_id = Path(root), video_id
        self._path = self._root / _TEMPORARY / f"{shard_path(root, video_id).name}.{os.getpid()}"
        self._sha256 = hashlib.sha256()
        self._position = 0
        self.rows: list[dict] = []  # for the video's record, without scores
        with _writing(self._path):
            self._path.parent.mkdir(exist_ok=True)
            self._file = open(self._path, "wb")

    def add(self, first_frame: int, second_frame: int, members: Mapping[str, bytes], *, rejected: bool = False) -> dict:
        """Append a sample. Members are named as in `MEMBERS`; first.jpg, flow.bin and json must be there.

        Returns its row for the video's record: {"frames", "members", "folder"}.

        Raises ValueError for other names, a missing member, or frames that do not follow the last sample's.
        """
        unknown = [name for name in members if name not in MEMBERS]
        missing = [MEMBERS[i] for i in _REQUIRED if MEMBERS[i] not in members]
        if unknown or missing:
            raise ValueError(f"a sample needs {', '.join(missing) or 'nothing more'}; not known: {unknown}")
        if self.rows and [first_frame, second_frame] <= self.rows[-1]["frames"]:
            raise ValueError(f"pairs must rise, got {first_frame, second_frame} after {self.rows[-1]['frames']}")
        folder = REJECTED_FOLDER if rejected else ""
        key = folder + sample_key(self._video_id, first_frame, second_frame)
        places = []
        for name in MEMBERS:
            data = members.get(name)
            if data is None:
                places.append([0, -1, 0])
                continue
            self._write(member_header(f"{key}.{name}", len(data)))
            places.append([self._position, len(data), zlib.crc32(data)])
            self._write(data + bytes(-len(data) % _BLOCK))
        self.rows.append({"frames": [first_frame, second_frame], "members": places, "folder": folder})
        return dict(self.rows[-1])

    def close(self) -> dict:
        """Finish the shard and give it its name. Returns {"bytes", "sha256"}."""
        self._write(bytes(2 * _BLOCK))  # tar's end mark
        with _writing(self._path):
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            target = shard_path(self._root, self._video_id)
            os.replace(self._path, target)
            sync_folder(target.parent)
        return {"bytes": self._position, "sha256": self._sha256.hexdigest()}

    def _write(self, data: bytes) -> None:
        with _writing(self._path):
            self._file.write(data)
        self._sha256.update(data)
        self._position += len(data)

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *exc: object) -> None:
        if not self._file.closed:
            try:
                self._file.close()
            except OSError:  # a full disk refuses the last bytes once more
                pass
        self._path.unlink(missing_ok=True)


def member_header(name: str, size: int) -> bytes:
    """The 512 bytes before a member; what they do not say is zero or empty, so equal samples give equal bytes."""
    text = name.encode("ascii")
    if len(text) > 100 or size >= 8**11:  # the rest of the name goes to another field, such a size is refused
        return _whole_header(name, size)
    header = bytearray(_whole_header("", 0))  # name, size and checksum are filled in: a quarter of tarfile's time
    header[: len(text)] = text
    header[124:135] = b"%011o" % size
    header[148:156] = b" " * 8
    header[148:155] = b"%06o\0" % sum(header)
    return bytes(header)


@lru_cache(maxsize=1)
def _whole_header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    return info.tobuf(tarfile.USTAR_FORMAT)


def write_file(root: str | os.PathLike, relative: Path, data: bytes) -> None:
    """Write a file of the store so that it is there whole or not at all, also after a power cut."""
    root = Path(root)
    temporary = root / _TEMPORARY / f"{relative.name}.{os.getpid()}"
    with _writing(root / relative):
        temporary.parent.mkdir(exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, root / relative)
        sync_folder((root / relative).parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder last through a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _writing(path: str | os.PathLike) -> Iterator[None]:
    try:
        yield
    except StoreWriteError:
        raise
    except OSError as error:
        raise StoreWriteError(f"{path}: cannot be written ({error.strerror or error})") from error
