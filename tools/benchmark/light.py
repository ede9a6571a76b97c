"""Measure how pairs of real clips are classified when the light of their second frame is changed.

    python tools/benchmark/light.py VIDEO_DIR tests/data_prep/pair_labels.csv

Still scenes are every fourth video's frame 12 paired with itself, both with noise, and the pairs labeled still. Every
fourth pair labeled good, and two of a moving camera, are taken as they are. The second frame of each is shown under
other light: of the whole frame, or of a part with a hard or a soft border. Frames of different videos, dissolves
between them, and pairs labeled cut and fade must be dropped. Short side 208 px, flow by DIS (medium). Printed is a
table: kind of pair, change, and how many pairs have which gravest reason.
"""

import argparse
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the checkout's own packages, installed or not

from cmp.interrupts import exit_at_interrupt, run_command

if __name__ == "__main__":
    exit_at_interrupt()  # the imports below take seconds

import cv2
import numpy as np

from cmp.video import open_video
from data_prep.pipeline import initialize_worker, resized
from data_prep.quality import Thresholds, drop_reasons, score_pair
from data_prep.settings import PrepareSettings
from tools.benchmark.quality import read_labels

SHORT_SIDE_PX, MAX_FLOW_PX, NOISE, NUM_CUTS = 208, 25.0, 1.5, 60
Pair = tuple[str, np.ndarray, np.ndarray]  # kind and two frames (H, W, 3) uint8


def bounded(tones: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(tones), 0, 255).astype(np.uint8)


def lit(place: str, gain: float, soft: float) -> Callable[[np.ndarray], np.ndarray]:
    """Another gain on a part of a frame; soft: width of the border, as a share of the short side."""

    def change(image: np.ndarray) -> np.ndarray:
        height, width = image.shape[:2]
        y, x = np.mgrid[:height, :width].astype(np.float32)
        short = min(height, width)
        if place == "blobs":
            small = np.random.default_rng(7).normal(size=(6, 8)).astype(np.float32)
            distance = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC) * short * 0.15
        else:
            disk = short * 0.35 - np.hypot(x - width * 0.6, y - height * 0.45)
            distance = {"left half": width / 2 - x, "lower half": y - height / 2, "disk": disk}[place]
        share = np.clip(distance / (soft * short) + 0.5, 0, 1) if soft else (distance > 0).astype(np.float32)
        return bounded(image * (1 + (gain - 1) * share[..., None]))

    return change


CHANGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "none": lambda image: image,
    **{f"times {gain}": (lambda image, gain=gain: bounded(image * np.float32(gain))) for gain in (0.5, 0.85, 1.6)},
    "plus 40": lambda image: bounded(image + np.float32(40)),
    "gamma 1.6": lambda image: bounded(255 * (image / np.float32(255)) ** 1.6),
    **{
        f"{place} times {gain}{', soft' if soft else ''}": lit(place, gain, soft)
        for place, gain, soft in (
            ("left half", 0.5, 0), ("lower half", 0.6, 0), ("disk", 1.5, 0), ("blobs", 0.6, 0),
            ("left half", 0.5, 0.3), ("blobs", 0.5, 0.2), ("disk", 1.5, 0.3),
        )
    },
}  # fmt: skip


def read_pairs(video_dir: Path, labels: Path, settings: PrepareSettings) -> Iterator[Pair]:
    """All pairs as the module describes them, with the light unchanged."""
    rng = np.random.default_rng(0)
    firsts: list[np.ndarray] = []
    by_label: dict[str, list[Pair]] = defaultdict(list)
    labeled = read_labels(labels)
    for path in sorted(video_dir.iterdir()):
        pairs = labeled.get(path.name, {})
        with open_video(path) as reader:
            wanted = sorted({12, *(index for pair in pairs for index in pair)})
            size_hw = settings.stored_size(reader.size_hw)
            frames = {frame.index: resized(frame.image, size_hw) for frame in reader.read(wanted)}
        firsts.append(frames[12])
        for (one, other), label in sorted(pairs.items()):
            by_label[label].append((label, frames[one], frames[other]))
    for image in firsts[::4]:
        yield "still", *(bounded(image + rng.normal(0, NOISE, image.shape)) for _ in range(2))
    yield from by_label["still"][::2]
    yield from by_label["good"][::4]
    yield from by_label["camera"][::8]
    for number in range(NUM_CUTS):
        one, other = (firsts[i] for i in rng.choice(len(firsts), 2, replace=False))
        other = cv2.resize(other, one.shape[1::-1], interpolation=cv2.INTER_AREA)
        yield "two videos", one, other
        if number < NUM_CUTS // 2:
            start = 0.4 * (number % 2)
            yield "dissolve", *(cv2.addWeighted(one, 1 - t, other, t, 0) for t in (start, start + 0.2))
    yield from by_label["cut"][::2]
    yield from by_label["fade"][::2]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video_dir", type=Path, metavar="VIDEO_DIR")
    parser.add_argument("labels", type=Path, metavar="LABELS")
    args = parser.parse_args(argv)
    initialize_worker()
    settings = PrepareSettings(short_side_px=SHORT_SIDE_PX, max_flow_px=MAX_FLOW_PX)
    estimator, limits = settings.create_estimator(), Thresholds()
    counts: dict[tuple[str, str], Counter] = defaultdict(Counter)
    try:
        for kind, first, second in read_pairs(args.video_dir, args.labels, settings):
            for name, change in CHANGES.items():
                if name == "none" or kind in ("still", "good", "camera"):
                    pair = first, change(second)
                    scores = score_pair(*pair, estimator.estimate(*pair), max_flow_px=MAX_FLOW_PX)
                    counts[kind, name][(drop_reasons(scores, limits) or ["kept"])[0]] += 1
    except (OSError, ValueError, KeyError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("| pairs | change of the second frame | number | gravest reason |\n| --- | --- | --- | --- |")
    for (kind, name), reasons in counts.items():
        said = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
        print(f"| {kind} | {name} | {reasons.total()} | {said} |")
    return 0


if __name__ == "__main__":
    run_command(main)
