"""The common part of estimators that are networks: batches, device, files of weights.

B batch, H W frame pixels.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from cmp.weights import read_weight_file
from data_prep.estimators.protocol import FlowEstimator, check_frames


class NetworkEstimator(FlowEstimator):
    """A flow estimator that is a network; a subclass calls it in `_forward`.

    Args:
        name, label: the estimator and its weights, as `describe` names them.
        version: of the package that it comes from.
        device: where the network is.
        batch_size: largest number of pairs per call of the network, at least 1.
    """

    def __init__(self, name: str, label: str, version: str, device: torch.device, batch_size: int) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.batch_size, self._device = batch_size, device
        self._about: dict[str, Any] = {
            "name": name,
            "version": f"{version}, torch {torch.__version__}",
            "settings": {"weights": label, "device": device.type},
        }

    def estimate(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        return self.estimate_batch([first], [second])[0]

    @torch.inference_mode()
    def estimate_batch(self, firsts: Sequence[np.ndarray], seconds: Sequence[np.ndarray]) -> list[np.ndarray]:
        for first, second in zip(firsts, seconds, strict=True):
            check_frames(first, second)
        flows: list[np.ndarray] = []
        for start in range(0, len(firsts), self.batch_size):
            part = slice(start, start + self.batch_size)
            found = self._forward(self._tensor(firsts[part]), self._tensor(seconds[part]))
            flows += [np.ascontiguousarray(flow) for flow in found.permute(0, 2, 3, 1).float().cpu().numpy()]
        return flows

    def describe(self) -> dict:
        return self._about

    def _forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) float32 RGB in 0 .. 1 twice -> (B, 2, H, W) px."""
        raise NotImplementedError

    def _tensor(self, frames: Sequence[np.ndarray]) -> torch.Tensor:
        return torch.from_numpy(np.stack(frames)).to(self._device).permute(0, 3, 1, 2).float() / 255


def choose_device(name: str) -> torch.device:
    """The device of this name; "auto" is CUDA where available. Raises ValueError for a device that does not exist."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device must be auto, cpu, cuda or cuda:N, got {name!r}") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device {name!r} is not there; PyTorch sees {torch.cuda.device_count()} CUDA devices")
    return device


def read_weights(path: str | os.PathLike) -> dict[str, torch.Tensor]:
    """Read a file of tensors by name, bare or under "state_dict".

    Raises FileNotFoundError, or ValueError if the file is something else; both name it. Nothing in it is executed.
    """
    state = read_weight_file(path).content
    if isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ValueError(f"{path} is not a dictionary of tensors")
    return state
