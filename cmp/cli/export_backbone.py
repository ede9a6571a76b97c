"""Write the pretrained image encoder of a checkpoint for another library.

Example:
    cmp-motion export backbone work_dirs/quickstart/iter_300.pth resnet18_backbone.pth --format torchvision

The checkpoint may be ours or Zhan et al.'s. The file is loaded back in its library before it gets its name. OUT.md
describes how to load and feed it; encoder, normalization and steps are in the file, or for a torch file in OUT.json.

    torchvision   torchvision, segmentation-models-pytorch: torchvision's keys, all but fc.*
    timm          the same keys, for timm's pretrained_cfg_overlay
    mmlab         mmpretrain, mmsegmentation, mmdetection: Pretrained init with prefix="backbone."
    detectron2    its names (stem, res2 ... res5), for MODEL.WEIGHTS
    safetensors   torchvision's keys with metadata; AlexNet too
    onnx          the graph: normalized image in, features of every stage out; AlexNet too
    huggingface   a folder with model.safetensors, config.json and README.md that timm and transformers load

Exit status: 0 where the file is in place; 1 it cannot be written; 2 wrong usage or input.
"""

from collections.abc import Sequence

from cmp.cli.arguments import Parser, fail
from cmp.cli.choices import EXPORT_FORMATS
from cmp.interrupts import imports_can_be_interrupted


def main(argv: Sequence[str] | None = None, *, prog: str = "export_backbone.py") -> int:
    """Export; returns the exit status."""
    parser = Parser(prog=prog, description=__doc__)
    parser.add_argument(
        "checkpoint",
        metavar="CHECKPOINT",
        help="ours or Zhan et al.'s; starter: the network that comes with the package",
    )
    parser.add_argument(
        "out",
        metavar="OUT",
        help="file to write, in an existing folder (huggingface: a folder, which is made); .safetensors: that format",
    )
    parser.add_argument(
        "--format",
        choices=EXPORT_FORMATS,
        default="torchvision",
        help="the library that reads it (default: %(default)s)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace OUT where it exists and differs")
    parser.add_argument("--ema", action="store_true", help="take the moving average that the run kept (WeightAverage)")
    parser.add_argument(
        "--push", metavar="OWNER/REPO", help="also upload the files to this repository of the Hugging Face Hub"
    )
    args = parser.parse_args(argv)
    with imports_can_be_interrupted():
        from cmp.export import export_backbone
        from cmp.export.push import check_repository, push_export
    try:
        if args.push is not None:
            check_repository(args.push)
        report = export_backbone(args.checkpoint, args.out, args.format, overwrite=args.overwrite, ema=args.ema)
    except FileExistsError as error:
        return fail(prog, FileExistsError(f"{error}; --overwrite replaces it"))
    except (ValueError, OSError, ModuleNotFoundError) as error:
        return fail(prog, error)
    print(f"encoder {report.backbone.name}, {len(report.backbone.weights)} tensors; {report.load_back}")
    for key, value in report.backbone.metadata.items():
        print(f"  {key}: {value}")
    for path in report.beside:
        print(f"next to it: {path}")
    print(f"backbone: {report.path} ({'written' if report.written else 'already there, unchanged'})")
    if args.push is not None:
        try:
            print(f"uploaded: {push_export(report, args.push)}")
        except (ValueError, OSError) as error:
            return fail(prog, error)
    return 0
