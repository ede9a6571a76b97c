"""Shared parts of the systems that predict the next frames of a clip: pixel scaling, loss, roll-out and metrics.

Legend: B batch, T frames, H W pixels. Frames have values -1..1 inside a model, 0..255 in a batch.
"""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from cmp.baselines.baseline import Baseline
from cmp.baselines.drawing.frame_prediction import draw_predictions
from cmp.baselines.extrapolation import copy_last, extrapolate_flow, moving_pixels
from cmp.baselines.gradient_difference import gradient_difference
from cmp.baselines.prediction_metrics import prediction_metrics


def scale_pixels(frames: torch.Tensor) -> torch.Tensor:
    """Scale values 0..255 to -1..1, the range of tanh."""
    return frames.float() / 127.5 - 1


def frame_loss(
    predicted: torch.Tensor, target: torch.Tensor, exponent: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute L2 and GDL of predicted frames (..., C, H, W) in -1..1: two scalars per value of a frame.

    "Per value" means the sum over a frame divided by C H W, so that loss weights and learning rates do not depend on
    the size of the frames. The exponent is that of the GDL, see `gradient_difference`.
    """
    predicted, target = predicted.float().flatten(0, -4), target.flatten(0, -4)
    gdl = gradient_difference(predicted, target, exponent).mean() / target[0].numel()
    return (predicted - target).square().mean(), gdl


def roll_out(next_frame: Callable[[torch.Tensor], torch.Tensor], frames: torch.Tensor, count: int) -> torch.Tensor:
    """Predict frame after frame, each from the frames before it: a prediction replaces the oldest frame.

    Args:
        next_frame: predicts (B, 3, H, W) from (B, T, 3, H, W).
        frames: (B, T, 3, H, W).
        count: number of frames to predict.

    Returns:
        (B, count, 3, H, W).
    """
    predicted = []
    for _ in range(count):
        predicted.append(next_frame(frames))
        frames = torch.cat((frames[:, 1:], predicted[-1][:, None]), dim=1)
    return torch.stack(predicted, dim=1)


class FramePredictor(Baseline):
    """Predicts the later frames of a clip from the first ones.

    Args:
        given: number of given frames, at least 2.
        trained: number of frames that it predicts in training, at least 1.
        gdl_weight: weight of the gradient difference loss; 0: only L2 is minimized.
        gdl_exponent: exponent of the gradient difference loss, at least 1: below, its gradient is infinite where the
            edges of prediction and target are equally strong.

    Raises:
        ValueError: an argument is too small.
    """

    def __init__(self, given: int, trained: int, gdl_weight: float = 1.0, gdl_exponent: float = 1.0) -> None:
        super().__init__()
        if given < 2 or trained < 1:
            raise ValueError(f"given must be at least 2 and trained at least 1, got {given} and {trained}")
        if not (gdl_weight >= 0 and gdl_exponent >= 1):
            raise ValueError(
                f"gdl_weight must be at least 0 and gdl_exponent at least 1, got {gdl_weight} and {gdl_exponent}"
            )
        self.given, self.trained = given, trained
        self.gdl_weight, self.gdl_exponent = gdl_weight, gdl_exponent
        self._arguments: dict[str, Any] = dict(
            given=given, trained=trained, gdl_weight=gdl_weight, gdl_exponent=gdl_exponent
        )

    @property
    def loss_unit(self) -> str:
        """What the loss is, with its unit."""
        weight = "" if self.gdl_weight == 1 else f"{self.gdl_weight:g} "
        exponent = "" if self.gdl_exponent == 1 else f" of exponent {self.gdl_exponent:g}"
        return f"L2{f' + {weight}GDL{exponent}' if self.gdl_weight else ''} (values -1..1)"

    @abstractmethod
    def predict(self, frames: torch.Tensor, count: int) -> torch.Tensor:
        """Predict the count frames (B, count, 3, H, W) after frames (B, given, 3, H, W); values -1..1."""

    def loss(self, frames: torch.Tensor, **_) -> dict[str, torch.Tensor]:
        """Compute L2 and weighted GDL of the predicted frames; the sum is minimized. A weight of 0 leaves GDL out."""
        given, target = self.divide(frames, self.trained)
        return self.frame_losses(self.predict_in_training(given, target), target)

    def predict_in_training(self, given: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Predict as many frames as target has, for the loss; a system that reads true frames takes them from target.

        Args:
            given, target: (B, given, 3, H, W) and (B, count, 3, H, W), values -1..1.
        """
        return self.predict(given, target.shape[1])

    def frame_losses(self, predicted: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor]:
        """Compute the terms of the loss between frames (..., C, H, W) in -1..1, see `frame_loss`."""
        l2, gdl = frame_loss(predicted, target, self.gdl_exponent)
        return {"loss_l2": l2, "loss_gdl": self.gdl_weight * gdl} if self.gdl_weight else {"loss_l2": l2}

    def other_predictions(self, given: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor]:
        """Predict in other ways that belong to the system, by name; evaluated like "model" in `metrics_per_frame`.

        Arguments and shapes are those of `predict_in_training`.
        """
        return {}

    def measure(self, frames: torch.Tensor, **_) -> dict[str, torch.Tensor]:
        """Measure all predicted frames, and the PSNR of the two predictions without learning; see `all_metrics`."""
        table = self.all_metrics(frames)
        metrics = ("psnr", "ssim", "sharpness_summed", "sharpness_by_axis", "l2", "gdl", "total")
        names = [f"model_{metric}_all" for metric in metrics]
        names += [
            f"{method}_psnr_{rest}" for method in ("model", "copy", "flow") for rest in ("first", "all", "moving_all")
        ]
        return {name: table[name] for name in names}

    def all_metrics(self, frames: torch.Tensor) -> dict[str, torch.Tensor]:
        """Compute all `prediction_metrics`, (B,) each, named METHOD_METRIC_FRAMES and METHOD_METRIC_moving_FRAMES.

        FRAMES: "first" predicted frame, or "all": the mean over all of them. The rest: see `metrics_per_frame`.
        """
        table = {}
        for name, values in self.metrics_per_frame(frames).items():
            table[f"{name}_first"], table[f"{name}_all"] = values[:, 0], values.nanmean(dim=1)
        return table

    def metrics_per_frame(self, frames: torch.Tensor) -> dict[str, torch.Tensor]:
        """Compute all `prediction_metrics` of each predicted frame, (B, count) each.

        They are named METHOD_METRIC and METHOD_METRIC_moving. METHOD: "model"; "copy" (`copy_last`); "flow"
        (`extrapolate_flow`); and the names of `other_predictions`. The second name is for the pixels that
        `moving_pixels` marks.
        """
        given, target = self.divide(frames)
        batch, count = target.shape[:2]
        moving = moving_pixels(torch.cat((given, target), dim=1), given.shape[1]).flatten(0, 1)
        methods = dict(
            model=self.predict(given, count), copy=copy_last(given, count), flow=extrapolate_flow(given, count)
        )
        methods |= self.other_predictions(given, target)
        table = {}
        for method, predicted in methods.items():
            for region, where in (("", None), ("_moving", moving)):
                metrics = prediction_metrics(predicted.flatten(0, 1).float(), target.flatten(0, 1), where)
                table |= {f"{method}_{name}{region}": values.view(batch, count) for name, values in metrics.items()}
        return table

    def pictures(self, frames: torch.Tensor, **_) -> dict[str, np.ndarray]:
        """Draw true and predicted frames; see `draw_predictions`."""
        return draw_predictions(self, frames)

    def divide(self, frames: torch.Tensor, count: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Split frames (B, T, 3, H, W) in 0..255 into the given ones and the next count ones, both scaled to -1..1.

        Args:
            frames: the batch.
            count: number of frames after the given ones; None takes all.

        Raises:
            ValueError: frames have another shape, or there are too few.
        """
        least = self.given + (count or 1)
        if frames.ndim != 5 or frames.shape[1] < least or frames.shape[2] != 3:
            raise ValueError(
                f"want (B, T, 3, H, W) with T at least {least}, {self.given} given and the rest predicted, "
                f"got {tuple(frames.shape)}"
            )
        frames = scale_pixels(frames)
        return frames[:, : self.given], frames[:, self.given : None if count is None else least]
