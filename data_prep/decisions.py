"""Decide from stored scores which pairs are kept.

This happens once when a video is prepared, and again when the thresholds of a store change.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from cmp.datasets.pair_store import (
    commit_record,
    discard_index,
    finish_store,
    iterate_records,
    lock_store,
    read_about,
    read_record,
    record_path,
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
        outcome = {
            "status": "skipped",
            "reason": f"all_{max(sorted(reasons), key=lambda reason: reasons[reason])}",
            "detail": text,
        }
    return {**outcome, "samples": kept, "dropped": dropped}


def decide_again(root: str | os.PathLike, thresholds: Thresholds, *, leave_out: Collection[str] = ()) -> None:
    """Decide about all pairs of a store again, and rewrite the records that change. Call it with the lock held.

    Args:
        root: the store.
        thresholds: the new thresholds.
        leave_out: ids of videos about which nothing is decided.

    Raises:
        ValueError: a record is not valid, or as `decide_record`; nothing has been written then.
        StoreWriteError: a record cannot be written.
    """
    records = (record for record in iterate_records(root, whole=True) if record["video_id"] not in leave_out)
    changed = [record["video_id"] for record in records if decide_record(record, thresholds) != record]
    _rewrite(root, changed, thresholds)


def _rewrite(root: str | os.PathLike, changed: Sequence[str], thresholds: Thresholds) -> None:
    """Write the new decisions about some videos."""
    for video_id in changed:
        commit_record(root, decide_record(read_record(record_path(root, video_id), whole=True), thresholds))


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
        counts: Counter = Counter()
        reasons: Counter = Counter()
        changed = []
        for record in iterate_records(root, whole=True):  # what it raises, it raises before anything is written
            decided = decide_record(record, thresholds)
            before, after = _kept(record), _kept(decided)
            counts.update(before=len(before), after=len(after), back=len(after - before), gone=len(before - after))
            counts.update(done=decided["status"] == "done")
            reasons.update(row["reasons"][0] for row in decided["dropped"])
            if decided != record:
                changed.append(record["video_id"])
        discard_index(root)  # unfinished from here on: a job that finds no index decides again
        about["settings"]["thresholds"] = asdict(thresholds)
        write_file(root, Path("store.json"), sealed_json(about, indent=1))
        _rewrite(root, changed, thresholds)
        finish_store(root)
    return RefilterReport(
        thresholds=thresholds,
        pairs_before=counts["before"],
        pairs=counts["after"],
        back=counts["back"],
        dropped_now=counts["gone"],
        lost=reasons[_FORGOTTEN],
        videos=counts["done"],
        changed=len(changed),
        reasons=dict(reasons),
    )


def _reasons(row: Mapping, thresholds: Thresholds) -> list[str]:
    if _UNSTORABLE in row.get("reasons", ()):
        return [_UNSTORABLE]
    reasons = drop_reasons(row["quality"], thresholds)
    return reasons if reasons or row["members"] is not None else [_FORGOTTEN]


def _kept(record: Mapping) -> set[tuple]:
    return {tuple(row["frames"]) for row in record["samples"]}
