"""Write the pretrained image encoder of a checkpoint for another library.

Example:
    python tools/export_backbone.py work_dirs/quickstart/iter_300.pth resnet18_backbone.pth --format torchvision

The checkpoint may be ours or the authors'. The file is loaded back in its library before it gets its name. How to load
and feed it stands in OUT.md; encoder, normalisation and steps are inside the file, or beside a torch file in OUT.json.

    torchvision   torchvision, segmentation-models-pytorch: torchvision's keys, all but fc.*
    timm          the same keys, for timm's pretrained_cfg_overlay
    mmlab         mmpretrain, mmsegmentation, mmdetection: Pretrained init with prefix="backbone."
    detectron2    its names (stem, res2 ... res5), for MODEL.WEIGHTS
    safetensors   torchvision's keys with metadata; AlexNet too
    onnx          the graph: normalised image in, features of every stage out; AlexNet too
    huggingface   a folder with model.safetensors, config.json and README.md that timm and transformers load
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the checkout's own packages, installed or not

from cmp.export import FORMATS, export_backbone


def main(argv: list[str] | None = None) -> int:
    """Run the command; 0 where the file is in place, 1 where it cannot be made."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="our checkpoint or the authors'")
    parser.add_argument(
        "out", metavar="OUT", help="file to write (a folder for huggingface); .safetensors gives that container"
    )
    parser.add_argument("--format", choices=FORMATS, default="torchvision", help="its reader (default: %(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT where it exists and differs")
    parser.add_argument("--ema", action="store_true", help="take the moving average that the run kept (WeightAverage)")
    args = parser.parse_args(argv)

    try:
        report = export_backbone(args.checkpoint, args.out, args.format, overwrite=args.overwrite, ema=args.ema)
    except FileExistsError as error:
        print(f"error: {error}; --overwrite replaces it", file=sys.stderr)
        return 1
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"encoder {report.backbone.name}, {len(report.backbone.weights)} tensors; {report.load_back}")
    for key, value in report.backbone.metadata.items():
        print(f"  {key}: {value}")
    for path in report.beside:
        print(f"beside it: {path}")
    print(f"backbone: {report.path} ({'written' if report.written else 'already there, unchanged'})")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
