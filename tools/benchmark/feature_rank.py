r"""How many different things the channels of a backbone's stages say: their effective rank on a folder of images.

Example:
    python tools/benchmark/feature_rank.py backbone.pth camvid/val
    python tools/benchmark/feature_rank.py random camvid/val --seed 1

The effective rank of C channels is exp(entropy of the eigenvalues of their correlation matrix, which sum to 1): C where
no two channels are correlated, 1 where all say the same (Roy and Vetterli, EUSIPCO 2007). A collapsed stem is a sign
that pretraining's learning rate is too high.
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

from cmp.downstream.probes import Encoder
from cmp.images import SUFFIXES, read_image

STAGES = ("stem", "stage1", "stage2", "stage3", "stage4")


def effective_rank(features: torch.Tensor) -> float:
    """Of (C, N) values of C channels; channels that never change are left out; 0 where none does."""
    features = features.double()
    centred = features - features.mean(dim=1, keepdim=True)
    spread = centred.norm(dim=1, keepdim=True)
    centred = (centred / spread)[spread[:, 0] > 1e-8 * features.abs().max().clamp(min=1e-300)]
    if not len(centred):
        return 0.0
    shares = torch.linalg.eigvalsh(centred @ centred.T).clamp(min=0)
    shares = shares / shares.sum()
    return float(torch.exp(-torch.special.xlogy(shares, shares).sum()))


def main(argv: list[str] | None = None) -> int:
    """Print a line a stage; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("backbone", help='an export or checkpoint with a ResNet, or "random"')
    parser.add_argument("images", help="folder of images")
    parser.add_argument("--count", type=int, default=8, metavar="N", help="images, spread over the folder (default: 8)")
    parser.add_argument("--size", type=int, nargs=2, default=(176, 240), metavar="PX", help="height, width they get")
    parser.add_argument("--encoder", default="resnet18", help="of a random backbone")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of a random backbone")
    args = parser.parse_args(argv)
    try:
        paths = sorted(p for p in Path(args.images).glob("*") if p.suffix.lower() in SUFFIXES)
        if not paths:
            raise FileNotFoundError(f"no image in {args.images}")
        paths = [paths[i] for i in np.linspace(0, len(paths) - 1, min(args.count, len(paths))).round().astype(int)]
        images = np.stack([cv2.resize(read_image(path), args.size[::-1]) for path in paths])
        encoder = Encoder(args.backbone, args.encoder, args.seed)
        image = torch.from_numpy(images.copy()).permute(0, 3, 1, 2).float()
        with torch.no_grad():
            features = encoder.bare.net((image - encoder.mean) / encoder.std)
        for name in STAGES:
            values = getattr(features, name).transpose(0, 1).flatten(1)
            print(f"{name}: effective rank {effective_rank(values):.1f} of {len(values)} channels")
    except (OSError, ValueError) as error:
        print(f"feature_rank.py: {error}", file=sys.stderr)
        return 2
    print(f"{args.backbone} on {len(paths)} images of {args.images}")
    return 0


if __name__ == "__main__":
    run_command(main)
