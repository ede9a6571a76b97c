"""Arranges a batch of images in a grid: one image that shows them all."""

import numpy as np
import torch
from torchvision.utils import make_grid


def image_grid(images: torch.Tensor, *, columns: int) -> np.ndarray:
    """Arrange images in a grid, row by row.

    Args:
        images: (N, 1 or 3, H, W), values 0..1; values outside are clamped.
        columns: images per row.

    Returns:
        (H', W', 3) uint8 RGB, with a gray border of 2 px around each image.
    """
    grid = make_grid(images.detach().float().clamp(0, 1).cpu(), nrow=columns, padding=2, pad_value=0.5)
    return (255 * grid).round().to(torch.uint8).permute(1, 2, 0).numpy()
