"""Mend a damaged store: only the videos that lost something are done again."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cmp.datasets.pair_store import (
    commit_record,
    discard_index,
    finish_store,
    lock_store,
    read_about,
    read_records,
    record_path,
    sealed_json,
    shard_path,
    write_file,
)
from cmp.datasets.store_check import Damage
from cmp.video.find import find_videos
from data_prep.job import prepare_folder
from data_prep.pipeline import new_record
from data_prep.settings import PrepareSettings
from data_prep.verdicts import rejudge_records

_FAILED_BEFORE = "not yet repaired; had failed before"  # what a repair that is killed must not forget


@dataclass(frozen=True)
class RepairReport:
    """redone: paths of the videos done again; failed: (path, reason, detail) of those that could not be.

    A video that had failed before is no failure of the repair. One that had not is "lost": the store is not whole, says
    so at every check, and the next repair tries it again.
    """

    redone: list[str]
    failed: list[tuple[str, str, str]]


def repair_store(
    root: str | os.PathLike,
    video_dir: str | os.PathLike,
    damages: Sequence[Damage],
    *,
    estimator_weights: str | None = None,
    num_workers: int | None = None,
    show_progress: bool = True,
) -> RepairReport:
    """Mend what `check_store` found. May be killed and called again after another check.

    With the videos and the library versions that the store was made with, it ends with the bytes of an undamaged one,
    if thresholds have not been changed since; with its pairs in any case.

    Args:
        root: the store.
        video_dir: the folder it was made from.
        damages: what `check_store` has found.
        estimator_weights: the file of weights, if the store was made with one.

    Raises:
        FileNotFoundError: a video that must be done again is not in the folder; nothing has been changed then.
        ValueError: store.json is damaged and so is its copy in the index; or settings that cannot be used.
        RuntimeError, StoreWriteError: as `prepare_folder`.
    """
    root = Path(root)
    lost = {damage.video_id for damage in damages if damage.video_id is not None}
    sources = {source.video_id: source for source in find_videos(video_dir, leave_out=root)}
    # What only a line of the manifest speaks of may be a damaged line, and else was a video without samples.
    lost = {i for i in lost if i in sources or record_path(root, i).is_file() or shard_path(root, i).is_file()}
    absent = sorted(lost - sources.keys())
    if absent:
        raise FileNotFoundError(f"{video_dir}: does not hold the videos of {', '.join(absent)}; nothing was changed")
    with lock_store(root):
        failed_before = _failed_before(root)
        if any(damage.file == "store.json" for damage in damages):
            _restore_about(root)
        settings = PrepareSettings.from_stored(read_about(root)["settings"], estimator_weights)
        broken = lost & {damage.video_id for damage in damages if damage.file.startswith("videos/")}
        broken |= {video_id for video_id in lost if not record_path(root, video_id).is_file()}
        # A record that says so: if this is killed, the next check knows. Before the manifest goes, which may be all
        # that speaks of a video whose record is missing.
        for video_id in broken:
            detail = _FAILED_BEFORE if sources[video_id].path in failed_before else "not yet repaired"
            commit_record(root, new_record(sources[video_id]) | {"reason": "damaged", "detail": detail})
        if any(damage.file.startswith("videos/") for damage in damages):
            discard_index(root)
        if not lost:
            rejudge_records(root, read_records(root), settings.thresholds)
            finish_store(root)
    if not lost:
        return RepairReport([], [])
    once_good = {video_id for video_id in lost if sources[video_id].path not in failed_before}
    report = prepare_folder(
        video_dir,
        root,
        settings,
        num_workers=num_workers,
        redo=lost,
        once_good=once_good,
        show_progress=show_progress,
    )
    failed = [failure for failure in report.failures if failure[0] not in failed_before]
    return RepairReport(sorted(sources[video_id].path for video_id in lost), failed)


def _failed_before(root: Path) -> set[str]:
    """Paths of the videos that manifest or record say had failed; lines and records that are damaged say nothing."""
    found = set()
    path = root / "manifest.jsonl"
    lines = [(line, False) for line in (path.read_bytes().splitlines() if path.is_file() else [])]
    records = [(record.read_bytes(), True) for record in (root / "videos").glob("*.json")]
    for text, has_seal in lines + records:
        try:
            verdict = json.loads(text)
            whole = not has_seal or sealed_json(verdict) == text
            by_repair = verdict["reason"] in ("damaged", "lost") and verdict["detail"] != _FAILED_BEFORE
            if whole and verdict["status"] == "failed" and not by_repair:
                found.add(verdict["source"]["path"])
        except (ValueError, TypeError, KeyError, AttributeError):
            continue
    return found


def _restore_about(root: Path) -> None:
    try:
        with np.load(root / "index.npz", allow_pickle=False) as archive:
            data = archive["store_json"].tobytes()
        whole = sealed_json(json.loads(data), indent=1) == data
    except Exception as error:  # numpy, zipfile and zlib each raise their own
        raise ValueError(f"{root}: store.json and its copy in index.npz are both damaged ({error})") from error
    if not whole:
        raise ValueError(f"{root}: store.json and its copy in index.npz are both damaged")
    write_file(root, Path("store.json"), data)
