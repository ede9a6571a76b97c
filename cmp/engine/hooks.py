"""Hooks of a training run: checkpoints that load safely and describe their network, and a progress bar."""

import sys

import numpy as np
import torch
from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook, Hook
from mmengine.logging import HistoryBuffer
from mmengine.runner import Runner
from tqdm import tqdm

import cmp
from cmp.engine.trained_model import unwrapped
from cmp.weights import load_strictly


class WeightsOnlyCheckpointHook(Hook):
    """Make checkpoints loadable with weights_only=True, add a description of their network, and load them strictly.

    mmengine 0.10.7 cannot resume from its own checkpoints under torch's safe default, because its message hub contains
    mmengine's objects and numpy values (open-mmlab/mmengine#1655). Of the log scalars of training the newest are kept,
    as many as the log takes its means over, so that the means continue after a resume. All other values become plain.

    The description, meta["cmp"], is what the network's `describe()` returns.
    """

    RECENT = "recent_scalars"  # in the message hub's runtime_info: name to values and counts

    priority = "LOWEST"

    def before_train(self, runner: Runner) -> None:
        for hook in runner.hooks:
            if isinstance(hook, CheckpointHook) and hook.max_keep_ckpts == 1:
                raise ValueError(
                    "default_hooks.checkpoint.max_keep_ckpts must be at least 2: the oldest checkpoint is removed "
                    "before the new one is whole, so a run killed in between would have none"
                )
        hub = getattr(runner, "message_hub", None)
        if hub is None:
            return
        recent = hub.runtime_info.pop(self.RECENT, {})
        for name, (values, counts) in recent.items():
            hub.log_scalars[name] = HistoryBuffer(list(map(float, values)), list(map(int, counts)))

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        # mmengine's own loading is not strict.
        load_strictly(unwrapped(runner.model), checkpoint["state_dict"], source="the checkpoint")

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        hub = checkpoint["message_hub"]
        processor = getattr(runner, "log_processor", None)
        window = max(getattr(processor, "window_size", 0), ProgressBar.WINDOW_STEPS)
        recent = {
            name: [part[-window:].tolist() for part in scalars.data]
            for name, scalars in hub["log_scalars"].items()
            if name.startswith("train/")
        }
        if recent:
            hub["runtime_info"] = {**hub["runtime_info"], self.RECENT: recent}
        hub["log_scalars"] = {}
        checkpoint["message_hub"] = _plain(checkpoint["message_hub"])
        checkpoint["meta"] = _plain(checkpoint["meta"])
        checkpoint["meta"].update(cmp=unwrapped(runner.model).describe(), cmp_version=cmp.__version__)
        if short_side := _short_side_px(getattr(runner, "cfg", {})):
            checkpoint["meta"]["short_side_px"] = short_side  # for `Checkpoint.short_side_px`


class ProgressBar(Hook):
    """Show a bar with the ETA, the loss and the share of the time spent waiting for data, over the last steps.

    It is shown on a terminal, and elsewhere only where the log level hides the lines of the log, which have the same
    numbers.
    """

    WINDOW_STEPS = 20

    priority = "VERY_LOW"

    def before_train(self, runner: Runner) -> None:
        terminal = sys.stderr.isatty()
        quiet = runner.cfg.get("log_level", "INFO") not in ("INFO", "DEBUG")
        on = is_main_process() and (terminal or quiet)
        self.bar = tqdm(
            total=runner.max_iters,
            initial=runner.iter,
            unit="step",
            desc="train",
            disable=not on,
            mininterval=0.5 if terminal else 10,
        )

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs: dict | None = None) -> None:
        scalars = runner.message_hub.log_scalars
        shown = {"loss": ("train/loss", ".3f"), "data wait": ("train/data_time_share", ".0%")}
        means = {
            name: (scalars[key].mean(self.WINDOW_STEPS), form) for name, (key, form) in shown.items() if key in scalars
        }
        self.bar.set_postfix({name: format(mean, form) for name, (mean, form) in means.items()}, refresh=False)
        self.bar.update()

    def after_train(self, runner: Runner) -> None:
        self.bar.close()


def _short_side_px(config) -> int | None:
    """The short side that a config resizes its training images to, px; None where no transform resizes."""
    dataset = (config.get("train_dataloader") or {}).get("dataset") or {}
    return next((t["short_side_px"] for t in dataset.get("transforms") or () if t.get("short_side_px")), None)


def _plain(value):
    """A value with numpy values as Python's, and anything that is neither plain nor a tensor as its text."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_plain(item) for item in value)
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    return value if isinstance(value, (bool, int, float, str, bytes, type(None), torch.Tensor)) else str(value)
