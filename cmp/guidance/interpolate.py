"""Interpolate dense flow from guidance points without learning: the baselines that a trained network must beat.

Legend: N guidance points, H W image pixels.
"""

import math

import numpy as np
from scipy.ndimage import distance_transform_edt

from cmp.guidance.checks import check_points, check_size

CHUNK_WEIGHTS = 1 << 20  # weights in memory at once in the inverse-distance sum: 8 MiB
LARGEST_POWER = 64.0  # with more, distances of some thousand px leave the range of float64


def interpolate_nearest(points_yx: np.ndarray, vectors_xy: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """Give every pixel the motion of the nearest guidance point.

    Args:
        points_yx: (N, 2) integer positions (y, x) inside the image; if a point is given twice, the last one is used.
        vectors_xy: (N, 2) motion of each point, px; x (right) then y (down).
        size_hw: height and width of the image, px.

    Returns:
        (H, W, 2) float32 flow, px; at a point exactly its vector. Of equally near points either may be used. Without
        points: zeros.

    Raises:
        ValueError: points_yx or vectors_xy is not (N, 2), a vector is not finite, or a point is outside the image.
    """
    points_yx, vectors_xy, size_hw = _checked(points_yx, vectors_xy, size_hw)
    if len(points_yx) == 0:
        return np.zeros((*size_hw, 2), np.float32)
    y, x = points_yx.T
    index = np.full(size_hw, -1)
    index[y, x] = np.arange(len(y))
    # Points are pixels, so the exact distance transform finds the nearest ones of all pixels at once, whatever N is.
    nearest_y, nearest_x = distance_transform_edt(index < 0, return_distances=False, return_indices=True)
    return vectors_xy[index[nearest_y, nearest_x]]


def interpolate_inverse_distance(
    points_yx: np.ndarray,
    vectors_xy: np.ndarray,
    size_hw: tuple[int, int],
    power: float = 2.0,
    reach_px: float = math.inf,
) -> np.ndarray:
    """Give every pixel the mean motion of all guidance points, each weighted by 1 / distance^power.

    With a reach, a vector of 0 takes part in the mean, at that distance from every pixel: motion fades out away from
    the points, as it does in clips in which most of the image does not move.

    Args:
        points_yx: (N, 2) integer positions (y, x) inside the image; if a point is given twice, the last one is used.
        vectors_xy: (N, 2) motion of each point, px; x (right) then y (down).
        size_hw: height and width of the image, px.
        power: above 0, at most 64: the larger, the closer to `interpolate_nearest`.
        reach_px: at least 1; at this distance from the only point a pixel gets half its motion.

    Returns:
        (H, W, 2) float32 flow, px; at a point exactly its vector. Without points: zeros.

    Raises:
        ValueError: as `interpolate_nearest`, or power or reach is out of range.

    Source: the reach is ours; Shepard, "A two-dimensional interpolation function for irregularly-spaced data", 1968.
    """
    points_yx, vectors_xy, (height, width) = _checked(points_yx, vectors_xy, size_hw)
    if not 0 < power <= LARGEST_POWER:
        raise ValueError(f"power must be above 0 and at most {LARGEST_POWER:g}, got {power}")
    if not reach_px >= 1:
        raise ValueError(f"reach_px must be at least 1, got {reach_px}")
    flow = np.zeros((height, width, 2), np.float32)
    if len(points_yx) == 0:
        return flow
    points_yx, vectors_xy = _last_of_each(points_yx, vectors_xy)
    y, x = points_yx.T

    squared_x = np.square(np.arange(width) - x[:, None], dtype=np.float64)  # (N, W)
    rows_per_chunk = math.ceil(CHUNK_WEIGHTS / squared_x.size)
    for top in range(0, height, rows_per_chunk):
        rows = np.arange(top, min(top + rows_per_chunk, height))
        squared_y = np.square(rows - y[:, None], dtype=np.float64)  # (N, rows)
        weights = squared_y[:, :, None] + squared_x[:, None, :]  # (N, rows, W): distance^2
        np.maximum(weights, 1, out=weights)  # only the pixel of the point itself is nearer than 1; it is set below
        if power == 2:  # a division is many times faster than a general power
            np.reciprocal(weights, out=weights)
        else:
            np.power(weights, -power / 2, out=weights)
        weights = weights.reshape(len(y), -1)
        total = weights.sum(axis=0) + reach_px**-power
        mean_xy = (vectors_xy.T.astype(np.float64) @ weights) / total  # (2, rows * W)
        flow[rows] = mean_xy.T.reshape(len(rows), width, 2)
    flow[y, x] = vectors_xy
    return flow


def interpolate_thin_plate(points_yx: np.ndarray, vectors_xy: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """Fit a thin-plate spline: the smoothest field that has the motion of all points. Linear fields are exact.

    Args:
        points_yx: (N, 2) integer positions (y, x) inside the image; if a point is given twice, the last one is used.
        vectors_xy: (N, 2) motion of each point, px; x (right) then y (down).
        size_hw: height and width of the image, px.

    Returns:
        (H, W, 2) float32 flow, px; at a point its vector, up to rounding. Fewer than three points, or points on one
        line, do not determine a spline: the result is then that of `interpolate_nearest`.

    Raises:
        ValueError: as `interpolate_nearest`.

    Source: Duchon, "Splines minimizing rotation-invariant semi-norms in Sobolev spaces", 1977; computed by scipy.
    """
    points_yx, vectors_xy, size_hw = _checked(points_yx, vectors_xy, size_hw)
    points_yx, vectors_xy = _last_of_each(points_yx, vectors_xy)
    if len(points_yx) < 3 or np.linalg.matrix_rank(points_yx - points_yx.mean(axis=0)) < 2:
        return interpolate_nearest(points_yx, vectors_xy, size_hw)
    from scipy.interpolate import RBFInterpolator  # takes longer to import than the rest of the package

    plate = RBFInterpolator(points_yx.astype(float), vectors_xy.astype(float), kernel="thin_plate_spline")
    pixels_yx = np.moveaxis(np.mgrid[: size_hw[0], : size_hw[1]], 0, -1).reshape(-1, 2).astype(float)
    return plate(pixels_yx).reshape(*size_hw, 2).astype(np.float32)


def interpolate_edge_aware(
    points_yx: np.ndarray, vectors_xy: np.ndarray, image: np.ndarray, edge_weight: float = 1000.0
) -> np.ndarray:
    """Spread motion from the guidance points by random walks that seldom cross edges of the image.

    A pixel's motion is the mean of the points' motion, each weighted by the probability that a walk from the pixel
    reaches that point first. It takes half a second for 128 x 128 px and 20 points.

    Args:
        points_yx: (N, 2) integer positions (y, x) inside the image; if a point is given twice, the last one is used.
        vectors_xy: (N, 2) motion of each point, px; x (right) then y (down).
        image: (H, W, 3) uint8 RGB.
        edge_weight: how strongly steps across edges are avoided (skimage's beta), above 0.

    Returns:
        (H, W, 2) float32 flow, px; at a point exactly its vector. Without points: zeros.

    Raises:
        ValueError: as `interpolate_nearest`, or image is not (H, W, 3) uint8.

    Source: Grady, "Random Walks for Image Segmentation", PAMI 2006, computed by scikit-image in CIELAB. It replaces
    EpicFlow's edge-aware interpolation (Revaud et al., CVPR 2015), which only opencv-contrib implements.
    """
    if getattr(image, "dtype", None) != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"image must be (H, W, 3) uint8, got {getattr(image, 'shape', type(image))}")
    points_yx, vectors_xy, size_hw = _checked(points_yx, vectors_xy, image.shape[:2])
    points_yx, vectors_xy = _last_of_each(points_yx, vectors_xy)
    if len(points_yx) < 2:
        return interpolate_nearest(points_yx, vectors_xy, size_hw)
    labels = np.zeros(size_hw, int)
    labels[points_yx[:, 0], points_yx[:, 1]] = np.arange(1, len(points_yx) + 1)
    if labels.all():
        return interpolate_nearest(points_yx, vectors_xy, size_hw)
    from skimage.color import rgb2lab
    from skimage.segmentation import random_walker  # these, too, are imported where they are needed

    colors = rgb2lab(image) / 100
    if not colors.any():
        colors[..., 0] = 1  # skimage divides by the standard deviation, which is 0 for a black image
    reached = random_walker(colors, labels, edge_weight, mode="cg_j", return_full_prob=True, channel_axis=2)
    reached /= reached.sum(axis=0)  # (N, H, W); the solver stops at a thousandth
    flow = np.tensordot(reached, vectors_xy, axes=(0, 0)).astype(np.float32)
    flow[points_yx[:, 0], points_yx[:, 1]] = vectors_xy
    return flow


def _last_of_each(points_yx: np.ndarray, vectors_xy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of a point given twice keep only the last. np.unique finds first positions, so the order is reversed for it."""
    _, from_end = np.unique(points_yx[::-1], axis=0, return_index=True)
    return points_yx[::-1][from_end], vectors_xy[::-1][from_end]


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
