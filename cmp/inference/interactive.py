"""What a page or a window needs around the propagator: reading an image, moving it, drawing results.

Nothing here depends on how the page is made. Legend: H W image pixels, N guidance points.
"""

from os import PathLike
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch.nn.functional as F
from PIL import Image

from cmp.images import read_image
from cmp.inference.annotate import draw_mask, segment_from_clicks
from cmp.inference.arrows import check_num_arrows
from cmp.inference.discover import segment_from_pokes
from cmp.inference.inputs import default_short_side, resize_image, working_size
from cmp.inference.propagator import EncodedImage, MotionPropagator
from cmp.inference.trajectories import resize_arrows, resize_flow_batch
from cmp.pixels import nearest_pixel

MAX_BYTES = 20 << 20
MAX_PIXELS = 40_000_000
MIN_SIDE_PX = 16
MASK_METHODS = ("directions", "pokes")


class Scene(NamedTuple):
    """An encoded image, ready for any number of arrows."""

    image: np.ndarray  # (H, W, 3) uint8 RGB, as it is shown
    small: np.ndarray  # (h, w, 3) uint8 RGB, as the network sees it: often smaller
    encoded: EncodedImage  # of small


class Motion(NamedTuple):
    """What the network made of one set of arrows."""

    points_xy: np.ndarray  # (N, 2) float64 px
    vectors_xy: np.ndarray  # (N, 2) float64 px; zero where a point does not move
    flow: np.ndarray  # (H, W, 2) float32 px of the image as it is shown
    confidence: np.ndarray | None  # (H, W) float32 in 0..1; None without a network, or if it has no bins


def read_shown_image(
    path: str | PathLike, *, long_side_px: int = 384, max_bytes: int = MAX_BYTES, max_pixels: int = MAX_PIXELS
) -> np.ndarray:
    """Read an image that a stranger sent: its size is checked before it is decoded; it is turned upright and shrunk.

    Args:
        path: an image file, whatever its name; see `cmp.images`.
        long_side_px: larger images are shrunk so that their longer side is this; smaller ones keep their size.
        max_bytes, max_pixels: larger files and images are refused.

    Returns:
        (H, W, 3) uint8 RGB; H and W are even, which is what video players want, so up to a row and a column are cut.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: it is too large, too small (a side under 16 px, before or after shrinking), broken or not an image;
            the message names the file without its folder.
    """
    path = Path(path)
    if long_side_px < MIN_SIDE_PX:
        raise ValueError(f"long_side_px must be at least {MIN_SIDE_PX}, got {long_side_px}")
    try:
        image = read_image(path, max_pixels=max_pixels, max_bytes=max_bytes)
    except ValueError as error:  # a page must not show where the file lies
        raise ValueError(str(error).replace(str(path), f"{path.name}:", 1)) from error
    try:
        return shrink_to_show(image, long_side_px)
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from None


