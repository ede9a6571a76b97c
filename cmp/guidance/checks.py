"""Check the arguments of this package: shapes, kernels, strides, points. A flow is checked by `cmp.flow.check_flow`."""

import numpy as np


def check_map(values: np.ndarray, name: str) -> np.ndarray:
    """Return values as a contiguous (H, W) float array, or raise ValueError; integers become float64."""
    values = np.ascontiguousarray(values)
    if values.ndim != 2 or values.size == 0:
        raise ValueError(f"{name} must be (H, W) with at least one pixel, got shape {values.shape}")
    return values if values.dtype in (np.float32, np.float64) else values.astype(np.float64)


def check_points(points_yx: np.ndarray, size_hw: tuple[int, int] | None = None) -> np.ndarray:
    """Return points_yx as (N, 2) int64, or raise ValueError; given size_hw, every point must be inside that image."""
    points_yx = np.asarray(points_yx)
    if points_yx.size == 0 and points_yx.shape in ((0,), (0, 2)):
        return np.zeros((0, 2), np.int64)
    if points_yx.ndim != 2 or points_yx.shape[1] != 2 or points_yx.dtype.kind not in "iu":
        raise ValueError(f"points_yx must be (N, 2) integers, got shape {points_yx.shape}, {points_yx.dtype}")
    points_yx = points_yx.astype(np.int64, copy=False)
    if size_hw is not None:
        outside = ((points_yx < 0) | (points_yx >= np.array(size_hw))).any(axis=1)
        if outside.any():
            y, x = points_yx[outside][0].tolist()
            raise ValueError(f"{int(outside.sum())} of points_yx lie outside the {size_hw} image, first (y={y}, x={x})")
    return points_yx


def check_size(size_hw: tuple[int, int]) -> tuple[int, int]:
    """Return size_hw as two ints of at least 1, or raise ValueError."""
    height, width = size_hw
    if int(height) != height or int(width) != width or height < 1 or width < 1:
        raise ValueError(f"size_hw must be two whole numbers of at least 1, got {size_hw}")
    return int(height), int(width)


def check_kernel(kernel: int, name: str = "kernel") -> int:
    """Return kernel if it is a positive odd whole number, or raise ValueError."""
    if int(kernel) != kernel or kernel < 1 or kernel % 2 == 0:
        raise ValueError(f"{name} must be odd and at least 1, got {kernel}")
    return int(kernel)


def check_stride(stride_px: int) -> int:
    """Return stride_px if it is a whole number of at least 1, or raise ValueError."""
    if int(stride_px) != stride_px or stride_px < 1:
        raise ValueError(f"stride_px must be a whole number of at least 1, got {stride_px}")
    return int(stride_px)
