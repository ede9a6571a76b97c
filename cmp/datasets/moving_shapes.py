"""Pairs of frames of a shape that moves along an axis that its form determines, in a direction that nothing determines.

Legend: H W canvas pixels.
"""

import numpy as np
import torch
from torch.utils.data import Dataset

SHAPES = ("circle", "square", "triangle")
AXES_XY = ((0, 1), (1, 0), (1, 1))  # circles move vertically, squares horizontally, triangles along the diagonal


class MovingShapes(Dataset):
    """Two frames of one shape in front of a plain background.

    A sample is a dict:
        frames: (2, 3, H, W) uint8 RGB. The second is the first, moved: the shape and the place that it moves to are
            inside the canvas.
        axis_xy: (2,) int64: the axis along which this shape moves.
        shift_xy: (2,) int64: its displacement, px: a multiple of axis_xy.
        max_shift_px: () int64: the argument.
    It follows from (seed, part, epoch, index) alone. Form, size, place, color and displacement are uniform. The
    background differs from the color by 128 in each channel. Displacements are 1 to max_shift_px along the axis, either
    way, so the first frame determines the axis, not the direction.

    Args:
        paths: not used, may be empty; there for `tools/train.py --data`.
        part: "train" or "test": two sets of random numbers.
        num_sequences: number of samples, at least 1.
        canvas_px: H and W.
        max_shift_px: largest displacement along x or y, at least 1.
        seed: of all random numbers.

    Raises:
        ValueError: an argument is out of range.

    Source: the toy world of Xue et al., "Visual Dynamics", NIPS 2016; it has several shapes in a frame.
    """

    metainfo: dict = {}  # mmengine warns where a dataset has none

    def __init__(
        self,
        paths: list[str] | None = None,
        *,
        part: str = "train",
        num_sequences: int = 10_000,
        canvas_px: int = 32,
        max_shift_px: int = 4,
        seed: int = 0,
    ) -> None:
        if part not in ("train", "test"):
            raise ValueError(f"part must be 'train' or 'test', got {part!r}")
        if num_sequences < 1 or max_shift_px < 1:
            raise ValueError(
                f"num_sequences and max_shift_px must be at least 1, got {num_sequences} and {max_shift_px}"
            )
        if canvas_px < 4 * max_shift_px + 8:
            raise ValueError(f"canvas_px must be at least 4 max_shift_px + 8 = {4 * max_shift_px + 8}, got {canvas_px}")
        self.part, self.num_sequences, self.canvas_px, self.max_shift_px, self.seed = (
            part,
            num_sequences,
            canvas_px,
            max_shift_px,
            seed,
        )

    def __len__(self) -> int:
        return self.num_sequences

    def __getitem__(self, index: int | tuple[int, int]) -> dict:
        index, epoch = index if isinstance(index, tuple) else (index, 0)
        rng = np.random.default_rng((self.seed, self.part == "test", epoch, index))
        form = int(rng.integers(len(SHAPES)))
        radius = int(rng.integers(3, self.canvas_px // 2 - 2 * self.max_shift_px + 1))
        margin = radius + self.max_shift_px
        y, x = rng.integers(margin, self.canvas_px - margin, size=2)
        color = rng.integers(0, 256, size=3)
        background = (color + 128) % 256
        step = int(rng.integers(1, self.max_shift_px + 1)) * int(rng.choice((-1, 1)))
        shift = step * np.array(AXES_XY[form])
        inside = draw_shape(form, radius, (int(y), int(x)), self.canvas_px)
        frame = np.where(inside, color[:, None, None], background[:, None, None]).astype(np.uint8)
        moved = np.roll(frame, (int(shift[1]), int(shift[0])), axis=(1, 2))
        return dict(
            frames=torch.from_numpy(np.stack((frame, moved))),
            axis_xy=torch.tensor(AXES_XY[form]),
            shift_xy=torch.from_numpy(shift.astype(np.int64)),
            max_shift_px=torch.tensor(self.max_shift_px),
        )


def draw_shape(form: int, radius: int, center_yx: tuple[int, int], canvas_px: int) -> np.ndarray:
    """Draw one of SHAPES, bool (H, W): a circle, a square, or a triangle with its tip up, 2 radius + 1 px high."""
    y, x = np.mgrid[:canvas_px, :canvas_px]
    down, right = y - center_yx[0], np.abs(x - center_yx[1])
    if SHAPES[form] == "circle":
        return down**2 + right**2 <= radius**2
    square = (np.abs(down) <= radius) & (right <= radius)
    return square if SHAPES[form] == "square" else square & (2 * right <= down + radius)
