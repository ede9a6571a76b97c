"""Measure objects found by poking on images with true masks: IoU from one click, and average recall without clicks.

Example:
    cmp-motion evaluate discover photos photo_masks --checkpoint iter_32000.pth --short-side 160
    cmp-motion evaluate discover val annotations/instances_val.json --checkpoint iter_32000.pth --automatic

IMAGES is a folder. MASKS is a folder of label images with the same names (.png; 0 is background), or COCO's JSON. The
one click is the pixel of the object that is farthest from its border. Cells: mean IoU over objects, from one click, and
with the corners of the image as negative clicks; with --automatic also the average recall (IoU 0.5 to 0.95).
What to expect: docs/discover.md.
"""

import argparse
from collections.abc import Sequence
from typing import Any

from cmp.cli.arguments import CHECKPOINT_HELP, Parser, fail
from cmp.interrupts import imports_can_be_interrupted

METHODS = ("pokes", "pokes-grabcut", "four-directions", "random", "grabcut", "disc", "whole")
TITLES = {
    "pokes": "pokes",
    "pokes-grabcut": "pokes, refined by GrabCut",
    "four-directions": "four directions (annotate)",
    "random": "pokes, random weights",
    "grabcut": "GrabCut",
    "disc": "disc",
    "whole": "whole image",
}


