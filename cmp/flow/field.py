"""What a flow field is: the array's shape and type, and which of its pixels are known.

A flow field is (H, W, 2) float32: how far each pixel moves from frame t to frame t+k, in pixels; channel 0 is x
(right), channel 1 is y (down). A pixel whose motion is unknown is NaN in both channels.
"""

import numpy as np

UNKNOWN_ABOVE_PX = 1e9  # Middlebury's rule: a component beyond this marks a pixel without ground truth


def check_flow(flow: np.ndarray) -> np.ndarray:
    """The flow as float32, or a clear refusal.

    Args:
        flow: (H, W, 2) of any real floating type; H and W may be 0.

    Returns:
        (H, W, 2) float32; the input itself where it is float32 already.

    Raises:
        ValueError: not an array of that shape, or not floating.
    """
    flow = np.asarray(flow)
    if flow.ndim != 3 or flow.shape[2] != 2:
        raise ValueError(f"flow must be (H, W, 2), got shape {flow.shape}")
    if not np.issubdtype(flow.dtype, np.floating):
        raise ValueError(f"flow must be floating point, got {flow.dtype}")
    return flow.astype(np.float32, copy=False)


def known_pixels(flow: np.ndarray) -> np.ndarray:
    """(H, W) bool: True where both components of an (H, W, 2) flow are numbers of at most 1e9 px."""
    return (np.abs(check_flow(flow)) <= UNKNOWN_ABOVE_PX).all(axis=2)  # a comparison with NaN is False
