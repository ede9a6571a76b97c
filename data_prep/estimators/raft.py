"""RAFT of torchvision: better flow than the classical estimators, but it needs weights and, for many videos, a GPU.

B batch, H W frame pixels, P Q padded pixels.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import torch
import torchvision
from torch import nn
from torch.nn.functional import pad
from torchvision.models import optical_flow

from data_prep.estimators.network import NetworkEstimator, choose_device, read_weights
from data_prep.estimators.weights import weights_label

_MODELS = {
    "raft-small": (optical_flow.raft_small, optical_flow.Raft_Small_Weights.DEFAULT),
    "raft-large": (optical_flow.raft_large, optical_flow.Raft_Large_Weights.DEFAULT),
}
_NUM_UPDATES = 12
_MULTIPLE_PX, _MIN_SIDE_PX = 8, 128  # the encoder's stride; below 16 cells the last level of the correlations is empty


class RaftEstimator(NetworkEstimator):
    """RAFT, small or large, in batches.

    Args:
        name: "raft-small" or "raft-large".
        weights: file with a state dict of the torchvision model; None for the weights of the library, from its cache
            or from the network.
        device: "cpu", "cuda", "cuda:1", ... or "auto" (CUDA where available).
        batch_size: largest number of pairs per batch, at least 1. The correlations of a 416 x 740 pair take about
            120 MB.

    Raises:
        FileNotFoundError: the file does not exist; or no weights were given, and they are neither cached nor can be
            fetched.
        ValueError: the file contains weights of another model.

    Source: Teed and Deng, ECCV 2020. Frames are padded at the right and the bottom, by repeating their border, to
    multiples of 8 and at least 128 px; the flow of the padding is cut off.
    """

    def __init__(self, name: str, *, weights: str | None = None, device: str = "auto", batch_size: int = 4) -> None:
        chosen = choose_device(device)
        self._model, label = _load(name, weights, chosen)
        super().__init__(name, label, f"torchvision {torchvision.__version__}", chosen, batch_size)
        self._about["settings"]["updates"] = _NUM_UPDATES

    def _forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        height, width = first.shape[-2:]
        margin = (0, padded_side(width) - width, 0, padded_side(height) - height)
        padded = [pad(frames * 2 - 1, margin, mode="replicate") for frames in (first, second)]  # (B, 3, P, Q)
        return self._model(*padded, num_flow_updates=_NUM_UPDATES)[-1][..., :height, :width]


def padded_side(side_px: int) -> int:
    """The padded length of a side of a frame, px."""
    return max(_MIN_SIDE_PX, -(-side_px // _MULTIPLE_PX) * _MULTIPLE_PX)


@lru_cache(maxsize=1)  # a worker does many videos with one model
def _load(name: str, weights: str | None, device: torch.device) -> tuple[nn.Module, str]:
    build, own = _MODELS[name]
    model = build(weights=None, progress=False)
    if weights is None:
        try:
            state, label = own.get_state_dict(progress=False, check_hash=True), f"torchvision {own.name}"
        except (OSError, RuntimeError) as error:  # no network, or a download that was cut
            cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(own.url).name
            raise FileNotFoundError(
                f"{name} needs weights: {cached} does not exist and {own.url} could not be fetched ({error}). "
                "Fetch that file where there is a network, and put it there or name it with --estimator-weights"
            ) from error
    else:
        state, label = read_weights(weights), weights_label(weights)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{weights}: not weights of torchvision's {name} ({str(error)[:300]})") from error
    return model.eval().requires_grad_(False).to(device), label
