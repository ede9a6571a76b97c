"""The index of a pair store: where every member of every sample is in its shard."""

from __future__ import annotations

import io
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from cmp.datasets.pair_store.format import (
    FORMAT_VERSION,
    MAX_MEMBER_BYTES,
    MAX_NUMBER,
    MEMBERS,
    REQUIRED,
    check_video_id,
)
from cmp.datasets.pair_store.records import stored_rows
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


def build_index(records: Iterable[Mapping], rejected: bool = False) -> dict[str, np.ndarray]:
    """Make the index of the kept, or of the stored rejected pairs of these records; without its store_json."""
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


def derive_files(
    root: str | os.PathLike, records: Mapping[str, dict]
) -> tuple[dict[str, np.ndarray], dict[str, bytes]]:
    """Derive what a finished store has from its records.

    Returns:
        The index (see `cmp.datasets.pair_store.format`), and the bytes of manifest.jsonl and index.npz by file name, in
        the order to write them.
    """
    index = build_index(records.values())
    index["store_json"] = np.frombuffer((Path(root) / "store.json").read_bytes(), np.uint8)
    lines = (json.dumps(_summary(record), sort_keys=True) for record in records.values())
    buffer = io.BytesIO()
    np.savez(buffer, **index)  # its zip entries carry a fixed date
    return index, {
        "manifest.jsonl": "".join(line + "\n" for line in lines).encode(),
        "index.npz": buffer.getvalue(),
    }


def _summary(record: Mapping) -> dict:
    """The object that the manifest has for a record: counts in place of lists."""
    line = {key: value for key, value in record.items() if key not in ("samples", "dropped")}
    line["pairs"] = len(record["samples"])
    line["dropped"] = dict(Counter(pair["reasons"][0] for pair in record["dropped"]))
    return line
