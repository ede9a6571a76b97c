"""Check every byte of a pair store, and repair it.

Example:
    cmp-motion store verify my_pairs
    cmp-motion store verify my_pairs --repair ~/videos

Names each shard and member that is damaged. --repair does only the videos with damage again, from the folder that the
store was made from; `cmp-motion store repair` is the same. With the same library versions the store is then the same,
byte for byte. If thresholds were changed since (`cmp-motion store refilter`), its pairs are the same, but not its
bytes.
A video that cannot be done again is marked as lost, and the store stays damaged: put the video back and repair once
more, or accept the loss with `cmp-motion prepare --retry-failed`.

Exit status: 0 if the store is undamaged (or is after the repair); 1 if it is damaged; 2 if it cannot be checked or
repaired.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from cmp.cli.arguments import Parser, say
from cmp.files import check_paths
from cmp.interrupts import imports_can_be_interrupted


def main(argv: Sequence[str] | None = None, *, prog: str = "verify_store.py") -> int:
    """Check, and repair if asked to; returns the exit status."""
    parser = Parser(prog=prog, description=__doc__)
    parser.add_argument("store", type=Path, metavar="STORE", help="folder that prepare wrote")
    parser.add_argument("--repair", type=Path, metavar="VIDEO_DIR", help="repair it from the folder of its videos")
    add_repair_arguments(parser, "with --repair, ")
    return run(parser.parse_args(argv), prog)


def add_repair_arguments(parser: argparse.ArgumentParser, when: str = "") -> None:
    """Add the options that `cmp-motion store repair` has too."""
    parser.add_argument("--estimator-weights", metavar="FILE", help=f"{when}if the store was made with a file")
    parser.add_argument("--workers", type=int, metavar="N", help="processes of the repair (default: all cores)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def run(args: argparse.Namespace, prog: str) -> int:
    """Check, and repair if `args.repair` names the videos; returns the exit status."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # for names that are not valid text
    try:
        check_paths(reads={"STORE": args.store, "--repair": args.repair, "--estimator-weights": args.estimator_weights})
        with imports_can_be_interrupted():
            from tqdm import tqdm

            from cmp.datasets.pair_store import check_store
            from data_prep.repair import repair_store

        def check() -> list:
            total = sum(path.lstat().st_size for path in (args.store / "shards").glob("*.tar"))
            with tqdm(total=total, unit="B", unit_scale=True, desc="checking", disable=args.quiet) as bar:
                return check_store(args.store, bar.update)

        found = check()
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
                say(prog, f"could not be done again: {path!r}: {reason}: {repr(detail)[1:-1]}")
            redone, failed = len(report.redone), len(report.failed)
            print(f"damage in {len(found)} places; {redone} videos done again, {failed} of them failed")
            found = [] if report.failed else check()
            if found or report.failed:
                say(prog, f"{args.store}: still damaged")
                return 1
    except (OSError, ValueError, RuntimeError) as error:
        say(prog, error)
        return 2
    print(f"{args.store}: " + (f"damage in {len(found)} places; --repair VIDEO_DIR repairs it" if found else "whole"))
    return 1 if found else 0
