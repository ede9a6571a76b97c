"""Measure masks from clicks: IoU of our annotation, of GrabCut seeded with the same clicks, and of trivial answers.

    python tools/benchmark/annotate.py DATA_DIR --checkpoint iter_300.pth --short-side 160
    python tools/benchmark/annotate.py DATA_DIR --checkpoint iter_300.pth --short-side 160 --picture annotate.jpg

DATA_DIR holds any of ccp/ (images, labels, val.txt: the person is every label but 0; all 30 pictures of val.txt) and
frames_bmx-trees/ (images, masks; every eighth of its 80 frames). The click is the point deepest in the mask's largest
part, so it is the same for all. Negative clicks are those of the image's four corners that are not on the object.
Cells: mean IoU of the mask with the true one.

GrabCut: cv2.grabCut on the image at the size the network sees, 5 iterations; sure foreground (background) is a disc of
a fortieth of the short side around each click (negative click); the rest is probably what the nearest click is or,
without negative clicks, probable foreground within a third of the short side of a click. The disc control is a disc
around the click whose radius, a share of the short side, is the best on every sixth picture of ccp's train.txt; it is
the one thing that is fitted here.
The table in docs/annotate.md comes from here.
"""

import argparse
import sys
from pathlib import Path

from cmp.interrupts import exit_at_interrupt, run_command

if __name__ == "__main__":
    exit_at_interrupt()  # the imports below take seconds

import cv2
import numpy as np
import torch
from tqdm import tqdm

from cmp import images
from cmp.datasets.list_file import ListFile
from cmp.evaluation.segments import corners_off
from cmp.evaluation.segments import grabcut_from_clicks as grabcut
from cmp.files import write_file
from cmp.inference import MotionPropagator, load_propagator, segment_from_clicks
from cmp.inference.annotate import draw_mask
from cmp.inference.inputs import read_image
from cmp.masks import deepest_point, distance_to
from cmp.masks import mask_iou as iou
from cmp.models import CMP

RADII = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)  # of the short side
Picture = tuple[np.ndarray, np.ndarray]  # (H, W, 3) uint8, (H, W) bool


def read_label(path: Path) -> np.ndarray:
    return images.read_label(path) > 0


def read_ccp(folder: Path, split: str, step: int) -> list[Picture]:
    lines = ListFile(folder / f"{split}.txt")
    names = [lines.words(index)[0] for index in range(0, len(lines), step)]
    return [(read_image(folder / f"images/{name}.jpg"), read_label(folder / f"labels/{name}.png")) for name in names]


def read_sets(root: Path) -> dict[str, list[Picture]]:
    """Pictures and true masks of each set that is there, by the set's name."""
    sets = {}
    if (root / "ccp").is_dir():
        sets["ccp"] = read_ccp(root / "ccp", "val", 1)
    frames = root / "frames_bmx-trees"
    if frames.is_dir():
        images = sorted((frames / "images").glob("*.jpg"))[::8]
        sets["bmx-trees"] = [(read_image(path), read_label(frames / f"masks/{path.stem}.png")) for path in images]
    return {name: [picture for picture in pictures if picture[1].any()] for name, pictures in sets.items()}


def click_of(mask: np.ndarray) -> np.ndarray:
    """(1, 2) px (x, y): the pixel of the mask's largest part that is farthest from its border."""
    return deepest_point(mask)[None]


def best_radius(pictures: list[Picture]) -> float:
    """Share of the short side whose disc has the best mean IoU."""

    def mean_iou(radius: float) -> float:
        return np.mean([iou(distance_to(click_of(t), t.shape) <= radius * min(t.shape), t) for _, t in pictures])

    return max(RADII, key=mean_iou)


