"""The interface that every baseline gives to the trainer, and the scaling of frames to 0..1."""

from abc import abstractmethod
from typing import Any

import numpy as np
import torch
from mmengine.model import BaseModel


class Baseline(BaseModel):
    """A system that tools/train.py can train and evaluate.

    Constructor arguments are plain values, or dicts of them, and `describe` returns them. A system with an argument
    `image_encoder` keeps that encoder in the attribute `image_encoder`: `tools/export_backbone.py` exports it from
    there.

    A batch is the dict of tensors that the dataset returns. Its keys are arguments of `loss`, `measure` and
    `pictures`, which accept the keys they do not use as `**_`. Here they have `*_: Any, **batch: Any`, which a type
    checker lets a subclass replace by any arguments.
    """

    @property
    @abstractmethod
    def loss_unit(self) -> str:
        """What the loss that is minimized is, with its unit: the label of its curve."""

    def forward(self, mode: str = "loss", **batch) -> dict[str, torch.Tensor]:
        """Return `loss` of a batch, or `measure` of it if mode is "predict".

        Raises:
            ValueError: mode is neither "loss" nor "predict".
        """
        if mode == "loss":
            return self.loss(**batch)
        if mode == "predict":
            return self.measure(**batch)
        raise ValueError(f"mode must be 'loss' or 'predict', got {mode!r}")

    @abstractmethod
    def loss(self, *_: Any, **batch: Any) -> dict[str, torch.Tensor]:
        """Compute the training loss: scalars. Those with "loss" in their names are summed and minimized.

        The others are only logged.
        """

    @abstractmethod
    def measure(self, *_: Any, **batch: Any) -> dict[str, torch.Tensor]:
        """Evaluate each sample: (B,) per measure, NaN for samples on which the measure is not defined."""

    @abstractmethod
    def pictures(self, *_: Any, **batch: Any) -> dict[str, np.ndarray]:
        """Draw a batch for a person to look at, by a function of `cmp.baselines.drawing`.

        Returns:
            Uint8 RGB images (H, W, 3) or animations (T, H, W, 3) by name; the same for the same weights and batch.
        """

    @abstractmethod
    def describe(self) -> dict:
        """Return the system's name under "system" and its constructor arguments, to be stored in checkpoints."""


def scale_to_unit(frames: torch.Tensor) -> torch.Tensor:
    """Convert uint8 values to floats in 0..1; floats are expected in that range and returned unchanged."""
    return frames.float() / 255 if frames.dtype == torch.uint8 else frames
