"""Resize, mirror and scale flow fields.

A flow field has vectors ON a grid: when the grid changes, the vectors change with it. Pixel centers are at whole
coordinates, x to the right, y DOWN. Unknown pixels are NaN; bilinear sampling makes every pixel that touches one NaN.
"""

import math

import cv2
import numpy as np

from cmp.flow.field import check_flow


def resize_flow(flow: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """Resize a flow field bilinearly and scale x by the ratio of widths, y by the ratio of heights.

    Args:
        flow: (H, W, 2) floating px, not empty.
        size_hw: new (height, width), each at least 1.

    Returns:
        (height, width, 2) float32, px of the new size.

    Raises:
        ValueError: wrong shape or dtype, empty flow, or a size below 1.

    Source: Zhan et al. scale both components by the ratio of heights. The two ratios differ where sides are rounded.
    """
    flow = check_flow(flow, may_be_empty=False)
    height, width = size_hw
    if height < 1 or width < 1:
        raise ValueError(f"size_hw must be at least (1, 1), got {tuple(size_hw)}")
    resized = cv2.resize(flow, (width, height), interpolation=cv2.INTER_LINEAR).reshape(height, width, 2)
    # Channel by channel: numpy takes several times longer over an inner axis of two.
    resized[..., 0] *= np.float32(width / flow.shape[1])
    resized[..., 1] *= np.float32(height / flow.shape[0])
    return resized


def flip_flow(flow: np.ndarray, axis: str) -> np.ndarray:
    """Mirror a flow field: positions swap sides, and the component along the mirrored direction changes its sign.

    Args:
        flow: (H, W, 2) floating px; may be empty.
        axis: "horizontal" swaps left and right (x changes sign); "vertical" swaps top and bottom (y changes sign).

    Returns:
        (H, W, 2) float32, a copy.

    Raises:
        ValueError: wrong shape or dtype, or another axis.
    """
    flow = check_flow(flow)
    if axis == "horizontal":
        return flow[:, ::-1] * np.array([-1, 1], np.float32)
    if axis == "vertical":
        return flow[::-1] * np.array([1, -1], np.float32)
    raise ValueError(f'axis must be "horizontal" or "vertical", got {axis!r}')


def scale_flow(flow: np.ndarray, factor: float) -> np.ndarray:
    """Multiply every vector by `factor` (0.5 halves the motion, -1 reverses it); (H, W, 2) float32, a copy.

    Raises:
        ValueError: wrong shape or dtype, or a factor that is not finite.
    """
    if not math.isfinite(factor):
        raise ValueError(f"factor must be finite, got {factor}")
    return check_flow(flow) * np.float32(factor)
