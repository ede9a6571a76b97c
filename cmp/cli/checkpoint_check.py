"""Run everything that reads checkpoints on a file of Zhan et al., and print what each step showed.

Example:
    cmp-motion checkpoint check ckpt_iter_42000.pth.tar checked

Each step writes to OUT_DIR: the checkpoint in our layout and back in theirs, a video, a mask, the exported network and
backbone. A step that fails is named, the others still run, and the command exits with 1. A ResNet-50 takes about a
minute and 2 GiB of memory.

Exit status: 0 if every step passed; 1 if one failed; 2 wrong usage or input.
"""

from collections.abc import Sequence
from pathlib import Path

from cmp.cli.arguments import Parser, fail
from cmp.interrupts import imports_can_be_interrupted


def main(argv: Sequence[str] | None = None, *, prog: str = "check_checkpoint.py") -> int:
    """Check; returns the exit status."""
    parser = Parser(prog=prog, description=__doc__)
    parser.add_argument(
        "checkpoint", type=Path, metavar="CHECKPOINT", help="a whole network in the layout of Zhan et al."
    )
    parser.add_argument("out", type=Path, metavar="OUT_DIR", help="folder for what is made; made if it does not exist")
    args = parser.parse_args(argv)
    with imports_can_be_interrupted():
        from cmp.checkpoint_check import check_checkpoint
    try:
        steps = check_checkpoint(args.checkpoint, args.out)
    except (ValueError, OSError) as error:
        return fail(prog, error)
    count, failed = 0, []
    for name, passed, message in steps:
        print(f"{'ok    ' if passed else 'FAILED'} {name}: {message}", flush=True)
        count += 1
        failed += [] if passed else [name]
    print(f"{args.checkpoint}: " + (f"failed: {', '.join(failed)}" if failed else f"all {count} steps passed"))
    return 1 if failed else 0
