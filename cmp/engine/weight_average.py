"""An exponential moving average of the weights."""

import torch
from mmengine.hooks import EMAHook
from mmengine.runner import Runner
from mmengine.runner.checkpoint import weights_to_cpu

from cmp.weights import load_strictly


class WeightAverage(EMAHook):
    """Keep a moving average of the weights: validation uses the average, training goes on with the weights.

    mmengine's EMAHook saves the average as `state_dict` and the trained weights as `ema_state_dict`. Here `state_dict`
    stays the network that is trained, and `ema_state_dict` is the average, under the same keys; `ema_steps` counts its
    updates. Batch norm statistics are averaged too. A step that was skipped does not count.

    Args:
        momentum: share of the new weights in each update, in (0, 1): 0.001 averages over about the last 1000 steps.
        begin_iter: step at which averaging begins; before it the average is a copy of the weights.
    """

    def __init__(self, momentum: float = 0.0002, begin_iter: int = 0) -> None:
        super().__init__(momentum=momentum, begin_iter=begin_iter, update_buffers=True)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs: dict | None = None) -> None:
        if not runner.train_loop.guard.skipped:
            super().after_train_iter(runner, batch_idx, data_batch, outputs)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        checkpoint["ema_state_dict"] = weights_to_cpu(self.ema_model.module.state_dict())
        checkpoint["ema_steps"] = int(self.ema_model.steps)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        average = checkpoint.get("ema_state_dict")
        load_strictly(self.ema_model.module, average or checkpoint["state_dict"], source="the checkpoint's average")
        steps = checkpoint.get("ema_steps", 0) if average and runner._resume else 0
        self.ema_model.steps = torch.full_like(self.ema_model.steps, steps)
