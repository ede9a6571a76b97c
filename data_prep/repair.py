"""Repair a damaged store: only the videos with damage are done again."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cmp.datasets.pair_store import (
    Damage,
    commit_record,
    discard_index,
    finish_store,
    lock_store,
    not_a_plain_file,
    parse_object,
    read_about,
    record_path,
    sealed_json,
    shard_path,
    write_file,
)
from cmp.flow.bounded import read_npz
from cmp.video.find import find_videos
from data_prep.decisions import decide_again
from data_prep.job import prepare_folder
from data_prep.pipeline import new_record
from data_prep.settings import PrepareSettings

_FAILED_BEFORE = "not yet repaired; had failed before"  # what a repair that is killed must not forget


@dataclass(frozen=True)
class RepairReport:
    """What `repair_store` did.

    redone: paths of the videos that were done again.
    failed: (path, reason, detail) of those that could not be done, except videos that had failed before. Their reason
        is "lost": every check reports them, and the next repair tries them again.
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
    """Repair what `check_store` found. A call that is killed can be made again, after another check.

    With the videos and the library versions that the store was made with, the store then has the bytes of an undamaged
    one, if its thresholds have not been changed since. Otherwise it has the same pairs.

    Args:
        root: the store.
        video_dir: the folder it was made from.
        damages: what `check_store` returned.
        estimator_weights: the file of weights, if the store was made with one.

    Raises:
        FileNotFoundError: a video that must be done again is not in the folder; the store is unchanged.
        ValueError: store.json is damaged and so is its copy in the index; or settings that cannot be used.
        RuntimeError, StoreWriteError: as `prepare_folder`.
    """
    root = Path(root)
    lost = {damage.video_id for damage in damages if damage.video_id is not None}
    sources = {source.video_id: source for source in find_videos(video_dir, leave_out=root)}
    # An id that is only in the manifest is from a damaged line, or of a video without samples.
    lost = {i for i in lost if i in sources or record_path(root, i).is_file() or shard_path(root, i).is_file()}
    absent = sorted(lost - sources.keys())
    if absent:
        raise FileNotFoundError(f"{video_dir}: does not contain the videos of {', '.join(absent)}; nothing was changed")
    with lock_store(root):
        failed_before = _failed_before(root)
        if any(damage.file == "store.json" for damage in damages):
            _restore_about(root)
        try:
            settings = PrepareSettings.from_stored(read_about(root)["settings"], estimator_weights)
        except ValueError as error:
            place = f"{root / 'store.json'}: "
            raise ValueError(place + str(error).removeprefix(place)) from error
        broken = lost & {damage.video_id for damage in damages if damage.file.startswith("videos/")}
        broken |= {video_id for video_id in lost if not record_path(root, video_id).is_file()}
        # Their records state the damage, so that the next check finds it if this call is killed. They are written
        # before the manifest is removed, which may be the only file that names a video whose record is missing.
        for video_id in broken:
            detail = _FAILED_BEFORE if sources[video_id].path in failed_before else "not yet repaired"
            commit_record(root, new_record(sources[video_id]) | {"reason": "damaged", "detail": detail})
        if any(damage.file.startswith("videos/") for damage in damages):
            discard_index(root)
        if not lost:
            decide_again(root, settings.thresholds)
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
    """Paths of the videos that failed before, by the intact lines of the manifest and the intact records."""
    found = set()
    path = root / "manifest.jsonl"
    lines = [(line, False) for line in (path.read_bytes().split(b"\n") if path.is_file() else [])]
    plain = [record for record in (root / "videos").glob("*.json") if not not_a_plain_file(record)]
    records = [(record.read_bytes(), True) for record in plain]
    for text, has_seal in lines + records:
        try:
            record = parse_object(text, root)
            whole = not has_seal or sealed_json(record) == text
            by_repair = record["reason"] in ("damaged", "lost") and record["detail"] != _FAILED_BEFORE
            if whole and record["status"] == "failed" and not by_repair:
                found.add(record["source"]["path"])
        except (ValueError, TypeError, KeyError, AttributeError):
            continue
    return found


def _restore_about(root: Path) -> None:
    try:
        data = read_npz(root / "index.npz", "index.npz", keys=("store_json",))["store_json"].tobytes()
        whole = sealed_json(parse_object(data, "store_json"), indent=1) == data
    except Exception as error:  # numpy, zipfile and zlib each raise their own
        raise ValueError(f"{root}: store.json and its copy in index.npz are both damaged ({error})") from error
    if not whole:
        raise ValueError(f"{root}: store.json and its copy in index.npz are both damaged")
    write_file(root, Path("store.json"), data)
