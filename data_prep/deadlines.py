"""How long a video may take before its process is ended, as a function of its length."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Deadline:
    """Seconds allowed for one video with one reader.

    This is far more than a slow machine needs, because it is for videos that never end.

    base_s: for the start.
    s_per_mb: to read through the file (10 MB/s).
    s_per_megapixel: to decode every frame on one thread (1080p: 24 frames/s).
    s_per_pair: for flow and writing (the slowest networks on one core).
    """

    base_s: float = 600.0
    s_per_mb: float = 0.1
    s_per_megapixel: float = 0.02
    s_per_pair: float = 60.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 <= value < float("inf"):
                raise ValueError(f"{name} must be at least 0, got {value}")

    def scaled(self, factor: float) -> Deadline:
        """The same rule with every part multiplied by `factor`, which must be above 0."""
        if not 0 < factor < float("inf"):
            raise ValueError(f"the factor of a deadline must be above 0, got {factor}")
        return Deadline(*(factor * value for value in vars(self).values()))

    def to_open(self, num_bytes: int) -> float:
        """Seconds for opening a file, while only its size is known."""
        return self.base_s + self.s_per_mb * num_bytes / 1e6

    def in_all(self, num_bytes: int, num_frames: int, size_hw: tuple[int, int], num_pairs: int) -> float:
        """Seconds from the start to the last pair, once the frames have been counted packet by packet.

        The length that a container claims is not used.
        """
        megapixels = num_frames * size_hw[0] * size_hw[1] / 1e6
        return self.to_open(num_bytes) + self.s_per_megapixel * megapixels + self.s_per_pair * num_pairs
