"""What makes one training step cheaper without changing what is trained: half precision and the layout of memory."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.optim import OptimWrapper
from torch import nn

PRECISIONS = ("float32", "bfloat16")


class PreciseOptimWrapper(OptimWrapper):
    """mmengine's optimizer wrapper with the precision of the forward pass chosen by name, on a CPU and on a GPU.

    Under "bfloat16" convolutions and matrix products are worked in bfloat16 (torch's autocast); weights, their
    updates, batch norm statistics and the loss stay float32. bfloat16 has float32's range, so nothing is scaled.

    Args:
        optimizer: steps the float32 weights.
        precision: "float32", as published, or "bfloat16".
        **kwargs: of `OptimWrapper`: clip_grad. (Batches are accumulated by `StepGuard`, not by the wrapper.)

    Raises:
        ValueError: precision is unknown.

    Source: ours; mmengine 0.10.7's AmpOptimWrapper refuses a CPU.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, precision: str = "float32", **kwargs) -> None:
        if precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {PRECISIONS}, got {precision!r}")
        super().__init__(optimizer, **kwargs)
        self.precision = precision

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """The forward pass and the loss of a step run in here."""
        device = next(model.parameters()).device.type
        half = self.precision == "bfloat16"
        with super().optim_context(model), torch.autocast(device, torch.bfloat16, enabled=half):
            yield


def lay_out(model: nn.Module, optimizer: torch.optim.Optimizer, channels_last: bool) -> None:
    """Lay weights out in memory for convolutions, and the optimizer's state as the weights are; no value changes.

    Channels last is what convolutions are fastest with, in bfloat16 above all. Images need no thought: a convolution
    goes by its weights' layout, and the layers after it by its output's.

    The state is laid out in either case: a resumed one lies as it did in the run that saved it, and torch's fused
    optimizers walk through weights and state side by side, so that another layout silently updates the wrong weights.
    """
    model.to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
