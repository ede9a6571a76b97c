"""Convert what callers pass to the propagator into the one form it works on; errors name the argument.

Legend: N images, T guidance sets, P points, H W image pixels.
"""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image

from cmp import images
from cmp.pixels import is_inside, nearest_pixel, size_at_short_side

MAX_PIXELS = 1 << 23  # a 4K frame is accepted; a ResNet-50 needs some gigabytes for its features
MAX_PHOTO_PIXELS = 1 << 26  # of a file that is shrunk before the network sees it: 200 MB as RGB
SAMPLES = {"astronaut": "astronaut", "cat": "chelsea", "coffee": "coffee", "rocket": "rocket"}  # of skimage.data
FAR_OUTSIDE = 0.1  # resampling overshoots 0..1 by a little; 0..255 or normalized images are far outside


def read_image(path: str | PathLike, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """An image file as (H, W, 3) uint8 RGB, upright as viewers show it; see `cmp.images` for rules and errors.

    A name of `SAMPLES` that is not a file is that photograph of scikit-image.
    """
    if str(path) in SAMPLES and not Path(path).exists():
        from skimage import data

        return getattr(data, SAMPLES[str(path)])()
    return images.read_image(path, max_pixels=max_pixels)


def read_photo(path: str | PathLike, short_side_px: int | None) -> np.ndarray:
    """As `read_image`; up to MAX_PHOTO_PIXELS if the network will see the image at a smaller short side.

    Raises:
        FileNotFoundError, ValueError: as `read_image`; the message offers --short-side where that helps.
    """
    if short_side_px is not None:
        return read_image(path, MAX_PHOTO_PIXELS)
    try:
        return read_image(path)
    except ValueError as error:
        if "pixels" not in str(error):
            raise
        raise ValueError(f"{error}, or give --short-side PX, the size for the network") from error


def working_size(size_hw: tuple[int, int], short_side_px: int | None, max_pixels: int) -> tuple[int, int]:
    """Height and width of the image that the network sees, px.

    Args:
        size_hw: of the image.
        short_side_px: its short side becomes this, the long side follows, rounded. None: as it is.
        max_pixels: that the network takes.

    Raises:
        ValueError: short_side_px is below 1, or the image would have more than max_pixels.
    """
    if short_side_px is None:
        return size_hw
    if not short_side_px >= 1:  # NaN is not
        raise ValueError(f"short_side_px must be at least 1, got {short_side_px}")
    height, width = size_at_short_side(size_hw, short_side_px)
    if height * width > max_pixels:
        raise ValueError(
            f"short_side_px must keep the image below {max_pixels} pixels, got {short_side_px}: {height} x {width}"
        )
    return height, width


def default_short_side(trained: int | None, size_hw: tuple[int, int]) -> int | None:
    """What the network was trained at, px; less for a long strip that would have too many pixels; None if unknown."""
    return trained and min(trained, int((MAX_PIXELS * min(size_hw) / max(size_hw)) ** 0.5))


def resize_image(image: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """(H, W, 3) uint8 at another size: averages where it shrinks, bicubic where it grows; itself at its own size."""
    if image.shape[:2] == tuple(size_hw):
        return image
    smaller = min(size_hw) < min(image.shape[:2])
    return cv2.resize(image, size_hw[::-1], interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC)


def as_image_batch(image: torch.Tensor | np.ndarray | Image.Image, max_pixels: int) -> torch.Tensor:
    """(N, 3, H, W) uint8 or floating tensor from one image or a batch.

    Args:
        image: a PIL image of any mode (see `cmp.images`; not turned); a tensor (3, H, W) or (N, 3, H, W); an array
            (H, W, 3), (N, H, W, 3) or channels first as a tensor. uint8, or floating in 0..1.
        max_pixels: largest height times width.

    Raises:
        ValueError: another type, shape or dtype, an array whose channels may be first or last, an empty or a too large
            image, NaN, or floats far outside 0..1.
    """
    if isinstance(image, Image.Image):
        _check_size((image.height, image.width), max_pixels)  # before a huge file is decoded
        image = images.to_rgb_array(image)
    if isinstance(image, np.ndarray):
        if image.ndim not in (3, 4) or 3 not in (image.shape[-1], image.shape[-3]):
            raise ValueError(f"image must be (H, W, 3) or (N, H, W, 3), or with channels first, got {image.shape}")
        if image.shape[-1] == image.shape[-3] == 3:
            raise ValueError(f"image must show which axis is color, got {image.shape}: pass a tensor, channels first")
        image = _from_numpy(image, "image")
        image = image.movedim(-1, -3) if image.shape[-1] == 3 else image
    if not isinstance(image, torch.Tensor):
        raise ValueError(f"image must be a tensor, an array or a PIL image, got {type(image).__name__}")
    _check_strided(image, "image")
    if image.ndim not in (3, 4) or image.shape[-3] != 3:
        raise ValueError(f"image must be (3, H, W) or (N, 3, H, W), got {tuple(image.shape)}")
    image = image.detach()[None] if image.ndim == 3 else image.detach()
    if image.numel() == 0:
        raise ValueError(f"image must not be empty, got {tuple(image.shape)}")
    _check_size(tuple(image.shape[2:]), max_pixels)
    if image.dtype == torch.uint8:
        return image
    if not image.is_floating_point():
        raise ValueError(f"image must be uint8 or floating in 0..1, got {image.dtype}")
    low, high = (float(v) for v in image.aminmax())
    if not (low >= -FAR_OUTSIDE and high <= 1 + FAR_OUTSIDE):  # NaN is in no range
        raise ValueError(f"image must be in 0..1 where it is floating, got {low:.4g}..{high:.4g}")
    return image


def as_guidance(
    sparse: torch.Tensor | np.ndarray, mask: torch.Tensor | np.ndarray, size_hw: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sparse flow (T, 2, H, W) and mask (T, 1, H, W), both float32.

    Args:
        sparse: (2, H, W) or (T, 2, H, W), px.
        mask: (C, H, W) or (T, C, H, W) with C 1 or 2 (equal channels); bool or number.
        size_hw: of the image.

    Raises:
        ValueError: another type, shape or size; T is 0; NaN or infinity; two mask channels that differ.
    """
    sparse, mask = _as_maps(sparse, "sparse", (2,), size_hw), _as_maps(mask, "mask", (1, 2), size_hw)
    if len(mask) != len(sparse):
        raise ValueError(f"mask must have as many sets as sparse, {len(sparse)}, got {len(mask)}")
    if mask.shape[1] == 2:
        if not torch.equal(mask[:, 0], mask[:, 1]):
            raise ValueError("mask must be the same in its two channels: a point gives x and y together")
        mask = mask[:, :1]
    return sparse, mask.to(sparse.device)


def points_to_guidance(
    points_xy: np.ndarray | torch.Tensor | Sequence,
    vectors_xy: np.ndarray | torch.Tensor | Sequence,
    size_hw: tuple[int, int],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Arrows put on the pixel grid: sparse flow (T, 2, H, W) and mask (T, 1, H, W), both float32, on the CPU.

    Args:
        points_xy: (P, 2) px (x, y), rounded to the nearest pixel; of two points on one pixel the later counts. For T
            sets (T, P, 2), or a list of T arrays (P_t, 2).
        vectors_xy: px, shaped as points_xy.
        size_hw: of the image.

    Raises:
        ValueError: a shape is wrong or does not match the others, a value is not finite, a point lies outside the
            image, or a set has no point.
    """
    points, vectors = _as_sets(points_xy, "points_xy"), _as_sets(vectors_xy, "vectors_xy")
    if len(points) != len(vectors):
        raise ValueError(f"vectors_xy must have as many sets as points_xy, {len(points)}, got {len(vectors)}")
    height, width = size_hw
    sparse = torch.zeros(len(points), 2, height, width)
    mask = torch.zeros(len(points), 1, height, width)
    for i, (positions, motion) in enumerate(zip(points, vectors)):
        if positions.shape != motion.shape:
            raise ValueError(f"vectors_xy must be shaped as points_xy, {positions.shape}, got {motion.shape}")
        outside = ~is_inside(positions, (width, height))
        if outside.any():
            x, y = positions[outside][0]
            raise ValueError(
                f"points_xy must lie in the image of {width} x {height} px (width x height), got {int(outside.sum())} "
                f"outside, first x={x:g}, y={y:g}"
            )
        columns, rows = nearest_pixel(positions).astype(np.int64).T
        sparse[i].numpy()[:, rows, columns] = motion.T
        mask[i, 0].numpy()[rows, columns] = 1
    return sparse, mask


def _check_size(size_hw: tuple[int, int], max_pixels: int) -> None:
    height, width = size_hw
    if height * width > max_pixels:
        raise ValueError(f"image must have at most {max_pixels} pixels, got {height} x {width}: make it smaller")


def _as_maps(values, name: str, channels: tuple[int, ...], size_hw: tuple[int, int]) -> torch.Tensor:
    if isinstance(values, np.ndarray):
        values = _from_numpy(values, name)
    if not isinstance(values, torch.Tensor):
        raise ValueError(f"{name} must be a tensor or an array, got {type(values).__name__}")
    _check_strided(values, name)
    if values.is_complex():
        raise ValueError(f"{name} must be real numbers, got {values.dtype}")
    values = values.detach()[None] if values.ndim == 3 else values.detach()
    if values.ndim != 4 or values.shape[1] not in channels or tuple(values.shape[2:]) != size_hw or not len(values):
        expected = " or ".join(f"(T, {c}, {size_hw[0]}, {size_hw[1]})" for c in channels)
        raise ValueError(f"{name} must be {expected} for this image, got {tuple(values.shape)}")
    values = values.float()
    if not bool(values.isfinite().all()):
        raise ValueError(
            f"{name} must be finite, got {int((~values.isfinite()).sum())} values that are NaN or infinite"
        )
    return values


def _as_sets(values, name: str) -> list[np.ndarray]:
    """A list of (P, 2) float64 arrays with at least one point each, finite in float32 too."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().double().numpy()
    several = np.ndim(values[0]) == 2 if isinstance(values, (list, tuple)) and len(values) else np.ndim(values) == 3
    sets = []
    for entry in values if several else [values]:
        entry = entry.detach().cpu().double().numpy() if isinstance(entry, torch.Tensor) else entry
        try:
            array = np.asarray(entry, np.float64)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name} must be numbers (P, 2), got {type(entry).__name__}: {error}") from error
        if array.size == 0:
            raise ValueError(f"{name} must have at least one point in each set, got none")
        if array.ndim != 2 or array.shape[1] != 2:
            raise ValueError(f"{name} must be (P, 2), (T, P, 2) or a list of (P, 2), got {array.shape}")
        if not (np.abs(array) <= np.finfo(np.float32).max).all():  # NaN is not
            raise ValueError(f"{name} must be finite in float32, got NaN, infinity or more")
        sets.append(array)
    if not sets:
        raise ValueError(f"{name} must have at least one set, got none")
    return sets


def _check_strided(tensor: torch.Tensor, name: str) -> None:
    if tensor.layout != torch.strided or tensor.is_meta:
        raise ValueError(f"{name} must be an ordinary dense tensor, got {tensor.layout} on {tensor.device}")


def _from_numpy(array: np.ndarray, name: str) -> torch.Tensor:
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{name} must be an array of real numbers, got {array.dtype}")
    # A copy where torch could not share the memory, or would warn that it is read-only.
    if array.dtype == np.longdouble:
        array = array.astype(np.float64)
    shareable = array.flags.writeable and array.dtype.isnative and min(array.strides, default=0) >= 0
    return torch.from_numpy(array if shareable else np.array(array, array.dtype.newbyteorder("=")))
