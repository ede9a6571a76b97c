"""Decide from stored scores which pairs are kept.

This happens once when a video is prepared, and again when the thresholds of a store change.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from cmp.datasets.pair_store import (
    commit_record,
    discard_index,
    finish_store,
    lock_store,
    read_about,
    read_records,
    sealed_json,
    write_file,
)
from data_prep.quality import drop_reasons
from data_prep.thresholds import Thresholds

_UNSTORABLE = "bad_flow"  # not finite, or longer than the codec stores: no threshold brings it back
_FORGOTTEN = "forgotten"  # would be kept, but was not stored (`forget_dropped`)


@dataclass(frozen=True)
class RefilterReport:
    """What new thresholds did to a store.

    thresholds: all thresholds of the store now.
    pairs_before, pairs: number of kept pairs before and now.
    back, dropped_now: number of pairs that were dropped and are kept now, and the reverse.
    lost: number of pairs that would be kept but were not stored.
    videos: number of videos with kept pairs; changed: number of videos whose record was rewritten.
    reasons: number of dropped pairs per reason; a pair with several reasons counts for the gravest.
    """

    thresholds: Thresholds
    pairs_before: int
    pairs: int
    back: int
    dropped_now: int
    lost: int
    videos: int
    changed: int
    reasons: dict[str, int]


def decide_record(record: Mapping, thresholds: Thresholds) -> dict:
    """Decide which pairs of a record are kept under these thresholds, whatever was decided before.

    Returns:
        The record with its pairs in "samples" (kept) and "dropped" (with reasons), and its status. A record without
        pairs (failed, too short) is returned unchanged.

    Raises:
        ValueError: its pairs lack scores that are needed (a store of an older version).
    """
    rows = sorted([*record["samples"], *record["dropped"]], key=lambda row: row["frames"])
    if not rows:
        return dict(record)
    try:
        decided = [row | {"reasons": _reasons(row, thresholds)} for row in rows]
    except KeyError as error:
        raise ValueError(
            f"{record['video_id']}: its pairs have no score {error}: an older store; make it again"
        ) from None
    return {**record, **kept_and_dropped(decided)}


def kept_and_dropped(decided: Sequence[Mapping]) -> dict:
    """The part of a record that follows from the reasons against its pairs.

    Args:
        decided: one row per pair in the order of their frames, at least one, each with its "reasons" (empty: kept).

    Returns:
        "samples" (the kept rows, without "reasons"), "dropped" (the others), "status", "reason" and "detail".
    """
    kept = [{key: value for key, value in row.items() if key != "reasons"} for row in decided if not row["reasons"]]
    dropped = [row for row in decided if row["reasons"]]
    outcome: dict = {"status": "done", "reason": None, "detail": None}
    if not kept:
        reasons = Counter(row["reasons"][0] for row in dropped)
        text = "dropped: " + ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
        outcome = {"status": "skipped", "reason": f"all_{max(sorted(reasons), key=reasons.get)}", "detail": text}
    return {**outcome, "samples": kept, "dropped": dropped}


def decide_again(root: str | os.PathLike, records: Mapping[str, dict], thresholds: Thresholds) -> dict[str, dict]:
    """Decide about all pairs of a store again, and rewrite the records that change. Call it with the lock held.

    Returns:
        All records by video id, with the new decisions.

    Raises:
        ValueError: as `decide_record`; nothing has been written then.
        StoreWriteError: a record cannot be written.
    """
    decided = {video_id: decide_record(record, thresholds) for video_id, record in records.items()}
    for video_id, record in decided.items():
        if record != records[video_id]:
            commit_record(root, record)
    return decided


def refilter_store(root: str | os.PathLike, changes: Mapping[str, float]) -> RefilterReport:
    """Give a store new thresholds and decide about all its pairs again, from their stored scores alone.

    No video is read and no shard is changed. If the call is killed, the same call or a preparation job with the new
    thresholds completes it. The kept pairs are then those of a store that was made with these thresholds.

    Args:
        root: the store.
        changes: new values of fields of `Thresholds`; the others stay as the store has them.

    Raises:
        FileNotFoundError: the folder contains no store.
        ValueError: a threshold is not a finite number, or the store was made by another version.
        RuntimeError: another job holds the store.
        StoreWriteError: it cannot be written.
    """
    root = Path(root)
    read_about(root)  # before the lock, which would make the folder
    with lock_store(root):
        about = read_about(root)
        try:
            stored = Thresholds(**about["settings"]["thresholds"])
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"{root}: made with thresholds of another version of this package ({error})") from error
        thresholds = replace(stored, **changes)
        records = read_records(root, whole=True)
        for record in records.values():
            decide_record(record, thresholds)  # raises before anything is written
        discard_index(root)  # unfinished from here on: a job that finds no index decides again
        about["settings"]["thresholds"] = asdict(thresholds)
        write_file(root, Path("store.json"), sealed_json(about, indent=1))
        decided = decide_again(root, records, thresholds)
        finish_store(root)
    before, after = _kept(records), _kept(decided)
    return RefilterReport(
        thresholds=thresholds,
        pairs_before=len(before),
        pairs=len(after),
        back=len(after - before),
        dropped_now=len(before - after),
        lost=sum(row["reasons"][0] == _FORGOTTEN for record in decided.values() for row in record["dropped"]),
        videos=sum(record["status"] == "done" for record in decided.values()),
        changed=sum(decided[video_id] != records[video_id] for video_id in records),
        reasons=dict(Counter(row["reasons"][0] for record in decided.values() for row in record["dropped"])),
    )


def _reasons(row: Mapping, thresholds: Thresholds) -> list[str]:
    if _UNSTORABLE in row.get("reasons", ()):
        return [_UNSTORABLE]
    reasons = drop_reasons(row["quality"], thresholds)
    return reasons if reasons or row["members"] is not None else [_FORGOTTEN]


def _kept(records: Mapping[str, dict]) -> set[tuple]:
    return {(video_id, *row["frames"]) for video_id, record in records.items() for row in record["samples"]}
