"""Change a training config's length, batch, seed and precision, with all that follows from them.

Each function changes the config in place and returns a line that says what it changed, or None.
"""

import math
from collections.abc import Mapping

from mmengine.config import Config

from cmp.engine.config import set_option
from cmp.engine.step import PRECISIONS

# `batch_rule` in a config: what the learning rate is multiplied by where the batch is multiplied by x.
BATCH_RULES = {"constant": lambda ratio: 1.0, "linear": lambda ratio: ratio, "sqrt": math.sqrt}


def set_steps(config: Config, steps: int) -> str:
    """Give a run another number of steps; the learning rate's schedule and validation keep their shares of it.

    Raises:
        ValueError: steps is below 1.
    """
    if steps < 1:
        raise ValueError(f"--steps must be at least 1, got {steps}")
    former = config.train_cfg.max_iters

    def scaled(step: int) -> int:
        return 0 if step <= 0 else max(1, round(step * steps / former))

    config.train_cfg.max_iters = steps
    interval = config.train_cfg.get("val_interval")
    if interval is not None:
        config.train_cfg.val_interval = min(scaled(interval), steps)
    logger = config.get("default_hooks", {}).get("logger")
    if logger is not None and logger.get("interval", 0) > steps:
        logger.interval = steps
    kept = [part for part in _schedulers(config) if _rescale(part, scaled, steps)]
    if isinstance(config.get("param_scheduler"), Mapping):
        config.param_scheduler = kept[0] if kept else []
    elif config.get("param_scheduler"):
        config.param_scheduler = kept
    line = f"{steps} steps instead of the config's {former}"
    if kept:
        line += f": the learning rate's schedule is rescaled ({', '.join(map(_described, kept))})"
    if interval is not None:
        line += f", validation is every {config.train_cfg.val_interval} steps"
    return line


def set_batch_size(config: Config, batch_size: int) -> str:
    """Give each process another number of pairs per batch; the learning rate follows the config's `batch_rule`.

    Raises:
        ValueError: batch_size is below 1, or the config has an unknown rule.
    """
    if batch_size < 1:
        raise ValueError(f"--batch-size must be at least 1, got {batch_size}")
    former, rule = config.train_dataloader.batch_size, config.get("batch_rule", "constant")
    if rule not in BATCH_RULES:
        raise ValueError(f"batch_rule must be one of {', '.join(BATCH_RULES)}, got {rule!r}")
    config.train_dataloader.batch_size = batch_size
    line = f"batches of {batch_size} instead of the config's {former}"
    optimizer = config.optim_wrapper.get("optimizer")
    if optimizer is None or "lr" not in optimizer or rule == "constant" or batch_size == former:
        return f"{line}: the learning rate stays as it is (rule: {rule})"
    before = optimizer.lr
    optimizer.lr = before * BATCH_RULES[rule](batch_size / former)
    return f"{line}: the learning rate is {optimizer.lr:.3g} instead of {before:g} (rule: {rule})"


def set_seed(config: Config, seed: int) -> None:
    """Set the seed of weights, order and samples; validation keeps its own.

    Raises:
        ValueError: the seed is not in 0..2**32 - 1.
    """
    if not 0 <= seed < 2**32:
        raise ValueError(f"--seed must be in 0..{2**32 - 1}, got {seed}")
    config.setdefault("randomness", {})["seed"] = seed
    try:
        set_option(config, "train_dataloader.dataset.seed", seed)
    except ValueError:  # a dataset without random parts
        pass


def set_precision(config: Config, precision: str) -> None:
    """Set the precision of the forward pass.

    Raises:
        ValueError: it is unknown, or the config's optimizer wrapper does not have one.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"--precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    try:
        set_option(config, "optim_wrapper.precision", precision)
    except ValueError as error:
        raise ValueError("--precision: this config's optim_wrapper is not an AutocastOptimWrapper") from error


def _schedulers(config: Config) -> list:
    schedulers = config.get("param_scheduler") or []
    return [schedulers] if isinstance(schedulers, Mapping) else list(schedulers)


def _rescale(scheduler: dict, scaled, steps: int) -> bool:
    """Scale the steps of one scheduler; returns whether anything is left of it."""
    if scheduler.get("by_epoch", True):
        raise ValueError("--steps: this config's schedule counts epochs; change it in a config")
    begin, end = scheduler.get("begin", 0), scheduler.get("end")
    whole = end is not None and scheduler.get("T_max") == end - begin
    for key in ("begin", "end", "T_max", "total_iters", "step_size"):
        if isinstance(scheduler.get(key), int):
            scheduler[key] = scaled(scheduler[key])
    if "milestones" in scheduler:
        scheduler["milestones"] = sorted({scaled(step) for step in scheduler["milestones"]})
    begin, end = scheduler.get("begin", 0), scheduler.get("end")
    if whole and end > begin:
        scheduler["T_max"] = end - begin
    return begin < (steps if end is None else end)


def _described(scheduler: dict) -> str:
    kind = scheduler["type"] if isinstance(scheduler["type"], str) else scheduler["type"].__name__
    if "milestones" in scheduler:
        return f"{kind} at {', '.join(map(str, scheduler['milestones']))}"
    return f"{kind} {scheduler.get('begin', 0)} to {scheduler['end']}" if scheduler.get("end") else kind
