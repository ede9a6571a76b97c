"""Draw what a backbone computes: nearest neighbors across a folder, and maps of features in colors.

Example:
    cmp-motion checkpoint inspect backbone.pth my_photos work_dirs/looked

Writes neighbours.png (one row per image: the image, then those with the most similar pooled features, with their
cosines) and features.png (images above the first three principal components of their features, with the same colors for
all). "random" instead of a file draws the same for an untrained encoder, which is worth comparing.
"""

from collections.abc import Sequence

from cmp.cli.arguments import Parser, fail
from cmp.files import check_paths, files_in
from cmp.interrupts import imports_can_be_interrupted

FILES = ("neighbours.png", "features.png")


def main(argv: Sequence[str] | None = None, *, prog: str = "inspect_backbone.py") -> int:
    """Run the command; returns the exit status."""
    parser = Parser(prog=prog, description=__doc__)
    parser.add_argument("backbone", help='an export, a checkpoint of pretraining, or "random"')
    parser.add_argument("folder", help="images, in subfolders too")
    parser.add_argument("out", help="folder for the two images, outside FOLDER; made if it does not exist")
    parser.add_argument("--encoder", default="resnet18", help="of a random backbone (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of a random backbone (default: 0)")
    parser.add_argument("--size", type=int, default=160, metavar="PX", help="side of the squares (default: 160)")
    parser.add_argument("--map-size", type=int, default=512, metavar="PX", help="side for the maps (default: 512)")
    parser.add_argument(
        "--stride",
        type=int,
        choices=(8, 16, 32),
        help="of the features; 8 for what was pretrained dilated, as the published ResNets were (default: 32, or what "
        "timm's network has)",
    )
    parser.add_argument("--max-images", type=int, default=300, metavar="N", help="images to read (default: 300)")
    parser.add_argument("--rows", type=int, default=8, metavar="N", help="images to show (default: 8)")
    parser.add_argument(
        "--neighbours",
        "--neighbors",
        type=int,
        dest="neighbors",
        default=6,
        metavar="N",
        help="neighbors of each (default: 6)",
    )
    parser.add_argument("--device", help="where to compute (default: a GPU where there is one)")
    args = parser.parse_args(argv)
    try:
        for name in ("size", "map_size", "rows", "neighbors", "max_images"):
            if getattr(args, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(args, name)}")
        check_paths(
            reads={"BACKBONE": args.backbone, "FOLDER": args.folder},
            writes={"OUT": files_in(args.out, FILES)},
            folders={"OUT": args.out},
        )
        with imports_can_be_interrupted():
            from cmp.downstream.feature_pictures import draw_backbone
        name, images = draw_backbone(
            args.backbone,
            args.folder,
            args.out,
            encoder=args.encoder,
            seed=args.seed,
            size_px=args.size,
            map_size_px=args.map_size,
            stride=args.stride,
            max_images=args.max_images,
            rows=args.rows,
            neighbors=args.neighbors,
            device=args.device,
        )
    except (OSError, ValueError) as error:
        return fail(prog, error)
    print(f"{name} on {images} images: {' and '.join(FILES)} in {args.out}")
    return 0
