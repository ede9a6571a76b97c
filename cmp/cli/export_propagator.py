"""Write the whole propagator, image and guidance to flow, as a graph for another runtime.

Example:
    cmp-motion export propagator ckpt_iter_42000.pth.tar cmp_r50_skip.onnx
    cmp-motion export propagator work_dirs/quickstart/iter_300.pth cmp_r18.pt2 --format torch_export

The checkpoint may be ours or Zhan et al.'s. Batch, height and width of the graph are free. Its inputs (names, shapes,
units, normalization, stride) are described in the file's metadata and printed. The file is run (onnxruntime, or
torch) and compared with this package before it gets its name.

Exit status: 0 where the file is in place; 1 it cannot be written; 2 wrong usage or input.
"""

from collections.abc import Sequence

from cmp.cli.arguments import Parser, fail
from cmp.cli.choices import GRAPH_FORMATS, NORMALIZATIONS
from cmp.interrupts import imports_can_be_interrupted


def main(argv: Sequence[str] | None = None, *, prog: str = "export_propagator.py") -> int:
    """Export; returns the exit status."""
    parser = Parser(prog=prog, description=__doc__)
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="checkpoint, ours or Zhan et al.'s")
    parser.add_argument(
        "out", metavar="OUT", help="file to write, in an existing folder: .onnx, or .pt2 for torch_export"
    )
    parser.add_argument("--format", choices=GRAPH_FORMATS, default="onnx", help="default: %(default)s")
    parser.add_argument(
        "--normalize",
        choices=NORMALIZATIONS,
        default="imagenet",
        help="of the image, done in the graph: as trained, or x * 2 - 1 (default: %(default)s)",
    )
    parser.add_argument(
        "--alexnet-stride", type=int, default=32, choices=(32, 8), help="of an AlexNet of Zhan et al., px"
    )
    parser.add_argument(
        "--max-flow-px", type=float, default=50.0, help="fmax of a network of Zhan et al., px (default: %(default)s)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace OUT where it was made of something else")
    args = parser.parse_args(argv)
    with imports_can_be_interrupted():
        from cmp.inference.export import export_propagator
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
        return fail(prog, FileExistsError(f"{error}; --overwrite replaces it"))
    except (ValueError, OSError, ModuleNotFoundError) as error:
        return fail(prog, error)
    for key, value in report.metadata.items():
        print(f"  {key}: {value}")
    if report.check:
        print(report.check)
    print(f"propagator: {report.path} ({'written' if report.written else 'already there, unchanged'})")
    return 0
