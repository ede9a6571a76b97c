"""Guidance for a whole video: flow from its first frame to each later one, given where points are."""

from collections.abc import Sequence

import numpy as np

from cmp.guidance.dense import guidance_tensors
from cmp.guidance.strategies import sample_guidance


def sample_video_guidance(
    flows: Sequence[np.ndarray], *, rng: np.random.Generator, points: str = "first", **strategy
) -> tuple[np.ndarray, np.ndarray]:
    """Choose guides for every flow of a video.

    Args:
        flows: T fields (H, W, 2) float32 px of one size, usually from frame 0 to frames 1 .. T.
        rng: random generator; the same state gives the same guides.
        points: "first": chosen on flows[0] and used in all, as points that are followed. "each": chosen anew in each.
        strategy: what `sample_guidance` takes besides.

    Returns:
        sparse (T, 2, H, W) float32 px and mask (T, 1, H, W) float32.

    Raises:
        ValueError: flows is empty or of changing size, points is unknown, or as `sample_guidance`.
    """
    if points not in ("first", "each"):
        raise ValueError(f"points must be 'first' or 'each', got {points!r}")
    if len(flows) == 0:
        raise ValueError("flows must hold at least one field, got none")
    sizes = {np.shape(flow) for flow in flows}
    if len(sizes) > 1:
        raise ValueError(f"flows must be of one size, got {sorted(sizes)}")
    pairs, points_yx = [], None
    for flow in flows:
        if points == "each" or points_yx is None:
            points_yx = sample_guidance(flow, rng=rng, **strategy)
        pairs.append(guidance_tensors(flow, points_yx))
    sparse, mask = zip(*pairs)
    return np.stack(sparse), np.stack(mask)
