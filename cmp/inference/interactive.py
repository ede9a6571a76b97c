"""What a page or a window needs around the propagator: a picture let in, arrows checked, and answers as pictures.

Nothing here knows how the page is made. Legend: H W image pixels, N guides.
"""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageOps

from cmp.inference.annotate import draw_mask, segment_from_clicks
from cmp.inference.inputs import as_rgb
from cmp.inference.propagator import EncodedImage, MotionPropagator

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")  # the ones pictures come in; Pillow's rarer readers stay shut
MAX_BYTES = 20 << 20
MAX_PIXELS = 40_000_000
MIN_SIDE_PX = 16
MAX_GUIDES = 200


class Scene(NamedTuple):
    """A picture ready for any number of arrows."""

    image: np.ndarray  # (H, W, 3) uint8 RGB
    encoded: EncodedImage


class Motion(NamedTuple):
    """What the network made of one set of arrows."""

    points_xy: np.ndarray  # (N, 2) float64 px
    vectors_xy: np.ndarray  # (N, 2) float64 px; zero where a point stands still
    flow: np.ndarray  # (H, W, 2) float32 px
    confidence: np.ndarray | None  # (H, W) float32 in 0..1; None where the network has no bins


def read_picture(
    path: str | PathLike, *, long_side_px: int = 384, max_bytes: int = MAX_BYTES, max_pixels: int = MAX_PIXELS
) -> np.ndarray:
    """Read a picture that a stranger sent: bounded before it is decoded, upright, and made as small as is worked on.

    Args:
        path: a PNG, JPEG, WebP, BMP, GIF (its first frame) or TIFF file, whatever its name; transparency becomes white.
        long_side_px: larger pictures are shrunk so that their longer side is this; smaller ones stay.
        max_bytes, max_pixels: larger files and pictures are refused.

    Returns:
        (H, W, 3) uint8 RGB; H and W are even, which is what video players want, so up to a row and a column are cut.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is too large, too small (a side under 16 px, before or after shrinking), broken or no picture;
            the message names the file without its folder.
    """
    path = Path(path)
    if long_side_px < MIN_SIDE_PX:
        raise ValueError(f"long_side_px must be at least {MIN_SIDE_PX}, got {long_side_px}")
    num_bytes = path.stat().st_size
    if num_bytes > max_bytes:
        raise ValueError(f"{path.name}: at most {max_bytes / 2**20:.3g} MiB are taken, got {num_bytes / 2**20:.3g} MiB")
    try:
        with Image.open(path, formats=FORMATS) as picture:  # reads the header only
            width, height = picture.size
            if width * height > max_pixels:
                raise ValueError(f"at most {max_pixels} pixels are taken, got {width} x {height}")
            picture = ImageOps.exif_transpose(picture)
            if "transparency" in picture.info or picture.mode in ("RGBA", "LA", "PA"):
                picture = picture.convert("RGBA")
                picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
            picture = as_rgb(picture)
    except Image.UnidentifiedImageError as error:
        raise ValueError(f"{path.name}: this is no picture in one of the formats {', '.join(FORMATS)}") from error
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from error
    except Image.DecompressionBombError as error:
        raise ValueError(f"{path.name}: at most {max_pixels} pixels are taken: {error}") from error
    except (OSError, SyntaxError, EOFError, ArithmeticError) as error:  # what Pillow's readers raise on broken files
        raise ValueError(f"{path.name}: the file is broken: {error}") from error
    ratio = min(1.0, long_side_px / max(picture.size))
    if ratio < 1:
        picture = picture.resize([max(1, round(side * ratio)) for side in picture.size], Image.Resampling.LANCZOS)
    image = np.array(picture)
    image = image[: image.shape[0] // 2 * 2, : image.shape[1] // 2 * 2]
    if min(image.shape[:2]) < MIN_SIDE_PX:
        raise ValueError(
            f"{path.name}: each side must have at least {MIN_SIDE_PX} px of {long_side_px}, got {width} x {height}"
        )
    return image


def check_guides(guides: Sequence, size_hw: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Arrows as a page sends them, to points and vectors.

    Args:
        guides: N entries (x0, y0, x1, y1), px: from where to where. Where both are one place, the point stands still.
        size_hw: of the image.

    Returns:
        points_xy and vectors_xy, (N, 2) float64 px; N may be 0.

    Raises:
        ValueError: entries are no four finite numbers, too many, start outside the image or end further from it than
            its own size.
    """
    try:
        values = np.asarray(guides, np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"guides must be entries (x0, y0, x1, y1): {error}") from error
    if values.size == 0:
        return np.empty((0, 2)), np.empty((0, 2))
    if values.ndim != 2 or values.shape[1] != 4 or not np.isfinite(values).all():
        raise ValueError(f"guides must be finite (N, 4), entries (x0, y0, x1, y1), got {values.shape}")
    if len(values) > MAX_GUIDES:
        raise ValueError(f"guides must be at most {MAX_GUIDES}, got {len(values)}")
    size_xy = np.array(size_hw[::-1])
    nearest = np.floor(values[:, :2] + 0.5)
    if (nearest < 0).any() or (nearest >= size_xy).any():
        raise ValueError(f"guides must start in the image of {size_xy[0]} x {size_xy[1]} px (width x height)")
    if (values[:, 2:] < -size_xy).any() or (values[:, 2:] > 2 * size_xy).any():
        raise ValueError("guides must end in the image or near it")
    return values[:, :2], values[:, 2:] - values[:, :2]


def open_scene(propagator: MotionPropagator, image: np.ndarray) -> Scene:
    """Encode a picture (H, W, 3) uint8 RGB once, for all arrows to come."""
    return Scene(image, propagator.encode(image))


def move_scene(propagator: MotionPropagator, scene: Scene, points_xy: np.ndarray, vectors_xy: np.ndarray) -> Motion:
    """Flow and confidence for one set of arrows.

    Args:
        propagator: the one that encoded the scene.
        scene: what `open_scene` gave.
        points_xy, vectors_xy: (N, 2) px, N at least 1, as `check_guides` gives them.
    """
    with_bins = np.isfinite(propagator.max_flow_px)
    answer = propagator.predict(scene.encoded, points_xy, vectors_xy, return_confidence=with_bins)
    flow, confidence = answer if with_bins else (answer, None)
    flow = np.ascontiguousarray(flow[0].permute(1, 2, 0).cpu().numpy())
    return Motion(points_xy, vectors_xy, flow, None if confidence is None else confidence[0, 0].cpu().numpy())


def draw_moving_part(propagator: MotionPropagator, scene: Scene, motion: Motion) -> np.ndarray | None:
    """Picture (H, W, 3) uint8 RGB of what belongs to the points with arrows rather than to the points that stand still.

    See `segment_from_clicks`. None where no point moves.
    """
    moving = (motion.vectors_xy != 0).any(axis=1)
    if not moving.any():
        return None
    clicks, still = motion.points_xy[moving], motion.points_xy[~moving]
    # One pixel cannot be told to belong and not to belong: where both are asked, the arrow counts.
    same = (np.floor(clicks + 0.5)[:, None] == np.floor(still + 0.5)[None]).all(axis=2)
    still = still[~same.any(axis=0)]
    _, mask = segment_from_clicks(propagator, scene.image, clicks, still, encoded=scene.encoded)
    return draw_mask(scene.image, mask, clicks, still)


def draw_confidence(confidence: np.ndarray) -> np.ndarray:
    """Picture (H, W, 3) uint8 RGB of values (H, W) in 0..1: dark blue is 0, yellow is 1, the same in every picture.

    Raises:
        ValueError: confidence is not floating (H, W).
    """
    confidence = np.asarray(confidence)
    if confidence.ndim != 2 or confidence.dtype.kind != "f":
        raise ValueError(f"confidence must be floating (H, W), got {confidence.dtype} {confidence.shape}")
    level = np.rint(255 * np.nan_to_num(confidence).clip(0, 1)).astype(np.uint8)
    return cv2.cvtColor(cv2.applyColorMap(level, cv2.COLORMAP_VIRIDIS), cv2.COLOR_BGR2RGB)
