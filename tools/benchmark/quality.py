"""Measure how well the reasons for which pairs are dropped agree with labels that were given by eye.

    python tools/benchmark/quality.py VIDEO_DIR tests/data_prep/pair_labels.csv

LABELS is a table video,first,second,label. The pairs are read from the folder, and their flow is computed by the
default estimator at the given size. They are scored, and decided with the default thresholds. Printed are

  - for each reason its precision (of the pairs whose gravest reason it is, the share that has one of its labels) and
    its recall (of the pairs with one of its labels, the share that has this reason, gravest or not);
  - for each label how many of its pairs are dropped at all, and their gravest reasons;
  - the CPU time of scoring a pair of 416 x 740 on one thread.
"""

import argparse
import csv
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from cmp.interrupts import exit_at_interrupt, run_command

if __name__ == "__main__":
    exit_at_interrupt()  # the imports below take seconds

import cv2
import numpy as np

from cmp.video import open_video
from data_prep.pipeline import initialize_worker, resized
from data_prep.quality import drop_reasons, score_pair
from data_prep.settings import PrepareSettings
from data_prep.thresholds import Thresholds

TRUE_LABELS = {  # reason: labels for which it is right
    "cut": ("cut", "fade", "damaged"),
    "duplicate": ("duplicate",),
    "still": ("still", "duplicate"),
    "too_fast": ("fast",),
    "inconsistent": ("fast", "cut", "fade", "damaged"),
    "camera": ("camera",),
}
CAMERA_SHARE = 0.8  # the reason is off by default; measured at this threshold


def read_labels(path: Path, videos: Sequence[str] | None = None) -> dict[str, dict[tuple[int, int], str]]:
    """By video, {(first, second): label}; only of `videos` if given."""
    labels: dict[str, dict[tuple[int, int], str]] = {}
    with open(path, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if videos is None or row["video"] in videos:
                labels.setdefault(row["video"], {})[int(row["first"]), int(row["second"])] = row["label"]
    return labels


def score_labeled(
    video_dir: Path,
    labels: dict[str, dict[tuple[int, int], str]],
    settings: PrepareSettings,
    change_second: Callable[[np.ndarray], np.ndarray] | None = None,
) -> list[tuple[str, tuple, dict]]:
    """(video, (first, second), scores) of every labeled pair; `change_second` is applied to the second frame first."""
    estimator = settings.create_estimator()
    scored = []
    for video, pairs in sorted(labels.items()):
        wanted = sorted({frame for pair in pairs for frame in pair})
        with open_video(video_dir / video) as reader:
            size_hw = settings.stored_size(reader.size_hw)
            frames = {frame.index: resized(frame.image, size_hw) for frame in reader.read(wanted)}
        for pair in sorted(pairs):
            images = [frames[number] for number in pair]
            if change_second is not None:
                images[1] = change_second(images[1])
            scored.append(
                (video, pair, score_pair(*images, estimator.estimate(*images), max_flow_px=settings.max_flow_px))
            )
    return scored


def precision_recall(
    decided: Sequence[tuple[str, Sequence[str]]], reason: str
) -> tuple[tuple[int, int], tuple[int, int]]:
    """(right, all) of the pairs whose gravest reason it is, and (found, all) of those with one of its labels."""
    true = TRUE_LABELS[reason]
    given = [label in true for label, reasons in decided if reasons[:1] == [reason]]
    wanted = [reason in reasons for label, reasons in decided if label in true]
    return (sum(given), len(given)), (sum(wanted), len(wanted))


def scoring_ms(repeats: int = 50) -> tuple[float, float]:
    """Median and least CPU time of scoring, ms, on generated frames: it depends on their size, not on their content."""
    rng = np.random.default_rng(0)
    wide = cv2.resize(rng.integers(0, 255, (52, 95, 3), np.uint8), (760, 416), interpolation=cv2.INTER_CUBIC)
    first, second = (np.ascontiguousarray(wide[:, start : start + 740]) for start in (12, 4))
    flow = rng.normal(0, 1, (416, 740, 2)).astype(np.float32) + np.float32([8, 0])
    times = []
    for _ in range(repeats):
        start = time.process_time()
        score_pair(first, second, flow)
        times.append(1e3 * (time.process_time() - start))
    return float(np.median(times)), min(times)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video_dir", type=Path, metavar="VIDEO_DIR")
    parser.add_argument("labels", type=Path, metavar="LABELS")
    parser.add_argument("--short-side", type=int, default=416, metavar="PX", help="stored size (default 416)")
    parser.add_argument("--max-flow", type=float, default=50.0, metavar="PX", help="at that size (default 50)")
    parser.add_argument("--list", action="store_true", help="also list the pairs whose decision differs from the label")
    args = parser.parse_args(argv)
    initialize_worker()  # as where pairs are really scored
    try:
        labels = read_labels(args.labels)
        settings = PrepareSettings(short_side_px=args.short_side, max_flow_px=args.max_flow)
        scored = score_labeled(args.video_dir, labels, settings)
    except (OSError, ValueError, KeyError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    limits = Thresholds()
    decided = [(labels[video][pair], drop_reasons(scores, limits)) for video, pair, scores in scored]
    strict = Thresholds(max_camera_share=CAMERA_SHARE)
    with_camera = [(labels[video][pair], drop_reasons(scores, strict)) for video, pair, scores in scored]
    print(f"{len(decided)} pairs of {len(labels)} videos")
    print("| reason | right for labels | precision | recall |\n| --- | --- | --- | --- |")
    for reason, true in TRUE_LABELS.items():
        counts = precision_recall(with_camera if reason == "camera" else decided, reason)
        cells = [f"{right / total:.2f} ({right}/{total})" if total else "-" for right, total in counts]
        print(f"| {reason} | {', '.join(true)} | {' | '.join(cells)} |")
    print("\n| label | pairs | dropped | for |\n| --- | --- | --- | --- |")
    for name in sorted({label for label, _ in decided}):
        mine = [reasons for label, reasons in decided if label == name]
        firsts = [reasons[0] for reasons in mine if reasons]
        causes = ", ".join(f"{firsts.count(reason)} {reason}" for reason in TRUE_LABELS if reason in firsts)
        print(f"| {name} | {len(mine)} | {len(firsts)} | {causes or '-'} |")
    median, least = scoring_ms()
    print(f"\nscoring a pair of 416 x 740: median {median:.1f} ms, least {least:.1f} ms")
    if args.list:
        for (video, pair, scores), (label, reasons) in zip(scored, decided):
            if bool(reasons) != (label not in ("good", "camera")):
                print(video, *pair, label, reasons, scores)
    return 0


if __name__ == "__main__":
    run_command(main)
