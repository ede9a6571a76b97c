"""Check every byte of a pair store, and mend it.

    python tools/verify_store.py my_pairs
    python tools/verify_store.py my_pairs --repair ~/videos

Names each shard and member that is damaged. --repair does the videos that lost something again, and only those, from
the folder that the store was made from; with the same library versions the store is then the same, byte for byte,
unless thresholds were changed since (--refilter): then its pairs are the same, if not its bytes.
A video that cannot be done again is marked as lost, and the store is not called whole: put the video back and repair
once more, or accept the loss with tools/prepare_flow.py --retry-failed.

Exit status: 0 if the store is whole (or is after the repair); 1 if it is damaged; 2 if it cannot be checked or mended.
"""

import argparse
import sys
from pathlib import Path

from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the checkout's own packages, installed or not

from cmp.datasets.store_check import Damage, check_store
from data_prep.repair import repair_store


def check(store: Path, quiet: bool) -> list[Damage]:
    total = sum(path.stat().st_size for path in (store / "shards").glob("*.tar"))
    with tqdm(total=total, unit="B", unit_scale=True, desc="checking", disable=quiet) as bar:
        return check_store(store, bar.update)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("store", type=Path, metavar="STORE", help="folder that tools/prepare_flow.py wrote")
    parser.add_argument("--repair", type=Path, metavar="VIDEO_DIR", help="mend it from the folder of its videos")
    parser.add_argument("--estimator-weights", metavar="FILE", help="with --repair, if the store was made with a file")
    parser.add_argument("--workers", type=int, metavar="N", help="processes of the repair (default: all cores)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    args = parser.parse_args(argv)
    sys.stdout.reconfigure(errors="backslashreplace")  # for names that are no text
    try:
        found = check(args.store, args.quiet)
        for damage in found:
            print(damage)
        if found and args.repair is not None:
            report = repair_store(
                args.store,
                args.repair,
                found,
                estimator_weights=args.estimator_weights,
                num_workers=args.workers,
                show_progress=not args.quiet,
            )
            for path, reason, detail in report.failed:
                print(f"could not be done again: {path!r}: {reason}: {repr(detail)[1:-1]}", file=sys.stderr)
            print(f"{len(found)} damages; {len(report.redone)} videos done again, {len(report.failed)} of them failed")
            found = [] if report.failed else check(args.store, args.quiet)
            if found or report.failed:
                print(f"{args.store}: still damaged", file=sys.stderr)
                return 1
    except (OSError, ValueError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{args.store}: " + (f"{len(found)} damages; --repair VIDEO_DIR mends them" if found else "whole"))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
