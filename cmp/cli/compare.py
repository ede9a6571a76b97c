r"""Compare systems that predict the next frames of a clip with each other and with two predictions without learning.

Prints a table with one row per system: PSNR of the first predicted frame and of all, the same on moving pixels, both
sharpness measures, L2, GDL, SSIM and the total of L2 and GDL (cmp/baselines/prediction_metrics.py defines them). The
predictions without learning are the last frame repeated, and the last frame moved on along the last motion. A second
row for the ConvLSTM has the frames that it predicts if it reads the true frame before each. All systems are evaluated
on the validation clips of the first config. For a network trained with --cfg-options, give the config that its run
wrote to its work_dir.

--sums gives L2, GDL and total as sums over a frame (as published tables have them) instead of means per value.
--curves FIGURE draws each metric for each predicted frame, one after the other; --csv FILE writes the same numbers.

Example:
    cmp-motion compare \
        configs/baselines/seq2seq_clips_1xb16_1k.py work_dirs/seq2seq_clips_1xb16_1k/iter_1000.pth \
        configs/baselines/multi_scale_clips_1xb16_1k.py work_dirs/multi_scale_clips_1xb16_1k/iter_1000.pth \
        --data videos --curves curves.png
"""

from collections.abc import Sequence
from pathlib import Path

from cmp.cli.arguments import Parser, fail
from cmp.files import NewFile, check_paths, write_file
from cmp.interrupts import imports_can_be_interrupted

FIGURES = (".png", ".svg", ".pdf")


def main(argv: Sequence[str] | None = None, *, prog: str = "compare_predictions.py") -> int:
    """Print the table; returns the exit status."""
    parser = Parser(prog=prog, description=__doc__)
    parser.add_argument(
        "pairs", nargs="+", metavar="CONFIG CHECKPOINT", help="a config and its checkpoint; repeat for more systems"
    )
    parser.add_argument("--data", nargs="+", metavar="PATH", help="videos to use instead of those of the first config")
    parser.add_argument("--sums", action="store_true", help="L2, GDL and total of all pixels as sums over a frame")
    parser.add_argument(
        "--curves", metavar="FIGURE", help="figure of the metrics by predicted frame: .png, .svg or .pdf"
    )
    parser.add_argument("--csv", metavar="FILE", help="file for the numbers of that figure")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, ... (default: %(default)s)")
    args = parser.parse_args(argv)
    if len(args.pairs) % 2:
        parser.error("expected a checkpoint after each config")
    if args.curves and Path(args.curves).suffix not in FIGURES:
        parser.error(f"--curves {args.curves}: must end in {', '.join(FIGURES)}")
    written = {key: path for key, path in (("--curves", args.curves), ("--csv", args.csv)) if path}
    try:
        check_paths(reads={"CONFIG CHECKPOINT": args.pairs, "--data": args.data}, writes=written)
        with imports_can_be_interrupted():
            from cmp.baselines.comparison import compare_predictors
        systems = list(zip(args.pairs[::2], args.pairs[1::2]))
        found = compare_predictors(systems, data=args.data, device=args.device)
        if args.curves:
            from cmp.baselines.drawing.metric_curves import draw_metric_curves

            figure = draw_metric_curves({name: system.curves for name, system in found.systems.items()})
            with NewFile(args.curves) as file:
                figure.savefig(file, dpi=110, format=Path(args.curves).suffix[1:])
        if args.csv:
            write_file(args.csv, found.csv().encode())
    except (OSError, ValueError) as error:
        return fail(prog, error)
    print(found.table(sums=args.sums))
    height, width = found.size_hw
    size = f"{height}" if height == width else f"{height} x {width}"
    print(f"{found.clips} clips of {found.videos} videos, {found.num_frames} frames of {size} px each")
    for path in written.values():
        print(f"wrote {path}")
    return 0
