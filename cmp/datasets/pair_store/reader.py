"""Read a pair store by position."""

from __future__ import annotations

import io
import logging
import os
import threading
import zlib
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cmp.datasets.pair_store.format import MEMBERS, parse_object, read_about, sample_key, shard_path
from cmp.datasets.pair_store.index import IndexBuilder, check_index, load_index
from cmp.datasets.pair_store.records import iterate_manifest, iterate_records
from cmp.flow.bounded import open_without_waiting
from cmp.flow.codec import open_flow
from cmp.flow.field import FlowField
from cmp.images import decode_image

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PairSample:
    """One pair as stored.

    first: (H, W, 3) uint8 RGB, frame t; second: the same of frame t+k, or None if not asked for.
    flow: (H, W, 2) float32, px of the stored frame from t to t+k; channel 0 is x (right), 1 is y (down).
    meta: the sample's JSON (see `cmp.datasets.pair_store.format`).
    """

    first: np.ndarray
    second: np.ndarray | None
    flow: np.ndarray
    meta: dict


class PairStore:
    """Read a pair store by position. Samples are ordered by video id, then by frame.

    Opening reads only the index. Each shard is opened when first needed, at most `max_open_shards` at a time per
    thread. Each member takes one positioned read, and its checksum is verified. Instances may be pickled, forked and
    used from several threads.

    Args:
        path: folder that `tools/prepare_flow.py` wrote.
        rejected: read the stored rejected pairs instead of the kept ones. This takes longer, as the index lists only
            kept pairs.
        records: what `read_records` returns, or a part of it, if the caller has it already.
        max_open_shards: bound on open files, at least 1.

    Raises:
        FileNotFoundError: the folder does not exist, or is not a store.
        ValueError: the store has another format or version, or its index is damaged (the message names the file).

    An unfinished store (one without index.npz) is read from its records, which takes longer; a warning is logged.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        *,
        rejected: bool = False,
        records: Mapping[str, Mapping] | None = None,
        max_open_shards: int = 64,
    ) -> None:
        if max_open_shards < 1:
            raise ValueError(f"max_open_shards must be at least 1, got {max_open_shards}")
        self.path = Path(path)
        self.about = read_about(self.path)
        index_path = self.path / "index.npz"
        if index_path.is_file() and not rejected:
            index = load_index(index_path)
        else:
            if not rejected:
                logger.warning(
                    "%s: index.npz is missing (the job has not finished); reading the records instead", self.path
                )
            builder = IndexBuilder(rejected)
            for record in iterate_records(self.path) if records is None else records.values():
                builder.add(record)
            index = check_index(builder.index(), self.path / "videos")
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
        """The id of the video that a sample comes from. Training and validation are split by it."""
        return self.videos[self.video_numbers[self._checked(position)]]

    def key_of(self, position: int) -> str:
        """The sample's key in its tar shard."""
        position = self._checked(position)
        return sample_key(self.video_of(position), *self.frames[position].tolist())

    def has(self, position: int, member: str) -> bool:
        """Whether a sample has this member (a name of `MEMBERS`)."""
        return bool(self._size[self._checked(position), MEMBERS.index(member)] >= 0)

    def read(self, position: int, *, second: bool = False) -> PairSample:
        """Read one sample, with the second frame only if asked for.

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
        return PairSample(
            first=first,
            second=self._image(position, "second.jpg", flow.shape[:2]) if second else None,
            flow=np.asarray(flow),
            meta=meta,
        )

    @property
    def pair_videos(self) -> list[str]:
        """The video id of every sample, in order. Samples of one video share one string object."""
        return [self.videos[number] for number in self.video_numbers.tolist()]

    def read_pair(self, position: int) -> tuple[np.ndarray, FlowField, np.ndarray]:
        """Read what training needs: image (H, W, 3) uint8 RGB, flow (H, W, 2) px, valid (H, W) bool, all True."""
        position = self._checked(position)
        _, flow = self._meta_and_flow(position)
        size_hw = flow.shape[:2]
        return self._image(position, "first.jpg", size_hw), flow, np.ones(size_hw, bool)

    def read_member(self, position: int, member: str) -> bytes:
        """Read the stored bytes of one member (a name of `MEMBERS`) and verify their checksum.

        Raises FileNotFoundError or ValueError as `read`.
        """
        position = self._checked(position)
        column = MEMBERS.index(member)
        size, offset = int(self._size[position, column]), int(self._offset[position, column])
        if size < 0:
            raise ValueError(f"{self.place_of(position, member)} is not in this store")
        data = os.pread(self._shard(position, member).fileno(), size, offset)
        if len(data) != size:
            raise ValueError(f"{self.place_of(position, member)} is cut: {len(data)} of {size} bytes")
        if zlib.crc32(data) != int(self._crc32[position, column]):
            raise ValueError(f"{self.place_of(position, member)} is damaged: its checksum differs")
        return data

    def names_for_lists(self) -> dict[str, tuple[str, ...]]:
        """The names that a line of a `val_list` may use for each video, including videos without pairs.

        They are its id, and its path in the folder that the store was made from.
        """
        finished = (self.path / "manifest.jsonl").is_file()
        names: dict[str, tuple[str, ...]] = {video: (video,) for video in self.videos}
        for record in iterate_manifest(self.path) if finished else iterate_records(self.path):
            video, source = record.get("video_id"), record.get("source")
            path = source.get("path") if isinstance(source, dict) else None
            if isinstance(video, str) and isinstance(path, str):
                names[video] = (path, video)
        return names

    def _checked(self, position: int) -> int:
        count = len(self)
        if not -count <= position < count:
            raise IndexError(f"position {position} is out of range for a store of {count} samples")
        return int(position) % count

    def place_of(self, position: int, member: str) -> str:
        """The shard and the member, as error messages name them."""
        return f"{shard_path(self.path, self.video_of(position))}: member {self.key_of(position)}.{member}"

    def _meta_and_flow(self, position: int) -> tuple[dict, FlowField]:
        try:
            meta = self.read_meta(position)
            return meta, open_flow(self.read_member(position, "flow.bin"), meta["flow"])
        except (ValueError, KeyError, TypeError) as error:
            if isinstance(error, ValueError) and str(self.path) in str(error):
                raise
            raise ValueError(f"{self.place_of(position, 'flow.bin')} cannot be decoded ({error!r})") from error

    def read_meta(self, position: int) -> dict:
        """Read the JSON of one sample. ValueError names shard and member if it is not an object."""
        return parse_object(self.read_member(position, "json"), self.place_of(position, "json"))

    def _image(self, position: int, member: str, size_hw: tuple[int, int]) -> np.ndarray:
        name = self.place_of(position, member)
        image = decode_image(self.read_member(position, member), name, upright=False)
        if image.shape[:2] != size_hw:
            raise ValueError(f"{name} is {image.shape[:2]} and its flow {size_hw}")
        return image

    def _shard(self, position: int, member: str) -> io.FileIO:
        # Each thread has its own handles, so none is closed while another thread reads from it. Positioned reads keep
        # no state, so handles that a fork inherited can be used.
        handles: OrderedDict[int, io.FileIO] | None = getattr(self._local, "handles", None)
        if handles is None:
            handles = self._local.handles = OrderedDict()
        number = int(self.video_numbers[position])
        if number in handles:
            handles.move_to_end(number)
            return handles[number]
        path = shard_path(self.path, self.videos[number])
        try:
            handle = open(path, "rb", buffering=0, opener=open_without_waiting)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{self.place_of(position, member)}: the shard is missing") from error
        found, expected = os.fstat(handle.fileno()).st_size, int(self._shard_bytes[number])
        if found != expected:
            handle.close()
            raise ValueError(f"{self.place_of(position, member)}: the shard has {found} bytes instead of {expected}")
        if len(handles) >= self._max_open_shards:
            handles.popitem(last=False)[1].close()
        handles[number] = handle
        return handle

    def __getstate__(self) -> dict:
        return {key: value for key, value in self.__dict__.items() if key != "_local"}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._local = threading.local()
