"""One optimizer step over several batches, taken only if all losses and gradients are finite."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from mmengine.optim import OptimWrapper
from torch import nn

from cmp.engine.processes import any_process
from cmp.engine.trained_model import unwrapped


class StepGuard:
    """Gather gradients, check them, and step; passed to a model's `train_step` in the place of an OptimWrapper.

    If a loss or a gradient is not finite in any process, no process takes the step: weights and optimizer stay as they
    are, and the batch norms' statistics, which the forward pass has already moved, return to what they were before. The
    step still counts in the schedule.

    Args:
        optim_wrapper: what steps; its own accumulation must be off.
        model: whose statistics are put back; wrapped for several processes or not.
        num_batches: batches per step. Each loss counts 1 / num_batches, so equal batches give the gradient of one
            batch with all their items, as far as batch norm and the loss treat items one by one.

    Attributes:
        skipped: whether the last step was not taken.

    Raises:
        ValueError: num_batches is below 1, or the wrapper accumulates too.
    """

    def __init__(self, optim_wrapper: OptimWrapper, model: nn.Module, *, num_batches: int = 1) -> None:
        if num_batches < 1:
            raise ValueError(f"accumulate_batches must be at least 1, got {num_batches}")
        if getattr(optim_wrapper, "_accumulative_counts", 1) != 1:
            raise ValueError(
                "set train_cfg.accumulate_batches, not optim_wrapper.accumulative_counts: its steps are batches, and "
                "a run that is stopped between two of them loses gradients"
            )
        self.wrapper, self.num_batches = optim_wrapper, num_batches
        self._statistics = list(unwrapped(model).buffers())
        self._before = [buffer.clone() for buffer in self._statistics]
        self.skipped = False
        self._gathered, self._finite = 0, True

    def begin(self) -> None:
        """Call before the first batch of each step."""
        if self._statistics:
            torch._foreach_copy_(self._before, self._statistics)
        self._gathered, self._finite = 0, True

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Around a forward pass: the wrapper's own; gradients are exchanged between processes with the last batch."""
        last = self._gathered + 1 == self.num_batches
        apart = model.no_sync() if not last and hasattr(model, "no_sync") else nullcontext()
        with apart, self.wrapper.optim_context(model):
            yield

    def update_params(self, loss: torch.Tensor) -> None:
        """Gather the gradients of one batch; after the last one of a step, take it or leave it."""
        self._finite = torch.isfinite(loss.detach()) & self._finite  # stays on the device until the step is decided
        self.wrapper.backward(loss / self.num_batches)
        self._gathered += 1
        if self._gathered < self.num_batches:
            return
        self.skipped = any_process(not (bool(self._finite) and self._gradients_are_finite()))
        if not self.skipped:
            self.wrapper.step()
        elif self._statistics:
            torch._foreach_copy_(self._statistics, self._before)
        self.wrapper.zero_grad()

    def _gradients_are_finite(self) -> bool:
        if getattr(self.wrapper, "loss_scaler", None) is not None:
            return True  # scaled for half precision: the scaler itself leaves out steps that overflow
        gradients = [
            p.grad for group in self.wrapper.optimizer.param_groups for p in group["params"] if p.grad is not None
        ]
        if not gradients:
            return True
        largest = torch._foreach_norm(gradients, torch.inf)  # a sum could overflow
        return bool(torch.stack(largest).isfinite().all())