def shrink_to_show(image: np.ndarray, long_side_px: int) -> np.ndarray:
    """Shrink (H, W, 3) uint8 RGB so that its longer side is long_side_px, and cut it to even sides.

    Raises:
        ValueError: a side is under 16 px then.
    """
    height, width = image.shape[:2]
    ratio = min(1.0, long_side_px / max(width, height))
    if ratio < 1:
        size = [max(1, round(side * ratio)) for side in (width, height)]
        image = np.array(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))
    image = image[: image.shape[0] // 2 * 2, : image.shape[1] // 2 * 2]
    if min(image.shape[:2]) < MIN_SIDE_PX:
        raise ValueError(f"each side must have at least {MIN_SIDE_PX} px of {long_side_px}, got {width} x {height}")
    return image


def open_scene(propagator: MotionPropagator, image: np.ndarray, *, trained_px: int | None = None) -> Scene:
    """Encode an image once, for any number of arrows.

    Args:
        propagator: the network.
        image: (H, W, 3) uint8 RGB, as it is shown.
        trained_px: the short side of the images that the network was trained on, which it then sees this image at; the
            long side follows. None: it sees the image as it is shown.

    Raises:
        ValueError: as `MotionPropagator.encode`.
    """
    short_side_px = default_short_side(trained_px, image.shape[:2])
    small = resize_image(image, working_size(image.shape[:2], short_side_px, propagator.max_pixels))
    return Scene(image, small, propagator.encode(small))


def move_scene(propagator: MotionPropagator, scene: Scene, points_xy: np.ndarray, vectors_xy: np.ndarray) -> Motion:
    """Flow and confidence for one set of arrows, at the size of the shown image.

    Args:
        propagator: the one that encoded the scene.
        scene: what `open_scene` returned.
        points_xy, vectors_xy: (N, 2) px of the shown image, N in 1..MAX_ARROWS, as `check_arrows` returns them.

    Raises:
        ValueError: there are more than MAX_ARROWS points (found before they are looked at), or as
            `MotionPropagator.predict`.
    """
    check_num_arrows(len(points_xy))
    shown_hw, work_hw = scene.image.shape[:2], scene.encoded.size_hw
    points, vectors = resize_arrows(points_xy, vectors_xy, shown_hw, work_hw)
    with_bins = np.isfinite(propagator.max_flow_px)
    answer = propagator.predict(scene.encoded, points, vectors, return_confidence=with_bins)
    flow, confidence = answer if with_bins else (answer, None)
    if work_hw != shown_hw:
        flow = resize_flow_batch(flow, shown_hw)
        if confidence is not None:
            confidence = F.interpolate(confidence, size=shown_hw, mode="bilinear", align_corners=False)
    flow = np.ascontiguousarray(flow[0].permute(1, 2, 0).cpu().numpy())
    return Motion(points_xy, vectors_xy, flow, None if confidence is None else confidence[0, 0].cpu().numpy())


def draw_moving_part(propagator: MotionPropagator, scene: Scene, motion: Motion) -> np.ndarray | None:
    """Draw (H, W, 3) uint8 RGB what belongs to the points that move rather than to the points that do not.

    Args:
        propagator, scene, motion: see `find_moving_part`.

    Returns:
        The image with the mask and the points; None where no point moves.

    Raises:
        ValueError: there are more than MAX_ARROWS points.
    """
    mask = find_moving_part(propagator, scene, motion)
    return None if mask is None else draw_mask(scene.image, mask, *_clicks(scene, motion))


def find_moving_part(
    propagator: MotionPropagator, scene: Scene, motion: Motion, *, method: str = "directions"
) -> np.ndarray | None:
    """Find what belongs to the points that move rather than to the points that do not.

    Args:
        propagator: the one that encoded the scene.
        scene: what `open_scene` gave.
        motion: of the scene; its flow is not used.
        method: "directions" (`segment_from_clicks`) or "pokes" (`segment_from_pokes`: the border stays).

    Returns:
        (H, W) bool; None where no point moves.

    Raises:
        ValueError: there are more than MAX_ARROWS points, or method is unknown.
    """
    if method not in MASK_METHODS:
        raise ValueError(f"method must be one of {MASK_METHODS}, got {method!r}")
    check_num_arrows(len(motion.points_xy))
    shown_hw, work_hw = scene.image.shape[:2], scene.small.shape[:2]
    clicks, still = (resize_arrows(points, 0 * points, shown_hw, work_hw)[0] for points in _clicks(scene, motion))
    if not len(clicks):
        return None
    if method == "pokes":
        found = segment_from_pokes(propagator, scene.small, clicks, still, encoded=scene.encoded)
        score, mask = found.mask.astype(np.float32), found.mask
    else:
        score, mask = segment_from_clicks(propagator, scene.small, clicks, still, encoded=scene.encoded)
    if mask.shape != shown_hw:
        mask = cv2.resize(score, shown_hw[::-1], interpolation=cv2.INTER_LINEAR) > 0.5
    return mask


def _clicks(scene: Scene, motion: Motion) -> tuple[np.ndarray, np.ndarray]:
    """The points that move and those that do not, (N, 2) px of the shown image each.

    One pixel of the network's image cannot both belong and not belong: where both are asked, the arrow counts.
    """
    moving = (motion.vectors_xy != 0).any(axis=1)
    points, _ = resize_arrows(motion.points_xy, motion.vectors_xy, scene.image.shape[:2], scene.small.shape[:2])
    pixels = nearest_pixel(points)
    same = (pixels[moving][:, None] == pixels[~moving][None]).all(axis=2).any(axis=0)
    return motion.points_xy[moving], motion.points_xy[~moving][~same]


def draw_confidence(confidence: np.ndarray) -> np.ndarray:
    """Draw values (H, W) in 0..1 as (H, W, 3) uint8 RGB: dark blue is 0, yellow is 1, in every image.

    Raises:
        ValueError: confidence is not floating (H, W).
    """
    confidence = np.asarray(confidence)
    if confidence.ndim != 2 or confidence.dtype.kind != "f":
        raise ValueError(f"confidence must be floating (H, W), got {confidence.dtype} {confidence.shape}")
    level = np.rint(255 * np.nan_to_num(confidence).clip(0, 1)).astype(np.uint8)
    return cv2.cvtColor(cv2.applyColorMap(level, cv2.COLORMAP_VIRIDIS), cv2.COLOR_BGR2RGB)
