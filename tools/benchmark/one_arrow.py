"""Draw what one arrow moves on photographs that nobody trained on: nearest point, fading interpolation, network.

    python tools/benchmark/one_arrow.py one_arrow.png                                   # the starter network
    python tools/benchmark/one_arrow.py one_arrow.png --checkpoint iter_300.pth --short-side 160

The photographs are those that scikit-image brings. One point on the object moves, and --still points on the border of
the image do not. The columns have one color scale per row; their titles name them. Look at the sheet and decide which
rows look right: the object under the arrow moves, and the rest does not.
"""

import argparse

from cmp.interrupts import exit_at_interrupt, run_command

if __name__ == "__main__":
    exit_at_interrupt()  # the imports below take seconds

import numpy as np
import skimage.data
import torch

from cmp.checkpoints import read_checkpoint
from cmp.evaluation.interpolations import INTERPOLATIONS
from cmp.evaluation.pictures import SheetRow, flow_sheet
from cmp.inference import load_propagator
from cmp.inference.inputs import resize_image
from cmp.video.writers import write_png

ASPECT = 4 / 3  # width to height of what is shown
# Name in skimage.data, where the cut of 4:3 lies in what is cut off (0: left or top, 1: right or bottom), start of the
# arrow (x, y) as shares of the cut, arrow (x, y) as shares of its height.
PHOTOGRAPHS = (
    ("chelsea", 0.5, (0.52, 0.50), (0.07, 0.02)),
    ("astronaut", 0.0, (0.44, 0.30), (0.08, 0.0)),
    ("astronaut", 1.0, (0.40, 0.60), (-0.08, 0.0)),
    ("coffee", 0.5, (0.47, 0.42), (0.0, -0.08)),
    ("rocket", 0.5, (0.50, 0.50), (0.0, -0.08)),
    ("camera", 0.3, (0.32, 0.50), (0.08, 0.0)),
    ("horse", 0.5, (0.45, 0.42), (0.08, 0.0)),
    ("motorcycle", 0.5, (0.50, 0.58), (0.08, 0.0)),
    ("coins", 0.0, (0.52, 0.24), (0.08, 0.0)),
    ("hubble_deep_field", 0.5, (0.78, 0.40), (0.06, 0.06)),
)


def photograph(name: str, place: float) -> np.ndarray:
    """(H, W, 3) uint8, cut to 4:3."""
    if name == "motorcycle":
        image = skimage.data.stereo_motorcycle()[0]
    elif name == "horse":  # a silhouette: black on white
        image = np.where(skimage.data.horse(), 255, 0).astype(np.uint8)
    else:
        image = getattr(skimage.data, name)()
    image = np.stack([image] * 3, axis=2) if image.ndim == 2 else image[..., :3]
    height, width = image.shape[:2]
    new = min(height, round(width / ASPECT)), min(width, round(height * ASPECT))
    top, left = (round(place * (side - kept)) for side, kept in zip((height, width), new))
    return np.ascontiguousarray(image[top : top + new[0], left : left + new[1]])


def still_points(size_hw: tuple[int, int], number: int) -> np.ndarray:
    """(number, 2) positions (y, x) on the border of the image, evenly spread."""
    height, width = size_hw
    steps = np.arange(number) * (2 * (height + width) / max(number, 1))
    corners = np.array([[0, 0], [0, width - 1], [height - 1, width - 1], [height - 1, 0], [0, 0]])
    lengths = np.array([0, width, width + height, 2 * width + height, 2 * (width + height)])
    return np.stack([np.interp(steps, lengths, corners[:, k]) for k in (0, 1)], axis=1).round().astype(int)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("out", metavar="OUT", help="PNG to write")
    parser.add_argument("--checkpoint", default="starter", help="ours or Zhan et al.'s (default: the starter network)")
    parser.add_argument(
        "--short-side", type=int, metavar="PX", help="of the image that the network sees (default: as trained)"
    )
    parser.add_argument(
        "--still", type=int, default=8, metavar="N", help="still points on the border (default: %(default)s)"
    )
    args = parser.parse_args(argv)
    checkpoint = read_checkpoint(args.checkpoint)
    propagator = load_propagator(checkpoint)
    short_side = args.short_side or checkpoint.short_side_px
    rows = []
    height, width = short_side, round(short_side * ASPECT)
    for name, place, start, arrow in PHOTOGRAPHS:
        image = resize_image(photograph(name, place), (height, width))
        points_yx = np.array([[round(start[1] * height), round(start[0] * width)]])
        vectors = np.array([arrow]) * short_side
        points_yx = np.concatenate([points_yx, still_points((height, width), args.still)])
        vectors = np.concatenate([vectors, np.zeros((args.still, 2))])
        flows = {
            title: INTERPOLATIONS[key][1](points_yx, vectors, (height, width))
            for title, key in (("nearest point", "nearest"), ("fading", "fading"))
        }
        flows["network"] = propagator.predict(image, points_yx[:, ::-1].copy(), vectors)[0].permute(1, 2, 0).numpy()
        rows.append(SheetRow(image, points_yx[:1], vectors[:1], flows, float(np.hypot(*vectors[0]))))
    write_png(args.out, flow_sheet(rows))
    print(f"{args.out}: {len(rows)} photographs, short side {short_side} px, {args.still} still points on the border")
    return 0


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    run_command(main)
