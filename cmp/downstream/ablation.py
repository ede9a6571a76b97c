"""A grid of experiments: arms (what a backbone comes from) x seeds x evaluations, its results in files, its table.

An arm is a training config whose checkpoint `cmp.export` can take an image encoder from, of whatever method; or no
config at all: random initialization.
"""

import difflib
import json
import math
import os
import platform
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from cmp.engine.config import read_config
from cmp.evaluation.interpolations import INTERPOLATIONS

# Predictions that need no network, as the metrics name them.
NO_NETWORK = ("zero_flow", *(metric.removeprefix("epe_") for metric, _ in INTERPOLATIONS.values()))
TASKS = ("propagation", "segmentation", "detection", "knn", "linear")


@dataclass(frozen=True)
class Arm:
    """One row of the table.

    Args:
        name: of the row.
        config: training config, relative to the checkout; None for random initialization.
        data: which entry of the grid's `data` it is trained on.
        options: dotted keys of the config to new values.
        guided: True if it predicts flow from image and guidance, False if it was trained and is evaluated on the image
            alone, None if it does not predict flow: its cells of propagation are a dash.
        pretraining_seed: one pretraining for all seeds, so that their spread is that of the evaluations alone. None:
            each seed has its own pretraining.
        seeds, evaluations: fewer than the grid's; None for all of them.
        note: printed after the name.
    """

    name: str
    config: str | None = None
    data: str = "pairs"
    options: Mapping = field(default_factory=dict)
    guided: bool | None = True
    pretraining_seed: int | None = None
    seeds: Sequence[int] | None = None
    evaluations: Sequence[str] | None = None
    note: str = ""


@dataclass(frozen=True)
class Evaluation:
    """One column of the table; for propagation several.

    Args:
        name: of the column.
        task: of tools/evaluate.py.
        data: which entry of the grid's `data` it reads.
        config: of the task; for propagation the config whose val_dataloader selects pairs and guidance, the same for
            all arms. None for knn and linear.
        options: dotted keys of the config to new values; of knn and linear the command's flags (size=64).
        frozen: segmentation on a frozen backbone.
    """

    name: str
    task: str
    data: str
    config: str | None = None
    options: Mapping = field(default_factory=dict)
    frozen: bool = False


@dataclass(frozen=True)
class Grid:
    """The content of configs/ablation/*.py: arms, seeds, evaluations, the encoder, and folders of data by name."""

    arms: Sequence[Arm]
    evaluations: Sequence[Evaluation]
    seeds: Sequence[int]
    data: Mapping[str, str]
    encoder: str = "resnet18"


def read_grid(path: str | PathLike, data: Mapping[str, str] | None = None) -> Grid:
    """Read a grid's config.

    Args:
        path: a pure-Python config (see `read_config`).
        data: folders that replace the config's, by name.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: an entry is missing, repeated or unknown; it is named.
    """
    config = read_config(path).to_dict()
    try:
        arms = [_build(Arm, arm) for arm in config.pop("arms")]
        evaluations = [_build(Evaluation, evaluation) for evaluation in config.pop("evaluations")]
        grid = _build(Grid, dict(arms=arms, evaluations=evaluations, **config))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: {f'no {error}' if isinstance(error, KeyError) else error}") from error
    for name, folder in (data or {}).items():
        _among(name, grid.data, "--data")
        grid.data[name] = folder
    for kind, named in (("arms", arms), ("evaluations", evaluations)):
        slugs = [slug(one.name) for one in named]
        if not named or len(set(slugs)) < len(slugs):
            raise ValueError(f"{path}: {kind} must be at least one, of different names, got {slugs}")
    for evaluation in evaluations:
        _among(evaluation.task, TASKS, f"{path}: task of {evaluation.name!r}")
        _among(evaluation.data, grid.data, f"{path}: data of {evaluation.name!r}")
        if (evaluation.config is None) != (evaluation.task in ("knn", "linear")):
            raise ValueError(f"{path}: {evaluation.name!r} ({evaluation.task}) has config {evaluation.config!r}")
    for arm in arms:
        for name in arm.evaluations or ():
            _among(name, [evaluation.name for evaluation in evaluations], f"{path}: evaluations of {arm.name!r}")
        shared = () if arm.pretraining_seed is None else (arm.pretraining_seed,)
        for seed in (*(arm.seeds or ()), *shared):
            _among(seed, grid.seeds, f"{path}: seeds of {arm.name!r}")
        if arm.config is not None:
            _among(arm.data, grid.data, f"{path}: data of {arm.name!r}")
        elif arm.options:
            raise ValueError(f"{path}: {arm.name!r} has options but no config")
    return grid


def slug(name: str) -> str:
    """A name as a folder: "CMP, K = 9" is cmp-k-9."""
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-")


