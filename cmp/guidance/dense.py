"""Guides as the model takes them: a flow field that is known in few places, and where it is known."""

import numpy as np

from cmp.guidance.checks import check_flow, check_points


def guidance_tensors(flow: np.ndarray, points_yx: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Keep the flow at the guides and erase the rest.

    Args:
        flow: (H, W, 2) float32, pixels moved from frame t to frame t+k; channel 0 is x (right), 1 is y (down).
        points_yx: (N, 2) integer positions (y, x); N may be 0, and a point may appear twice.

    Returns:
        sparse: (2, H, W) float32 array, flow in px at the guides and 0 elsewhere.
        mask: (1, H, W) float32 array, 1 at the guides and 0 elsewhere (a guide that does not move is seen only here).
        Numpy arrays, channels first; `torch.from_numpy` takes them without a copy.

    Raises:
        ValueError: flow is not (H, W, 2), points_yx is not (N, 2) integers, a point lies outside the image, or the
            flow at a guide is NaN or infinite.

    Source: Zhan et al., CVPR 2019; the authors hold the mask twice, once a channel, which the model does by itself.
    """
    flow = check_flow(flow)
    height, width = flow.shape[:2]
    y, x = check_points(points_yx, (height, width)).T
    vectors_xy = flow[y, x]  # (N, 2)
    if not np.isfinite(vectors_xy).all():
        raise ValueError(f"flow is NaN or infinite at {int((~np.isfinite(vectors_xy)).any(axis=1).sum())} guides")
    sparse = np.zeros((2, height, width), np.float32)
    mask = np.zeros((1, height, width), np.float32)
    sparse[:, y, x] = vectors_xy.T
    mask[0, y, x] = 1
    return sparse, mask
