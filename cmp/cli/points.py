"""Count the guidance points (the pixels whose motion is given to the network) that training sees per crop.

Example:
    cmp-motion points my_pairs configs/pretrain/cmp_r50_yfcc_16xb10_42k.py
    cmp-motion points my_pairs configs/pretrain/cmp_r50_yfcc_16xb10_42k.py --wanted 13.5

STORE is a pair store, CONFIG a pretraining recipe: its transforms, K (nms_kernel) and G (grid_stride_px) are used. With
--wanted, K and G are searched that give this mean number, both together and K alone. Training may keep fewer of the
points (point_counts, max_points). More: docs/preparation.md.
"""

import argparse
from collections.abc import Sequence

from cmp.cli.arguments import Parser, fail
from cmp.interrupts import imports_can_be_interrupted


def parse_args(argv: Sequence[str] | None, prog: str) -> argparse.Namespace:
    """Parse the arguments."""
    parser = Parser(prog=prog, description=__doc__)
    parser.add_argument("store", metavar="STORE", help="pair store")
    parser.add_argument("config", metavar="CONFIG", help="pretraining recipe")
    parser.add_argument("--wanted", type=float, metavar="N", help="mean points per crop to find K and G for, above 0")
    parser.add_argument(
        "--crops",
        type=int,
        default=40,
        metavar="N",
        help="crops to count in, of different pairs (default: %(default)s)",
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None, *, prog: str = "points.py") -> int:
    """Count and print; returns the exit status."""
    args = parse_args(argv, prog)
    with imports_can_be_interrupted():
        from cmp.datasets.point_counts import count_points, describe_points, fit_sampling
        from cmp.evaluation.recipe_points import crops_of_recipe

    try:
        if args.crops < 1:
            raise ValueError(f"--crops must be at least 1, got {args.crops}")
        if args.wanted is not None and not args.wanted > 0:
            raise ValueError(f"--wanted must be above 0, got {args.wanted}")
        crops, sampling = crops_of_recipe(args.config, args.store, num_crops=args.crops)
        print(f"{len(crops)} crops of {crops[0].flow.shape[1]} x {crops[0].flow.shape[0]} px (width x height)")
        kernel, stride = sampling["nms_kernel"], sampling["grid_stride_px"]
        print(f"K {kernel}, G {stride}: {describe_points(count_points(crops, **sampling))}")
        if args.wanted is not None:
            for keep in (False, True):
                found = fit_sampling(crops, args.wanted, keep_grid=keep, **sampling)
                title = "K alone" if keep else "K and G"
                print(
                    f"{args.wanted:g} wanted, {title}: nms_kernel={found.nms_kernel} "
                    f"grid_stride_px={found.grid_stride_px} give {found.mean_points:.1f}"
                )
    except (ValueError, OSError) as error:
        return fail(prog, error)
    return 0
