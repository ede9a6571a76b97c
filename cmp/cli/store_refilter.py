"""Decide again which pairs of a store are dropped, under other thresholds and from stored scores.

Example:
    cmp-motion store refilter my_pairs --min-moving-share 0.05

No video is read and no flow is computed. Thresholds that are not given stay as the store has them. See docs/quality.md.

Exit status: 0; 1 if the store has no pairs afterwards; 2 wrong usage or input.
"""

from collections.abc import Sequence

from cmp.cli.arguments import Parser, fail
from cmp.cli.prepare import add_limits, refilter
from cmp.files import check_paths


def main(argv: Sequence[str] | None = None, *, prog: str = "cmp-motion store refilter") -> int:
    """Refilter; returns the exit status."""
    parser = Parser(prog=prog, description=__doc__)
    parser.add_argument("out_dir", metavar="STORE", help="folder that prepare wrote")
    add_limits(parser)
    args = parser.parse_args(argv)
    try:
        check_paths(reads={}, folders={"STORE": args.out_dir})
        return refilter(args)
    except (ValueError, OSError, RuntimeError) as error:
        return fail(prog, error)