def draw(rows: list[list[np.ndarray]], names: tuple[str, ...], width: int = 220) -> np.ndarray:
    """One row a picture, one column a mask, the names on top."""
    title = np.full((24, width * len(names), 3), 255, np.uint8)
    for i, name in enumerate(names):
        cv2.putText(title, name, (i * width + 6, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.48, (0, 0, 0), 1, cv2.LINE_AA)
    scaled = []
    for row in rows:
        size = (width, round(width * row[0].shape[0] / row[0].shape[1]))
        scaled.append(np.concatenate([cv2.resize(p, size, interpolation=cv2.INTER_AREA) for p in row], axis=1))
    return np.concatenate([title, *scaled])


def main(argv: list[str] | None = None) -> int:
    """Measure and print; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("data_dir", type=Path, metavar="DATA_DIR", help="folder with the sets")
    parser.add_argument("--checkpoint", required=True, help="network to measure, ours or the authors'")
    parser.add_argument("--short-side", type=int, help="px that the network sees (default: the image as it is)")
    parser.add_argument("--length", type=float, default=10.0, help="of the dummy motion, px (default: %(default)s)")
    parser.add_argument("--pictures", type=int, metavar="N", help="at most so many of a set (default: all)")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="also draw three pictures of each set")
    args = parser.parse_args(argv)
    try:
        sets = {name: pictures[: args.pictures] for name, pictures in read_sets(args.data_dir).items()}
        if not any(sets.values()):
            raise ValueError(f"{args.data_dir}: holds neither ccp/ nor frames_bmx-trees/")
        trained = load_propagator(args.checkpoint)
        torch.manual_seed(0)
        random = MotionPropagator(CMP.from_description({**trained.network.describe(), "init": "default"}))
        radius = best_radius(read_ccp(args.data_dir / "ccp", "train", 6)) if "ccp" in sets else 0.2
    except (ValueError, OSError) as error:
        print(f"annotate.py: {error}", file=sys.stderr)
        return 1

    def ours(propagator: MotionPropagator):
        how = dict(length_px=args.length, short_side_px=args.short_side)
        return lambda image, clicks, negative: segment_from_clicks(propagator, image, clicks, negative, **how)[1]

    def disc(image, clicks, negative):
        return distance_to(clicks, image.shape[:2]) <= radius * min(image.shape[:2])

    methods = {
        "ours, trained": ours(trained),
        "ours, random weights": ours(random),
        "GrabCut": lambda image, clicks, negative: grabcut(image, clicks, negative, args.short_side),
        "nearest click": lambda im, clicks, no: distance_to(clicks, im.shape[:2]) < distance_to(no, im.shape[:2]),
        f"disc, {radius:g} of the short side": disc,
        "whole image": lambda image, clicks, negative: np.ones(image.shape[:2], bool),
    }
    scores, shown = {}, []
    for name, pictures in sets.items():
        for i, (image, truth) in enumerate(tqdm(pictures, desc=name, unit="picture", disable=None)):
            clicks, corners = click_of(truth), corners_off(truth)
            for kind, negative in (("one click", corners[:0]), ("with corners", corners)):
                masks = {method: segment(image, clicks, negative) for method, segment in methods.items()}
                for method, mask in masks.items():
                    scores.setdefault((method, name, kind), []).append(iou(mask, truth))
            if i in np.linspace(0, len(pictures) - 1, 3).astype(int):
                row = (truth, *(masks[method] for method in list(methods)[:3]))
                shown.append([draw_mask(image, mask, clicks, corners) for mask in row])
    columns = [(name, kind) for name in sets for kind in ("one click", "with corners")]
    print("pictures: " + ", ".join(f"{len(p)} {n}" for n, p in sets.items()) + "; cells: mean IoU")
    print("| | " + " | ".join(f"{name}, {kind}" for name, kind in columns) + " |\n|" + " --- |" * (len(columns) + 1))
    for method in methods:
        print(f"| {method} | " + " | ".join(f"{np.mean(scores[(method, *column)]):.3f}" for column in columns) + " |")
    if args.picture:
        sheet = cv2.cvtColor(draw(shown, ("truth", *list(methods)[:3])), cv2.COLOR_RGB2BGR)
        write_file(args.picture, cv2.imencode(args.picture.suffix, sheet)[1].tobytes())
    return 0


if __name__ == "__main__":
    run_command(main)
