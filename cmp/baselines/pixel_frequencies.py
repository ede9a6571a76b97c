"""What counting gives: each pixel of a binary film by itself, given a few pixels of the frames before.

Legend: N films, T frames, G given frames, H W pixels.
"""

from collections.abc import Sequence

import numpy as np


class PixelFrequencies:
    """How often a pixel was 1 after what stood around it in the frames before; pixels of a frame are independent.

    Args:
        offsets: (frames back, rows down, columns right) of each pixel that is looked at, at least one frame back; none
            for frequencies that do not depend on anything before. Beyond the border stands 0.
        by_place: count for every place of the frame by itself.

    Raises:
        ValueError: an offset is not in an earlier frame, or there are more than 20.

    Source: ours: what a system that models pixels jointly must beat.
    """

    def __init__(self, offsets: Sequence[tuple[int, int, int]] = (), *, by_place: bool = False) -> None:
        if len(offsets) > 20 or any(back < 1 for back, _, _ in offsets):
            raise ValueError(f"offsets must be at most 20, each at least one frame back, got {list(offsets)}")
        self.offsets, self.by_place = tuple(offsets), by_place

    def fit(self, films: np.ndarray, given: int) -> "PixelFrequencies":
        """Count over frames G.. of films (N, T, H, W), 0 or 1; every count starts at one half."""
        patterns, ones = self._patterns(films, given)
        seen = np.bincount(patterns.ravel(), minlength=self._size(films))
        bright = np.bincount(patterns.ravel(), weights=ones.ravel(), minlength=self._size(films))
        self.probability = (bright + 0.5) / (seen + 1)  # (patterns,)
        return self

    def nats(self, films: np.ndarray, given: int) -> np.ndarray:
        """-log of the probability of each frame from G on, (N, T - G), of films (N, T, H, W) as large as `fit`'s."""
        patterns, ones = self._patterns(films, given)
        p = self.probability[patterns]
        return -np.log(np.where(ones, p, 1 - p)).sum(axis=(2, 3))

    def _size(self, films: np.ndarray) -> int:
        places = films.shape[2] * films.shape[3] if self.by_place else 1
        return places << len(self.offsets)

    def _patterns(self, films: np.ndarray, given: int) -> tuple[np.ndarray, np.ndarray]:
        """Number of the pattern before each pixel and whether it is 1, (N, T - G, H, W) int64 and bool."""
        furthest = max((back for back, _, _ in self.offsets), default=0)
        if films.ndim != 4 or not furthest <= given < films.shape[1]:
            raise ValueError(f"want films (N, T, H, W) with {furthest} <= given < T, got {films.shape} and {given}")
        ones = films > 0.5
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
    """Offsets of the square of pixels that lie at most `reach` px away, `back` frames back."""
    span = range(-reach, reach + 1)
    return [(back, dy, dx) for dy in span for dx in span]
