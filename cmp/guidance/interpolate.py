"""Dense flow from the guides alone, without the image: what a trained network must beat.

Legend: N guides, H W image pixels.
"""

import math

import numpy as np
from scipy.ndimage import distance_transform_edt

from cmp.guidance.checks import check_points, check_size

CHUNK_WEIGHTS = 1 << 20  # weights held at once by the inverse-distance sum: 8 MiB
LARGEST_POWER = 64.0  # beyond it distances of some thousand px leave the range of float64


def interpolate_nearest(points_yx: np.ndarray, vectors_xy: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """Give every pixel the motion of the guide nearest to it.

    Args:
        points_yx: (N, 2) integer positions (y, x) inside the image; of a point given twice the last counts.
        vectors_xy: (N, 2) motion of each guide, px; x (right) then y (down).
        size_hw: height and width of the image, px.

    Returns:
        (H, W, 2) float32 flow, px; at a guide exactly its vector. Between equally near guides either may win.
        Without guides: zeros.

    Raises:
        ValueError: points_yx or vectors_xy is not (N, 2), a vector is not finite, or a point lies outside the image.
    """
    points_yx, vectors_xy, size_hw = _checked(points_yx, vectors_xy, size_hw)
    if len(points_yx) == 0:
        return np.zeros((*size_hw, 2), np.float32)
    y, x = points_yx.T
    index = np.full(size_hw, -1)
    index[y, x] = np.arange(len(y))
    # Guides are pixels, so the exact distance transform answers for all pixels at once, whatever N.
    nearest_y, nearest_x = distance_transform_edt(index < 0, return_distances=False, return_indices=True)
    return vectors_xy[index[nearest_y, nearest_x]]


def interpolate_inverse_distance(
    points_yx: np.ndarray, vectors_xy: np.ndarray, size_hw: tuple[int, int], power: float = 2.0
) -> np.ndarray:
    """Give every pixel the mean of all guides' motion, each weighted by 1 / distance^power.

    Args:
        points_yx: (N, 2) integer positions (y, x) inside the image; of a point given twice the last counts.
        vectors_xy: (N, 2) motion of each guide, px; x (right) then y (down).
        size_hw: height and width of the image, px.
        power: above 0, at most 64: the larger, the closer to `interpolate_nearest`.

    Returns:
        (H, W, 2) float32 flow, px; at a guide exactly its vector. Without guides: zeros.

    Raises:
        ValueError: as `interpolate_nearest`, or power is out of range.

    Source: Shepard, "A two-dimensional interpolation function for irregularly-spaced data", 1968.
    """
    points_yx, vectors_xy, (height, width) = _checked(points_yx, vectors_xy, size_hw)
    if not 0 < power <= LARGEST_POWER:
        raise ValueError(f"power must be above 0 and at most {LARGEST_POWER:g}, got {power}")
    flow = np.zeros((height, width, 2), np.float32)
    if len(points_yx) == 0:
        return flow
    # Of a point given twice only the last stays: np.unique finds first places, so it is asked from behind.
    _, from_end = np.unique(points_yx[::-1], axis=0, return_index=True)
    points_yx, vectors_xy = points_yx[::-1][from_end], vectors_xy[::-1][from_end]
    y, x = points_yx.T

    squared_x = np.square(np.arange(width) - x[:, None], dtype=np.float64)  # (N, W)
    rows_a_chunk = math.ceil(CHUNK_WEIGHTS / squared_x.size)
    for top in range(0, height, rows_a_chunk):
        rows = np.arange(top, min(top + rows_a_chunk, height))
        squared_y = np.square(rows - y[:, None], dtype=np.float64)  # (N, rows)
        weights = squared_y[:, :, None] + squared_x[:, None, :]  # (N, rows, W): distance^2
        np.maximum(weights, 1, out=weights)  # only a guide's own pixel is nearer than 1, and that is set below
        if power == 2:  # a division is many times faster than a general power
            np.reciprocal(weights, out=weights)
        else:
            np.power(weights, -power / 2, out=weights)
        weights = weights.reshape(len(y), -1)
        mean_xy = (vectors_xy.T.astype(np.float64) @ weights) / weights.sum(axis=0)  # (2, rows * W)
        flow[rows] = mean_xy.T.reshape(len(rows), width, 2)
    flow[y, x] = vectors_xy
    return flow


def _checked(
    points_yx: np.ndarray, vectors_xy: np.ndarray, size_hw: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
    """Return (N, 2) int64 points, (N, 2) float32 vectors and the size, or raise ValueError."""
    size_hw = check_size(size_hw)
    points_yx = check_points(points_yx, size_hw)
    vectors_xy = np.asarray(vectors_xy, dtype=np.float32)
    if len(points_yx) == 0 and vectors_xy.size == 0:
        vectors_xy = vectors_xy.reshape(0, 2)
    if vectors_xy.shape != points_yx.shape:
        raise ValueError(f"vectors_xy must be {points_yx.shape} as points_yx, got shape {vectors_xy.shape}")
    if not np.isfinite(vectors_xy).all():
        raise ValueError("vectors_xy must be finite, got NaN or infinity")
    return points_yx, vectors_xy, size_hw
