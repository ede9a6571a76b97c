"""Moving MNIST: sequences of digits that move in straight lines and bounce off the walls.

Legend: T frames, H W canvas pixels.
"""

import numpy as np
import torch
from torch.utils.data import Dataset

from cmp.datasets.digits import read_digits


class BouncingDigits(Dataset):
    """Sequences of MNIST digits that bounce in an empty box; where two overlap, the brighter pixel is kept.

    A sample is a dict: `frames` (T, 1, H, W) float32 in 0..1. It follows from (seed, epoch, index) alone.

    Args:
        paths: one folder, see `read_digits`.
        part: "train" or "test".
        num_frames: T, at least 1.
        canvas_hw: H and W, px; at least a digit's side.
        num_digits: digits per sequence.
        speed_px: distance that a digit moves from frame to frame; the direction is random.
        shrink: 1 for digits of 28 x 28 px, or 2, 4, 7, 14: averages over squares of this side, px.
        binarize: pixels above 0.5 become 1, the others 0.
        num_sequences: number of sequences per epoch.
        max_digits: use only the first digits, at most this many; None uses all.
        seed: of all random numbers.
        download: see `read_digits`.

    Raises:
        FileNotFoundError, ValueError: see `read_digits`.
        ValueError: an argument is out of range.

    Source: Srivastava, Mansimov and Salakhutdinov, "Unsupervised learning of video representations using LSTMs", ICML
    2015. Digits are at whole pixels. At a wall a path is mirrored exactly, so that a digit keeps its speed.
    """

    metainfo: dict = {}  # mmengine warns where a dataset has none

    def __init__(
        self,
        paths: list[str],
        *,
        part: str = "train",
        num_frames: int = 20,
        canvas_hw: tuple[int, int] = (64, 64),
        num_digits: int = 2,
        speed_px: float = 3.6,
        shrink: int = 1,
        binarize: bool = False,
        num_sequences: int = 10_000,
        max_digits: int | None = None,
        seed: int = 0,
        download: bool = False,
    ) -> None:
        if len(paths) != 1:
            raise ValueError(f"want one folder with the digits, got {paths}")
        if shrink not in (1, 2, 4, 7, 14):
            raise ValueError(f"shrink must be 1, 2, 4, 7 or 14, got {shrink}")
        if min(num_frames, num_digits, num_sequences) < 1 or (max_digits is not None and max_digits < 1):
            raise ValueError(
                "num_frames, num_digits, num_sequences and max_digits must be at least 1, "
                f"got {num_frames}, {num_digits}, {num_sequences}, {max_digits}"
            )
        if len(canvas_hw) != 2 or min(canvas_hw) < 28 // shrink:
            raise ValueError(f"canvas_hw must be two sides of at least {28 // shrink} px, got {canvas_hw}")
        if not 0 <= speed_px < np.inf:
            raise ValueError(f"speed_px must be 0 or above and finite, got {speed_px}")
        digits = read_digits(paths[0], part, download=download)[0][:max_digits].astype(np.float32) / 255
        side = 28 // shrink
        self.digits = digits.reshape(-1, side, shrink, side, shrink).mean(axis=(2, 4))  # (N, side, side)
        self.num_frames, self.canvas_hw, self.num_digits = num_frames, tuple(canvas_hw), num_digits
        self.speed_px, self.binarize, self.num_sequences, self.seed = speed_px, binarize, num_sequences, seed

    def __len__(self) -> int:
        return self.num_sequences

    def __getitem__(self, index: int | tuple[int, int]) -> dict:
        index, epoch = index if isinstance(index, tuple) else (index, 0)
        rng = np.random.default_rng((self.seed, epoch, index))
        chosen = rng.integers(len(self.digits), size=self.num_digits)
        side = self.digits.shape[1]
        wall_yx = np.array(self.canvas_hw) - side
        starts_yx = rng.random((self.num_digits, 2)) * wall_yx
        angles = rng.random(self.num_digits) * 2 * np.pi
        steps_yx = self.speed_px * np.stack((np.sin(angles), np.cos(angles)), axis=1)
        frames = np.zeros((self.num_frames, *self.canvas_hw), np.float32)
        for digit, start_yx, step_yx in zip(self.digits[chosen], starts_yx, steps_yx):
            for frame, (y, x) in zip(frames, bouncing_path(start_yx, step_yx, wall_yx, self.num_frames)):
                view = frame[y : y + side, x : x + side]
                np.maximum(view, digit, out=view)
        if self.binarize:
            frames = (frames > 0.5).astype(np.float32)
        return dict(frames=torch.from_numpy(frames[:, None]))


def bouncing_path(start_yx: np.ndarray, step_yx: np.ndarray, wall_yx: np.ndarray, num_frames: int) -> np.ndarray:
    """Compute the positions of a point that moves in a straight line and is mirrored at walls.

    Args:
        start_yx: (2,) first position, px, between the walls.
        step_yx: (2,) displacement from frame to frame, px.
        wall_yx: (2,) positions of the far walls, px; the near ones are at 0. The point cannot move along axes with 0.
        num_frames: T.

    Returns:
        (T, 2) int64 positions, rounded down.
    """
    straight = start_yx + np.arange(num_frames)[:, None] * step_yx
    # Mirrored at both walls, a position has a period of twice the distance between them: out, and the same way back.
    period = 2 * np.maximum(wall_yx, 1)
    along = np.mod(straight, period)
    return np.minimum(np.minimum(along, period - along), wall_yx).astype(np.int64)
