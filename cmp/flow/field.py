"""What a flow field is: the array's shape and type, its unknown pixels, and fields that are not decoded yet.

A flow field is (H, W, 2) float32: how far each pixel moves from frame t to frame t+k, in pixels; channel 0 is x
(right), channel 1 is y (down). A pixel whose motion is unknown is NaN in both channels. In torch a batch of fields is
(B, 2, H, W).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

UNKNOWN_ABOVE_PX = 1e9  # Middlebury's rule: a component beyond this marks a pixel without ground truth


@runtime_checkable
class FlowField(Protocol):
    """A flow field that is decoded when and as far as it is needed.

    `DenseFlow` wraps an array; `cmp.flow.HalfSizeFlow` is what the default codec stores.
    """

    shape: tuple[int, int, int]  # (H, W, 2)

    def window(self, size_hw: tuple[int, int], rows: slice, columns: slice) -> np.ndarray:
        """Cut a window out of the field resized to another size, computing little more than the window.

        Args:
            size_hw: (height, width) to which the whole field is resized bilinearly; the vectors are scaled with it.
            rows, columns: the window in the resized field, each with start and stop, not empty.

        Returns:
            (rows, columns, 2) float32, px of the new size. Equal to `resize_flow` of the whole field, then cut, up to
            a millionth of the largest component.
        """

    def __array__(self, dtype: type | None = None, copy: bool | None = None) -> np.ndarray:
        """The whole field as (H, W, 2) float32: call `numpy.asarray`."""


class DenseFlow:
    """A flow field that is an array already.

    Args:
        flow: (H, W, 2) float32 px. It is not copied.
    """

    def __init__(self, flow: np.ndarray) -> None:
        self._flow = check_flow(flow)
        self.shape: tuple[int, int, int] = self._flow.shape

    def window(self, size_hw: tuple[int, int], rows: slice, columns: slice) -> np.ndarray:
        """See `FlowField.window`."""
        from cmp.flow.resample import resized_window  # with scipy, which not every reader needs

        return resized_window(self._flow, size_hw, (rows, columns), ratios_xy(self.shape, size_hw))

    def __array__(self, dtype: type | None = None, copy: bool | None = None) -> np.ndarray:
        if copy:
            return np.array(self._flow, dtype)
        return self._flow if dtype is None else self._flow.astype(dtype, copy=False)


def as_flow_field(flow: FlowField | np.ndarray) -> FlowField:
    """Return the flow as a `FlowField`; an array is wrapped without a copy."""
    return DenseFlow(flow) if isinstance(flow, np.ndarray) else flow


def check_flow(flow: np.ndarray, *, may_be_empty: bool = True) -> np.ndarray:
    """Return the flow as float32, or raise ValueError if it is not a flow field.

    Args:
        flow: (H, W, 2) of any real floating type.
        may_be_empty: whether H or W may be 0.

    Returns:
        (H, W, 2) float32; the input itself where it is float32 already.

    Raises:
        ValueError: another shape, no pixel although one is needed, or not floating.
    """
    flow = np.asarray(flow)
    if flow.ndim != 3 or flow.shape[2] != 2 or not (may_be_empty or flow.size):
        pixels = "" if may_be_empty else " with at least one pixel"
        raise ValueError(f"flow must be (H, W, 2){pixels}, got shape {flow.shape}")
    if not np.issubdtype(flow.dtype, np.floating):
        raise ValueError(f"flow must be floating point, got {flow.dtype}")
    return flow.astype(np.float32, copy=False)


def check_flow_batch(flow: Tensor, *, may_be_empty: bool = True) -> None:
    """Raise ValueError unless flow is a floating tensor (B, 2, H, W); with may_be_empty False also if H or W is 0."""
    is_batch = flow.ndim == 4 and flow.shape[1] == 2 and flow.is_floating_point()
    if not is_batch or not (may_be_empty or (flow.shape[2] and flow.shape[3])):
        pixels = "" if may_be_empty else " with at least one pixel"
        raise ValueError(f"flow must be floating (B, 2, H, W){pixels}, got {flow.dtype} {tuple(flow.shape)}")


def known_pixels(flow: np.ndarray) -> np.ndarray:
    """(H, W) bool: True where both components of an (H, W, 2) flow are numbers of at most 1e9 px."""
    return (np.abs(check_flow(flow)) <= UNKNOWN_ABOVE_PX).all(axis=2)  # a comparison with NaN is False


def ratios_xy(shape: tuple[int, int, int], size_hw: tuple[int, int]) -> tuple[float, float]:
    """How many new pixels there are per old one, along x and y."""
    return size_hw[1] / shape[1], size_hw[0] / shape[0]
