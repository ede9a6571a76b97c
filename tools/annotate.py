"""Clicks in, the mask of an object out.

Example:
    python tools/annotate.py bear.jpg mask.png --checkpoint ckpt_iter_42000.pth.tar --click 120,80 --negative 20,20

The mask is white (255) on black, at the image's size. Beside it comes OUT_overlay.png: the image with mask and clicks.
Pixels count from 0 at the top left. What to expect: docs/annotate.md.
"""

import argparse
import os
import sys
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the checkout's own packages, installed or not

from cmp.inference import load_propagator, segment_from_clicks
from cmp.inference.annotate import draw_mask
from cmp.inference.inputs import read_image


def parse_point(text: str) -> list[float]:
    try:
        values = [float(value) for value in text.split(",")]
    except ValueError:
        values = []
    if len(values) != 2:
        raise argparse.ArgumentTypeError(f"a click is x,y, got {text!r}")
    return values


def write_png(path: Path, picture: np.ndarray) -> None:
    """The file gets its name when it is whole."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        Image.fromarray(picture).save(temporary, format="PNG")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("image", metavar="IMAGE", help="any picture that Pillow reads")
    parser.add_argument("out", metavar="OUT", help="mask to write: .png")
    parser.add_argument("--checkpoint", required=True, help="network: ours or the authors', torch file or safetensors")
    parser.add_argument(
        "--click", action="append", required=True, type=parse_point, metavar="X,Y", help="on the object, px; repeat it"
    )
    parser.add_argument(
        "--negative", action="append", default=[], type=parse_point, metavar="X,Y", help="beside the object; repeat it"
    )
    parser.add_argument("--threshold", type=float, default=0.5, help="of the score, 0..1 (default: %(default)s)")
    parser.add_argument(
        "--length", type=float, default=10.0, help="of the dummy motion, px of the working size (default: %(default)s)"
    )
    parser.add_argument(
        "--short-side",
        type=int,
        help="resize to this before the network, px: best what it was trained on (default: the image as it is)",
    )
    parser.add_argument("--device", default="cpu", help="where to compute (default: %(default)s)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Annotate; returns the exit status."""
    args = parse_args(argv)
    out = Path(args.out)
    overlay = out.with_name(f"{out.stem}_overlay.png")
    try:
        if out.suffix.lower() != ".png":
            raise ValueError(f"OUT must end in .png, got {out}")
        if Path(args.image).resolve() in (out.resolve(), overlay.resolve()):
            raise ValueError(f"{args.image} would be overwritten: OUT must be another file than IMAGE")
        image = read_image(args.image)
        propagator = load_propagator(args.checkpoint, device=args.device)
        _, mask = segment_from_clicks(
            propagator,
            image,
            args.click,
            args.negative,
            threshold=args.threshold,
            length_px=args.length,
            short_side_px=args.short_side,
        )
        write_png(overlay, draw_mask(image, mask, args.click, args.negative))
        write_png(out, np.where(mask, np.uint8(255), np.uint8(0)))
    except (ValueError, OSError) as error:
        print(f"annotate.py: {error}", file=sys.stderr)
        return 2
    print(f"{out}: {100 * mask.mean():.1f} % of the image; overlay: {overlay}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
