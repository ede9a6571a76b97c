"""The interface of flow estimators, and the check of their inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np


class FlowEstimator(Protocol):
    """Finds the flow between two frames. `describe` (name, version, settings) goes into every sample.

    batch_size: number of pairs per call of `estimate_batch` that is fastest; 1 for estimators on the CPU.
    """

    batch_size: int = 1

    def estimate(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 RGB twice, same size -> (H, W, 2) float32, px from first to second, x then y.

        Raises ValueError for frames of another shape or dtype, or of two sizes.
        """

    def estimate_batch(self, firsts: Sequence[np.ndarray], seconds: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The same for several pairs of one size; an empty list for none."""
        return [self.estimate(first, second) for first, second in zip(firsts, seconds, strict=True)]

    def describe(self) -> dict: ...


def check_frames(first: np.ndarray, second: np.ndarray) -> None:
    """Raise ValueError unless both are (H, W, 3) uint8 of one size and not empty."""
    if first.shape != second.shape or first.ndim != 3 or first.shape[2] != 3 or first.size == 0:
        raise ValueError(f"frames must be (H, W, 3) and of one size, got {first.shape} and {second.shape}")
    if first.dtype != np.uint8 or second.dtype != np.uint8:
        raise ValueError(f"frames must be uint8, got {first.dtype} and {second.dtype}")
