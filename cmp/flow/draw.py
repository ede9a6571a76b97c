"""Draw flow: the Middlebury colors, their legend, and guidance arrows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np

from cmp.flow.field import check_flow, known_pixels

if TYPE_CHECKING:
    import torch

# The hues and the number of steps from each to the next: red, yellow, green, cyan, blue, magenta, red.
_WHEEL_STEPS = (15, 6, 4, 11, 13, 6)
_WHEEL_HUES = ((255, 0, 0), (255, 255, 0), (0, 255, 0), (0, 255, 255), (0, 0, 255), (255, 0, 255), (255, 0, 0))


def flow_to_color(flow: np.ndarray | torch.Tensor, *, max_flow_px: float | None = None) -> np.ndarray:
    """Draw a flow field in colors, direction as hue and length as saturation: right is red, still white, unknown black.

    Args:
        flow: a numpy array (H, W, 2), or what a propagator predicts: a torch tensor (2, H, W) or (B, 2, H, W), on any
            device; floating px; may be empty. Not changed.
        max_flow_px: length that gets the full color, as do longer vectors. Default: the longest known
            vector, of the whole batch.

    Returns:
        (H, W, 3) uint8 RGB; of a batch (B, H, W, 3).

    Raises:
        ValueError: wrong shape or dtype, or max_flow_px is not positive and finite.

    Source: the color coding of Baker et al., "A Database and Evaluation Methodology for Optical Flow", IJCV 2011: 55
    colors. There, vectors beyond the scale are drawn darker, which looks like a fault of the flow.
    """
    if _is_tensor(flow):
        flow = _channels_last(flow)
        if flow.ndim == 4:
            if max_flow_px is None:
                lengths = [np.hypot(*field[known_pixels(field)].T).max(initial=0) for field in flow]
                max_flow_px = float(max(lengths, default=0)) or 1.0
            fields = [flow_to_color(field, max_flow_px=max_flow_px) for field in flow]
            return np.stack(fields) if fields else np.zeros((*flow.shape[:3], 3), np.uint8)
    flow = check_flow(flow)
    known = known_pixels(flow)
    flow = np.where(known[..., None], flow, np.float32(0))
    length = np.hypot(flow[..., 0], flow[..., 1])
    if max_flow_px is None:
        max_flow_px = float(length.max(initial=0)) or 1.0
    elif not (np.isfinite(max_flow_px) and max_flow_px > 0):
        raise ValueError(f"max_flow_px must be positive and finite, got {max_flow_px}")
    length = np.minimum(length / max_flow_px, 1)[..., None]
    wheel = _color_wheel()
    # Adding zero turns -0.0 into 0.0; the angle of (right, -0.0) would be at the other end of the wheel.
    angle = np.arctan2(-(flow[..., 1] + 0.0), -(flow[..., 0] + 0.0)) / np.pi  # -1 is right, 0 is left
    place = (angle + 1) / 2 * (len(wheel) - 1)
    first = place.astype(np.int64)
    share = (place - first)[..., None]
    hue = (1 - share) * wheel[first] + share * wheel[(first + 1) % len(wheel)]
    color = 1 - length * (1 - hue)
    return np.floor(255 * color * known[..., None]).astype(np.uint8)


def draw_arrows(
    image: np.ndarray | torch.Tensor,
    points_xy: np.ndarray | Sequence,
    vectors_xy: np.ndarray | Sequence,
    *,
    color: tuple[int, int, int] = (255, 220, 0),
    scale: float = 1.0,
) -> np.ndarray:
    """Draw arrows onto a copy of an image; takes what `MotionPropagator.predict` takes.

    Args:
        image: (H, W, 3) uint8 RGB; or a torch tensor (3, H, W) or (1, 3, H, W), uint8 or floating 0..1; or a Pillow
            image. Not changed.
        points_xy: (N, 2) px, x (column) then y (row), where the arrows start; N may be 0.
        vectors_xy: (N, 2) px, x then y, finite. A vector under half a pixel is drawn as a dot.
        color, scale: as for `draw_guidance`.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ValueError: wrong shapes or dtype, or a position or vector that is not finite.
    """
    points, vectors = (np.asarray(values, np.float64).reshape(-1, 2) for values in (points_xy, vectors_xy))
    if _is_tensor(image):
        image = _image_of(image)
    return draw_guidance(np.asarray(image), points[:, ::-1], vectors, color=color, scale=scale)


def _is_tensor(value: object) -> bool:
    """Whether a value is a torch tensor; torch is not imported for it."""
    return hasattr(value, "detach") and hasattr(value, "cpu")


def _channels_last(flow: torch.Tensor) -> np.ndarray:
    """(2, H, W) or (B, 2, H, W) as float32 (..., H, W, 2)."""
    if flow.ndim not in (3, 4) or flow.shape[-3] != 2 or not flow.is_floating_point():
        raise ValueError(
            f"a flow tensor must be (2, H, W) or (B, 2, H, W) and floating, got {flow.dtype} {tuple(flow.shape)}"
        )
    return np.moveaxis(flow.detach().float().cpu().numpy(), -3, -1)


def _image_of(image: torch.Tensor) -> np.ndarray:
    """(3, H, W) or (1, 3, H, W), uint8 or floating 0..1, as (H, W, 3) uint8."""
    if image.ndim == 4 and len(image) == 1:
        image = image[0]
    if image.ndim != 3 or image.shape[0] != 3:
        raise ValueError(f"an image tensor must be (3, H, W) or (1, 3, H, W), got {tuple(image.shape)}")
    array = np.moveaxis(image.detach().cpu().numpy(), 0, -1)
    return array if array.dtype == np.uint8 else np.rint(255 * np.clip(array, 0, 1)).astype(np.uint8)


def color_wheel_key(size: int) -> np.ndarray:
    """Draw the legend: a disc in which each pixel has the color of the flow from the center to it, white around.

    Args:
        size: side in px, at least 1.

    Returns:
        (size, size, 3) uint8 RGB.
    """
    if size < 1:
        raise ValueError(f"size must be at least 1, got {size}")
    steps = np.arange(size, dtype=np.float32) - (size - 1) / 2
    flow = np.stack(np.meshgrid(steps, steps), axis=2)
    key = flow_to_color(flow, max_flow_px=size / 2)
    key[np.hypot(flow[..., 0], flow[..., 1]) > size / 2] = 255
    return key


def draw_guidance(
    image: np.ndarray,
    points_yx: np.ndarray,
    vectors_xy: np.ndarray,
    *,
    color: tuple[int, int, int] = (255, 220, 0),
    scale: float = 1.0,
) -> np.ndarray:
    """Draw guidance as outlined arrows onto a copy of an image; the line width follows the image's size.

    Args:
        image: (H, W, 3) uint8 RGB. Not changed.
        points_yx: (N, 2) positions (row, column) where the arrows start; N may be 0.
        vectors_xy: (N, 2) px, x (right) then y (down), finite. A vector under half a pixel is drawn as a dot.
        color: RGB, 0..255.
        scale: arrow length for one px of motion.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ValueError: wrong shapes or dtype, or a position or vector that is not finite.
    """
    image = np.asarray(image)
    points, vectors = np.asarray(points_yx, np.float64), np.asarray(vectors_xy, np.float64)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"image must be (H, W, 3) uint8, got {image.dtype} {image.shape}")
    if points.ndim != 2 or points.shape[1] != 2 or points.shape != vectors.shape:
        raise ValueError(f"points_yx and vectors_xy must both be (N, 2), got {points.shape} and {vectors.shape}")
    if not (np.isfinite(points).all() and np.isfinite(vectors).all()):
        raise ValueError("points_yx and vectors_xy must be finite")
    canvas = np.array(image, order="C")
    thickness = max(1, round(min(image.shape[:2]) / 200))
    tip_px = 3 + 2 * thickness
    starts = points[:, ::-1]
    # Ends are kept near the image: OpenCV draws with 32-bit whole numbers.
    reach = 4 * max(image.shape[:2])
    ends = np.rint(np.clip(starts + vectors * scale, -reach, reach)).astype(int).tolist()
    starts = np.rint(np.clip(starts, -reach, reach)).astype(int).tolist()
    lengths = np.hypot(*(vectors * scale).T).tolist()
    # All outlines first, so that no outline cuts another arrow.
    for width, paint in ((thickness + 2, (0, 0, 0)), (thickness, tuple(int(value) for value in color))):
        for start, end, length in zip(starts, ends, lengths):
            if length < 0.5:
                cv2.circle(canvas, start, width, paint, cv2.FILLED, cv2.LINE_AA)
            else:
                cv2.arrowedLine(canvas, start, end, paint, width, cv2.LINE_AA, tipLength=min(0.5, tip_px / length))
    return canvas


def _color_wheel() -> np.ndarray:
    """(55, 3) RGB in 0..1; each hue runs to the next in equal steps, the next itself left out."""
    parts = []
    for steps, *hues in zip(_WHEEL_STEPS, _WHEEL_HUES, _WHEEL_HUES[1:]):
        share = np.arange(steps)[:, None] / steps
        # Whole 1/255 steps, as in the published table: rising channels rounded down, falling ones up.
        start, end = np.array(hues)
        parts.append(start + np.sign(end - start) * np.floor(255 * share))
    return np.concatenate(parts) / 255
