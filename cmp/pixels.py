"""Sizes of images and positions of pixels: the few rules that many modules share.

Pixel centers are at whole coordinates, so pixel x covers [x - 0.5, x + 0.5). This module imports nothing of this
project.
"""

import numpy as np


def size_at_short_side(size_hw: tuple[int, int], short_side_px: int, *, rounding: str = "nearest") -> tuple[int, int]:
    """The (height, width) of an image after it is resized to a short side.

    Args:
        size_hw: (height, width) now, px, each at least 1.
        short_side_px: the short side afterwards, at least 1.
        rounding: how the long side is made a whole number. "nearest": half is rounded up. "down": the rule of Zhan et
            al.'s training transforms, which `cmp.datasets.Resize` keeps because trained networks and the golden outputs
            depend on it.

    Returns:
        (height, width), px. It is computed in whole numbers, so it is the same on every machine.

    Raises:
        ValueError: rounding is unknown, or a size is below 1.
    """
    if rounding not in ("nearest", "down"):
        raise ValueError(f'rounding must be "nearest" or "down", got {rounding!r}')
    short = min(size_hw)
    if short < 1 or not short_side_px >= 1:  # NaN is not
        raise ValueError(f"sizes must be at least 1 px, got {tuple(size_hw)} and a short side of {short_side_px}")
    half = short if rounding == "nearest" else 0
    height, width = (int((2 * side * short_side_px + half) // (2 * short)) for side in size_hw)
    return height, width


def nearest_pixel(points: np.ndarray, *, within: tuple[int, ...] | None = None) -> np.ndarray:
    """Round positions to the nearest pixel; half is rounded up.

    Args:
        points: (..., C) positions, px, finite.
        within: C sizes, in the order of the coordinates, px; positions outside are moved to the nearest pixel inside.

    Returns:
        (..., C) float64, whole numbers.
    """
    nearest = np.floor(np.asarray(points, np.float64) + 0.5)
    return nearest if within is None else np.clip(nearest, 0, np.array(within) - 1)


def is_inside(points: np.ndarray, sizes: tuple[int, ...]) -> np.ndarray:
    """Whether the nearest pixel of each position is in the image.

    Args:
        points: (..., C) positions, px.
        sizes: C sizes, in the order of the coordinates: (width, height) for points (x, y).

    Returns:
        (...) bool.
    """
    nearest = nearest_pixel(points)
    return np.all((nearest >= 0) & (nearest < sizes), axis=-1)
