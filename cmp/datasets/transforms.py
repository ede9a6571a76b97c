"""What happens to a pair before guides are chosen on it: resize, crop, and the augmentations of the recipes.

A transform is called with a `FlowPair` and a random generator and gives a new pair; image and flow move together.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from cmp.flow import flip_flow, resize_flow, scale_flow
from cmp.flow.resample import resized_window


class FlowPair(NamedTuple):
    """One frame and where its pixels go.

    image: (H, W, 3) uint8 RGB. flow: (H, W, 2) float32, px; 0 where it is not valid. valid: (H, W) bool, True where the
    flow is known: not in padding, nor where the source does not know it.
    """

    image: np.ndarray
    flow: np.ndarray
    valid: np.ndarray


@dataclass(frozen=True)
class Resize:
    """Bring the short side to short_side_px; the long side follows, rounded down as the authors do.

    The image is resized bicubically (with antialiasing when it shrinks), the flow bilinearly, u and v each by its own
    ratio. A pixel stays valid where every pixel it was made from is.

    The image's filter is Pillow's, computed by torch, which is an order of magnitude faster on a CPU with vectors: the
    two differ by at most one grey level, in less than one value in a hundred. The new image lies in memory channel by
    channel, as batches are.
    """

    short_side_px: int

    def __post_init__(self) -> None:
        if self.short_side_px < 1:
            raise ValueError(f"short_side_px must be at least 1, got {self.short_side_px}")

    def __call__(self, pair: FlowPair, rng: np.random.Generator) -> FlowPair:
        size_hw = self.new_size(pair.flow.shape[:2])
        if size_hw == pair.flow.shape[:2]:
            return pair
        flow = resize_flow(pair.flow, size_hw)
        if pair.valid.all():
            valid = np.ones(size_hw, bool)
        else:
            known = cv2.resize(pair.valid.astype(np.float32), size_hw[::-1], interpolation=cv2.INTER_LINEAR)
            valid = known > 1 - 1e-6
            flow *= valid[..., None]
        return FlowPair(_resize_image(pair.image, size_hw), flow, valid)

    def new_size(self, size_hw: tuple[int, int]) -> tuple[int, int]:
        """What a picture's (height, width) become, px."""
        height, width = size_hw
        short, long = min(height, width), max(height, width)
        long_px = long * self.short_side_px // short
        return (self.short_side_px, long_px) if height <= width else (long_px, self.short_side_px)


