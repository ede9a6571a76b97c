"""Draw the curves of training runs: loss and all validation metrics over the steps, several runs in one figure.

Example:
    cmp-motion plot work_dirs/r50 work_dirs/r50_ema curves.png

Each RUN is a work dir of a training. A resumed run is one curve; dotted lines mark the steps where it went on.

Exit status: 0; 1 the image cannot be written; 2 wrong usage or input.
"""

from collections.abc import Sequence
from pathlib import Path

from cmp.cli.arguments import Parser, fail
from cmp.files import NewFile, check_paths
from cmp.interrupts import imports_can_be_interrupted


def main(argv: Sequence[str] | None = None, *, prog: str = "plot_log.py") -> int:
    """Draw; returns the exit status."""
    parser = Parser(prog=prog, description=__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="work dirs of trainings")
    parser.add_argument("out", metavar="OUT", help="image to write, in an existing folder: .png, .svg or .pdf")
    args = parser.parse_args(argv)
    try:
        out = Path(args.out)
        if out.suffix not in (".png", ".svg", ".pdf"):
            raise ValueError(f"{out}: OUT must end in .png, .svg or .pdf")
        with imports_can_be_interrupted():
            from cmp.engine.run_log import LOGS, read_run
            from cmp.evaluation.curves import draw_curves
        logs = [path for run in args.runs for path in Path(run).glob(LOGS)]
        check_paths(reads={"RUN": args.runs, "the log of RUN": logs}, writes={"OUT": out}, may_lie_in=("RUN",))
        names = [Path(run).name for run in args.runs]
        names = [name if names.count(name) == 1 else str(run) for name, run in zip(names, args.runs)]
        runs = {name: read_run(run) for name, run in zip(names, args.runs)}
        with NewFile(out) as file:
            draw_curves(runs).savefig(file, dpi=110, format=out.suffix[1:])
    except (OSError, ValueError) as error:
        return fail(prog, error)
    for name, run in runs.items():
        steps = [int(curve[-1, 0]) for curve in run.train.values()]
        again = f", went on after {run.resumed_after}" if run.resumed_after else ""
        print(f"{name}: {max(steps, default=0)} steps{again}")
    print(f"wrote {out}")
    return 0
