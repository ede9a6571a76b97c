"""Merge the stores of the tasks of an array job into one pair store.

Example:
    cmp-motion prepare ~/videos ~/pairs --task-index 0 --num-tasks 2
    cmp-motion prepare ~/videos ~/pairs --task-index 1 --num-tasks 2
    cmp-motion store merge ~/pairs

Shards are renamed, not copied. Run it again at any time: an interrupted merge is completed, and a completed one stays
as it is. See docs/preparation.md.

Exit status: 0; 1 the merge failed; 2 wrong usage or input, such as tasks that have not finished (all are named).
"""

from collections.abc import Sequence

from cmp.cli.arguments import Parser, fail, say
from cmp.files import check_paths
from cmp.interrupts import imports_can_be_interrupted


def main(argv: Sequence[str] | None = None, *, prog: str = "merge_stores.py") -> int:
    """Merge; returns the exit status."""
    parser = Parser(prog=prog, description=__doc__)
    parser.add_argument("out_dir", metavar="OUT_DIR", help="the OUT_DIR of the tasks")
    args = parser.parse_args(argv)
    try:
        check_paths(reads={"OUT_DIR": args.out_dir})
        with imports_can_be_interrupted():
            from data_prep.parts import merge_parts
        report = merge_parts(args.out_dir)
    except (OSError, ValueError, RuntimeError) as error:
        return fail(prog, error)
    if report.other_versions:
        tasks = ", ".join(map(str, report.other_versions))
        say(prog, f"warning: other versions of the libraries than store.json names made tasks {tasks}")
    what = f"merged {report.num_tasks} tasks" if report.num_tasks else "nothing to merge"
    print(f"{what}; {report.videos} videos, {report.pairs} pairs in {args.out_dir}")
    return 0
