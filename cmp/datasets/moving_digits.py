"""Digits that move by whole pixels in front of static noise, with the motion of every pixel.

Legend: H W canvas pixels.
"""

import numpy as np
import torch
from torch.utils.data import Dataset

from cmp.datasets.digits import read_digits

NUM_FRAMES = 5


class MovingDigits(Dataset):
    """Five frames of an MNIST digit in constant motion, centered in the third frame.

    A sample is a dict:
        frames: (5, 1, H, W) float32 in 0..1. Pixels where the digit is 0 show the noise, which is the same in all
            frames.
        forward: (H, W) int64: class of the motion of each pixel from frame 2 to frame 3, see `motion_class`.
        backward: (H, W) int64: the same from frame 4 back to frame 3.
        covered: (2, H, W) bool: pixels of the background in frames 2 and 4 that the digit covers in frame 3.
        visible_side: (H, W) int8: 1 for pixels of the background in frame 3 that frame 2 shows and frame 4 does not, -1
            for those that only frame 4 shows, else 0.
        shift_xy: (2,) int64: the digit's displacement from frame to frame, px.
        max_shift_px: () int64: the argument, which defines the classes of motion.
    It follows from (seed, epoch, index) alone: the index chooses the digit, the epoch its motion and the noise.

    Args:
        paths: one folder, see `read_digits`.
        part: "train" or "test".
        max_shift_px: displacements are uniform in -max_shift_px..max_shift_px along both axes.
        canvas_px: H and W; the digit is padded to it with zeros. Pixels that move out of the canvas are lost.
        noise: background values are uniform in [0, noise); 0 leaves the background black.
        max_digits: use only the first digits, at most this many; None uses all.
        seed: of all random numbers.
        download: see `read_digits`.

    Raises:
        FileNotFoundError, ValueError: see `read_digits`.
        ValueError: an argument is out of range.

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
        before, middle, after = moved[1:4] > 0
        side = (~middle & ~before & after).astype(np.int8) - (~middle & before & ~after)
        return dict(
            frames=torch.from_numpy(np.where(moved > 0, moved, noise)[:, None]),
            forward=torch.from_numpy(np.where(moved[1] > 0, motion_class(dx, dy, self.max_shift_px), still)),
            backward=torch.from_numpy(np.where(moved[3] > 0, motion_class(-dx, -dy, self.max_shift_px), still)),
            covered=torch.from_numpy(np.stack((middle & ~before, middle & ~after))),
            visible_side=torch.from_numpy(side),
            shift_xy=torch.tensor([int(dx), int(dy)]),
            max_shift_px=torch.tensor(self.max_shift_px),
        )


def motion_class(dx: int, dy: int, max_shift_px: int) -> int:
    """Return the class of a shift: its index among the (2 max_shift_px + 1)^2 shifts, x fastest, both ascending."""
    return (int(dy) + max_shift_px) * (2 * max_shift_px + 1) + int(dx) + max_shift_px


def move(image: np.ndarray, dx: int, dy: int) -> np.ndarray:
    """Shift an image (H, W) right by dx and down by dy whole pixels, filling with zeros."""
    height, width = image.shape
    moved = np.zeros_like(image)
    if abs(dx) < width and abs(dy) < height:
        to_y, to_x = slice(max(dy, 0), height + min(dy, 0)), slice(max(dx, 0), width + min(dx, 0))
        from_y, from_x = slice(max(-dy, 0), height + min(-dy, 0)), slice(max(-dx, 0), width + min(-dx, 0))
        moved[to_y, to_x] = image[from_y, from_x]
    return moved
