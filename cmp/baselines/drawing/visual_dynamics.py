"""Drawing for Visual Dynamics: several possible next frames of an image."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from cmp.baselines.drawing.grid import image_grid

if TYPE_CHECKING:
    from cmp.baselines.visual_dynamics import VisualDynamics


def draw_futures(model: VisualDynamics, frames: torch.Tensor) -> dict[str, np.ndarray]:
    """Draw possible next frames of the first frame of clips (B, T, 3, H, W), values 0..255.

    Returns:
        `futures`: one row per clip: the image; the true next frame; the next frame predicted from the pair's own
        latent vector; three next frames from N(0, I); and, once vectors are stored, three from stored vectors. For a
        deterministic model: the image, the true next frame and the predicted one.
        `futures_animation`: alternates between the image and each of these next frames.
    """
    image, after = model.first_pair(frames)
    generator = torch.Generator(image.device).manual_seed(0)
    row = [after, image + model.difference(image, model.encode_motion(image, after)[0])]
    for prior in model.priors:
        if prior == "normal" or model.num_seen:
            row += [model.sample(image, prior, generator) for _ in range(3)]
    row = torch.stack(row, dim=1) / 2 + 0.5
    first = image[:, None] / 2 + 0.5
    animation = [first.expand_as(row), row]
    return {
        "futures": image_grid(torch.cat((first, row), dim=1).flatten(0, 1), columns=1 + row.shape[1]),
        "futures_animation": np.stack([image_grid(step.flatten(0, 1), columns=row.shape[1]) for step in animation]),
    }
