"""What the trainer asks of every system in this room, and how those that take bytes or 0..1 read them."""

from abc import abstractmethod

import numpy as np
import torch
from mmengine.model import BaseModel


class Baseline(BaseModel):
    """A system that tools/train.py trains and judges.

    Its arguments are plain values or dicts of them, which `describe` gives back; an argument `image_encoder` names the
    encoder that `tools/export_backbone.py` takes out, which then must stand under the attribute of that name.

    A batch is the dict of tensors that its dataset gives, each key an argument of `loss`, `measure` and `pictures`;
    what they do not need they take as `**_`.
    """

    def forward(self, mode: str = "loss", **batch) -> dict[str, torch.Tensor]:
        """`loss` or, as mode "predict", `measure` of a batch.

        Raises:
            ValueError: another mode.
        """
        if mode == "loss":
            return self.loss(**batch)
        if mode == "predict":
            return self.measure(**batch)
        raise ValueError(f"mode must be 'loss' or 'predict', got {mode!r}")

    @abstractmethod
    def loss(self, **batch: torch.Tensor) -> dict[str, torch.Tensor]:
        """Scalars: those with "loss" in their names are added up and minimised, the others only logged."""

    @abstractmethod
    def measure(self, **batch: torch.Tensor) -> dict[str, torch.Tensor]:
        """How well it does on each sample: (B,) each; NaN where a sample has nothing to be judged."""

    @abstractmethod
    def pictures(self, **batch: torch.Tensor) -> dict[str, np.ndarray]:
        """Uint8 RGB pictures (H, W, 3), or films (T, H, W, 3), of a batch; the same for the same weights and batch."""

    @abstractmethod
    def describe(self) -> dict:
        """The system's name under "system" and its constructor's arguments, for a checkpoint."""


def scale_to_unit(frames: torch.Tensor) -> torch.Tensor:
    """Uint8 values as floats 0..1; floats, which have that range, unchanged."""
    return frames.float() / 255 if frames.dtype == torch.uint8 else frames
