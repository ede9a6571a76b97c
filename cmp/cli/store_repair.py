"""Do the damaged videos of a pair store again, from the folder that the store was made from.

Example:
    cmp-motion store repair my_pairs ~/videos

This is `cmp-motion store verify STORE --repair VIDEO_DIR`, whose --help says what is kept and what is not.

Exit status: 0 if the store is undamaged now; 1 if it is still damaged; 2 if it cannot be checked or repaired.
"""

from collections.abc import Sequence
from pathlib import Path

from cmp.cli.arguments import Parser
from cmp.cli.store_verify import add_repair_arguments, run


def main(argv: Sequence[str] | None = None, *, prog: str = "cmp-motion store repair") -> int:
    """Check and repair; returns the exit status."""
    parser = Parser(prog=prog, description=__doc__)
    parser.add_argument("store", type=Path, metavar="STORE", help="folder that prepare wrote")
    parser.add_argument("repair", type=Path, metavar="VIDEO_DIR", help="the folder of its videos")
    add_repair_arguments(parser)
    return run(parser.parse_args(argv), prog)
