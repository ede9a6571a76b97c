"""Run the grid of an ablation: one command per cell, one file of results per cell.

What is done stays. What fails is named, and the rest is still done. Several processes may share the work.
"""

import hashlib
import json
import os
import shlex
import statistics
import subprocess
import sys
import time
from pathlib import Path

from mmengine.config import Config

from cmp.downstream.ablation import Arm, Evaluation, Grid, hardware, read_results, slug
from cmp.engine.config import read_config
from cmp.engine.provenance import commit
from cmp.engine.resume import last_checkpoint
from cmp.evaluation.interpolations import INTERPOLATIONS
from cmp.export import export_backbone
from cmp.files import write_file
from cmp.folder_lock import hold_folder
from cmp.interrupts import child_finishes_first

RANDOM = "random"
INTERPOLATION = Arm("interpolation", seeds=(0,))  # no network: the same for all seeds
PRETRAINING = "pretraining"
SEEDLESS = ("propagation", "knn")  # tasks that give one pretraining the same number whatever the seed


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
        self.settings: str = hashlib.sha256(repr(about).encode()).hexdigest()[:16]

    def _config(self) -> Config | None:
        """The config of this cell's command, with all that the grid says of it."""
        if self.evaluation is None:
            assert self.arm.config is not None  # arms without training have no cell of it
            config = read_config(self.arm.config, self.arm.options)
            config.randomness.seed = config.train_dataloader.dataset.seed = self.seed
            return config
        if self.evaluation.config is None:
            return None
        options = self.evaluation.options
        config = read_config(self.evaluation.config, options)
        if self.evaluation.frozen:  # the grid's options win over what --frozen sets
            config.frozen.update({key: value for key, value in options.items() if key in config.frozen})
        return config

    def _what_counts(self) -> Config | dict | None:
        """Of the config what its result depends on."""
        if self.evaluation is not None and self.evaluation.task == "propagation":
            assert self.config is not None  # that evaluation is not given without a config
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
        """What is run, by hand as well; the config that it names is written first."""
        tool = [sys.executable, "-m", "cmp", "train" if self.evaluation is None else "evaluate"]
        if self.config:
            config = self.work_dir / "config.py"
            config.parent.mkdir(parents=True, exist_ok=True)
            write_file(config, self.config.pretty_text)
        if self.evaluation is None:
            return [*tool, str(config), "--data", self.data, "--work-dir", str(self.work_dir), "--resume"]
        tool.append(self.evaluation.task)
        if self.evaluation.task == "propagation":
            return [*tool, str(config), *self._propagation()]
        backbone = str(self.pretrained / "backbone.pth" if self.arm.config else RANDOM)
        if self.config is None:
            flags = [part for key, value in self.evaluation.options.items() for part in (f"--{key}", str(value))]
            flags += ["--encoder", self.grid.encoder, "--seed", str(self.seed), "--out", str(self.work_dir)]
            return [*tool, backbone, self.data, *flags]
        frozen = ["--frozen"] if self.evaluation.frozen else []
        flags = ["--work-dir", str(self.work_dir), *frozen, "--seed", str(self.seed), "--resume"]
        return [*tool, str(config), backbone, self.data, *flags]

    def _propagation(self) -> list[str]:
        """The arguments of the propagation command after its config."""
        checkpoint = "none"
        if self.arm is not INTERPOLATION:
            checkpoint = str(last_checkpoint(self.pretrained / PRETRAINING))
        names = INTERPOLATIONS if checkpoint == "none" else ("nearest",)
        return [checkpoint, "--data", self.data, "--out", str(self.work_dir), "--interpolations", *names]

    def run(self) -> float | None:
        """Run it and keep its result; returns the seconds it took, None where an earlier call did a part of it.

        Raises:
            RuntimeError: the command failed; its log is named. Or another process is at it, which is named.
        """
        self.work_dir.mkdir(parents=True, exist_ok=True)
        lock = f".{slug(self.kind)}.lock"
        with hold_folder(self.folder, name=lock, refusal=f"another process makes {self.kind!r}"):
            return None if self.is_done() else self._run()

    def _run(self) -> float | None:
        command, began, log = self.command(), time.perf_counter(), self.work_dir / "log.txt"
        is_new = not log.is_file()
        with open(log, "a") as file, child_finishes_first():
            process = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, env=environment())
        if process.returncode:
            raise RuntimeError(f"{self.name} ended with status {process.returncode}: {log}")
        if self.evaluation is None:
            checkpoint = str(last_checkpoint(self.work_dir))
            export_backbone(checkpoint, self.folder / "backbone.pth", "torchvision", overwrite=True)
            metrics = {}
        else:
            metrics = json.loads((self.work_dir / "metrics.json").read_text())
        seconds = round(time.perf_counter() - began, 1) if is_new else None
        about = dict(arm=self.arm.name, seed=self.seed, evaluation=self.kind, settings=self.settings)
        about |= dict(command=shlex.join(map(str, command)), config=self.arm.config, options=str(self.arm.options))
        about |= dict(hardware=hardware(), seconds=seconds, metrics=metrics, **commit())
        write_file(self.result, json.dumps(about, indent=1) + "\n")
        return seconds


def environment() -> dict[str, str]:
    """The environment of a command, which imports the same packages as this process, installed or not."""
    packages = str(Path(__file__).resolve().parents[2])
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, (packages, os.environ.get("PYTHONPATH"))))}


def list_cells(grid: Grid, out: Path, only: list[str] | None = None, seeds: list[int] | None = None) -> list[Cell]:
    """All cells in the order they are run: seed by seed, so that a first table of all arms is there early."""
    if unknown := set(only or ()) - {arm.name for arm in grid.arms}:
        raise ValueError(f"no such arm: {sorted(unknown)}; there are {[arm.name for arm in grid.arms]}")
    if unknown_seeds := set(seeds or ()) - set(grid.seeds):
        raise ValueError(f"no such seed: {sorted(unknown_seeds)}; there are {list(grid.seeds)}")
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
