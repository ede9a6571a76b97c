"""Digits that shift by whole pixels in front of still noise, with the motion of every pixel.

Legend: H W canvas pixels.
"""

import numpy as np
import torch
from torch.utils.data import Dataset

from cmp.datasets.digits import read_digits

NUM_FRAMES = 5


class MovingDigits(Dataset):
    """Five frames of an MNIST digit in constant motion, centred in the third frame.

    A sample is a dict:
        frames: (5, 1, H, W) float32 in 0..1. A pixel that the digit leaves at 0 shows the noise, which is the same in
            all frames.
        forward: (H, W) int64: by which class of motion each pixel of frame 2 goes to frame 3.
        backward: (H, W) int64: the same from frame 4 back to frame 3.
        shift_xy: (2,) int64: the digit's step from a frame to the next, px.
        max_shift_px: () int64: as given, of the shifts that classes of motion tell apart.
    It follows from (seed, epoch, index) alone: the index chooses the digit, the epoch its motion and the noise.

    Args:
        paths: one folder, see `read_digits`.
        part: "train" or "test".
        max_shift_px: steps are drawn evenly from -max_shift_px..max_shift_px along both axes.
        canvas_px: H and W; the digit is padded to it with zeros. What moves out of it is gone.
        noise: background values are drawn evenly from 0 to below this; 0 leaves it black.
        max_digits: use the first so many; None is all.
        seed: where the draws start.
        download: see `read_digits`.

    Raises:
        FileNotFoundError, ValueError: see `read_digits`, or an argument is out of range.

    Source: the data of the local-motion experiments on MNIST in yangyi02/video_motion_mnist.
    """

    metainfo: dict = {}  # mmengine warns where a dataset has none

    def __init__(
        self,
        paths: list[str],
        *,
        part: str = "train",
        max_shift_px: int = 3,
        canvas_px: int = 32,
        noise: float = 0.5,
        max_digits: int | None = None,
        seed: int = 0,
        download: bool = False,
    ) -> None:
        if len(paths) != 1:
            raise ValueError(f"want one folder with the digits, got {paths}")
        if max_shift_px < 1:
            raise ValueError(f"max_shift_px must be at least 1, got {max_shift_px}")
        if canvas_px < 28 or canvas_px % 2:
            raise ValueError(f"canvas_px must be even and at least 28, got {canvas_px}")
        if not 0 <= noise <= 1:
            raise ValueError(f"noise must be in 0..1, got {noise}")
        if max_digits is not None and max_digits < 1:
            raise ValueError(f"max_digits must be at least 1, got {max_digits}")
        self.images = read_digits(paths[0], part, download=download)[0][:max_digits]
        self.max_shift_px, self.canvas_px, self.noise, self.seed = max_shift_px, canvas_px, noise, seed

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int | tuple[int, int]) -> dict:
        index, epoch = index if isinstance(index, tuple) else (index, 0)
        rng = np.random.default_rng((self.seed, epoch, index))
        dx, dy = rng.integers(-self.max_shift_px, self.max_shift_px + 1, size=2)
        noise = rng.random((self.canvas_px, self.canvas_px), dtype=np.float32) * np.float32(self.noise)
        digit = np.pad(self.images[index].astype(np.float32) / 255, (self.canvas_px - 28) // 2)
        moved = np.stack([move(digit, k * dx, k * dy) for k in (-2, -1, 0, 1, 2)])
        still = motion_class(0, 0, self.max_shift_px)
        return dict(
            frames=torch.from_numpy(np.where(moved > 0, moved, noise)[:, None]),
            forward=torch.from_numpy(np.where(moved[1] > 0, motion_class(dx, dy, self.max_shift_px), still)),
            backward=torch.from_numpy(np.where(moved[3] > 0, motion_class(-dx, -dy, self.max_shift_px), still)),
            shift_xy=torch.tensor([int(dx), int(dy)]),
            max_shift_px=torch.tensor(self.max_shift_px),
        )


def motion_class(dx: int, dy: int, max_shift_px: int) -> int:
    """The class of a shift: row by row through the (2 max_shift_px + 1)^2 shifts, x fastest, both from the lowest."""
    return (int(dy) + max_shift_px) * (2 * max_shift_px + 1) + int(dx) + max_shift_px


def move(image: np.ndarray, dx: int, dy: int) -> np.ndarray:
    """An image (H, W) shifted right by dx and down by dy whole pixels; zeros come in."""
    height, width = image.shape
    moved = np.zeros_like(image)
    if abs(dx) < width and abs(dy) < height:
        to_y, to_x = slice(max(dy, 0), height + min(dy, 0)), slice(max(dx, 0), width + min(dx, 0))
        from_y, from_x = slice(max(-dy, 0), height + min(-dy, 0)), slice(max(-dx, 0), width + min(-dx, 0))
        moved[to_y, to_x] = image[from_y, from_x]
    return moved
