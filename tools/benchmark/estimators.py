"""Measure flow estimators against ground truth: end-point error, outliers, time.

    python tools/benchmark/estimators.py FLOW_DIR
    python tools/benchmark/estimators.py FLOW_DIR --estimators dis-medium raft-small --weights raft-small=raft_small.pth

FLOW_DIR contains any of middlebury/SCENE/{frame10.png,frame11.png,flow10.flo}, kitti/{image_2,flow_gt}/N_10.png and
flyingchairs/N-{img0.png,img1.png,gt.flo}. EPE is the mean length of the error over all known pixels of a set, px;
outliers are pixels with an error above 3 px and above 5 % of the true length (KITTI's rule); ms is the mean time per
pair on one thread (or the device), after one pair to warm up. An estimator that cannot run (no weights) is skipped
with the reason. This command prints the table in docs/estimators.md.
"""

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from cmp.interrupts import exit_at_interrupt, run_command

if __name__ == "__main__":
    exit_at_interrupt()  # the imports below take seconds

import cv2
import numpy as np

from cmp.flow import read_flow
from cmp.images import read_image
from data_prep.estimators import CLASSICAL, RAFT, FlowEstimator, create_estimator


@dataclass(frozen=True)
class Example:
    """The files of two frames and of their true flow."""

    first: Path
    second: Path
    truth: Path


def find_examples(root: Path) -> dict[str, list[Example]]:
    """The pairs of each set that FLOW_DIR contains, by the name of the set."""
    sets = {
        "Middlebury": [
            Example(folder / "frame10.png", folder / "frame11.png", folder / "flow10.flo")
            for folder in sorted((root / "middlebury").glob("*/"))
        ],
        "FlyingChairs": [
            Example(*(path.with_name(path.name.replace("gt.flo", end)) for end in ("img0.png", "img1.png")), path)
            for path in sorted((root / "flyingchairs").glob("*-gt.flo"))
        ],
        "KITTI": [
            Example(*(root / "kitti" / "image_2" / path.name.replace("_10.", end) for end in ("_10.", "_11.")), path)
            for path in sorted((root / "kitti" / "flow_gt").glob("*_10.png"))
        ],
    }
    return {name: examples for name, examples in sets.items() if examples}


def read_frame(path: Path) -> np.ndarray:
    return read_image(path)


def measure(estimator: FlowEstimator, examples: list[Example], repeats: int) -> tuple[float, float, float]:
    """EPE in px, share of outliers, ms per pair (the best of `repeats` runs of each pair, averaged over pairs)."""
    errors, outliers, times_s = [], [], []
    estimator.estimate(read_frame(examples[0].first), read_frame(examples[0].second))
    for example in examples:
        first, second = read_frame(example.first), read_frame(example.second)
        truth, known = read_flow(example.truth, return_valid=True)
        runs_s = []
        for _ in range(repeats):
            start = time.perf_counter()
            flow = estimator.estimate(first, second)
            runs_s.append(time.perf_counter() - start)
        error = np.linalg.norm(flow - truth, axis=2)[known]
        errors.append(error)
        outliers.append((error > 3) & (error > 0.05 * np.linalg.norm(truth, axis=2)[known]))
        times_s.append(min(runs_s))
    return np.concatenate(errors).mean(), np.concatenate(outliers).mean(), 1000 * np.mean(times_s)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("flow_dir", type=Path, metavar="FLOW_DIR", help="folder with the sets")
    parser.add_argument("--estimators", nargs="+", metavar="NAME", default=[*CLASSICAL, *RAFT], help="default: all")
    parser.add_argument("--weights", nargs="+", metavar="NAME=FILE", default=[], help="weights of an estimator")
    parser.add_argument("--device", default="auto", help="of RAFT and ptlflow (default auto)")
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="runs of a pair; the best counts")
    args = parser.parse_args(argv)
    if any("=" not in text for text in args.weights) or args.repeats < 1:
        parser.error("--weights takes NAME=FILE, and --repeats at least 1")
    weights = dict(text.split("=", 1) for text in args.weights)
    sets = find_examples(args.flow_dir)
    if not sets:
        print(f"{args.flow_dir}: contains none of middlebury/, flyingchairs/, kitti/", file=sys.stderr)
        return 1
    cv2.setNumThreads(1)
    counts = ", ".join(f"{len(examples)} {name}" for name, examples in sets.items())
    print(f"pairs: {counts}; cells: EPE px / outliers / ms per pair")
    print("| estimator | " + " | ".join(sets) + " |\n|" + " --- |" * (len(sets) + 1))
    measured = 0
    for name in args.estimators:
        try:
            estimator = create_estimator(name, weights=weights.get(name), device=args.device)
        except (ValueError, OSError, ModuleNotFoundError) as error:
            print(f"skipped {name}: {error}", file=sys.stderr)
            continue
        rows = (measure(estimator, examples, args.repeats) for examples in sets.values())
        cells = (f"{epe:.2f} / {100 * share:.1f} % / {ms:.0f}" for epe, share, ms in rows)
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
        measured += 1
    return 0 if measured else 1


if __name__ == "__main__":
    run_command(main)
