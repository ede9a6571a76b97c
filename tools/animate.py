"""Set an image in motion: arrows or tracks in, a film out.

Example:
    python tools/animate.py bear.jpg bear.mp4 --checkpoint ckpt_iter_42000.pth.tar --arrow 120,80,150,70 --frames 25
    python tools/animate.py bear.jpg bear.gif --checkpoint cmp.safetensors --tracks tracks.json

An arrow says where a pixel ends; arrows of no length hold still. A file of tracks is a JSON list of tracks, each a list
of [x, y] over the whole time; positions between are interpolated. Pixels count from 0 at the top left. How the pixels
are moved, and what becomes of what they uncover: docs/animate.md.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the checkout's own packages, installed or not

import numpy as np

from cmp.inference import interpolate_tracks, load_propagator, tracks_to_guidance
from cmp.inference.animate import METHODS, animate, animate_flows
from cmp.inference.inputs import read_image
from cmp.video import check_video_path, write_video


def parse_arrow(text: str) -> list[float]:
    try:
        values = [float(value) for value in text.split(",")]
    except ValueError:
        values = []
    if len(values) != 4:
        raise argparse.ArgumentTypeError(f"an arrow is x0,y0,x1,y1, got {text!r}")
    return values


def read_tracks(path: str) -> list:
    """The tracks in a JSON file, still unchecked but for being a list that is not empty."""
    try:
        tracks = json.loads(Path(path).read_text())
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    if not isinstance(tracks, list) or not tracks:
        raise ValueError(f"{path} must hold a list of tracks [[[x, y], ...], ...] that is not empty")
    return tracks


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("image", metavar="IMAGE", help="any picture that Pillow reads")
    parser.add_argument("out", metavar="OUT", help="film to write: .mp4 or .gif")
    parser.add_argument("--checkpoint", required=True, help="network: ours or the authors', torch file or safetensors")
    motion = parser.add_mutually_exclusive_group(required=True)
    motion.add_argument(
        "--arrow", action="append", type=parse_arrow, metavar="X0,Y0,X1,Y1", help="from where to where, px; repeat it"
    )
    motion.add_argument("--tracks", metavar="JSON", help="file of tracks instead of arrows")
    parser.add_argument(
        "--method",
        choices=METHODS,
        default="splat",
        help="throw pixels forward and fill holes from behind, or fetch them backward (default: %(default)s)",
    )
    parser.add_argument(
        "--uncovered", metavar="FILM", help="also write a film that is white where OUT shows what IMAGE does not"
    )
    parser.add_argument("--frames", type=int, default=25, help="frames of the film (default: %(default)s)")
    parser.add_argument("--fps", type=float, default=12.5, help="frames per second (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="where to compute (default: %(default)s)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Animate; returns the exit status."""
    args = parse_args(argv)
    try:
        if args.frames < 2:
            raise ValueError(f"--frames must be at least 2, got {args.frames}")
        films = [check_video_path(path).resolve() for path in (args.out, args.uncovered) if path]
        if len(set(films)) < len(films):
            raise ValueError(f"OUT and --uncovered must be two files, got {args.out} for both")
        image = read_image(args.image)
        propagator = load_propagator(args.checkpoint, device=args.device)
        how = dict(method=args.method, return_uncovered=True)
        if args.tracks:
            tracks = interpolate_tracks(read_tracks(args.tracks), args.frames)
            sparse, mask = tracks_to_guidance(tracks, image.shape[:2])
            frames = animate_flows(image, propagator.predict_dense(image, sparse, mask).cpu().numpy(), **how)
        else:
            arrows = np.array(args.arrow)
            flow = propagator.predict(image, arrows[:, :2], arrows[:, 2:] - arrows[:, :2])[0]
            frames = animate(image, flow.permute(1, 2, 0).cpu().numpy(), args.frames, **how)
        uncovered = []

        def film() -> Iterator[np.ndarray]:
            for frame, mask in tqdm(frames, total=args.frames, unit="frame", disable=None):
                uncovered.append(np.packbits(mask))  # an eighth of a byte a pixel: written when the film is
                yield frame

        write_video(args.out, film(), args.fps)
        if args.uncovered:
            size = image.shape[0] * image.shape[1]
            masks = (np.unpackbits(bits, count=size).reshape(image.shape[:2]) for bits in uncovered)
            write_video(args.uncovered, (np.repeat(255 * mask[..., None], 3, axis=2) for mask in masks), args.fps)
    except (ValueError, OSError) as error:
        print(f"animate.py: {error}", file=sys.stderr)
        return 2
    also = f"; uncovered pixels: {args.uncovered}" if args.uncovered else ""
    print(f"{args.out}: {args.frames} frames{also}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
