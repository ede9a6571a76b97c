"""Hooks of a training run: checkpoints that load safely, pictures of predictions, a progress bar."""

import sys

import numpy as np
import torch
from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook, Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from tqdm import tqdm

import cmp
from cmp.engine.checkpoint import load_strictly
from cmp.engine.pictures import choose_rows, prediction_sheet


class PlainCheckpoint(Hook):
    """Keep checkpoints loadable with weights_only=True, make them say which network they hold, load them strictly.

    mmengine 0.10.7 cannot resume from its own checkpoints under torch's safe default, because its message hub holds
    objects of its own and numpy values (open-mmlab/mmengine#1655). Log scalars are dropped, the rest becomes plain.
    """

    priority = "LOWEST"

    def before_train(self, runner: Runner) -> None:
        for hook in runner.hooks:
            if isinstance(hook, CheckpointHook) and hook.max_keep_ckpts == 1:
                raise ValueError(
                    "default_hooks.checkpoint.max_keep_ckpts must be at least 2: the oldest checkpoint is removed "
                    "before the new one is whole, so a run killed in between would have none"
                )

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        load_strictly(model, checkpoint["state_dict"], source="the checkpoint")  # mmengine's own loading is not strict

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        checkpoint["message_hub"]["log_scalars"] = {}
        checkpoint["message_hub"] = _plain(checkpoint["message_hub"])
        checkpoint["meta"] = _plain(checkpoint["meta"])
        checkpoint["meta"].update(cmp=model.describe(), cmp_version=cmp.__version__)


class PredictionPictures(Hook):
    """After each validation, a sheet of predictions in the run's vis_data/vis_image and in TensorBoard.

    Args:
        max_rows: how many samples to show.
    """

    def __init__(self, max_rows: int = 6) -> None:
        self.max_rows, self.rows = max_rows, []

    def before_val_epoch(self, runner: Runner) -> None:
        self.rows = []

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch: dict, outputs: list[dict]) -> None:
        self.rows = choose_rows(self.rows, data_batch, outputs, self.max_rows)

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        if self.rows and is_main_process():
            runner.visualizer.add_image("predictions", prediction_sheet(self.rows), step=runner.iter)


class ProgressBar(Hook):
    """A bar with an ETA, the loss and the share of the time that goes into waiting for data, over the last steps.

    On a terminal, and elsewhere too if the log is too quiet to have the same in its lines.
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


def _plain(value):
    """Value with numpy numbers turned into Python's; anything that is neither plain nor a tensor into its text."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_plain(item) for item in value)
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    return value if isinstance(value, (bool, int, float, str, bytes, type(None), torch.Tensor)) else str(value)
