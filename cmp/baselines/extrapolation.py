"""Predictions without learning, for comparison: the last frame repeated, and the last frame moved on along its motion.

Also here, because it uses the same flow: which pixels of a frame move.

Legend: B batch, T frames, H W pixels. Frames have values -1..1.
"""

import cv2
import numpy as np
import torch

from cmp.flow import warp_backward

_MIN_SIDE_PX = 32  # below this, DIS has too few scales
MOVING_PX = 0.5


def copy_last(frames: torch.Tensor, count: int) -> torch.Tensor:
    """Repeat the last of frames (B, T, 3, H, W): (B, count, 3, H, W)."""
    return frames[:, -1:].expand(-1, count, -1, -1, -1)


def extrapolate_flow(frames: torch.Tensor, count: int) -> torch.Tensor:
    """Move the last frame on along the flow between the last two frames.

    Args:
        frames: (B, T, 3, H, W), T at least 2.
        count: number of frames to predict.

    Returns:
        (B, count, 3, H, W). Each pixel is followed back in time, step by step, through the flow from the last frame to
        the one before it; positions outside the frame take the nearest pixel of its edge.
    """
    last = frames[:, -1]
    back = dis_flow(last, frames[:, -2])
    path, predicted = torch.zeros_like(back), []
    for _ in range(count):
        path = path + warp_backward(back, path, padding="border")
        predicted.append(warp_backward(last, path, padding="border"))
    return torch.stack(predicted, dim=1)


def moving_pixels(frames: torch.Tensor, first: int, *, least_px: float = MOVING_PX) -> torch.Tensor:
    """Mark the pixels that move: those whose flow to the previous frame is at least least_px long.

    Args:
        frames: (B, T, 3, H, W).
        first: index of the first frame to mark, at least 1.
        least_px: shortest flow that counts as motion, px.

    Returns:
        (B, T - first, 1, H, W) bool.
    """
    moving = [dis_flow(frames[:, t], frames[:, t - 1]).norm(dim=1) >= least_px for t in range(first, frames.shape[1])]
    return torch.stack(moving, dim=1).unsqueeze(2)


def dis_flow(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Estimate the flow from one frame to another with OpenCV's dense inverse search (preset "fast") on gray values.

    Args:
        first, second: (B, 3, H, W) RGB, values -1..1.

    Returns:
        (B, 2, H, W) float32: where each pixel of `first` is in `second`, x then y, px; on the frames' device.

    Source: Kroeger et al., ECCV 2016. Frames with a side below 32 px are enlarged by a whole factor first.
    """
    dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    flows = [_flow_of_pair(dis, _gray(one), _gray(other)) for one, other in zip(first, second)]
    return torch.from_numpy(np.stack(flows).transpose(0, 3, 1, 2).copy()).to(first.device)


def _flow_of_pair(dis: cv2.DISOpticalFlow, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    height, width = first.shape
    factor = -(-_MIN_SIDE_PX // min(height, width))
    if factor == 1:
        return dis.calc(first, second, None)
    size_wh = (width * factor, height * factor)
    enlarged = [cv2.resize(gray, size_wh, interpolation=cv2.INTER_CUBIC) for gray in (first, second)]
    return cv2.resize(dis.calc(*enlarged, None), (width, height), interpolation=cv2.INTER_AREA) / np.float32(factor)


def _gray(frame: torch.Tensor) -> np.ndarray:
    """Convert (3, H, W) RGB in -1..1 to (H, W) uint8 gray."""
    pixels = ((frame.detach().float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return cv2.cvtColor(np.ascontiguousarray(pixels.permute(1, 2, 0).cpu().numpy()), cv2.COLOR_RGB2GRAY)
