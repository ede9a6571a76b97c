r"""Compare pretraining's variants: a grid of arms x seeds x evaluations, from one config to one table.

Example:
    python tools/ablate.py configs/ablation/evidence.py work_dirs/evidence --data pairs=my_pairs camvid=data/camvid
    python tools/ablate.py configs/ablation/evidence.py work_dirs/evidence --table

For each arm and seed: tools/train.py, an export of its encoder, and every evaluation by tools/evaluate.py. Each result
is a file OUT/ARM/seedN/EVALUATION.json with command, settings, seed, hardware and commit, beside the logs. Run it again
at any time: what is done stays, a training that was killed goes on. What fails is named and the rest is still done.
Several may share the work on one OUT, each with other arms or seeds (--only, --seeds).
"""

import argparse
import hashlib
import json
import os
import shlex
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

from mmengine.config import Config

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the checkout's own packages, installed or not

from cmp.downstream.ablation import Arm, Evaluation, Grid, hardware, markdown_table, read_grid, read_results, slug
from cmp.engine.config import read_config
from cmp.engine.metrics import INTERPOLATIONS
from cmp.engine.provenance import commit
from cmp.export import export_backbone

ROOT = Path(__file__).resolve().parents[1]
RANDOM = "random"
INTERPOLATION = Arm("interpolation", seeds=(0,))  # no network: the same for all seeds
PRETRAINING = "pretraining"
SEEDLESS = ("propagation", "knn")  # tasks that give one pretraining the same number whatever the seed


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("config", help="a grid (configs/ablation/*.py)")
    parser.add_argument("out", help="folder of results; made if it does not exist")
    parser.add_argument("--data", nargs="+", default=[], metavar="NAME=PATH", help="folders instead of the config's")
    parser.add_argument("--only", nargs="+", metavar="ARM", help="these arms (default: all)")
    parser.add_argument("--seeds", nargs="+", type=int, metavar="N", help="these seeds (default: all)")
    parser.add_argument("--table", action="store_true", help="run nothing: print the table of what is there")
    return parser.parse_args(argv)