def parse_args(argv: Sequence[str] | None, prog: str) -> argparse.Namespace:
    """Parse the arguments."""
    parser = Parser(prog=prog, description=__doc__)
    parser.add_argument("images", metavar="IMAGES", help="folder of images")
    parser.add_argument("masks", metavar="MASKS", help="folder of label images (.png), or COCO's JSON file")
    parser.add_argument("--checkpoint", default="starter", help=CHECKPOINT_HELP)
    parser.add_argument("--names", metavar="FILE", help="only the images whose names begin the lines of this file")
    parser.add_argument(
        "--instances", action="store_true", help="each value of a label image is one object (default: all are one)"
    )
    parser.add_argument("--every", type=int, default=1, metavar="N", help="every N-th image (default: %(default)s)")
    parser.add_argument(
        "--least-share",
        type=float,
        default=0.0,
        metavar="S",
        help="leave out objects that cover less of the image, 0..1 (default: %(default)s)",
    )
    parser.add_argument(
        "--methods",
        nargs="+",
        choices=METHODS,
        default=list(METHODS),
        metavar="M",
        help=f"of {', '.join(METHODS)} (default: all)",
    )
    parser.add_argument("--no-corners", action="store_true", help="one click only: half the time")
    parser.add_argument(
        "--automatic", action="store_true", help="also search without clicks, for the average recall: slow"
    )
    parser.add_argument(
        "--disc-radius",
        type=float,
        default=0.3,
        metavar="S",
        help="of the disc, a share of the short side (default: %(default)s)",
    )
    parser.add_argument(
        "--short-side",
        type=int,
        metavar="PX",
        help="size for the network and GrabCut, px (default: the image as it is)",
    )
    parser.add_argument("--picture", metavar="FILE", help="also draw up to six images with all masks: .png or .jpg")
    parser.add_argument("--device", default="cpu", help="where to compute (default: %(default)s)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None, *, prog: str = "evaluate.py discover") -> int:
    """Measure and print; returns the exit status."""
    args = parse_args(argv, prog)
    try:
        _run(args)
    except (ValueError, OSError) as error:
        return fail(prog, error)
    return 0


def _run(args: argparse.Namespace) -> None:
    from pathlib import Path

    with imports_can_be_interrupted():
        import numpy as np
        from tqdm import tqdm

        from cmp.evaluation.segments import average_recall, corners_off, iou_from_one_click, list_labeled, read_labeled
        from cmp.files import check_paths, write_file
        from cmp.masks import deepest_point

    if not 0 <= args.least_share <= 1:
        raise ValueError(f"--least-share must be in 0..1, got {args.least_share}")
    if not args.disc_radius > 0:
        raise ValueError(f"--disc-radius must be above 0, got {args.disc_radius}")
    if args.picture and Path(args.picture).suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise ValueError(f"{args.picture}: --picture must end in .png or .jpg")
    check_paths(
        reads={"IMAGES": args.images, "MASKS": args.masks, "--checkpoint": args.checkpoint, "--names": args.names},
        writes={"--picture": args.picture},
    )
    chosen = list_labeled(args.images, args.masks, names=args.names, every=args.every)
    methods, propagator = _methods(args)
    cells: dict[str, dict[str, list[float]]] = {name: {} for name in methods}
    columns = ("one click",) if args.no_corners else ("one click", "with corners")
    drawn = set(np.linspace(0, len(chosen) - 1, min(6, len(chosen))).round().astype(int).tolist())
    sheet, num_objects, num_images = [], 0, 0
    proposals, truths = [], []
    for number, name in enumerate(tqdm(chosen, unit="image", disable=None)):
        for item in read_labeled(args.images, args.masks, [name], instances=args.instances):
            num_images += 1
            for column in columns:
                with_corners = column == "with corners"
                found = iou_from_one_click([item], methods, corners=with_corners, least_share=args.least_share)
                for method, values in found.items():
                    cells[method].setdefault(column, []).extend(values)
            objects = [mask for mask in item.masks if mask.mean() >= args.least_share]
            num_objects += len(objects)
            if args.picture and number in drawn and objects:
                largest = max(objects, key=np.count_nonzero)
                click = deepest_point(largest)[None]
                row = [largest, *(method(item.image, click, corners_off(largest)[:0]) for method in methods.values())]
                sheet.append((item.image, row, click))
            if args.automatic:
                proposals.append(_search(propagator, item.image, args.short_side))
                truths.append(objects)
    if not num_objects:
        raise ValueError(
            f"{args.masks}: no objects of at least {args.least_share:g} of their image; lower --least-share"
        )
    print(f"{num_images} images, {num_objects} objects; mean IoU")
    print("| | " + " | ".join(columns) + " |\n|" + " --- |" * (1 + len(columns)))
    for method, found in cells.items():
        print(f"| {TITLES[method]} | " + " | ".join(f"{np.mean(found[column]):.3f}" for column in columns) + " |")
    if args.automatic:
        count = np.mean([len(masks) for masks in proposals])
        print(f"average recall without clicks: {average_recall(proposals, truths):.3f}, {count:.1f} segments per image")
    if args.picture and sheet:
        write_file(args.picture, _draw(sheet, ["true mask", *(TITLES[m] for m in methods)], Path(args.picture).suffix))


def _methods(args: argparse.Namespace) -> tuple[dict[str, Any], Any]:
    """The methods by name, in the order of METHODS, and the network."""
    from functools import partial

    import numpy as np
    import torch

    from cmp.evaluation.segments import disc_around_clicks, grabcut_from_clicks
    from cmp.inference import MotionPropagator, load_propagator, segment_from_clicks
    from cmp.inference.discover import segment_from_pokes
    from cmp.models import CMP

    trained = load_propagator(args.checkpoint, device=args.device)
    torch.manual_seed(0)
    random = MotionPropagator(CMP.from_description({**trained.network.describe(), "init": "default"})).to(args.device)
    size = dict(short_side_px=args.short_side)

    def poked(propagator, refine, image, clicks, negative):
        return segment_from_pokes(propagator, image, clicks, negative, refine=refine, **size).mask

    every = {
        "pokes": partial(poked, trained, "none"),
        "pokes-grabcut": partial(poked, trained, "grabcut"),
        "four-directions": lambda image, clicks, no: segment_from_clicks(trained, image, clicks, no, **size)[1],
        "random": partial(poked, random, "none"),
        "grabcut": lambda image, clicks, negative: grabcut_from_clicks(image, clicks, negative, args.short_side),
        "disc": partial(disc_around_clicks, radius=args.disc_radius),
        "whole": lambda image, clicks, negative: np.ones(image.shape[:2], bool),
    }
    return {name: method for name, method in every.items() if name in args.methods}, trained


def _search(propagator: Any, image: Any, short_side_px: int | None) -> list:
    from cmp.inference.discover import discover_segments

    found = discover_segments(propagator, image, short_side_px=short_side_px)
    return [segment.mask for segment in found.segments]


def _draw(sheet: list, titles: list[str], suffix: str, width: int = 200) -> bytes:
    """One row per image, one column per mask, the names on top."""
    import cv2
    import numpy as np

    from cmp.inference.annotate import draw_mask

    rows = [np.full((24, width * len(titles), 3), 255, np.uint8)]
    for column, title in enumerate(titles):
        where = (column * width + 4, 16)
        cv2.putText(rows[0], title, where, cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 1, cv2.LINE_AA)
    for image, masks, click in sheet:
        size = (width, round(width * image.shape[0] / image.shape[1]))
        drawn = [cv2.resize(draw_mask(image, mask, click), size, interpolation=cv2.INTER_AREA) for mask in masks]
        rows.append(np.concatenate(drawn, axis=1))
    return cv2.imencode(suffix, cv2.cvtColor(np.concatenate(rows), cv2.COLOR_RGB2BGR))[1].tobytes()
