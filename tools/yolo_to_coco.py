"""Turn polygon labels of the YOLO kind into COCO's layout, for tools/evaluate.py detection.

Example:
    python tools/yolo_to_coco.py coco8seg coco8 --parts train val

Reads images/PART, labels/PART and classes.txt; writes annotations/instances_PART.json and copies the images to PART/.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the checkout's own packages, installed or not

from cmp.downstream.yolo_labels import yolo_to_coco


def main(argv: list[str] | None = None) -> int:
    """Convert; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("source", metavar="SOURCE", help="folder with images, labels and classes.txt")
    parser.add_argument("out", metavar="OUT", help="folder to write")
    parser.add_argument("--parts", nargs="+", default=["train", "val"], metavar="PART", help="default: train val")
    args = parser.parse_args(argv)
    try:
        counts = {part: yolo_to_coco(args.source, args.out, part) for part in args.parts}
    except (OSError, ValueError) as error:
        print(f"yolo_to_coco.py: {error}", file=sys.stderr)
        return 2
    said = "; ".join(f"{part}: {images} images, {objects} objects" for part, (images, objects) in counts.items())
    print(f"{said}; written to {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