class Cell:
    """One file of results: the pretraining of an arm with a seed, or one evaluation of it."""

    def __init__(self, grid: Grid, out: Path, arm: Arm, seed: int, evaluation: Evaluation | None) -> None:
        self.grid, self.arm, self.seed, self.evaluation = grid, arm, seed, evaluation
        self.kind = evaluation.name if evaluation else PRETRAINING
        self.folder = out / slug(arm.name) / f"seed{seed}"
        self.pretraining_seed = seed if arm.pretraining_seed is None else arm.pretraining_seed
        self.pretrained = self.folder.with_name(f"seed{self.pretraining_seed}")
        self.work_dir = self.folder / slug(self.kind)
        self.result = self.folder / f"{slug(self.kind)}.json"
        self.data = grid.data[evaluation.data if evaluation else arm.data]
        self.name = f"{arm.name}, seed {seed}, {self.kind}"
        self.config = self._config()
        about = [str(self._what_counts()), seed, self.kind, str(self.data)]
        about += [] if evaluation is None else [evaluation.task, evaluation.frozen, sorted(evaluation.options.items())]
        about += [arm.config, sorted(map(str, arm.options.items())), grid.encoder]
        if evaluation and arm.config:  # an encoder of other training is another encoder
            about.append(Cell(grid, out, arm, self.pretraining_seed, None).settings)
        self.settings = hashlib.sha256(repr(about).encode()).hexdigest()[:16]

    def _config(self) -> Config | None:
        """The config of this cell's command, with all that the grid says of it."""
        if self.evaluation is None:
            config = read_config(ROOT / self.arm.config, self.arm.options)
            config.randomness.seed = config.train_dataloader.dataset.seed = self.seed
            return config
        if self.evaluation.config is None:
            return None
        return read_config(ROOT / self.evaluation.config, self.evaluation.options)

    def _what_counts(self) -> Config | dict | None:
        """Of the config what its result depends on."""
        if self.evaluation is not None and self.evaluation.task == "propagation":
            return self.config.val_dataloader
        return self.config.pretty_text if self.config else None

    def is_done(self) -> bool:
        """Whether its result is there; ValueError if it is one of other settings."""
        if not self.result.exists():
            return False
        if json.loads(self.result.read_text())["settings"] != self.settings:
            raise ValueError(f"{self.result} was made with other settings: take another OUT, or delete it")
        return True

    def command(self) -> list[str]:
        """What is run, by hand as well."""
        tool = [sys.executable, str(ROOT / "tools" / ("train.py" if self.evaluation is None else "evaluate.py"))]
        if self.config:
            config = self.work_dir / "config.py"
            config.parent.mkdir(parents=True, exist_ok=True)
            self.config.dump(config)
        if self.evaluation is None:
            return [*tool, str(config), "--data", self.data, "--work-dir", str(self.work_dir), "--resume"]
        task, backbone = self.evaluation.task, self.pretrained / "backbone.pth" if self.arm.config else RANDOM
        tool.append(task)
        if task == "propagation":
            checkpoint = "none"
            if self.arm is not INTERPOLATION:
                checkpoint = (self.pretrained / PRETRAINING / "last_checkpoint").read_text().strip()
            names = INTERPOLATIONS if checkpoint == "none" else ("nearest",)
            return [*tool, str(config), checkpoint, "--data", self.data, "--out", str(self.work_dir),
                    "--interpolations", *names]  # fmt: skip
        if self.config is None:
            flags = [part for key, value in self.evaluation.options.items() for part in (f"--{key}", str(value))]
            flags += ["--encoder", self.grid.encoder, "--seed", str(self.seed), "--out", str(self.work_dir)]
            return [*tool, str(backbone), self.data, *flags]
        frozen = ["--frozen"] if self.evaluation.frozen else []
        return [*tool, str(config), str(backbone), self.data, "--work-dir", str(self.work_dir), *frozen,
                "--seed", str(self.seed), "--resume"]  # fmt: skip

    def run(self) -> float | None:
        """Run it and keep its result; returns the seconds it took, None where an earlier call did a part of it.

        Raises:
            RuntimeError: the command failed; its log is named.
        """
        self.work_dir.mkdir(parents=True, exist_ok=True)
        command, began, log = self.command(), time.perf_counter(), self.work_dir / "log.txt"
        is_new = not log.is_file()
        with open(log, "a") as file:
            process = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT)
        if process.returncode:
            raise RuntimeError(f"{self.name} ended with status {process.returncode}: {log}")
        if self.evaluation is None:
            checkpoint = (self.work_dir / "last_checkpoint").read_text().strip()
            export_backbone(checkpoint, self.folder / "backbone.pth", "torchvision", overwrite=True)
            metrics = {}
        else:
            metrics = json.loads((self.work_dir / "metrics.json").read_text())
        seconds = round(time.perf_counter() - began, 1) if is_new else None
        about = dict(arm=self.arm.name, seed=self.seed, evaluation=self.kind, settings=self.settings)
        about |= dict(command=shlex.join(map(str, command)), config=self.arm.config, options=str(self.arm.options))
        about |= dict(hardware=hardware(), seconds=seconds, metrics=metrics, **commit())
        partial = self.result.with_suffix(f".{os.getpid()}.partial")  # others may be at the same cell
        partial.write_text(json.dumps(about, indent=1) + "\n")
        os.replace(partial, self.result)
        return seconds


