"""The thresholds that decide which pairs are dropped. Imports nothing slow: `--help` names their values."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Thresholds:
    """The limits of the scores of `score_pair` beyond which a pair is dropped; docs/quality.md: how they were chosen.

    max_unexplained: "cut" above it.
    max_appearance_jump, max_uneven_light: "cut" above both of them.
    max_duplicate_change: "duplicate" if largest_change is at most this; below 0: never.
    min_moving_share: "still" below it.
    max_beyond_share: "too_fast" above it.
    max_inconsistent: "inconsistent" above it.
    max_camera_share: "camera" above it; the default, 1, drops no pair for this.
    """

    max_unexplained: float = 0.52
    max_appearance_jump: float = 0.2
    max_uneven_light: float = 0.165
    max_duplicate_change: float = 3.0
    min_moving_share: float = 0.01
    max_beyond_share: float = 0.25
    max_inconsistent: float = 0.5
    max_camera_share: float = 1.0

    def __post_init__(self) -> None:
        for name in (field.name for field in fields(self)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                raise ValueError(f"{name} must be a finite number, got {value!r}")
            object.__setattr__(self, name, float(value))  # so that 1 and 1.0 are equal in a store
