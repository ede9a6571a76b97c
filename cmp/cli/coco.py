"""Turn polygon labels of the YOLO kind into COCO's layout, for the evaluation of detection.

Example:
    cmp-motion coco coco8seg coco8 --parts train val

Reads images/PART, labels/PART and classes.txt; writes annotations/instances_PART.json and copies the images to PART/.
"""

from collections.abc import Sequence

from cmp.cli.arguments import Parser, fail
from cmp.files import check_paths
from cmp.interrupts import imports_can_be_interrupted


def main(argv: Sequence[str] | None = None, *, prog: str = "yolo_to_coco.py") -> int:
    """Convert; returns the exit status."""
    parser = Parser(prog=prog, description=__doc__)
    parser.add_argument("source", metavar="SOURCE", help="folder with images, labels and classes.txt")
    parser.add_argument("out", metavar="OUT", help="folder to write, outside SOURCE; made if it does not exist")
    parser.add_argument("--parts", nargs="+", default=["train", "val"], metavar="PART", help="default: train val")
    args = parser.parse_args(argv)
    try:
        check_paths(reads={"SOURCE": args.source}, folders={"OUT": args.out})
        with imports_can_be_interrupted():
            from cmp.downstream.yolo_labels import yolo_to_coco
        counts = {part: yolo_to_coco(args.source, args.out, part) for part in args.parts}
    except (OSError, ValueError) as error:
        return fail(prog, error)
    said = "; ".join(f"{part}: {images} images, {objects} objects" for part, (images, objects) in counts.items())
    print(f"{said}; written to {args.out}")
    return 0
