"""Make one pair store of what the tasks of an array job have written.

    python tools/prepare_flow.py ~/videos ~/pairs --task-index 0 --num-tasks 2
    python tools/prepare_flow.py ~/videos ~/pairs --task-index 1 --num-tasks 2
    python tools/merge_stores.py ~/pairs

Shards are renamed, not copied. Run it again at any time: an interrupted merge is finished, a finished one stays as it
is. docs: docs/preparation.md.

Exit status: 0; 1 on an error, such as tasks that have not finished (all are named).
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the checkout's own packages, installed or not

from data_prep.parts import merge_parts


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("out_dir", metavar="OUT_DIR", help="the OUT_DIR of the tasks")
    args = parser.parse_args(argv)
    try:
        report = merge_parts(args.out_dir)
    except (OSError, ValueError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if report.other_versions:
        tasks = ", ".join(map(str, report.other_versions))
        print(f"warning: other versions of the libraries than store.json names made tasks {tasks}", file=sys.stderr)
    what = f"merged {report.num_tasks} tasks" if report.num_tasks else "nothing to merge"
    print(f"{what}; {report.videos} videos, {report.pairs} pairs in {args.out_dir}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
