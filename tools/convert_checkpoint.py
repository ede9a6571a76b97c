"""Turn a checkpoint of the authors into one of ours, or ours into theirs.

Example:
    python tools/convert_checkpoint.py ckpt_iter_42000.pth.tar cmp_r50_skip.safetensors
    python tools/convert_checkpoint.py work_dirs/r50/iter_42000.pth ckpt_iter_42000.pth.tar --to peer

IN is told apart by what is in it: a whole network in either layout (torch file or safetensors), or an image encoder
alone, as the authors' tool extracts it or as this command writes it. A key that is missing, left over or misshapen is
listed and refused.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the checkout's own packages, installed or not

from cmp.engine.peer_checkpoint import convert_checkpoint


def main(argv: list[str] | None = None) -> int:
    """Convert; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("source", metavar="IN", help="checkpoint, ours or the authors'")
    parser.add_argument("out", metavar="OUT", help="file to write; .safetensors gives a safetensors file (ours only)")
    parser.add_argument(
        "--to",
        choices=("cmp", "peer", "peer-backbone"),
        default="cmp",
        help="layout: ours, the authors', or the image encoder alone as they extract it (default: %(default)s)",
    )
    parser.add_argument(
        "--alexnet-stride",
        type=int,
        default=32,
        choices=(32, 8),
        help="of an AlexNet of theirs, px: no weight tells it",
    )
    parser.add_argument(
        "--max-flow-px", type=float, default=50.0, help="their config's fmax: no weight tells it (default: %(default)s)"
    )
    args = parser.parse_args(argv)
    try:
        what = convert_checkpoint(
            args.source, args.out, to=args.to, alexnet_stride=args.alexnet_stride, max_flow_px=args.max_flow_px
        )
    except (ValueError, OSError) as error:
        print(f"convert_checkpoint.py: {error}", file=sys.stderr)
        return 2
    print(f"{args.out}: {what}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