def _resize_image(image: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """(H, W, 3) uint8 to a view (height, width, 3) of contiguous channels."""
    batch = torch.from_numpy(np.require(image, requirements="CW")).permute(2, 0, 1)[None]
    resized = F.interpolate(batch, size=size_hw, mode="bicubic", antialias=True)[0].contiguous()
    return resized.permute(1, 2, 0).numpy()


@dataclass(frozen=True)
class Crop:
    """Cut out size_px x size_px: anywhere (random) or in the middle. A smaller picture is padded with black all around.

    Padding is not valid, whether or not a loss looks at that. Unlike the authors', a random crop reaches every offset.
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
        return FlowPair(*(part[window] for part in pair))

    def corner(self, size_hw: tuple[int, int], rng: np.random.Generator) -> tuple[int, int]:
        """Row and column where a picture of this size, which is not smaller than the crop, is cut."""
        spare = [side - self.size_px for side in size_hw]
        y, x = (int(rng.integers(0, s + 1)) if self.random else s // 2 for s in spare)
        return y, x


@dataclass(frozen=True)
class ResizedCrop:
    """`resize`, then `crop`, in one pass that computes little but what the crop needs.

    Flow is made of the crop alone, decoded or not (`cmp.flow.HalfSizeFlow`), and equals one after the other to a
    millionth of its largest value. The image equals it bit for bit; one that shrinks to less than half may differ by a
    grey level in one value of a thousand, as the precision of torch's weights follows from the largest of them. Its
    rows above and columns to the left are computed and dropped: torch does not start at a fraction of a pixel.
    """

    resize: Resize
    crop: Crop

    def __call__(self, pair: FlowPair, rng: np.random.Generator) -> FlowPair:
        old_hw = pair.flow.shape[:2]
        new_hw = self.resize.new_size(old_hw)
        if new_hw == old_hw or min(new_hw) < self.crop.size_px:  # nothing to resize, or padding
            return self.crop(self.resize(pair._replace(flow=np.asarray(pair.flow)), rng), rng)
        y, x = self.crop.corner(new_hw, rng)
        end_hw = y + self.crop.size_px, x + self.crop.size_px
        window = slice(y, end_hw[0]), slice(x, end_hw[1])
        scales = [new / old for new, old in zip(new_hw, old_hw)]
        flow = resized_window(pair.flow, new_hw, window, scales[::-1])
        valid = np.ones(flow.shape[:2], bool)
        if not pair.valid.all():
            known = pair.valid[..., None].astype(np.float32)
            valid = resized_window(known, new_hw, window, (1.0,))[..., 0] > 1 - 1e-6
            flow *= valid[..., None]
        return FlowPair(_resize_image_start(pair.image, scales, end_hw)[window], flow, valid)


def join_resize_and_crop(transforms: Sequence) -> list:
    """The same transforms, every `Resize` that a `Crop` follows joined with it in a `ResizedCrop`."""
    joined = []
    for transform in transforms:
        if isinstance(transform, Crop) and joined and isinstance(joined[-1], Resize):
            transform = ResizedCrop(joined.pop(), transform)
        joined.append(transform)
    return joined


def _resize_image_start(image: np.ndarray, scales: Sequence[float], end_hw: tuple[int, int]) -> np.ndarray:
    """As `_resize_image`, of an image's first rows and columns alone: end_hw of them or more."""
    needed = [math.ceil(end / s) + math.ceil(2 * max(1, 1 / s)) + 2 for end, s in zip(end_hw, scales)]
    # torch leaves an axis as it is whose length does not change, even where its scale is above 1.
    needed = [n if int(n * s) != n else side for n, s, side in zip(needed, scales, image.shape)]
    start = np.require(image, requirements="CW")[: needed[0], : needed[1]]
    scales = [
        s if int(side * s) >= end else math.nextafter(s, math.inf)  # a product that is rounded below a whole number
        for s, side, end in zip(scales, start.shape, end_hw)
    ]
    batch = torch.from_numpy(start.transpose(2, 0, 1)[None])
    resized = F.interpolate(batch, scale_factor=scales, mode="bicubic", antialias=True, recompute_scale_factor=False)
    return resized.numpy()[0].transpose(1, 2, 0)


@dataclass(frozen=True)
class ScaledCrop:
    """Cut out a random square and resize it to size_px: the same things nearer or farther, their motion scaled along.

    The square's side is size_px times a log-uniform factor between low and high, at most the picture's short side. Off
    in every published recipe.
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
class Colour:
    """Change brightness, contrast and colour cast, and with grey_probability take all colour away; flow stays.

    Each channel is multiplied by a common factor within 1 +- contrast and one of its own within 1 +- cast, and a common
    offset within +- brightness grey levels is added. Off in every published recipe.
    """

    contrast: float = 0.3
    cast: float = 0.1
    brightness: float = 25.0
    grey_probability: float = 0.15

    def __call__(self, pair: FlowPair, rng: np.random.Generator) -> FlowPair:
        factor = rng.uniform(1 - self.contrast, 1 + self.contrast) * rng.uniform(1 - self.cast, 1 + self.cast, 3)
        image = pair.image * factor.astype(np.float32) + np.float32(rng.uniform(-self.brightness, self.brightness))
        if rng.random() < self.grey_probability:
            image = np.repeat(image.mean(axis=2, keepdims=True), 3, axis=2)
        return pair._replace(image=image.round().clip(0, 255).astype(np.uint8))


@dataclass(frozen=True)
class Flip:
    """Mirror left and right with this probability; u changes its sign. Off in every published recipe."""

    probability: float = 0.5

    def __call__(self, pair: FlowPair, rng: np.random.Generator) -> FlowPair:
        if rng.random() >= self.probability:
            return pair
        return FlowPair(pair.image[:, ::-1], flip_flow(pair.flow, "horizontal"), pair.valid[:, ::-1])


@dataclass(frozen=True)
class ReverseFlow:
    """Turn every vector around with this probability, as if the clip ran backwards. Off in every published recipe."""

    probability: float = 0.5

    def __call__(self, pair: FlowPair, rng: np.random.Generator) -> FlowPair:
        return pair._replace(flow=-pair.flow) if rng.random() < self.probability else pair


@dataclass(frozen=True)
class ScaleFlow:
    """Multiply all vectors by one factor between low and high, log-uniform: faster or slower motion of the same image.

    Off in every published recipe; the authors offer 0.5 to 2.
    """

    low: float = 0.5
    high: float = 2.0

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.high:
            raise ValueError(f"low and high must satisfy 0 < low <= high, got {self.low} and {self.high}")

    def __call__(self, pair: FlowPair, rng: np.random.Generator) -> FlowPair:
        factor = float(np.exp(rng.uniform(np.log(self.low), np.log(self.high))))
        return pair._replace(flow=scale_flow(pair.flow, factor))


@dataclass(frozen=True)
class TurnFlow:
    """Turn all vectors by one angle within +-max_degrees; the image stays. Off in every published recipe.

    Done with a 2x2 matrix (the authors' arctangent loses the quadrant).
    """

    max_degrees: float = 180.0

    def __call__(self, pair: FlowPair, rng: np.random.Generator) -> FlowPair:
        angle = np.deg2rad(rng.uniform(-self.max_degrees, self.max_degrees))
        matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]], np.float32)
        return pair._replace(flow=pair.flow @ matrix.T)
