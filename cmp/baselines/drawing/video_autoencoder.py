"""Drawing for the video autoencoder: the last frames, the prediction, its error and the motion it used."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

from cmp.baselines.drawing.grid import image_grid
from cmp.flow import flow_to_color

if TYPE_CHECKING:
    from cmp.baselines.video_autoencoder import VideoAutoencoder


def draw_prediction(model: VideoAutoencoder, frames: torch.Tensor) -> dict[str, np.ndarray]:
    """Draw the predicted frames of clips (B, T, C, H, W), values 0..1.

    Returns:
        `prediction`: one row per sample: the last two given frames and the next one; the prediction of that; its
        difference from it (gray means none); and the motion from the second to the third, colored relative to the
        longest of the batch (at least one cell).
        `roll_out`, if the clips have several frames after the given ones: two rows per sample, the given frames
        followed by the true frames, and by the predicted ones.
    """
    given, future = model.divide(frames)
    features, flow = model.remember(given)
    predicted = model.to_pixels(model.decode(features, flow))
    motion = (-flow).detach().permute(0, 2, 3, 1).cpu().numpy()
    longest = max(1.0, float(np.linalg.norm(motion, axis=3).max()))
    colors = torch.from_numpy(np.stack([flow_to_color(one, max_flow_px=longest) for one in motion]))
    colors = F.interpolate(colors.permute(0, 3, 1, 2) / 255, size=frames.shape[3:])
    shown = [*given[:, -2:].unbind(1), future[:, 0], predicted, 0.5 + (predicted - future[:, 0]) / 2, colors]
    columns = torch.stack([column.detach().cpu().expand(-1, 3, -1, -1) for column in shown], dim=1)
    pictures = {"prediction": image_grid(columns.flatten(0, 1), columns=len(shown))}
    if future.shape[1] > 1:
        rows = [torch.cat((given, then), dim=1) for then in (future, model.roll_out(given, future.shape[1]))]
        rows = torch.stack(rows, dim=1).detach().cpu().expand(-1, -1, -1, 3, -1, -1)  # (B, 2, T, 3, H, W)
        pictures["roll_out"] = image_grid(rows.flatten(0, 2), columns=rows.shape[2])
    return pictures
