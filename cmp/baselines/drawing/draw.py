"""Drawing for DRAW: reconstructions, samples, and an animation of how samples are painted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torchvision.utils import draw_bounding_boxes

from cmp.baselines.drawing.grid import image_grid
from cmp.baselines.glimpse import Window

if TYPE_CHECKING:
    from cmp.baselines.draw import DRAW

ZOOM = 2  # images of strokes are enlarged by this factor, so that a window's outline is visible


def draw_strokes(model: DRAW, image: torch.Tensor) -> dict[str, np.ndarray]:
    """Draw reconstructions of images (B, C, H, W), values 0..1, and 64 samples of the prior.

    Returns:
        `reconstructions`: the images in the first row, their reconstructions in the second.
        `samples`: images made from latent vectors drawn from the prior, 8 per row.
        `strokes`: an animation of how 16 of the samples are painted; a red line marks the window that paints. The
        finished images are shown for 8 more frames.
    """
    generator = torch.Generator(image.device).manual_seed(0)
    reconstructed = model.reconstruct(image, generator)[0][-1].sigmoid()
    z = torch.randn((64, model.strokes, model.latent), generator=generator, device=image.device)
    canvases, windows = model.sample(z)
    frames = [outlined(c[:16].sigmoid(), window, model.write_size) for c, window in zip(canvases, windows)]
    frames += 8 * [outlined(canvases[-1][:16].sigmoid(), None, model.write_size)]
    return {
        "reconstructions": image_grid(torch.cat((image, reconstructed)), columns=len(image)),
        "samples": image_grid(canvases[-1].sigmoid(), columns=8),
        "strokes": np.stack([image_grid(frame, columns=8) for frame in frames]),
    }


def outlined(images: torch.Tensor, window: Window | None, size: int | None) -> torch.Tensor:
    """Enlarge images and outline where a window paints.

    Args:
        images: (B, C, H, W), values 0..1, C is 1 or 3.
        window: of at least B images; None draws no outline.
        size: filters per side of the window.

    Returns:
        (B, 3, ZOOM H, ZOOM W), values 0..1, on the CPU; the line passes through the centers of the outermost filters.
    """
    large = F.interpolate(images.expand(-1, 3, -1, -1), scale_factor=ZOOM).cpu()
    if window is None or size is None:
        return large
    height, width = images.shape[2:]
    reach = (size - 1) / 2 * window.distance
    sides = [  # px of the enlarged image, counted from 0; the center of pixel 1 is half a pixel from the border
        (ZOOM * (center + sign * reach - 0.5)).clamp(0, ZOOM * length - 1)[: len(large)]
        for sign in (-1, 1)
        for center, length in ((window.center_x, width), (window.center_y, height))
    ]
    boxes = torch.stack(sides, dim=1).cpu()
    return torch.stack([draw_bounding_boxes(image, box[None], colors="red") for image, box in zip(large, boxes)])
