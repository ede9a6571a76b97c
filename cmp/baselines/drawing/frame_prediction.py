"""Drawing for frame predictors: true and predicted frames, and those of the extrapolated motion."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from cmp.baselines.drawing.grid import image_grid
from cmp.baselines.extrapolation import extrapolate_flow

if TYPE_CHECKING:
    from cmp.baselines.frame_prediction import FramePredictor


def draw_predictions(model: FramePredictor, frames: torch.Tensor) -> dict[str, np.ndarray]:
    """Draw the predictions of clips (B, T, 3, H, W), values 0..255.

    Returns:
        `prediction`: three rows per clip, each with the given frames first: the true frames, the predicted frames, and
        the last frame moved on along the last motion.
        `prediction_animation`: the same frames one after another: true, predicted and moved, in three columns.
    """
    given, target = model.divide(frames)
    futures = [target, model.predict(given, target.shape[1]), extrapolate_flow(given, target.shape[1])]
    clips = torch.stack([torch.cat((given, future.float()), dim=1) for future in futures], dim=1)  # (B, 3, T, 3, H, W)
    clips = clips / 2 + 0.5
    animation = [image_grid(clips[:, :, t].flatten(0, 1), columns=3) for t in range(clips.shape[2])]
    return {
        "prediction": image_grid(clips.flatten(0, 2), columns=clips.shape[2]),
        "prediction_animation": np.stack(animation),
    }
