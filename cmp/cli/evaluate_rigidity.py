"""Measure whether rigid parts move as wholes when one or two of their points move.

Example:
    cmp-motion evaluate rigidity --checkpoint iter_32000.pth --picture rigid.png
    cmp-motion evaluate rigidity --checkpoint iter_32000.pth --pair frame10.png flow10.flo

Without --pair the scenes are made: parts of scikit-image's photographs shift, turn (15 degrees) or are hinged (an arm)
in front of other photographs, with exact flow. Each part gets one or two points; points on the border stay. Cells:
follows, how much of its true motion a part makes (1: all); leaks, motion of what stays, as a share of the parts' (0:
none); turn, the fitted turn as a share of the true one (1: it turns, 0: it shifts). More: docs/rigidity.md.
"""

import argparse
from collections.abc import Sequence
from typing import Any

from cmp.cli.arguments import CHECKPOINT_HELP, Parser, fail
from cmp.interrupts import imports_can_be_interrupted

PHOTOGRAPHS = ("chelsea", "coffee", "rocket", "astronaut")


def parse_args(argv: Sequence[str] | None, prog: str) -> argparse.Namespace:
    """Parse the arguments."""
    parser = Parser(prog=prog, description=__doc__)
    parser.add_argument("--checkpoint", default="starter", help=CHECKPOINT_HELP)
    parser.add_argument(
        "--pair",
        nargs=2,
        action="append",
        default=[],
        metavar=("IMAGE", "FLOW"),
        help="measured flow instead: an image and its .flo or KITTI .png file; repeat it",
    )
    parser.add_argument(
        "--short-side",
        type=int,
        default=160,
        metavar="PX",
        help="of the scenes, px, at least 64 (default: %(default)s)",
    )
    parser.add_argument("--picture", metavar="FILE", help="also draw scenes: image, true flow, predicted flows; .png")
    parser.add_argument("--device", default="cpu", help="where to compute (default: %(default)s)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None, *, prog: str = "evaluate.py rigidity") -> int:
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
        from cmp.evaluation.rigidity import interpolation_methods, measure_rigidity
        from cmp.files import check_paths
        from cmp.inference import load_propagator
        from cmp.video.writers import write_png

    if args.short_side < 64:
        raise ValueError(f"--short-side must be at least 64, got {args.short_side}")
    if args.picture and Path(args.picture).suffix.lower() != ".png":
        raise ValueError(f"{args.picture}: --picture must end in .png")
    files = [path for pair in args.pair for path in pair]
    check_paths(reads={"--checkpoint": args.checkpoint, "--pair": files}, writes={"--picture": args.picture})
    scenes = _read_scenes(args)
    propagator = load_propagator(args.checkpoint, device=args.device)

    def network(image, points_yx, vectors_xy):
        flow = propagator.predict(image, points_yx[:, ::-1].copy(), vectors_xy)
        return flow[0].permute(1, 2, 0).cpu().numpy()

    methods = {"network": network, **interpolation_methods()}
    means = measure_rigidity(scenes, methods)
    print(f"{len(scenes)} scenes, {sum(len(scene.parts) for scene in scenes)} parts")
    print("| scenes | points per part | method | follows | leaks | turn |\n|" + " --- |" * 6)
    for (kind, method, count), score in sorted(means.items(), key=lambda entry: (entry[0][0], entry[0][2])):
        cells = (f"{value:.2f}" if value == value else "-" for value in score)
        print(f"| {kind} | {count} | {method.replace('_', ' ')} | " + " | ".join(cells) + " |")
    if args.picture:
        write_png(args.picture, draw_scenes(scenes[:6], {"network": network, "fading": methods["fading"]}))


def _read_scenes(args: argparse.Namespace) -> list:
    """The made scenes, or one per pair of image and flow, at the short side."""
    import numpy as np
    from skimage import data

    from cmp.datasets.transforms import FlowPair, Resize
    from cmp.evaluation.rigidity import Scene, made_scenes, parts_of_flow
    from cmp.flow import read_flow
    from cmp.inference.inputs import read_image

    if not args.pair:
        return made_scenes({name: getattr(data, name)() for name in PHOTOGRAPHS}, args.short_side)
    scenes = []
    for image_path, flow_path in args.pair:
        image, (flow, valid) = read_image(image_path), read_flow(flow_path, return_valid=True)
        if image.shape[:2] != flow.shape[:2]:
            raise ValueError(
                f"{flow_path}: must have the size of {image_path}, {image.shape[:2]}, got {flow.shape[:2]}"
            )
        pair = FlowPair(image, np.where(valid[..., None], flow, np.float32(0)), valid)
        image, field, valid = Resize(args.short_side)(pair, np.random.default_rng(0))
        flow = np.asarray(field)
        parts = parts_of_flow(flow, valid)
        if not parts:
            raise ValueError(f"{flow_path}: has no region of 1 % of the image without motion edges; leave it out")
        scenes.append(Scene(str(image_path), "flow", np.ascontiguousarray(image), parts, flow, valid))
    return scenes


def draw_scenes(scenes: Sequence, methods: dict, width: int = 200) -> Any:
    """One row per scene: the image with its points, the true flow, and of each method the flow from one and two points.

    All flows of a row have one color scale, the longest true motion.
    """
    import cv2
    import numpy as np

    from cmp.evaluation.rigidity import guidance_of
    from cmp.flow import flow_to_color

    titles = ["image, 2 points per part", "true flow"]
    titles += [f"{name}, {count} per part" for name in methods for count in (1, 2)]
    rows = [np.full((22, width * len(titles), 3), 255, np.uint8)]
    for column, title in enumerate(titles):
        where = (column * width + 4, 15)
        cv2.putText(rows[0], title, where, cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 1, cv2.LINE_AA)
    for scene in scenes:
        longest = float(np.linalg.norm(scene.flow, axis=2).max())
        image = scene.image.copy()
        points, vectors = guidance_of(scene, 2)
        for (y, x), vector in zip(points.tolist(), vectors):
            end = tuple(int(value) for value in np.round((x, y) + vector))
            cv2.arrowedLine(image, (x, y), end, (255, 220, 60), 1, cv2.LINE_AA, tipLength=0.3)
            cv2.circle(image, (x, y), 2, (40, 230, 60) if vector.any() else (240, 30, 30), -1, cv2.LINE_AA)
        cells = [image, flow_to_color(scene.flow, max_flow_px=longest)]
        for method in methods.values():
            for count in (1, 2):
                predicted = method(scene.image, *guidance_of(scene, count))
                cells.append(flow_to_color(predicted, max_flow_px=longest))
        size = (width, round(width * image.shape[0] / image.shape[1]))
        rows.append(np.concatenate([cv2.resize(cell, size, interpolation=cv2.INTER_AREA) for cell in cells], axis=1))
    return np.concatenate(rows)
