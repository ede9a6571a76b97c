"""Prepare a folder of good clips among broken files, and compare with the good clips alone."""

from __future__ import annotations

import shutil
from collections import Counter, defaultdict
from pathlib import Path

from broken_videos import EXPECT, write_broken, write_good

from cmp.datasets.pair_store import read_records, shard_path
from data_prep.job import prepare_folder
from data_prep.settings import PrepareSettings

SETTINGS = PrepareSettings(interval_frames=2, pairs_per_video=4, short_side_px=32)


def prepare_among_broken(
    root: Path, broken: int, good: int, seed: int, *, workers: int | None, stall_s: float
) -> tuple[dict[str, Counter], list[str]]:
    """Prepare `good` clips alone, then among `broken` other files, below the folder `root`.

    Returns:
        How many files of each kind ended in which way, and one sentence for everything that is wrong: a file without a
        record, a status or reason other than `EXPECT` states, a good clip whose record or samples changed.
    """
    options = {"num_workers": workers, "stall_s": stall_s, "show_progress": False}
    names = write_good(root / "good", good)
    prepare_folder(root / "good", root / "alone", SETTINGS, **options)
    shutil.copytree(root / "good", root / "mixed")
    kinds = write_broken(root / "mixed", broken, seed)
    prepare_folder(root / "mixed", root / "among", SETTINGS, **options)

    alone = {record["source"]["path"]: record for record in read_records(root / "alone").values()}
    among = {record["source"]["path"]: record for record in read_records(root / "among").values()}
    wrong = []
    for name in names:
        expected, found = alone.get(name), among.get(name)
        if expected is None or expected["status"] != "done":
            wrong.append(f"{name}: a good clip gave no samples: {expected}")
        elif found != expected:
            wrong.append(f"{name}: a good clip's record changed")
        elif (
            shard_path(root / "alone", found["video_id"]).read_bytes()
            != shard_path(root / "among", found["video_id"]).read_bytes()
        ):
            wrong.append(f"{name}: a good clip's samples changed")
    table = defaultdict(Counter)
    for name, kind in kinds.items():
        record = among.get(name)
        if record is None:
            wrong.append(f"{name}: has no record")
            continue
        outcome = (record["status"], record["reason"])
        if record["status"] == "done" and record["video"]["problem"]:
            table[kind]["done, with a problem named"] += 1
        else:
            table[kind][": ".join(filter(None, outcome))] += 1
        if record["status"] != "done" and not (record["reason"] and record["detail"]):
            wrong.append(f"{name}: has no reason")
        if kind in EXPECT and outcome != EXPECT[kind]:
            wrong.append(f"{name}: is {outcome}, expected {EXPECT[kind]}; {record['detail']}")
    return table, wrong


def table_of(outcomes: dict[str, Counter]) -> str:
    """The Markdown table of docs/robustness.md."""
    lines = ["| kind | files | what became of them |", "| --- | --- | --- |"]
    for kind, counts in outcomes.items():
        cells = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
        lines.append(f"| {kind} | {counts.total()} | {cells} |")
    return "\n".join(lines)
