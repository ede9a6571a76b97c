"""A window of a resized field, made of nothing but the pixels that it reaches.

Bilinear resizing is linear, and one axis knows nothing of the other: along each it is a matrix with two weights a row.
One resizing after another is their product. So a field that is stored at half its size gives a window of its doubled
and then resized self in one pass, three weights a row, and a picture three times as wide as the crop costs no more.
"""

from collections.abc import Sequence
from functools import lru_cache, reduce
from itertools import pairwise, starmap

import cv2
import numpy as np
from scipy.sparse import csr_array

from cmp.flow.codec import HalfSizeFlow


def resized_window(
    field: np.ndarray | HalfSizeFlow, size_hw: tuple[int, int], window: tuple[slice, slice], factors: Sequence[float]
) -> np.ndarray:
    """What a field, resized bilinearly, holds in a window, each channel times its factor.

    Args:
        field: (H, W, C) float32, or flow that is decoded no further than the window reaches. Not changed.
        size_hw: new (height, width) of the whole field.
        window: rows and columns of the new field, with start and stop, not empty.
        factors: C numbers, for flow the ratios of widths and of heights.

    Returns:
        (rows, columns, C) float32. Equals `cv2.resize` of the whole field, cut and multiplied, up to rounding: by at
        most a millionth of the field's largest value.
    """
    is_half = isinstance(field, HalfSizeFlow)
    sizes = list(zip(field.small_shape, field.shape)) if is_half else [(side,) for side in field.shape[:2]]
    (rows, reach_y), (columns, reach_x) = (
        _rows(resize_matrix(*old, new), part) for old, new, part in zip(sizes, size_hw, window)
    )
    values = field.small(reach_y, reach_x) if is_half else field[reach_y, reach_x]
    height, width, channels = values.shape
    by_x = values.transpose(1, 2, 0).copy()  # (W, C, H): a matrix works on the first axis
    for channel, factor in enumerate(factors):
        by_x[:, channel] *= np.float32(factor)
    by_x = columns @ by_x.reshape(width, channels * height)
    by_y = cv2.transpose(by_x.reshape(-1, height))  # (H, columns * C)
    return (rows @ by_y).reshape(rows.shape[0], -1, channels)


@lru_cache(maxsize=256)
def resize_matrix(*sizes: int) -> csr_array:
    """Resizing one axis bilinearly from the first size to the second, from there to the third, and so on.

    Returns:
        (last size, first size) float32, sparse: a row holds the weights of a new pixel, which are OpenCV's. Kept for
        the next call: do not write to it.
    """
    matrix = reduce(lambda before, after: after @ before, starmap(_resize_once, pairwise(sizes)))
    matrix.eliminate_zeros()
    return matrix.astype(np.float32)


def _resize_once(old: int, new: int) -> csr_array:
    centre = ((np.arange(new) + 0.5) * (old / new) - 0.5).astype(np.float32)  # as OpenCV rounds it
    left = np.floor(centre)
    weights = np.stack((1 - (centre - left), centre - left), axis=1).astype(np.float64)
    pixels = np.stack((left, left + 1), axis=1).clip(0, old - 1).astype(np.int32)
    return csr_array((weights.ravel(), pixels.ravel(), np.arange(0, 2 * new + 1, 2)), (new, old))


def _rows(matrix: csr_array, part: slice) -> tuple[csr_array, slice]:
    """Some rows of a matrix without the columns outside of which they are zero, and those columns.

    Put together here: scipy's own slices, one for rows and one for columns, take twice as long.
    """
    ends = matrix.indptr[part.start : part.stop + 1]
    inside = slice(ends[0], ends[-1])
    columns = matrix.indices[inside]
    first, last = int(columns.min()), int(columns.max())
    shape = part.stop - part.start, last + 1 - first
    return csr_array((matrix.data[inside], columns - first, ends - ends[0]), shape), slice(first, last + 1)
