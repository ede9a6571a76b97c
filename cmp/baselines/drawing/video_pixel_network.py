"""Drawing for the video pixel network: expected pixel values and sampled continuations."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

from cmp.baselines.drawing.grid import image_grid

if TYPE_CHECKING:
    from cmp.baselines.video_pixel_network import VideoPixelNetwork


def draw_continuations(model: VideoPixelNetwork, frames: torch.Tensor) -> dict[str, np.ndarray]:
    """Draw what the model expects and samples for clips (B, T, C, H, W), values 0..1, or uint8.

    Returns:
        `expected`: two rows per clip: the frames to predict, and below each the expected value of every pixel given
        all pixels before it.
        `continued`: an animation of the first `sampled` clips, with below each its given frames and the frames
        sampled after them.
    """
    frames = model.as_levels(frames)
    logits = model.logits(frames)
    values = torch.linspace(0, 1, model.levels, device=logits.device)
    probabilities = logits.softmax(dim=3) if model.levels > 2 else torch.cat((-logits, logits), dim=3).sigmoid()
    expected = torch.einsum("btclhw,l->btchw", probabilities, values)
    rows = torch.stack((frames[:, model.given :], expected), dim=1).flatten(0, 2)
    generator = torch.Generator(frames.device).manual_seed(0)
    some = frames[: model.sampled]
    continued = model.sample(some[:, : model.given], frames.shape[1] - model.given, generator)
    pairs = torch.cat((some, continued)).unbind(dim=1)
    return {
        "expected": image_grid(enlarged(rows), columns=expected.shape[1]),
        "continued": np.stack([image_grid(enlarged(pair), columns=len(some)) for pair in pairs]),
    }


def enlarged(frames: torch.Tensor) -> torch.Tensor:
    """Enlarge frames (N, C, H, W) by the largest whole factor that keeps their height within 64 px."""
    return F.interpolate(frames, scale_factor=max(1, 64 // frames.shape[2]))
