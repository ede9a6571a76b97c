"""Moving MNIST: films of digits that fly straight on and bounce off the walls.

Legend: T frames, H W canvas pixels.
"""

import numpy as np
import torch
from torch.utils.data import Dataset

from cmp.datasets.digits import read_digits


class BouncingDigits(Dataset):
    """Films of MNIST digits that bounce in an empty box; the brighter digit is seen where two meet.

    A sample is a dict: `frames` (T, 1, H, W) float32 in 0..1. It follows from (seed, epoch, index) alone.

    Args:
        paths: one folder, see `read_digits`.
        part: "train" or "test".
        num_frames: T, at least 1.
        canvas_hw: H and W, px; at least a digit's side.
        num_digits: in a film.
        speed_px: how far a digit goes from frame to frame; the direction is drawn.
        shrink: 1 for digits of 28 x 28 px, or 2, 4, 7, 14: means over squares of so many px.
        binarise: pixels above 0.5 become 1, the others 0.
        num_films: how many there are in an epoch.
        max_digits: draw from the first so many; None is all.
        seed: where the draws start.
        download: see `read_digits`.

    Raises:
        FileNotFoundError, ValueError: see `read_digits`, or an argument is out of range.

    Source: Srivastava, Mansimov and Salakhutdinov, "Unsupervised learning of video representations using LSTMs", ICML
    2015. Digits stand at whole pixels. At a wall a path is mirrored exactly, so that a digit keeps its speed.
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
        binarise: bool = False,
        num_films: int = 10_000,
        max_digits: int | None = None,
        seed: int = 0,
        download: bool = False,
    ) -> None:
        if len(paths) != 1:
            raise ValueError(f"want one folder with the digits, got {paths}")
        if shrink not in (1, 2, 4, 7, 14):
            raise ValueError(f"shrink must be 1, 2, 4, 7 or 14, got {shrink}")
        if min(num_frames, num_digits, num_films) < 1 or (max_digits is not None and max_digits < 1):
            raise ValueError(
                "num_frames, num_digits, num_films and max_digits must be at least 1, "
                f"got {num_frames}, {num_digits}, {num_films}, {max_digits}"
            )
        if len(canvas_hw) != 2 or min(canvas_hw) < 28 // shrink:
            raise ValueError(f"canvas_hw must be two sides of at least {28 // shrink} px, got {canvas_hw}")
        if not 0 <= speed_px < np.inf:
            raise ValueError(f"speed_px must be 0 or above and finite, got {speed_px}")
        digits = read_digits(paths[0], part, download=download)[0][:max_digits].astype(np.float32) / 255
        side = 28 // shrink
        self.digits = digits.reshape(-1, side, shrink, side, shrink).mean(axis=(2, 4))  # (N, side, side)
        self.num_frames, self.canvas_hw, self.num_digits = num_frames, tuple(canvas_hw), num_digits
        self.speed_px, self.binarise, self.num_films, self.seed = speed_px, binarise, num_films, seed

    def __len__(self) -> int:
        return self.num_films

    def __getitem__(self, index: int | tuple[int, int]) -> dict:
        index, epoch = index if isinstance(index, tuple) else (index, 0)
        rng = np.random.default_rng((self.seed, epoch, index))
        chosen = rng.integers(len(self.digits), size=self.num_digits)
        side = self.digits.shape[1]
        room_yx = np.array(self.canvas_hw) - side
        starts_yx = rng.random((self.num_digits, 2)) * room_yx
        angles = rng.random(self.num_digits) * 2 * np.pi
        steps_yx = self.speed_px * np.stack((np.sin(angles), np.cos(angles)), axis=1)
        frames = np.zeros((self.num_frames, *self.canvas_hw), np.float32)
        for digit, start_yx, step_yx in zip(self.digits[chosen], starts_yx, steps_yx):
            for frame, (y, x) in zip(frames, bouncing_path(start_yx, step_yx, room_yx, self.num_frames)):
                view = frame[y : y + side, x : x + side]
                np.maximum(view, digit, out=view)
        if self.binarise:
            frames = (frames > 0.5).astype(np.float32)
        return dict(frames=torch.from_numpy(frames[:, None]))


def bouncing_path(start_yx: np.ndarray, step_yx: np.ndarray, room_yx: np.ndarray, num_frames: int) -> np.ndarray:
    """Where a point is that flies straight on and is mirrored at walls.

    Args:
        start_yx: (2,) first position, px, each from 0 to its room.
        step_yx: (2,) what is added from frame to frame, px.
        room_yx: (2,) the far walls, px; the near ones are at 0. Where it is 0 the point cannot move.
        num_frames: T.

    Returns:
        (T, 2) int64 positions, rounded down.
    """
    straight = start_yx + np.arange(num_frames)[:, None] * step_yx
    # Mirrored at both walls the line has a period of twice the room: the way back is the way out, seen from its end.
    period = 2 * np.maximum(room_yx, 1)
    along = np.mod(straight, period)
    return np.minimum(np.minimum(along, period - along), room_yx).astype(np.int64)
