"""Half precision and memory layout: cheaper training steps of the same network."""

import platform
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.logging import print_log
from mmengine.optim import OptimWrapper
from torch import nn

PRECISIONS = ("float32", "bfloat16", "auto")


def computes_in_bfloat16(device_type: str) -> bool:
    """Whether the CPU ("cpu") or GPU ("cuda") has instructions for bfloat16, so that training in it is faster.

    Without them bfloat16 is emulated, which takes several times as long as float32.
    """
    if device_type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device_type != "cpu":
        return False
    if platform.machine().lower() in ("x86_64", "amd64"):
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.ops.mkldnn._is_mkldnn_bf16_supported()


class AutocastOptimWrapper(OptimWrapper):
    """mmengine's optimizer wrapper with a forward pass in float32 or bfloat16, on a CPU and on a GPU.

    Under "bfloat16" convolutions and matrix products are computed in bfloat16 (torch's autocast); weights, their
    updates, batch norm statistics and the loss stay float32. bfloat16 has float32's range, so nothing is scaled.

    Args:
        optimizer: steps the float32 weights.
        precision: "float32", as published; "bfloat16"; or "auto": bfloat16 where the device has instructions for it
            (`computes_in_bfloat16`), else float32; one line in the log names the choice.
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
        """Around the forward pass and the loss of a step."""
        device = next(model.parameters()).device.type
        if self.precision == "auto":
            self.precision = "bfloat16" if computes_in_bfloat16(device) else "float32"
            print_log(f"precision: {self.precision}, the faster one on this {device.upper()}", logger="current")
        half = self.precision == "bfloat16"
        with super().optim_context(model), torch.autocast(device, torch.bfloat16, enabled=half):
            yield


def set_memory_layout(model: nn.Module, optimizer: torch.optim.Optimizer, channels_last: bool) -> None:
    """Set the memory layout of the weights, and give the optimizer's state the same one; no value changes.

    Convolutions are fastest with channels last, above all in bfloat16. Images need no conversion: a convolution follows
    the layout of its weights, and the layers after it follow the layout of its output.

    The state is converted in either case. A resumed state has the layout of the run that saved it, and torch's fused
    optimizers walk through weights and state in step, so with another layout they silently update the wrong weights.
    """
    model.to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
