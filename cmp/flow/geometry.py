"""What happens to a flow field when its picture is resized, cropped, mirrored or turned.

A flow field holds vectors ON a grid: moving the grid must move the vectors with it. Pixel centres are at whole
coordinates, x to the right, y DOWN. Unknown pixels are NaN; bilinear sampling spreads a NaN to the pixels that touch
it, never into a number.
"""

import math

import cv2
import numpy as np

from cmp.flow.field import check_flow


def resize_flow(flow: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """Resize a flow field bilinearly and scale x by the ratio of widths, y by the ratio of heights.

    Args:
        flow: (H, W, 2) floating px, not empty.
        size_hw: new (height, width), each at least 1.

    Returns:
        (height, width, 2) float32, px of the new size.

    Raises:
        ValueError: wrong shape or dtype, empty flow, or a size below 1.

    Source: the authors scale both components by the height ratio; each by its own is right when the sides are rounded
    apart.
    """
    flow = _not_empty(flow)
    height, width = size_hw
    if height < 1 or width < 1:
        raise ValueError(f"size_hw must be at least (1, 1), got {tuple(size_hw)}")
    resized = cv2.resize(flow, (width, height), interpolation=cv2.INTER_LINEAR).reshape(height, width, 2)
    # Channel by channel: numpy takes several times longer over an inner axis of two.
    resized[..., 0] *= np.float32(width / flow.shape[1])
    resized[..., 1] *= np.float32(height / flow.shape[0])
    return resized


def crop_flow(flow: np.ndarray, top: int, left: int, height: int, width: int) -> np.ndarray:
    """A copy of the (height, width) window at row `top`, column `left`; (height, width, 2) float32, vectors unchanged.

    Raises:
        ValueError: wrong shape or dtype, or the window is empty or leaves the field.
    """
    flow = check_flow(flow)
    inside = 0 <= top and 0 <= left and top + height <= flow.shape[0] and left + width <= flow.shape[1]
    if height < 1 or width < 1 or not inside:
        raise ValueError(f"window {height} x {width} at ({top}, {left}) does not fit a field of {flow.shape[:2]}")
    return flow[top : top + height, left : left + width].copy()


def flip_flow(flow: np.ndarray, axis: str) -> np.ndarray:
    """Mirror a flow field: positions swap sides, and the component along the mirrored direction changes its sign.

    Args:
        flow: (H, W, 2) floating px; may be empty.
        axis: "horizontal" swaps left and right (x changes sign); "vertical" swaps top and bottom (y changes sign).

    Returns:
        (H, W, 2) float32, a copy.

    Raises:
        ValueError: wrong shape or dtype, or another axis.
    """
    flow = check_flow(flow)
    if axis == "horizontal":
        return flow[:, ::-1] * np.array([-1, 1], np.float32)
    if axis == "vertical":
        return flow[::-1] * np.array([1, -1], np.float32)
    raise ValueError(f'axis must be "horizontal" or "vertical", got {axis!r}')


def scale_flow(flow: np.ndarray, factor: float) -> np.ndarray:
    """Every vector times `factor` on the same grid (0.5 halves the motion, -1 turns it round); (H, W, 2) float32."""
    if not math.isfinite(factor):
        raise ValueError(f"factor must be finite, got {factor}")
    return check_flow(flow) * np.float32(factor)


def rotate_flow(flow: np.ndarray, degrees: float, *, fill: float = np.nan) -> np.ndarray:
    """Turn a flow field with its picture: the grid about the picture's centre, and every vector by the same angle.

    Args:
        flow: (H, W, 2) floating px, not empty.
        degrees: counter-clockwise as seen on screen (y is down): at 90, a vector to the right points up.
        fill: value where the turned picture shows nothing of the old one. Default NaN: unknown motion.

    Returns:
        (H, W, 2) float32 of the SAME size; bilinear between pixels.

    Raises:
        ValueError: wrong shape or dtype, empty flow, or an angle that is not finite.

    Source: a 2x2 matrix. The authors turn vectors by arctan(v / u), which loses the quadrant.
    """
    turned = _rotate_grid(_not_empty(flow), degrees, fill)
    return turned @ _rotation(degrees).T.astype(np.float32)


def rotate_image(image: np.ndarray, degrees: float, *, fill: float = 0) -> np.ndarray:
    """Turn a picture exactly as `rotate_flow` turns its grid.

    Args:
        image: (H, W) or (H, W, C) uint8 or float32, not empty, C at most 4.
        degrees: counter-clockwise as seen on screen.
        fill: value where nothing of the old picture shows.

    Returns:
        Array of the same shape and dtype; bilinear between pixels.

    Raises:
        ValueError: wrong shape or dtype, empty picture, or an angle that is not finite.
    """
    image = np.asarray(image)
    if image.ndim not in (2, 3) or (image.ndim == 3 and not 1 <= image.shape[2] <= 4) or image.size == 0:
        raise ValueError(f"image must be (H, W) or (H, W, 1..4) and not empty, got shape {image.shape}")
    if image.dtype not in (np.uint8, np.float32):
        raise ValueError(f"image must be uint8 or float32, got {image.dtype}")
    return _rotate_grid(image, degrees, fill)


def _rotation(degrees: float) -> np.ndarray:
    """(2, 2) float64 matrix that turns (x, y) counter-clockwise as seen, with y down."""
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return np.array([[cosine, sine], [-sine, cosine]])


def _rotate_grid(values: np.ndarray, degrees: float, fill: float) -> np.ndarray:
    if not math.isfinite(degrees):
        raise ValueError(f"degrees must be finite, got {degrees}")
    height, width = values.shape[:2]
    back = _rotation(-degrees)
    center = np.array([(width - 1) / 2, (height - 1) / 2])
    to_source = np.column_stack((back, center - back @ center))
    turned = cv2.warpAffine(
        values,
        to_source,
        (width, height),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    ).reshape(values.shape)
    # The border is repeated and then cut away here: a constant border of NaN would eat the last row and column (0 * NaN
    # is NaN).
    x, y = np.arange(width), np.arange(height)[:, None]
    source_x = to_source[0, 0] * x + to_source[0, 1] * y + to_source[0, 2]
    source_y = to_source[1, 0] * x + to_source[1, 1] * y + to_source[1, 2]
    slack = 1e-6
    inside = (np.abs(source_x - center[0]) <= center[0] + slack) & (np.abs(source_y - center[1]) <= center[1] + slack)
    turned[~inside] = fill
    return turned


def _not_empty(flow: np.ndarray) -> np.ndarray:
    flow = check_flow(flow)
    if flow.size == 0:
        raise ValueError(f"flow must have at least one pixel, got shape {flow.shape}")
    return flow
