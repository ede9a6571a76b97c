"""Segment an object: clicks in, a mask out.

Example:
    cmp-motion annotate cat mask.png --checkpoint quickstart_out/run/iter_300.pth --click 220,150 --negative 20,20

The mask is white (255) on black, at the image's size. OUT_overlay.png shows the image with mask and clicks.
Pixels count from 0 at the top left. What to expect: docs/annotate.md.
"""

import argparse
from collections.abc import Sequence

from cmp.cli.arguments import CHECKPOINT_HELP, IMAGE_HELP, Parser, click, fail
from cmp.interrupts import imports_can_be_interrupted


def parse_args(argv: Sequence[str] | None, prog: str) -> argparse.Namespace:
    """Parse the arguments."""
    parser = Parser(prog=prog, description=__doc__)
    parser.add_argument("image", metavar="IMAGE", help=IMAGE_HELP)
    parser.add_argument("out", metavar="OUT", help="mask to write, in an existing folder: .png")
    parser.add_argument("--checkpoint", default="starter", help=CHECKPOINT_HELP)
    parser.add_argument(
        "--click", action="append", required=True, type=click, metavar="X,Y", help="on the object, px; repeat it"
    )
    parser.add_argument(
        "--negative",
        action="append",
        default=[],
        type=click,
        metavar="X,Y",
        help="outside the object, px; repeat it",
    )
    parser.add_argument("--threshold", type=float, default=0.5, help="of the score, 0..1 (default: %(default)s)")
    parser.add_argument(
        "--length", type=float, default=10.0, help="of the test motion, px of the working size (default: %(default)s)"
    )
    parser.add_argument(
        "--short-side",
        type=int,
        help="resize to this before the network, px (default: what it was trained at)",
    )
    parser.add_argument("--device", default="cpu", help="where to compute (default: %(default)s)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None, *, prog: str = "annotate.py") -> int:
    """Annotate; returns the exit status."""
    args = parse_args(argv, prog)
    with imports_can_be_interrupted():
        from cmp.inference.annotation import annotate_file
    try:
        mask, overlay = annotate_file(
            args.image,
            args.out,
            args.checkpoint,
            args.click,
            args.negative,
            threshold=args.threshold,
            length_px=args.length,
            short_side_px=args.short_side,
            device=args.device,
        )
    except (ValueError, OSError) as error:
        return fail(prog, error)
    print(f"{args.out}: {100 * mask.mean():.1f} % of the image; overlay: {overlay}")
    return 0
