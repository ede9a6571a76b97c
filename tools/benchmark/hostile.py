"""Prepare a folder of good clips among broken ones, and print what became of every kind.

    python tools/benchmark/hostile.py
    python tools/benchmark/hostile.py --broken 300 --good 20 --seed 0 --stall-seconds 20

The good clips are prepared alone first: their samples must come out the same, byte for byte, among the broken ones.
Each broken file must be read, skipped or failed with a reason, as `EXPECT` of tools/benchmark/broken_videos.py says
where that is known.

Exit status: 0; 1 if a file has no verdict or a wrong one, or a good clip's samples changed.
"""

import argparse
import importlib.util
import shutil
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the checkout's own packages, installed or not

from cmp.datasets.pair_store import read_records, shard_path
from data_prep.job import prepare_folder
from data_prep.settings import PrepareSettings

SETTINGS = PrepareSettings(interval_frames=2, pairs_per_video=4, short_side_px=32)


def load_generator():
    """tools/benchmark/broken_videos.py, which is no package."""
    path = Path(__file__).with_name("broken_videos.py")
    spec = importlib.util.spec_from_file_location("broken_videos", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(
    root: Path, broken: int, good: int, seed: int, *, workers: int | None, stall_s: float, quiet: bool
) -> tuple[dict[str, Counter], list[str]]:
    """Returns how often every verdict fell for each kind, and a sentence for whatever is wrong."""
    generator = load_generator()
    options = {"num_workers": workers, "stall_s": stall_s, "show_progress": not quiet}
    names = generator.write_good(root / "good", good)
    prepare_folder(root / "good", root / "alone", SETTINGS, **options)
    shutil.copytree(root / "good", root / "mixed")
    kinds = generator.write_broken(root / "mixed", broken, seed)
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
            wrong.append(f"{name}: has no verdict")
            continue
        verdict = (record["status"], record["reason"])
        if record["status"] == "done" and record["video"]["problem"]:
            table[kind]["done, with a problem named"] += 1
        else:
            table[kind][": ".join(filter(None, verdict))] += 1
        if record["status"] != "done" and not (record["reason"] and record["detail"]):
            wrong.append(f"{name}: has no reason")
        if kind in generator.EXPECT and verdict != generator.EXPECT[kind]:
            wrong.append(f"{name}: is {verdict}, expected {generator.EXPECT[kind]}; {record['detail']}")
    return table, wrong


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--broken", type=int, default=300, metavar="N", help="broken files (default 300)")
    parser.add_argument("--good", type=int, default=20, metavar="N", help="good clips (default 20)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the damage (default 0)")
    parser.add_argument("--workers", type=int, metavar="N", help="processes (default: all cores)")
    parser.add_argument("--stall-seconds", type=float, default=20.0, metavar="S", help="as prepare_flow (default 20)")
    parser.add_argument(
        "--keep", type=Path, metavar="DIR", help="a new folder for videos and stores (default: thrown away)"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    args = parser.parse_args(argv)
    if min(args.broken, args.good) < 1:
        parser.error("--broken and --good must be at least 1")
    with tempfile.TemporaryDirectory() as temporary:
        root = args.keep or Path(temporary)
        start = time.monotonic()
        table, wrong = run(
            root, args.broken, args.good, args.seed,
            workers=args.workers, stall_s=args.stall_seconds, quiet=args.quiet,
        )  # fmt: skip
        seconds = time.monotonic() - start
    print("| kind | files | what became of them |\n| --- | --- | --- |")
    for kind, verdicts in table.items():
        cells = ", ".join(f"{name} {count}" for name, count in sorted(verdicts.items()))
        print(f"| {kind} | {sum(verdicts.values())} | {cells} |")
    for sentence in wrong:
        print(sentence, file=sys.stderr)
    print(f"{args.broken} broken files among {args.good} good clips: {len(wrong)} wrong, {seconds:.0f} s")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
