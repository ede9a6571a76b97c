"""The index of a pair store: where every member of every sample is in its shard."""

from __future__ import annotations

import io
import json
import os
from array import array
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cmp.datasets.pair_store.format import (
    FORMAT_VERSION,
    MAX_MEMBER_BYTES,
    MAX_NUMBER,
    MEMBERS,
    REQUIRED,
    check_video_id,
)
from cmp.datasets.pair_store.records import stored_rows, summarize
from cmp.flow.bounded import read_npz


def load_index(path: Path) -> dict[str, np.ndarray]:
    """Read and check index.npz; ValueError, naming the file, if it is damaged."""
    try:
        index = read_npz(path, str(path))
    except ValueError as error:
        reason = str(error).removeprefix(f"{path}: ")
        raise ValueError(f"{path}: damaged ({reason}); delete it and run tools/prepare_flow.py again") from error
    return check_index(index, path)


def check_index(index: dict[str, np.ndarray], path: Path) -> dict[str, np.ndarray]:
    """Return the index, or raise ValueError, naming the file, if no writer of this package can have made it."""
    try:
        if int(index["format_version"]) != FORMAT_VERSION or index["members"].tolist() != list(MEMBERS):
            raise ValueError("of another version")
        if index["video_ids"].dtype.kind != "U" or index["video_ids"].ndim != 1:
            raise ValueError(f"video_ids is {index['video_ids'].dtype} of shape {index['video_ids'].shape}")
        for video_id in index["video_ids"].tolist():
            check_video_id(video_id)
        count, videos = index["video"].size, len(index["video_ids"])
        shapes = {"video": (count,), "frames": (count, 2), "shard_bytes": (videos,)} | dict.fromkeys(
            ("offset", "size", "crc32"), (count, len(MEMBERS))
        )
        index = dict(index)
        for name, shape in shapes.items():
            array = index[name]
            if array.shape != shape or array.dtype.kind not in "iu":
                raise ValueError(f"{name} is {array.dtype} of shape {array.shape} instead of whole numbers {shape}")
            if array.size and (int(array.min()) < -1 or int(array.max()) > MAX_NUMBER):
                raise ValueError(f"{name} has numbers from {array.min()} to {array.max()}")
            if array.dtype == np.uint64:  # with signed numbers it would become floating
                index[name] = array.astype(np.int64)
        present = index["size"] >= 0
        ends = index["offset"].astype(np.int64, copy=False) + index["size"]
        if count and not (0 <= index["video"].min() and index["video"].max() < videos):
            raise ValueError("samples of videos that are not listed")
        if count and index["frames"].min() < 0:
            raise ValueError("frames before the first")
        if not present[:, REQUIRED].all():
            raise ValueError("samples without frame, flow or JSON")
        if count and index["size"].max() > MAX_MEMBER_BYTES:
            raise ValueError(f"a member of {index['size'].max()} bytes, at most {MAX_MEMBER_BYTES} are read")
        if count and (index["offset"].min() < 0 or (ends > index["shard_bytes"][index["video"], None])[present].any()):
            raise ValueError("members outside their shard")
    except KeyError as error:
        raise ValueError(
            f"{path}: not a valid index (has no {error}); rebuild it with tools/prepare_flow.py"
        ) from error
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: not a valid index ({error}); rebuild it with tools/prepare_flow.py") from error
    return index


class IndexBuilder:
    """Make the index, and the manifest, of records that are given one after the other.

    It keeps 100 bytes per pair: the records of a million pairs need not be in memory at once.

    Args:
        rejected: index the stored rejected pairs instead of the kept ones.
    """

    def __init__(self, rejected: bool = False) -> None:
        self._rejected = rejected
        self._videos: list[tuple[str, int, int]] = []  # id, bytes of the shard and number of pairs
        self._frames, self._offset, self._size, self._crc32 = array("q"), array("q"), array("i"), array("I")
        self._lines = io.BytesIO()

    def add(self, record: Mapping) -> None:
        """Add the record of a video."""
        self._lines.write(json.dumps(summarize(record), sort_keys=True).encode() + b"\n")
        rows = stored_rows(record, self._rejected)
        if not rows:
            return
        self._videos.append((record["video_id"], record["shard"]["bytes"], len(rows)))
        for row in rows:
            self._frames.extend(row["frames"])
            for offset, size, crc32 in row["members"]:
                self._offset.append(offset)
                self._size.append(size)
                self._crc32.append(crc32)

    def index(self) -> dict[str, np.ndarray]:
        """The index of the pairs, sorted by video id; without its store_json."""
        order = sorted(range(len(self._videos)), key=lambda number: self._videos[number][0])
        ids, shard_bytes, counts = zip(*(self._videos[number] for number in order)) if order else ((), (), ())
        arrays: dict[str, np.ndarray] = {
            "frames": np.frombuffer(self._frames, np.int64).reshape(-1, 2),
            "offset": np.frombuffer(self._offset, np.int64).reshape(-1, len(MEMBERS)),
            "size": np.frombuffer(self._size, np.int32).reshape(-1, len(MEMBERS)),
            "crc32": np.frombuffer(self._crc32, np.uint32).reshape(-1, len(MEMBERS)),
        }
        if order != list(range(len(order))):
            given = np.repeat(np.arange(len(order)), [count for _, _, count in self._videos])
            rows = np.argsort(np.argsort(order)[given], kind="stable")
            arrays = {name: values[rows] for name, values in arrays.items()}
        return {
            "format_version": np.int64(FORMAT_VERSION),
            "members": np.asarray(MEMBERS),
            "video_ids": np.asarray(ids, np.str_),
            "shard_bytes": np.asarray(shard_bytes, np.int64),
            "video": np.repeat(np.arange(len(order), dtype=np.int32), np.asarray(counts, np.int64)),
            **arrays,
        }

    def files(self, root: str | os.PathLike) -> tuple[dict[str, np.ndarray], dict[str, bytes]]:
        """Derive what a finished store has from its records, all of which have been added.

        Returns:
            The index (see `cmp.datasets.pair_store.format`), and the bytes of manifest.jsonl and index.npz by file
            name, in the order to write them.
        """
        index: dict[str, Any] = self.index()
        index["store_json"] = np.frombuffer((Path(root) / "store.json").read_bytes(), np.uint8)
        buffer = io.BytesIO()
        np.savez(buffer, **index)  # its zip entries carry a fixed date
        return index, {"manifest.jsonl": self._lines.getvalue(), "index.npz": buffer.getvalue()}
