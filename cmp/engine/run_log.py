"""Read the scalars that a run logged, as curves."""

import json
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cmp.engine.provenance import FILE as STARTS

LOGS = "*/vis_data/scalars.json"  # in a run's folder, one for each start


class RunLog(NamedTuple):
    """Scalars of a run, over all its starts."""

    train: dict[str, np.ndarray]  # name, without "train/" or "val/", to (N, 2) float64: step, value
    val: dict[str, np.ndarray]
    resumed_after: list[int]  # the step after which each later start went on
    loss_unit: str | None = None  # name of its loss, with the unit; None where it is not recorded


def read_run(work_dir: str | PathLike) -> RunLog:
    """Read the scalars that a training run logged into its folder (`*/vis_data/scalars.json`).

    Where a run was killed and went on from a checkpoint, some steps were taken twice; they are returned once, from the
    later start. A line that was cut off by a kill is left out.

    Raises:
        FileNotFoundError: the folder contains no scalars.
        ValueError: a file of scalars is broken; it is named.
    """
    starts = sorted(Path(work_dir).glob(LOGS))  # folders are named by time
    if not starts:
        raise FileNotFoundError(f"{work_dir} is not a folder of a run: it contains no */vis_data/scalars.json")
    train, val, resumed_after = {}, {}, []  # step to line
    for path in starts:
        lines = _lines(path)
        steps = [line["iter"] for line in lines if "iter" in line]
        if steps and train:
            last = min(steps) - 1
            resumed_after.append(last)
            train = {step: line for step, line in train.items() if step <= last}
            val = {step: line for step, line in val.items() if step <= last}
        for line in lines:
            (train if "iter" in line else val)[line["step"]] = line
    return RunLog(_curves(train), _curves(val), resumed_after, _loss_unit(Path(work_dir) / STARTS))


def _loss_unit(path: Path) -> str | None:
    """The loss that the last start recorded, with its unit; None if it recorded none."""
    try:
        unit = json.loads(path.read_text().splitlines()[-1])["loss"]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return unit if isinstance(unit, str) else None


def _lines(path: Path) -> list[dict]:
    try:
        texts = path.read_text("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} does not contain the scalars of a run: {error}") from error
    lines = []
    for number, text in enumerate(texts, 1):
        try:
            line = _scalars(text)
        except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            if number == len(texts):
                break
            raise ValueError(f"{path}, line {number} does not contain the scalars of a step: {error}") from error
        lines.append(line)
    return lines


def _scalars(text: str) -> dict[str, float]:
    """The numbers of one line, with its step; None becomes NaN."""
    line = {}
    for name, value in json.loads(text).items():
        if value is not None and not isinstance(value, (int, float)):
            raise ValueError(f"{name} must be a number, got {type(value).__name__}")
        line[name] = float("nan") if value is None else float(value)
    line |= {name: int(line[name]) for name in ("iter", "step") if name in line}
    if "step" not in line and "iter" not in line:
        raise ValueError("it has no step")
    return line | {"step": line["step"] if "step" in line else line["iter"]}


def _curves(lines: dict[int, dict]) -> dict[str, np.ndarray]:
    lines = {step: {name.split("/", 1)[-1]: value for name, value in line.items()} for step, line in lines.items()}
    names = dict.fromkeys(name for line in lines.values() for name in line if name not in ("iter", "step"))
    return {
        name: np.array([(step, line[name]) for step, line in sorted(lines.items()) if name in line], np.float64)
        for name in names
    }
