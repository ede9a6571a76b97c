"""Segment an object from clicks: what moves when the clicked point is moved belongs to the object.

Legend: N clicks, M negative clicks, H W image pixels.
"""

from collections.abc import Sequence

import cv2
import numpy as np

from cmp.inference.inputs import resize_image, working_size
from cmp.inference.propagator import EncodedImage, MotionPropagator
from cmp.inference.trajectories import resize_tracks
from cmp.pixels import is_inside, nearest_pixel

DIRECTIONS_XY = np.array([[1, 0], [-1, 0], [0, 1], [0, -1]], np.float64)  # right, left, down, up


def segment_from_clicks(
    propagator: MotionPropagator,
    image: np.ndarray,
    clicks_xy: np.ndarray | Sequence,
    negative_xy: np.ndarray | Sequence = (),
    *,
    threshold: float = 0.5,
    length_px: float = 10.0,
    short_side_px: int | None = None,
    encoded: EncodedImage | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Segment the object under the clicks.

    The clicks are moved right, left, down and up in turn, the motion is propagated, and the lengths of the four flows,
    each divided by its largest, are averaged.

    Args:
        propagator: the network.
        image: (H, W, 3) uint8 RGB.
        clicks_xy: (N, 2) px (x, y) on the object, N at least 1.
        negative_xy: (M, 2) px outside the object: guidance points without motion. M may be 0.
        threshold: the mask is where the score is above it, in 0..1.
        length_px: of the four motions, at the size the network works on.
        short_side_px: resize the image to this before the network sees it, best near what the network was trained on;
            the score is resized back. None: the image as it is.
        encoded: the result of the propagator's `encode` for the image, so that it is not encoded again; only without
            short_side_px.

    Returns:
        Score (H, W) float32 in 0..1 and mask (H, W) bool. Zeros if the network predicts no motion at all.

    Raises:
        ValueError: a shape or dtype is another, a click is not finite, lies outside the image or is positive and
            negative at once, there is no positive one, threshold, length_px or short_side_px is out of range,
            or encoded is of another image.

    Source: the semi-automatic annotation of Zhan et al., CVPR 2019: four directions, mean of the normalized lengths,
    threshold 0.5. The paper does not state by what it normalizes; the maximum, the length and the size are ours.
    """
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise ValueError(f"image must be (H, W, 3) uint8 and not empty, got {image.shape} {image.dtype}")
    height, width = image.shape[:2]
    clicks = _as_clicks(clicks_xy, "clicks_xy", (height, width))
    negative = _as_clicks(negative_xy, "negative_xy", (height, width))
    if not len(clicks):
        raise ValueError("clicks_xy must have at least one click, got none")
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold must be in 0..1, got {threshold}")
    if not (np.isfinite(length_px) and length_px > 0):
        raise ValueError(f"length_px must be above 0 and finite, got {length_px}")
    if encoded is not None and (
        short_side_px is not None or encoded.num_images != 1 or encoded.size_hw != image.shape[:2]
    ):
        raise ValueError(
            f"encoded must be of this one image of {image.shape[:2]}, at its own size, got {encoded.num_images} of "
            f"{encoded.size_hw} with short_side_px={short_side_px}"
        )

    work_hw = working_size((height, width), short_side_px, propagator.max_pixels)
    image = resize_image(image, work_hw)
    points = resize_tracks(np.concatenate((clicks, negative)), (height, width), work_hw)
    points = nearest_pixel(points, within=work_hw[::-1])
    at_once = (points[: len(clicks), None] == points[None, len(clicks) :]).all(axis=2)
    if at_once.any():
        x, y = clicks[at_once.any(axis=1)][0]
        raise ValueError(f"clicks_xy and negative_xy must be different pixels, got x={x:g}, y={y:g} in both")

    vectors = np.zeros((len(DIRECTIONS_XY), len(points), 2))
    vectors[:, : len(clicks)] = length_px * DIRECTIONS_XY[:, None]
    flows = propagator.predict(
        image if encoded is None else encoded, np.broadcast_to(points, vectors.shape).copy(), vectors
    )  # (4, 2, h, w)
    lengths = flows.float().norm(dim=1).cpu().numpy()
    largest = lengths.max(axis=(1, 2), keepdims=True)
    score = np.mean(lengths / np.where(largest > 0, largest, 1), axis=0, dtype=np.float32)
    if work_hw != (height, width):
        score = cv2.resize(score, (width, height), interpolation=cv2.INTER_LINEAR)
    score = score.clip(0, 1)
    return score, score > threshold


def draw_mask(
    image: np.ndarray,
    mask: np.ndarray,
    clicks_xy: np.ndarray | Sequence = (),
    negative_xy: np.ndarray | Sequence = (),
    *,
    color: tuple[int, int, int] = (255, 40, 90),
) -> np.ndarray:
    """Draw a mask over a copy of an image: tinted and outlined, a green dot per click, a red dot per negative click.

    Args:
        image: (H, W, 3) uint8 RGB. Not changed.
        mask: (H, W) bool.
        clicks_xy, negative_xy: (N, 2) and (M, 2) px (x, y); either may be empty.
        color: RGB of the mask.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ValueError: shapes or dtypes are others, or a click is not finite or outside.
    """
    image, mask = np.asarray(image), np.asarray(mask)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"image must be (H, W, 3) uint8, got {image.shape} {image.dtype}")
    if mask.shape != image.shape[:2] or mask.dtype != bool:
        raise ValueError(f"mask must be {image.shape[:2]} bool, got {mask.shape} {mask.dtype}")
    clicks, negative = (
        _as_clicks(clicks_xy, "clicks_xy", mask.shape),
        _as_clicks(negative_xy, "negative_xy", mask.shape),
    )
    drawn = image.copy()
    drawn[mask] = np.round(0.55 * image[mask] + 0.45 * np.array(color)).astype(np.uint8)
    size = max(1, round(min(mask.shape) / 150))
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(drawn, outlines, -1, color, size)
    for points, inner in ((clicks, (40, 230, 60)), (negative, (240, 30, 30))):
        for x, y in nearest_pixel(points).astype(int).tolist():
            cv2.circle(drawn, (x, y), 3 * size + 1, (255, 255, 255), -1, cv2.LINE_AA)
            cv2.circle(drawn, (x, y), 2 * size + 1, inner, -1, cv2.LINE_AA)
    return drawn


def _as_clicks(clicks_xy, name: str, size_hw: tuple[int, int]) -> np.ndarray:
    """(N, 2) float64 px that lie in the image."""
    try:
        clicks = np.asarray(clicks_xy, np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be numbers (N, 2): {error}") from error
    if clicks.size == 0:
        return np.empty((0, 2))
    if clicks.ndim != 2 or clicks.shape[1] != 2:
        raise ValueError(f"{name} must be (N, 2), got {clicks.shape}")
    if not np.isfinite(clicks).all():
        raise ValueError(f"{name} must be finite, got NaN or infinity")
    height, width = size_hw
    outside = ~is_inside(clicks, (width, height))
    if outside.any():
        x, y = clicks[outside][0]
        raise ValueError(
            f"{name} must lie in the image of {width} x {height} px (width x height), got x={x:g}, y={y:g}"
        )
    return clicks
