"""Compare pretraining's variants: a grid of arms x seeds x evaluations, from one config to one table.

Example:
    cmp-motion ablate evidence work_dirs/evidence --data pairs=my_pairs camvid=data/camvid
    cmp-motion ablate evidence work_dirs/evidence --table

For each arm and seed: a training, an export of its encoder, and every evaluation. Each result is a file
OUT/ARM/seedN/EVALUATION.json with command, settings, seed, hardware and commit, next to the logs. Run it again at any
time: what is done stays, a training that was killed goes on. What fails is named and the rest is still done. Several
may share the work on one OUT, each with other arms or seeds (--only, --seeds): a result that another one is making is
left to it, named with its host and process id, and counted as failed.

Exit status: 0; 1 where a cell failed; 2 wrong usage or input.
"""

import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from cmp.cli.arguments import Parser, fail
from cmp.engine.recipes import find_recipe
from cmp.files import check_paths, files_in, write_file
from cmp.interrupts import imports_can_be_interrupted


def main(argv: Sequence[str] | None = None, *, prog: str = "ablate.py") -> int:
    """Run the grid and print its table; returns the exit status."""
    parser = Parser(prog=prog, description=__doc__)
    parser.add_argument("config", help="a grid: a file, or the name of one in configs/ablation")
    parser.add_argument("out", help="folder of results; made if it does not exist")
    parser.add_argument("--data", nargs="+", default=[], metavar="NAME=PATH", help="folders instead of the config's")
    parser.add_argument("--only", nargs="+", metavar="ARM", help="these arms (default: all)")
    parser.add_argument("--seeds", nargs="+", type=int, metavar="N", help="these seeds (default: all)")
    parser.add_argument("--table", action="store_true", help="run nothing: print the table of what is there")
    args = parser.parse_args(argv)
    out, failed = Path(args.out), []
    try:
        if wrong := [item for item in args.data if "=" not in item]:
            raise ValueError(f"--data wants NAME=PATH, got {wrong}")
        check_paths(reads={"CONFIG": args.config}, writes={"OUT": files_in(out, ("table.md",))}, folders={"OUT": out})
        config = find_recipe(args.config, ("ablation",))
        if args.table and not out.is_dir():
            raise FileNotFoundError(f"no results here: {out}")
        with imports_can_be_interrupted():
            from cmp.downstream.ablation import markdown_table, read_grid, read_results
            from cmp.downstream.grid_run import list_cells, run_grid
        grid = read_grid(config, dict(item.split("=", 1) for item in args.data))
        if not args.table:
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that a command that runs is ended too
            for name, folder in grid.data.items():
                if not Path(folder).exists():
                    raise FileNotFoundError(f"no {name} here: {folder} (--data {name}=PATH)")
            check_paths(reads={f"--data {name}": folder for name, folder in grid.data.items()}, folders={"OUT": out})
            failed = run_grid(list_cells(grid, out, args.only, args.seeds), out)
        table = markdown_table(grid, read_results(out))
    except (OSError, ValueError) as error:
        return fail(prog, error)
    print(table)
    if not args.table:
        write_file(out / "table.md", table + "\n")
    if failed:
        print("\n".join(failed), file=sys.stderr)
    print(f"{len(read_results(out))} results, {len(failed)} failed; {out}")
    return 1 if failed else 0
