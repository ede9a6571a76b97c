"""Guidance as the network takes it: the flow at the guidance points, and a mask of where they are."""

import numpy as np

from cmp.flow.field import check_flow
from cmp.guidance.checks import check_points


def guidance_tensors(flow: np.ndarray, points_yx: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Keep the flow at the guidance points and set the rest to 0.

    Args:
        flow: (H, W, 2) float32, pixels moved from frame t to frame t+k; channel 0 is x (right), 1 is y (down).
        points_yx: (N, 2) integer positions (y, x); N may be 0, and a point may appear twice.

    Returns:
        sparse: (2, H, W) float32 array, flow in px at the points and 0 elsewhere.
        mask: (1, H, W) float32 array, 1 at the points and 0 elsewhere; only the mask shows points that do not move.
        Both are numpy arrays, channels first; `torch.from_numpy` takes them without a copy.

    Raises:
        ValueError: flow is not floating (H, W, 2), points_yx is not (N, 2) integers, a point is outside the image, or
            the flow at a point is NaN or infinite.

    Source: Zhan et al., CVPR 2019. Their mask has two equal channels; here the network repeats it.
    """
    flow = check_flow(flow, may_be_empty=False)
    height, width = flow.shape[:2]
    y, x = check_points(points_yx, (height, width)).T
    vectors_xy = flow[y, x]  # (N, 2)
    if not np.isfinite(vectors_xy).all():
        raise ValueError(f"flow is NaN or infinite at {int((~np.isfinite(vectors_xy)).any(axis=1).sum())} points")
    sparse = np.zeros((2, height, width), np.float32)
    mask = np.zeros((1, height, width), np.float32)
    sparse[:, y, x] = vectors_xy.T
    mask[0, y, x] = 1
    return sparse, mask
