"""Write the whole propagator, image and guidance to flow, as a graph for another runtime.

Example:
    python tools/export_propagator.py ckpt_iter_42000.pth.tar cmp_r50_skip.onnx
    python tools/export_propagator.py work_dirs/quickstart/iter_300.pth cmp_r18.pt2 --format torch_export

The checkpoint may be ours or the authors'. Batch, height and width of the graph are free; what it is fed (names,
shapes, units, normalisation, stride) stands in the file's metadata and is printed. The file is run (onnxruntime, or
torch) and compared with this package before it gets its name.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the checkout's own packages, installed or not

from cmp.inference.export import GRAPH_FORMATS, export_propagator
from cmp.inference.propagator import NORMALIZATIONS


def main(argv: list[str] | None = None) -> int:
    """Run the command; 0 where the file is in place, 1 where it cannot be made."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="our checkpoint or the authors'")
    parser.add_argument("out", metavar="OUT", help="file to write: .onnx, or .pt2 for torch_export")
    parser.add_argument("--format", choices=GRAPH_FORMATS, default="onnx", help="default: %(default)s")
    parser.add_argument(
        "--normalize",
        choices=NORMALIZATIONS,
        default="imagenet",
        help="of the image, done in the graph: as trained, or x * 2 - 1 (default: %(default)s)",
    )
    parser.add_argument(
        "--alexnet-stride", type=int, default=32, choices=(32, 8), help="of an AlexNet of the authors, px"
    )
    parser.add_argument("--max-flow-px", type=float, default=50.0, help="the authors' fmax, px (default: %(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT where it was made of something else")
    args = parser.parse_args(argv)
    try:
        report = export_propagator(
            args.checkpoint,
            args.out,
            args.format,
            normalize=args.normalize,
            max_flow_px=args.max_flow_px,
            alexnet_stride=args.alexnet_stride,
            overwrite=args.overwrite,
        )
    except FileExistsError as error:
        print(f"error: {error}; --overwrite replaces it", file=sys.stderr)
        return 1
    except (ValueError, OSError, ModuleNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for key, value in report.metadata.items():
        print(f"  {key}: {value}")
    if report.check:
        print(report.check)
    print(f"propagator: {report.path} ({'written' if report.written else 'already there, unchanged'})")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
