"""Predicts binary sequences by counting: each pixel independently, given a few pixels of earlier frames.

Legend: N sequences, T frames, G given frames, H W pixels.
"""

from collections.abc import Sequence

import numpy as np


class PixelFrequencies:
    """Counts how often a pixel is 1 after each pattern of pixels in earlier frames; pixels of a frame are independent.

    Args:
        offsets: (frames back, rows down, columns right) of each pixel of the pattern, at least one frame back. Without
            offsets, frequencies do not depend on earlier frames. Pixels outside the frame are 0.
        by_place: count separately for every position of the frame.

    Raises:
        ValueError: an offset is not in an earlier frame, or there are more than 20.

    Source: ours; a comparison for systems that model pixels jointly.
    """

    def __init__(self, offsets: Sequence[tuple[int, int, int]] = (), *, by_place: bool = False) -> None:
        if len(offsets) > 20 or any(back < 1 for back, _, _ in offsets):
            raise ValueError(f"offsets must be at most 20, each at least one frame back, got {list(offsets)}")
        self.offsets, self.by_place = tuple(offsets), by_place

    def fit(self, sequences: np.ndarray, given: int) -> "PixelFrequencies":
        """Count over the frames from G on of sequences (N, T, H, W), values 0 or 1; every count starts at one half.

        Raises:
            ValueError: another number of axes, or an offset goes further back than G frames.
        """
        patterns, ones = self._patterns(sequences, given)
        counts = np.bincount(patterns.ravel(), minlength=self._size(sequences))
        ones_counts = np.bincount(patterns.ravel(), weights=ones.ravel(), minlength=self._size(sequences))
        self.probability = (ones_counts + 0.5) / (counts + 1)  # (patterns,)
        return self

    def nats(self, sequences: np.ndarray, given: int) -> np.ndarray:
        """Compute -log of the probability of each frame from G on: (N, T - G).

        Args:
            sequences: (N, T, H, W), values 0 or 1; H and W as in `fit`.
            given: G.
        """
        patterns, ones = self._patterns(sequences, given)
        p = self.probability[patterns]
        return -np.log(np.where(ones, p, 1 - p)).sum(axis=(2, 3))

    def _size(self, sequences: np.ndarray) -> int:
        positions = sequences.shape[2] * sequences.shape[3] if self.by_place else 1
        return positions << len(self.offsets)

    def _patterns(self, sequences: np.ndarray, given: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the number of the pattern before each pixel (int64) and whether it is 1 (bool): (N, T - G, H, W)."""
        furthest = max((back for back, _, _ in self.offsets), default=0)
        if sequences.ndim != 4 or not furthest <= given < sequences.shape[1]:
            raise ValueError(
                f"want sequences (N, T, H, W) with {furthest} <= given < T, got {sequences.shape} and {given}"
            )
        ones = sequences > 0.5
        _, length, height, width = ones.shape
        margin = max((max(abs(dy), abs(dx)) for _, dy, dx in self.offsets), default=0)
        padded = np.pad(ones, ((0, 0), (0, 0), (margin, margin), (margin, margin)))
        pattern = np.zeros(ones[:, given:].shape, np.int64)
        if self.by_place:
            pattern += np.arange(height * width).reshape(height, width)
        for back, dy, dx in self.offsets:
            rows, columns = slice(margin + dy, margin + dy + height), slice(margin + dx, margin + dx + width)
            pattern = 2 * pattern + padded[:, given - back : length - back, rows, columns]
        return pattern, ones[:, given:]


def around(back: int, reach: int) -> list[tuple[int, int, int]]:
    """Return the offsets of all pixels at most `reach` px away along both axes, `back` frames back."""
    span = range(-reach, reach + 1)
    return [(back, dy, dx) for dy in span for dx in span]
