"""Turn a checkpoint of Zhan et al. into one of ours, or ours into theirs.

Example:
    cmp-motion checkpoint convert ckpt_iter_42000.pth.tar cmp_r50_skip.safetensors
    cmp-motion checkpoint convert work_dirs/r50/iter_42000.pth ckpt_iter_42000.pth.tar --to peer

The content of IN shows what it is: a whole network in either layout (torch file or safetensors), or an image encoder
alone, as Zhan et al.'s tool extracts it or as this command writes it. A file with keys that are missing, left over or
misshapen is refused, and they are listed.
"""

from collections.abc import Sequence

from cmp.cli.arguments import Parser, fail
from cmp.interrupts import imports_can_be_interrupted


def main(argv: Sequence[str] | None = None, *, prog: str = "convert_checkpoint.py") -> int:
    """Convert; returns the exit status."""
    parser = Parser(prog=prog, description=__doc__)
    parser.add_argument("source", metavar="IN", help="checkpoint, ours or Zhan et al.'s")
    parser.add_argument(
        "out",
        metavar="OUT",
        help="file to write, in an existing folder, not IN; .safetensors gives that format (ours only)",
    )
    parser.add_argument(
        "--to",
        choices=("cmp", "peer", "peer-backbone"),
        default="cmp",
        help="layout: ours, Zhan et al.'s, or the image encoder alone as their tool extracts it (default: %(default)s)",
    )
    parser.add_argument(
        "--alexnet-stride",
        type=int,
        default=32,
        choices=(32, 8),
        help="of an AlexNet of theirs, px: weights do not show it",
    )
    parser.add_argument(
        "--max-flow-px",
        type=float,
        default=50.0,
        help="fmax of their config, px: weights do not show it (default: %(default)s)",
    )
    parser.add_argument("--ema", action="store_true", help="take the moving average that the run kept (WeightAverage)")
    parser.add_argument("--half", action="store_true", help="write float16, half the size (only with --to cmp)")
    args = parser.parse_args(argv)
    with imports_can_be_interrupted():
        from cmp.checkpoints import convert_checkpoint
    try:
        what = convert_checkpoint(
            args.source,
            args.out,
            to=args.to,
            alexnet_stride=args.alexnet_stride,
            max_flow_px=args.max_flow_px,
            ema=args.ema,
            half=args.half,
        )
    except (ValueError, OSError) as error:
        return fail(prog, error)
    print(f"{args.out}: {what}")
    return 0
