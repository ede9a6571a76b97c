"""Animate an image: arrows or tracks in, a video out.

Example:
    cmp-motion animate cat cat.mp4 --arrow 120,80,150,70 --frames 25
    cmp-motion animate cat cat.mp4 --arrows arrows.json
    cmp-motion animate bear.jpg bear.gif --checkpoint ckpt_iter_42000.pth.tar --tracks tracks.json

An arrow gives where a pixel ends; an arrow of length 0 keeps it still. A file of arrows is what the playground saves: a
JSON list of arrows [x0, y0, x1, y1], or {"size": [width, height], "arrows": [...]} where the arrows are in pixels of an
image of that size; they are scaled to IMAGE and may end outside it. A file of tracks is a JSON list of tracks, each
a list of [x, y] over the whole time; positions between are interpolated. Positions are pixels of IMAGE, counted from 0
at the top left, and lie inside it. The network sees the image at --short-side; the video has the size of IMAGE (photos
of more than 8.4 million pixels are shrunk to that). How pixels are moved, and what fills what they uncover:
docs/animate.md.
"""

import argparse
from collections.abc import Sequence

from cmp.cli.arguments import CHECKPOINT_HELP, IMAGE_HELP, Parser, fail, numbers, say
from cmp.cli.choices import ANIMATION_METHODS, MAX_FRAMES
from cmp.interrupts import imports_can_be_interrupted


def arrow(text: str) -> list[float]:
    """An arrow "x0,y0,x1,y1", px."""
    return numbers(text, "x0,y0,x1,y1", "an arrow")


def parse_args(argv: Sequence[str] | None, prog: str) -> argparse.Namespace:
    """Parse the arguments."""
    parser = Parser(prog=prog, description=__doc__)
    parser.add_argument("image", metavar="IMAGE", help=IMAGE_HELP)
    parser.add_argument("out", metavar="OUT", help="video to write, in an existing folder: .mp4 or .gif")
    parser.add_argument("--checkpoint", default="starter", help=CHECKPOINT_HELP)
    motion = parser.add_mutually_exclusive_group(required=True)
    motion.add_argument(
        "--arrow", action="append", type=arrow, metavar="X0,Y0,X1,Y1", help="from where to where, px; repeat it"
    )
    motion.add_argument("--arrows", metavar="JSON", help="file of arrows, as the playground saves it")
    motion.add_argument("--tracks", metavar="JSON", help="file of tracks instead of arrows")
    parser.add_argument(
        "--method",
        choices=ANIMATION_METHODS,
        default="splat",
        help="move pixels forward and fill holes from behind, or fetch them backward (default: %(default)s)",
    )
    parser.add_argument(
        "--uncovered", metavar="VIDEO", help="also write a video that is white where OUT shows what IMAGE does not"
    )
    parser.add_argument(
        "--short-side",
        type=int,
        metavar="PX",
        help="size of the image for the network (default: what it was trained at; the image as it is if its file does "
        "not state it)",
    )
    parser.add_argument(
        "--frames", type=int, default=25, help=f"frames of the video, 2 to {MAX_FRAMES} (default: %(default)s)"
    )
    parser.add_argument("--fps", type=float, default=12.5, help="frames per second (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="where to compute (default: %(default)s)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None, *, prog: str = "animate.py") -> int:
    """Animate; returns the exit status."""
    args = parse_args(argv, prog)
    if not 2 <= args.frames <= MAX_FRAMES:
        say(prog, f"--frames must be at least 2 and at most {MAX_FRAMES}, got {args.frames}")
        return 2
    with imports_can_be_interrupted():
        from cmp.inference.animation import animate_file
    try:
        done = animate_file(
            args.image,
            args.out,
            args.checkpoint,
            arrows=args.arrow,
            arrows_file=args.arrows,
            tracks=args.tracks,
            method=args.method,
            uncovered=args.uncovered,
            short_side_px=args.short_side,
            frames=args.frames,
            fps=args.fps,
            device=args.device,
        )
    except (ValueError, OSError) as error:
        return fail(prog, error)
    if done.shrunk:
        say(prog, f"{args.image}: shrunk to {done.size_hw[1]} x {done.size_hw[0]} px")
    also = f"; uncovered pixels: {args.uncovered}" if args.uncovered else ""
    print(f"{args.out}: {args.frames} frames{also}")
    return 0