def hardware() -> str:
    """Name the GPU or CPU that this runs on."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
        cpu = found.group(1).strip() if found else cpu
    return f"{cpu}, {torch.get_num_threads()} of {os.cpu_count()} cores"


def _same_key(key: str, arm: Any) -> str:
    """The key of the metrics for every arm, where it does not depend on the arm."""
    return key


def markdown_table(grid: Grid, results: Sequence[Mapping]) -> str:
    """The table of what was measured: mean over seeds, +- their standard deviation, number of seeds; a dash elsewhere.

    Args:
        grid: its arms are the rows, its evaluations the columns.
        results: contents of cells: arm, seed, evaluation, metrics. Cells of the arm "interpolation" are of
            predictions that need no network.
    """
    # Title, evaluation, and the key of the metrics for an arm.
    columns: list[tuple[str, Evaluation, Callable[[Any], str | None]]] = []
    for evaluation in grid.evaluations:
        if evaluation.task == "propagation":
            columns += [
                ("EPE, px", evaluation, lambda arm: "epe" if arm.guided else "epe_no_guidance"),
                ("/ best interpolation", evaluation, lambda arm: None),
                ("image of another video", evaluation, lambda arm: "epe_shuffled_image" if arm.guided else None),
                ("guidance dropped", evaluation, lambda arm: "epe_no_guidance"),
            ]
        elif evaluation.task == "detection":
            columns += [
                (f"{evaluation.name}, {k} AP", evaluation, partial(_same_key, f"{k}_AP")) for k in ("box", "mask")
            ]
        else:
            key = "miou" if evaluation.task == "segmentation" else "accuracy"
            unit = "mIoU, %" if evaluation.task == "segmentation" else "%"
            columns.append((f"{evaluation.name}, {unit}", evaluation, partial(_same_key, key)))

    def cell(arm_name: str, evaluation: Evaluation, key: str | None, factor: float = 1.0) -> str:
        found = [r for r in results if r["arm"] == arm_name and r["evaluation"] == evaluation.name]
        return spread([factor * r["metrics"][key] for r in found if key in r["metrics"]], 3 if "epe" in str(key) else 1)

    lines = ["| | " + " | ".join(title for title, _, _ in columns) + " |", "| --- |" + " --- |" * len(columns)]
    for arm in grid.arms:
        row = []
        for title, evaluation, key_of in columns:
            if title == "/ best interpolation":
                best = best_interpolation(results, evaluation.name)
                row.append(cell(arm.name, evaluation, columns[0][2](arm), 1 / best) if best else "-")
            else:
                row.append(cell(arm.name, evaluation, key_of(arm)))
        lines.append(f"| {arm.name}{f' ({arm.note})' if arm.note else ''} | " + " | ".join(row) + " |")
    for name in NO_NETWORK:
        row = [
            cell("interpolation", evaluation, f"epe_{name}") if title == "EPE, px" else "-"
            for title, evaluation, _ in columns
        ]
        if set(row) != {"-"}:
            lines.append(f"| {name.replace('_', ' ')}, no network | " + " | ".join(row) + " |")
    return "\n".join(lines)


def best_interpolation(results: Sequence[Mapping], evaluation: str) -> float | None:
    """The smallest EPE of all interpolations, px; None if none was measured."""
    found = [
        value
        for result in results
        if result["arm"] == "interpolation" and result["evaluation"] == evaluation
        for key, value in result["metrics"].items()
        if key.removeprefix("epe_") in NO_NETWORK and math.isfinite(value)
    ]
    return min(found, default=None)


def spread(values: Sequence[float], digits: int) -> str:
    """Mean +- sample standard deviation (number of values), without the latter two for one value; a dash for none."""
    values = [value for value in values if math.isfinite(value)]
    if not values:
        return "-"
    mean = f"{statistics.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.{digits}f} ({len(values)})"


def read_results(out: str | PathLike) -> list[dict]:
    """All finished cells below a grid's folder.

    Raises:
        ValueError: a file is damaged; it is named.
    """
    results = []
    for path in sorted(Path(out).glob("*/seed*/*.json")):
        if path.name.startswith("backbone."):
            continue
        try:
            result = json.loads(path.read_text())
            if not {"arm", "seed", "evaluation", "metrics", "settings"} <= result.keys():
                raise ValueError("not the result of a finished cell")
        except (ValueError, AttributeError) as error:
            raise ValueError(f"{path}: {error}") from error
        results.append(result)
    return results


def _build(kind: type, arguments: Mapping):
    """Make a dataclass from a dict; an unknown key is named, with the one that may be meant."""
    known = [f.name for f in fields(kind)]
    for key in arguments:
        _among(key, known, kind.__name__.lower())
    return kind(**arguments)


def _among(name: object, known, where: str) -> None:
    if name in known:
        return
    near = difflib.get_close_matches(str(name), [str(k) for k in known], n=1)
    hint = f"; did you mean {near[0]!r}?" if near else f"; it has {sorted(map(str, known))}"
    raise ValueError(f"{where} has no {name!r}{hint}")
