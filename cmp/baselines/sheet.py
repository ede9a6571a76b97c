"""Batches of pictures as one picture to look at."""

import numpy as np
import torch
from torchvision.utils import make_grid


def picture_grid(pictures: torch.Tensor, *, columns: int) -> np.ndarray:
    """Pictures side by side, row by row.

    Args:
        pictures: (N, 1 or 3, H, W), values 0..1; what is beyond is cut.
        columns: how many to a row.

    Returns:
        (H', W', 3) uint8 RGB, a grey line of 2 px around each.
    """
    grid = make_grid(pictures.detach().float().clamp(0, 1).cpu(), nrow=columns, padding=2, pad_value=0.5)
    return (255 * grid).round().to(torch.uint8).permute(1, 2, 0).numpy()
