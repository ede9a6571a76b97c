"""Find objects in an image by poking it: what the network expects to move along belongs together.

Example:
    cmp-motion discover street.jpg found --checkpoint iter_32000.pth
    cmp-motion discover street.jpg found --click 120,80 --negative 20,20

Without --click the whole image is searched; with it, the object under the clicks. OUT is a folder and gets mask_000.png
and so on (white on black, at the image's size, best first), segments.json (COCO's results with run lengths, and the
settings), picture.png (the masks over the image) and affordance.png (where the network expects motion at all; only
without --click). Pixels count from 0 at the top left. What to expect: docs/discover.md.
"""

import argparse
from collections.abc import Sequence

from cmp.cli.arguments import CHECKPOINT_HELP, IMAGE_HELP, Parser, click, fail
from cmp.interrupts import imports_can_be_interrupted


def parse_args(argv: Sequence[str] | None, prog: str) -> argparse.Namespace:
    """Parse the arguments."""
    parser = Parser(prog=prog, description=__doc__)
    parser.add_argument("image", metavar="IMAGE", help=IMAGE_HELP)
    parser.add_argument("out", metavar="OUT", help="folder to write; results of an earlier call in it are replaced")
    parser.add_argument("--checkpoint", default="starter", help=CHECKPOINT_HELP)
    parser.add_argument(
        "--click", action="append", default=[], type=click, metavar="X,Y", help="on the object, px; repeat it"
    )
    parser.add_argument(
        "--negative",
        action="append",
        default=[],
        type=click,
        metavar="X,Y",
        help="does not move, px: outside the object, or background; repeat it",
    )
    parser.add_argument(
        "--threshold", type=float, help="of the score, 0..1; only with --click (default: Otsu's threshold)"
    )
    parser.add_argument(
        "--refine",
        choices=("none", "grabcut"),
        default="none",
        help="fit each mask to the colors of the image (default: %(default)s)",
    )
    parser.add_argument("--pokes", type=int, metavar="N", help="places to poke without --click (default: 40)")
    parser.add_argument(
        "--max-segments", type=int, metavar="N", help="objects to write at most without --click (default: 12)"
    )
    parser.add_argument(
        "--border-points",
        type=int,
        default=4,
        metavar="N",
        help="points on each side of the image that stay, corners included; 0: none (default: %(default)s)",
    )
    parser.add_argument(
        "--short-side",
        type=int,
        metavar="PX",
        help="resize to this before the network, px (default: what it was trained at)",
    )
    parser.add_argument("--device", default="cpu", help="where to compute (default: %(default)s)")
    args = parser.parse_args(argv)
    if args.click and (args.pokes is not None or args.max_segments is not None):
        parser.error("--pokes and --max-segments are for a search without --click")
    if not args.click and args.threshold is not None:
        parser.error("--threshold needs --click; without it each object has its own")
    return args


def main(argv: Sequence[str] | None = None, *, prog: str = "discover.py") -> int:
    """Find objects; returns the exit status."""
    args = parse_args(argv, prog)
    with imports_can_be_interrupted():
        from cmp.inference.discovered_files import discover_file

    try:
        segments = discover_file(
            args.image,
            args.out,
            args.checkpoint,
            clicks_xy=args.click,
            negative_xy=args.negative,
            threshold=args.threshold,
            refine=args.refine,
            num_places=40 if args.pokes is None else args.pokes,
            max_segments=12 if args.max_segments is None else args.max_segments,
            border_points=args.border_points,
            short_side_px=args.short_side,
            device=args.device,
        )
    except (ValueError, OSError) as error:
        return fail(prog, error)
    shares = ", ".join(f"{100 * segment.mask.mean():.1f} %" for segment in segments)
    print(f"{args.out}: {len(segments)} objects" + (f", {shares} of the image" if segments else ""))
    return 0
