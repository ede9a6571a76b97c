"""Look at what a backbone sees: neighbours across a folder, and maps of features in colours.

Example:
    python tools/inspect_backbone.py backbone.pth my_photos work_dirs/looked

Writes neighbours.png (a row an image: the image, then those with the most alike pooled features, with their cosines)
and features.png (images above the first three principal components of their features, one set of colours for all).
"random" instead of a file shows what an untrained encoder does on the same images: look at it too.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the checkout's own packages, installed or not

from cmp.downstream.feature_pictures import (
    choose_images,
    features_sheet,
    nearest,
    neighbours_sheet,
    pca_colours,
    read_squares,
)
from cmp.downstream.probes import Encoder


def look(args: argparse.Namespace) -> None:
    """Write the two pictures."""
    paths = choose_images(args.folder, args.max_images)
    images = read_squares(paths, args.size)
    encoder = Encoder(args.backbone, args.encoder, args.seed, args.stride).to(args.device)

    def maps(squares: np.ndarray, batch_size: int, what: str) -> Iterator[torch.Tensor]:
        batches = torch.from_numpy(squares).permute(0, 3, 1, 2).split(batch_size)
        for batch in tqdm(batches, desc=what, unit="batch"):
            yield encoder(batch.to(args.device)).cpu()

    pooled = torch.cat([features.mean((2, 3)) for features in maps(images, 16, "features")])
    queries = np.linspace(0, len(paths) - 1, min(args.rows, len(paths))).round().astype(int).tolist()
    cosines, found = nearest(pooled, queries, min(args.neighbours, len(paths) - 1))
    large = read_squares([paths[i] for i in queries], args.map_size)
    colours = pca_colours(torch.cat(list(maps(large, 2, "maps"))))
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    sheets = dict(
        neighbours=neighbours_sheet(images, queries, cosines, found), features=features_sheet(images[queries], colours)
    )
    for name, sheet in sheets.items():
        if not cv2.imwrite(str(out / f"{name}.png"), sheet[..., ::-1]):
            raise OSError(f"cannot write {out / name}.png")
    print(f"{encoder.bare.name} on {len(paths)} images: neighbours.png and features.png in {out}")


def main(argv: list[str] | None = None) -> int:
    """Look; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("backbone", help='an export, a checkpoint of pretraining, or "random"')
    parser.add_argument("folder", help="images, in subfolders too")
    parser.add_argument("out", help="folder for the pictures")
    parser.add_argument("--encoder", default="resnet18", help="of a random backbone (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of a random backbone (default: 0)")
    parser.add_argument("--size", type=int, default=160, metavar="PX", help="side of the squares (default: 160)")
    parser.add_argument("--map-size", type=int, default=512, metavar="PX", help="side for the maps (default: 512)")
    parser.add_argument(
        "--stride",
        type=int,
        choices=(8, 16, 32),
        help="of the features; 8 for what was pretrained dilated, as the published ResNets were (default: 32, or what "
        "timm's network has)",
    )
    parser.add_argument("--max-images", type=int, default=300, metavar="N", help="images to read (default: 300)")
    parser.add_argument("--rows", type=int, default=8, metavar="N", help="images to show (default: 8)")
    parser.add_argument("--neighbours", type=int, default=6, metavar="N", help="neighbours of each (default: 6)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="where to compute")
    args = parser.parse_args(argv)
    try:
        for name in ("size", "map_size", "rows", "neighbours", "max_images"):
            if getattr(args, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(args, name)}")
        look(args)
    except (OSError, ValueError) as error:
        print(f"inspect_backbone.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
