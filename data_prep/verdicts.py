"""From stored scores to verdicts: which pairs are kept. Once when a video is prepared, again when thresholds change."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
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
from data_prep.quality import Thresholds, drop_reasons

_UNSTORABLE = "bad_flow"  # not finite, or beyond the codec: no threshold brings it back
_FORGOTTEN = "forgotten"  # would be kept, but was not stored (`forget_dropped`)


@dataclass(frozen=True)
class RefilterReport:
    """What new thresholds did to a store.

    thresholds: all of them, as they now are.
    pairs_before, pairs: kept pairs; back, dropped_now: pairs that changed sides.
    lost: pairs that would be kept but were not stored.
    videos: with kept pairs; changed: of which the record was rewritten.
    reasons: why pairs are dropped (the gravest each), with their number.
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


def judge_record(record: Mapping, thresholds: Thresholds) -> dict:
    """The record with the verdict that its scores give under these thresholds, whatever the verdict was before.

    Records without pairs (failed, too short) come back as they are.

    Raises ValueError if its pairs lack scores that are needed (a store of an older version).
    """
    rows = sorted([*record["samples"], *record["dropped"]], key=lambda row: row["frames"])
    if not rows:
        return dict(record)
    try:
        judged = [row | {"reasons": _reasons(row, thresholds)} for row in rows]
    except KeyError as error:
        raise ValueError(
            f"{record['video_id']}: its pairs have no score {error}: an older store; make it again"
        ) from None
    kept = [{key: value for key, value in row.items() if key != "reasons"} for row in judged if not row["reasons"]]
    dropped = [row for row in judged if row["reasons"]]
    verdict: dict = {"status": "done", "reason": None, "detail": None}
    if not kept:
        reasons = Counter(row["reasons"][0] for row in dropped)
        text = "dropped: " + ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
        verdict = {"status": "skipped", "reason": f"all_{max(sorted(reasons), key=reasons.get)}", "detail": text}
    return {**record, **verdict, "samples": kept, "dropped": dropped}


def rejudge_records(root: str | os.PathLike, records: Mapping[str, dict], thresholds: Thresholds) -> dict[str, dict]:
    """Judge all records of a store and rewrite those that change; returns them all. Call it with the lock held.

    Raises ValueError as `judge_record`, before anything is written; StoreWriteError.
    """
    judged = {video_id: judge_record(record, thresholds) for video_id, record in records.items()}
    for video_id, record in judged.items():
        if record != records[video_id]:
            commit_record(root, record)
    return judged


def refilter_store(root: str | os.PathLike, changes: Mapping[str, float]) -> RefilterReport:
    """Give a store new thresholds and judge all its pairs again, from their stored scores alone.

    No video is read and no shard is touched. May be killed at any moment and called again, by the same call or by a
    preparation job with the new thresholds: the kept pairs are then those of a store made with them from the start.

    Args:
        root: the store.
        changes: new values of fields of `Thresholds`; the others stay as the store has them.

    Raises:
        FileNotFoundError: no store there.
        ValueError: thresholds that make no sense; or a store of another version.
        RuntimeError: another job holds the store.
        StoreWriteError: it cannot be written.
    """
    root = Path(root)
    read_about(root)  # before the lock, which would make the folder
    with lock_store(root):
        about = read_about(root)
        try:
            thresholds = replace(Thresholds(**about["settings"]["thresholds"]), **changes)
        except (KeyError, TypeError) as error:
            raise ValueError(f"{root}: made with thresholds of another version of this package ({error})") from error
        records = read_records(root)
        for record in records.values():
            judge_record(record, thresholds)  # what cannot be judged is said before anything is written
        discard_index(root)  # unfinished from here on: whoever finds no index judges again
        about["settings"]["thresholds"] = asdict(thresholds)
        write_file(root, Path("store.json"), sealed_json(about, indent=1))
        judged = rejudge_records(root, records, thresholds)
        finish_store(root)
    before, after = _kept(records), _kept(judged)
    return RefilterReport(
        thresholds=thresholds,
        pairs_before=len(before),
        pairs=len(after),
        back=len(after - before),
        dropped_now=len(before - after),
        lost=sum(row["reasons"][0] == _FORGOTTEN for record in judged.values() for row in record["dropped"]),
        videos=sum(record["status"] == "done" for record in judged.values()),
        changed=sum(judged[video_id] != records[video_id] for video_id in records),
        reasons=dict(Counter(row["reasons"][0] for record in judged.values() for row in record["dropped"])),
    )


def _reasons(row: Mapping, thresholds: Thresholds) -> list[str]:
    if _UNSTORABLE in row.get("reasons", ()):
        return [_UNSTORABLE]
    reasons = drop_reasons(row["quality"], thresholds)
    return reasons if reasons or row["members"] is not None else [_FORGOTTEN]


def _kept(records: Mapping[str, dict]) -> set[tuple]:
    return {(video_id, *row["frames"]) for video_id, record in records.items() for row in record["samples"]}
