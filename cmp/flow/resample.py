"""Compute a window of a resized field from only those pixels that the window depends on.

Bilinear resizing is linear, and the two axes are independent: along each it is a matrix with two weights per row. One
resizing after another is the product of their matrices. A field that is stored at half its size therefore gives a
window of its doubled and then resized self in one pass with three weights per row, and the cost follows from the size
of the window, not from the size of the frame.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache, reduce
from itertools import pairwise, starmap

import cv2
import numpy as np
from scipy.sparse import csr_array


def resized_window(
    field: np.ndarray, size_hw: tuple[int, int], window: tuple[slice, slice], factors: Sequence[float]
) -> np.ndarray:
    """Resize an array bilinearly, cut out a window and multiply each channel by its factor.

    Args:
        field: (H, W, C) float32. Not changed.
        size_hw: new (height, width) of the whole field.
        window: rows and columns of the new field, with start and stop, not empty.
        factors: C numbers; for flow the ratio of widths and the ratio of heights.

    Returns:
        (rows, columns, C) float32. Equals `cv2.resize` of the whole field, cut and multiplied, up to rounding: by at
        most a millionth of the field's largest value.
    """

    def read(rows: slice, columns: slice, factors: np.ndarray) -> np.ndarray:
        return by_column(field[rows, columns]) * factors

    sizes = [(side,) for side in field.shape[:2]]
    return window_of(read, sizes, size_hw, window, factors)


def window_of(
    read: Callable[[slice, slice, np.ndarray], np.ndarray],
    sizes: Sequence[tuple[int, ...]],
    size_hw: tuple[int, int],
    window: tuple[slice, slice],
    factors: Sequence[float],
) -> np.ndarray:
    """As `resized_window`, for a field that is read in part and resized several times.

    Args:
        read: called with rows and columns, slices with start and stop, and the factors as a float32 array of
            rows * C values, one for each value of a column; returns that part times the factors, column by column:
            (columns, rows * C) float32. See `by_column`.
        sizes: for height and for width the sizes before the last resizing: the size that `read` counts in first.
        size_hw, window, factors: as `resized_window`.
    """
    (rows, reach_y), (columns, reach_x) = (
        _rows_for((*old, new), part.start, part.stop) for old, new, part in zip(sizes, size_hw, window)
    )
    scales = np.tile(np.asarray(factors, np.float32), reach_y.stop - reach_y.start)
    by_x = columns @ read(reach_y, reach_x, scales)  # a matrix works on axis 0
    by_y = cv2.transpose(by_x.reshape(len(by_x), -1, len(factors)))  # (H, columns, C)
    return (rows @ by_y.reshape(len(by_y), -1)).reshape(rows.shape[0], -1, len(factors))


def by_column(values: np.ndarray) -> np.ndarray:
    """Copy (rows, columns, C) column by column: (columns, rows * C)."""
    return cv2.transpose(values).reshape(values.shape[1], -1)


@lru_cache(maxsize=256)
def resize_matrix(*sizes: int) -> csr_array:
    """The matrix that resizes one axis bilinearly from the first size to the second, then to the third, and so on.

    Returns:
        (last size, first size) float32, sparse: each row has the weights of one new pixel, which are OpenCV's. It is
        cached for the next call: do not write to it.
    """
    matrix = reduce(lambda before, after: after @ before, starmap(_resize_once, pairwise(sizes)))
    matrix.eliminate_zeros()
    return matrix.astype(np.float32)


def _resize_once(old: int, new: int) -> csr_array:
    center = ((np.arange(new) + 0.5) * (old / new) - 0.5).astype(np.float32)  # as OpenCV rounds it
    left = np.floor(center)
    weights = np.stack((1 - (center - left), center - left), axis=1).astype(np.float64)
    pixels = np.stack((left, left + 1), axis=1).clip(0, old - 1).astype(np.int32)
    return csr_array((weights.ravel(), pixels.ravel(), np.arange(0, 2 * new + 1, 2)), (new, old))


@lru_cache(maxsize=1024)
def _rows_for(sizes: tuple[int, ...], start: int, stop: int) -> tuple[csr_array, slice]:
    """Cut rows start to stop out of `resize_matrix(*sizes)`, and of the columns only those that these rows use.

    Returns both. They are kept: crops of frames of one size have few hundred positions along an axis, 8 kB each.
    The arrays are put together here because scipy's slicing, once for rows and once for columns, takes twice as long.
    """
    matrix = resize_matrix(*sizes)
    ends = matrix.indptr[start : stop + 1]
    inside = slice(ends[0], ends[-1])
    columns = matrix.indices[inside]
    first, last = int(columns.min()), int(columns.max())
    shape = stop - start, last + 1 - first
    return csr_array((matrix.data[inside], columns - first, ends - ends[0]), shape), slice(first, last + 1)