def list_cells(grid: Grid, out: Path, only: list[str] | None = None, seeds: list[int] | None = None) -> list[Cell]:
    """All cells in the order they are run: seed by seed, so that a first table of all arms is there early."""
    if unknown := set(only or ()) - {arm.name for arm in grid.arms}:
        raise ValueError(f"no such arm: {sorted(unknown)}; there are {[arm.name for arm in grid.arms]}")
    if unknown := set(seeds or ()) - set(grid.seeds):
        raise ValueError(f"no such seed: {sorted(unknown)}; there are {list(grid.seeds)}")
    cells, pretrained = [], set()
    for evaluation in grid.evaluations:
        if evaluation.task == "propagation":
            cells.append(Cell(grid, out, INTERPOLATION, 0, evaluation))
    for seed in grid.seeds:
        for arm in grid.arms:
            if (only and arm.name not in only) or seed not in (seeds or grid.seeds) or seed not in (
                grid.seeds if arm.seeds is None else arm.seeds
            ):  # fmt: skip
                continue
            pretraining_seed = seed if arm.pretraining_seed is None else arm.pretraining_seed
            if arm.config and (arm.name, pretraining_seed) not in pretrained:
                pretrained.add((arm.name, pretraining_seed))
                cells.append(Cell(grid, out, arm, pretraining_seed, None))
            propagates = arm.config and arm.guided is not None
            for evaluation in grid.evaluations:
                if arm.evaluations is not None and evaluation.name not in arm.evaluations:
                    continue
                if evaluation.task == "propagation" and not propagates:
                    continue
                if arm.config and seed != pretraining_seed and evaluation.task in SEEDLESS:
                    continue
                cells.append(Cell(grid, out, arm, seed, evaluation))
    return cells


def time_left(remaining: list[Cell], took: dict[str, list[float]]) -> str:
    """Minutes that the remaining cells will take, by what cells of their kind took."""
    if not took:
        return "time left unknown yet"
    known = {kind: statistics.mean(seconds) for kind, seconds in took.items()}
    guess = statistics.mean(known.values())
    return f"about {sum(known.get(cell.kind, guess) for cell in remaining) / 60:.0f} min left"


def run_grid(cells: list[Cell], out: Path) -> list[str]:
    """Run what is not done; returns what failed."""
    done = [cell for cell in cells if cell.is_done()]
    todo, failed, took = [cell for cell in cells if cell not in done], [], {}
    for result in read_results(out):
        if result["seconds"] is not None:
            took.setdefault(result["evaluation"], []).append(result["seconds"])
    print(f"{len(done)} of {len(cells)} cells are done; {time_left(todo, took)}", flush=True)
    for number, cell in enumerate(todo, len(done) + 1):
        if any(name.startswith(f"{cell.arm.name}, seed {cell.pretraining_seed}, {PRETRAINING} ") for name in failed):
            failed.append(f"{cell.name} not begun: its pretraining failed")
            continue
        try:
            if cell.is_done():  # by another process meanwhile
                continue
            seconds = cell.run()
        except (RuntimeError, OSError, ValueError) as error:
            failed.append(str(error))
            print(f"[{number}/{len(cells)}] failed: {error}", file=sys.stderr, flush=True)
            continue
        if seconds is not None:
            took.setdefault(cell.kind, []).append(seconds)
        spent = "finished" if seconds is None else f"{seconds:.0f} s"
        print(
            f"[{number}/{len(cells)}] {cell.name}: {spent}; {time_left(todo[number - len(done) :], took)}", flush=True
        )
    return failed


def main(argv: list[str] | None = None) -> int:
    """Run the grid and print its table; returns the exit status: 1 where a cell failed, 2 where it cannot begin."""
    args = parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that a command that runs is ended too
    out, failed = Path(args.out), []
    try:
        if wrong := [item for item in args.data if "=" not in item]:
            raise ValueError(f"--data wants NAME=PATH, got {wrong}")
        grid = read_grid(args.config, dict(item.split("=", 1) for item in args.data))
        if args.table and not out.is_dir():
            raise FileNotFoundError(f"no results here: {out}")
        if not args.table:
            for name, folder in grid.data.items():
                if not Path(folder).exists():
                    raise FileNotFoundError(f"no {name} here: {folder} (--data {name}=PATH)")
            failed = run_grid(list_cells(grid, out, args.only, args.seeds), out)
        table = markdown_table(grid, read_results(out))
    except (OSError, ValueError) as error:
        print(f"ablate.py: {error}", file=sys.stderr)
        return 2
    print(table)
    if not args.table:
        (out / "table.md").write_text(table + "\n")
    print("\n".join(failed), file=sys.stderr) if failed else None
    print(f"{len(read_results(out))} results, {len(failed)} failed; {out}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
