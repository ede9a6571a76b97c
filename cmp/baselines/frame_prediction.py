"""What systems that predict the next frames of a clip share: pixels, loss, roll-out, judgement and pictures.

Legend: B batch, T frames, H W pixels. Frames have values -1..1 inside a system, 0..255 in a batch.
"""

from abc import abstractmethod
from collections.abc import Callable

import numpy as np
import torch

from cmp.baselines.baseline import Baseline
from cmp.baselines.extrapolation import copy_last, extrapolate_flow, moving_pixels
from cmp.baselines.gradient_difference import gradient_difference
from cmp.baselines.prediction_metrics import prediction_metrics
from cmp.baselines.sheet import picture_grid


def scale_pixels(frames: torch.Tensor) -> torch.Tensor:
    """Values 0..255 to -1..1, as a tanh gives them."""
    return frames.float() / 127.5 - 1


def picture_loss(predicted: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """L2 and GDL (exponent 1) of predicted frames (..., C, H, W) in -1..1: scalars, summed over a frame, per value.

    "Per value" (a sum divided by C H W): so that no weight or learning rate hangs on the frames' size.
    """
    predicted, target = predicted.float().flatten(0, -4), target.flatten(0, -4)
    return (predicted - target).square().mean(), gradient_difference(predicted, target).mean() / target[0].numel()


def roll_out(next_frame: Callable[[torch.Tensor], torch.Tensor], frames: torch.Tensor, count: int) -> torch.Tensor:
    """Predict frame after frame, each from the ones before: a prediction comes in, the oldest frame goes.

    Args:
        next_frame: from (B, T, 3, H, W) to (B, 3, H, W).
        frames: (B, T, 3, H, W).
        count: frames to predict.

    Returns:
        (B, count, 3, H, W).
    """
    predicted = []
    for _ in range(count):
        predicted.append(next_frame(frames))
        frames = torch.cat((frames[:, 1:], predicted[-1][:, None]), dim=1)
    return torch.stack(predicted, dim=1)


class FramePredictor(Baseline):
    """Sees the first frames of a clip and predicts the others.

    Args:
        given: frames it sees.
        trained: frames that it predicts in training.
    """

    def __init__(self, given: int, trained: int) -> None:
        super().__init__()
        if given < 2 or trained < 1:
            raise ValueError(f"given must be at least 2 and trained at least 1, got {given} and {trained}")
        self.given, self.trained = given, trained

    @abstractmethod
    def predict(self, frames: torch.Tensor, count: int) -> torch.Tensor:
        """The count frames (B, count, 3, H, W) after (B, given, 3, H, W), values -1..1."""

    def loss(self, frames: torch.Tensor, **_) -> dict[str, torch.Tensor]:
        """L2 plus GDL of the predictions."""
        given, target = self.divide(frames, self.trained)
        l2, gdl = picture_loss(self.predict(given, target.shape[1]), target)
        return {"loss_l2": l2, "loss_gdl": gdl}

    def measure(self, frames: torch.Tensor, **_) -> dict[str, torch.Tensor]:
        """The metrics of all predicted frames, and the PSNR of the two ways that need no learning."""
        table = self.judge(frames)
        names = [f"model_{metric}_all" for metric in ("psnr", "sharpness_summed", "sharpness_by_axis", "l2", "gdl")]
        names += [f"{way}_psnr_{rest}" for way in ("model", "copy", "flow") for rest in ("first", "all", "moving_all")]
        return {name: table[name] for name in names}

    def judge(self, frames: torch.Tensor) -> dict[str, torch.Tensor]:
        """All `prediction_metrics`, (B,) each, as WAY_METRIC_FRAMES and WAY_METRIC_moving_FRAMES.

        WAY: "model", "copy" (the last frame again), "flow" (the last motion going on). FRAMES: "first" predicted
        frame, or "all": the mean over them. Moving pixels are those of `moving_pixels`.
        """
        given, target = self.divide(frames)
        batch, count = target.shape[:2]
        moving = moving_pixels(torch.cat((given, target), dim=1), given.shape[1]).flatten(0, 1)
        ways = dict(model=self.predict(given, count), copy=copy_last(given, count), flow=extrapolate_flow(given, count))
        table = {}
        for way, predicted in ways.items():
            for region, where in (("", None), ("_moving", moving)):
                metrics = prediction_metrics(predicted.flatten(0, 1).float(), target.flatten(0, 1), where)
                for name, values in metrics.items():
                    values = values.view(batch, count)
                    table[f"{way}_{name}{region}_first"] = values[:, 0]
                    table[f"{way}_{name}{region}_all"] = values.nanmean(dim=1)
        return table

    def pictures(self, frames: torch.Tensor, **_) -> dict[str, np.ndarray]:
        """`prediction`: three rows a clip: what was given and came, what was predicted, the last motion going on.

        `prediction_film`: the same one frame after the other: what came, the prediction, the last motion.
        """
        given, target = self.divide(frames)
        ways = [target, self.predict(given, target.shape[1]), extrapolate_flow(given, target.shape[1])]
        clips = torch.stack([torch.cat((given, way.float()), dim=1) for way in ways], dim=1)  # (B, 3, T, 3, H, W)
        clips = clips / 2 + 0.5
        film = [picture_grid(clips[:, :, t].flatten(0, 1), columns=3) for t in range(clips.shape[2])]
        return {
            "prediction": picture_grid(clips.flatten(0, 2), columns=clips.shape[2]),
            "prediction_film": np.stack(film),
        }

    def divide(self, frames: torch.Tensor, count: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """What is given and the next count (None: all that come) of (B, T, 3, H, W) frames, 0..255; both in -1..1.

        Raises:
            ValueError: frames have another shape, or are too few.
        """
        least = self.given + (count or 1)
        if frames.ndim != 5 or frames.shape[1] < least or frames.shape[2] != 3:
            raise ValueError(
                f"want (B, T, 3, H, W) with T at least {least}, {self.given} given and the rest predicted, "
                f"got {tuple(frames.shape)}"
            )
        frames = scale_pixels(frames)
        return frames[:, : self.given], frames[:, self.given : None if count is None else least]
