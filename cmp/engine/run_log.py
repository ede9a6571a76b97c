"""What a run wrote down of itself, read back as curves."""

import json
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import numpy as np


class RunLog(NamedTuple):
    """Scalars of a run, over all its starts."""

    train: dict[str, np.ndarray]  # name, without "train/" or "val/", to (N, 2) float64: step, value
    val: dict[str, np.ndarray]
    resumed_after: list[int]  # the step after which each later start went on


def read_run(work_dir: str | PathLike) -> RunLog:
    """Read the scalars that a training run logged into its folder (`*/vis_data/scalars.json`).

    Where a run was killed and went on from a checkpoint, the steps that it took twice are in there once, from the later
    start. A line cut off by a kill is left out.

    Raises:
        FileNotFoundError: the folder holds no scalars.
        ValueError: a file of scalars is broken; it is named.
    """
    starts = sorted(Path(work_dir).glob("*/vis_data/scalars.json"))  # folders are named by time
    if not starts:
        raise FileNotFoundError(f"{work_dir} is no folder of a run: no */vis_data/scalars.json in it")
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
    return RunLog(_curves(train), _curves(val), resumed_after)


def _lines(path: Path) -> list[dict]:
    texts = path.read_text().splitlines()
    lines = []
    for number, text in enumerate(texts, 1):
        try:
            line = json.loads(text)
            line["step"] = int(line.get("step", line.get("iter")))
        except (ValueError, TypeError, AttributeError) as error:
            if number == len(texts):
                break
            raise ValueError(f"{path}, line {number} is no scalars of a step: {error}") from error
        lines.append(line)
    return lines


def _curves(lines: dict[int, dict]) -> dict[str, np.ndarray]:
    lines = {step: {name.split("/", 1)[-1]: value for name, value in line.items()} for step, line in lines.items()}
    names = dict.fromkeys(name for line in lines.values() for name in line if name not in ("iter", "step"))
    return {
        name: np.array([(step, line[name]) for step, line in sorted(lines.items()) if name in line], np.float64)
        for name in names
    }
