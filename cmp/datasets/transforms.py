"""Transforms of a pair before guidance points are chosen on it: resize, crop, and augmentations.

A transform is called with a `FlowPair` and a random generator and returns a new pair. Geometric transforms change
image, flow and valid pixels together. No published recipe uses `ScaledCrop`, `Color`, `Flip`, `ReverseFlow`,
`ScaleFlow` or `TurnFlow`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from cmp.flow import FlowField, as_flow_field, flip_flow, resize_flow, scale_flow
from cmp.flow.resample import resized_window
from cmp.pixels import size_at_short_side


class FlowPair(NamedTuple):
    """A frame and its flow.

    image: (H, W, 3) uint8 RGB.
    flow: (H, W, 2) float32, px; 0 where it is not valid. A `ResizedCrop` also takes a `cmp.flow.FlowField`.
    valid: (H, W) bool, True where the flow is known; False in padding and where the source does not know the flow.
    """

    image: np.ndarray
    flow: np.ndarray | FlowField
    valid: np.ndarray


@dataclass(frozen=True)
class Resize:
    """Resize a pair so that its short side has short_side_px; the long side follows, rounded down as Zhan et al. do.

    The image is resized bicubically (with antialiasing when it shrinks), the flow bilinearly; x and y are each scaled
    by their own ratio. A pixel is valid if every pixel that it was computed from is valid.

    The image filter is Pillow's, computed by torch, which is ten times faster on a CPU with vector instructions. The
    two differ by at most one gray level, in less than one value in a hundred. In memory the new image is stored channel
    by channel, as batches are.
    """

    short_side_px: int

    def __post_init__(self) -> None:
        if self.short_side_px < 1:
            raise ValueError(f"short_side_px must be at least 1, got {self.short_side_px}")

    def __call__(self, pair: FlowPair, rng: np.random.Generator) -> FlowPair:
        size_hw = self.new_size(pair.flow.shape[:2])
        if size_hw == pair.flow.shape[:2]:
            return pair
        flow = resize_flow(np.asarray(pair.flow), size_hw)
        if pair.valid.all():
            valid = np.ones(size_hw, bool)
        else:
            known = cv2.resize(pair.valid.astype(np.float32), size_hw[::-1], interpolation=cv2.INTER_LINEAR)
            valid = known > 1 - 1e-6
            flow *= valid[..., None]
        return FlowPair(_resize_image(pair.image, size_hw), flow, valid)

    def new_size(self, size_hw: tuple[int, int]) -> tuple[int, int]:
        """The (height, width) that an image of this size gets, px."""
        return size_at_short_side(size_hw, self.short_side_px, rounding="down")


def _resize_image(image: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """(H, W, 3) uint8 to a view (height, width, 3) of contiguous channels."""
    batch = torch.from_numpy(np.require(image, requirements=("C", "W"))).permute(2, 0, 1)[None]
    resized = F.interpolate(batch, size=size_hw, mode="bicubic", antialias=True)[0].contiguous()
    return resized.permute(1, 2, 0).numpy()


@dataclass(frozen=True)
class Crop:
    """Cut out size_px x size_px, at a random position or in the center.

    A smaller image is padded with black on all sides. Padding is not valid; the loss decides whether that matters. A
    random crop reaches every offset, unlike in Zhan et al.'s code.
    """

    size_px: int
    random: bool

    def __post_init__(self) -> None:
        if self.size_px < 1:
            raise ValueError(f"size_px must be at least 1, got {self.size_px}")

    def __call__(self, pair: FlowPair, rng: np.random.Generator) -> FlowPair:
        spare = [side - self.size_px for side in pair.flow.shape[:2]]
        missing = [max(0, -s) for s in spare]
        if any(missing):
            around = [(m // 2, m - m // 2) for m in missing]
            pair = FlowPair(
                np.pad(pair.image, (*around, (0, 0))), np.pad(pair.flow, (*around, (0, 0))), np.pad(pair.valid, around)
            )
        y, x = self.corner(pair.flow.shape[:2], rng)
        window = slice(y, y + self.size_px), slice(x, x + self.size_px)
        return FlowPair(pair.image[window], np.asarray(pair.flow)[window], pair.valid[window])

    def corner(self, size_hw: tuple[int, int], rng: np.random.Generator) -> tuple[int, int]:
        """Choose the first row and column of the crop in an image of this size, which is not smaller than the crop."""
        spare = [side - self.size_px for side in size_hw]
        y, x = (int(rng.integers(0, s + 1)) if self.random else s // 2 for s in spare)
        return y, x


@dataclass(frozen=True)
class ResizedCrop:
    """`Resize(short_side_px)`, then `Crop(size_px, random)`, in one pass that computes little more than the crop.

    Flow is computed for the crop alone (`cmp.flow.FlowField.window`), and equals the result of the two steps up to a
    millionth of its largest value. The image is equal bit for bit, with one exception: when it shrinks to less than
    half, one value in a thousand may differ by a gray level, because the precision of torch's weights depends on the
    largest of them. Rows above and columns to the left of the crop are computed and dropped, because torch cannot start
    at a fraction of a pixel.
    """

    short_side_px: int
    size_px: int
    random: bool

    def __post_init__(self) -> None:
        Resize(self.short_side_px), Crop(self.size_px, self.random)  # they refuse sizes below 1

    def __call__(self, pair: FlowPair, rng: np.random.Generator) -> FlowPair:
        resize, crop = Resize(self.short_side_px), Crop(self.size_px, self.random)
        old_hw = pair.flow.shape[:2]
        new_hw = resize.new_size(old_hw)
        if new_hw == old_hw or min(new_hw) < self.size_px:  # nothing to resize, or padding
            return crop(resize(pair._replace(flow=np.asarray(pair.flow)), rng), rng)
        y, x = crop.corner(new_hw, rng)
        end_hw = y + self.size_px, x + self.size_px
        window = slice(y, end_hw[0]), slice(x, end_hw[1])
        scales = [new / old for new, old in zip(new_hw, old_hw)]
        flow = as_flow_field(pair.flow).window(new_hw, *window)
        valid = np.ones(flow.shape[:2], bool)
        if not pair.valid.all():
            known = pair.valid[..., None].astype(np.float32)
            valid = resized_window(known, new_hw, window, (1.0,))[..., 0] > 1 - 1e-6
            flow *= valid[..., None]
        return FlowPair(_resize_image_start(pair.image, scales, end_hw)[window], flow, valid)


def _resize_image_start(image: np.ndarray, scales: Sequence[float], end_hw: tuple[int, int]) -> np.ndarray:
    """As `_resize_image`, but compute only the first rows and columns: end_hw of them or more."""
    needed = [math.ceil(end / s) + math.ceil(2 * max(1, 1 / s)) + 2 for end, s in zip(end_hw, scales)]
    # If the length of an axis does not change, torch does not resize it, even if its scale is above 1.
    needed = [n if int(n * s) != n else side for n, s, side in zip(needed, scales, image.shape)]
    start = np.require(image, requirements=("C", "W"))[: needed[0], : needed[1]]
    scales = [
        s if int(side * s) >= end else math.nextafter(s, math.inf)  # the product was rounded below a whole number
        for s, side, end in zip(scales, start.shape, end_hw)
    ]
    batch = torch.from_numpy(start.transpose(2, 0, 1)[None])
    resized = F.interpolate(batch, scale_factor=scales, mode="bicubic", antialias=True, recompute_scale_factor=False)
    return resized.numpy()[0].transpose(1, 2, 0)


@dataclass(frozen=True)
class ScaledCrop:
    """Cut out a random square and resize it to size_px: the same content nearer or farther, with its motion scaled.

    The square's side is size_px times a log-uniform factor between low and high, at most the image's short side.
    """

    size_px: int
    low: float = 0.7
    high: float = 1.4

    def __post_init__(self) -> None:
        if self.size_px < 1:
            raise ValueError(f"size_px must be at least 1, got {self.size_px}")
        if not 0 < self.low <= self.high:
            raise ValueError(f"low and high must satisfy 0 < low <= high, got {self.low} and {self.high}")

    def __call__(self, pair: FlowPair, rng: np.random.Generator) -> FlowPair:
        side = round(self.size_px * float(np.exp(rng.uniform(np.log(self.low), np.log(self.high)))))
        side = max(1, min(side, *pair.flow.shape[:2]))
        return Resize(self.size_px)(Crop(side, random=True)(pair, rng), rng)


@dataclass(frozen=True)
class Color:
    """Change brightness, contrast and color cast, and with gray_probability remove all color; the flow stays.

    Each channel is multiplied by a common factor within 1 +- contrast and by its own factor within 1 +- cast. A common
    offset within +- brightness gray levels is added.
    """

    contrast: float = 0.3
    cast: float = 0.1
    brightness: float = 25.0
    gray_probability: float = 0.15

    def __call__(self, pair: FlowPair, rng: np.random.Generator) -> FlowPair:
        factor = rng.uniform(1 - self.contrast, 1 + self.contrast) * rng.uniform(1 - self.cast, 1 + self.cast, 3)
        image = pair.image * factor.astype(np.float32) + np.float32(rng.uniform(-self.brightness, self.brightness))
        if rng.random() < self.gray_probability:
            image = np.repeat(image.mean(axis=2, keepdims=True), 3, axis=2)
        return pair._replace(image=image.round().clip(0, 255).astype(np.uint8))


@dataclass(frozen=True)
class Flip:
    """Mirror left and right with this probability; the x component of the flow changes its sign."""

    probability: float = 0.5

    def __call__(self, pair: FlowPair, rng: np.random.Generator) -> FlowPair:
        if rng.random() >= self.probability:
            return pair
        return FlowPair(pair.image[:, ::-1], flip_flow(np.asarray(pair.flow), "horizontal"), pair.valid[:, ::-1])


@dataclass(frozen=True)
class ReverseFlow:
    """Reverse every vector with this probability, as if the clip ran backwards; the image stays."""

    probability: float = 0.5

    def __call__(self, pair: FlowPair, rng: np.random.Generator) -> FlowPair:
        return pair._replace(flow=-np.asarray(pair.flow)) if rng.random() < self.probability else pair


@dataclass(frozen=True)
class ScaleFlow:
    """Multiply all vectors by one log-uniform factor between low and high: faster or slower motion of the same image.

    The defaults are the range in Zhan et al.'s code.
    """

    low: float = 0.5
    high: float = 2.0

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.high:
            raise ValueError(f"low and high must satisfy 0 < low <= high, got {self.low} and {self.high}")

    def __call__(self, pair: FlowPair, rng: np.random.Generator) -> FlowPair:
        factor = float(np.exp(rng.uniform(np.log(self.low), np.log(self.high))))
        return pair._replace(flow=scale_flow(np.asarray(pair.flow), factor))


@dataclass(frozen=True)
class TurnFlow:
    """Rotate all vectors by one angle within +-max_degrees; the image stays.

    Computed with a 2x2 matrix; the arctangent in Zhan et al.'s code loses the quadrant.
    """

    max_degrees: float = 180.0

    def __call__(self, pair: FlowPair, rng: np.random.Generator) -> FlowPair:
        angle = np.deg2rad(rng.uniform(-self.max_degrees, self.max_degrees))
        matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]], np.float32)
        return pair._replace(flow=pair.flow @ matrix.T)
