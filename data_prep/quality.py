"""Judge a pair and its flow: still, across a cut, or faster than the bins reach. Scores are kept, thresholds decide."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

_MIN_CONTRAST = 8.0  # grey levels; below it residuals are noise and must not be blown up
_HISTOGRAM_SIDE_PX = 64
_DIGITS = 5  # scores are rounded to this before anything is decided, so stored scores explain every decision


@dataclass(frozen=True)
class Thresholds:
    """When a pair is dropped.

    max_unexplained: drop as "cut" above it. The 20 pairs across the four cuts of a street clip lie at 0.95 and more;
        of 2,159 other pairs of 57 clips five lie above 0.92 (exposure that jumps, motion that the flow lost).
    max_histogram_jump: also "cut" above it, whatever the flow found.
    min_moving_share: drop as "still" below it.
    max_beyond_share: drop as "too_fast" above it.
    """

    max_unexplained: float = 0.92
    max_histogram_jump: float = 0.7
    min_moving_share: float = 0.01
    max_beyond_share: float = 0.25


def score_pair(
    first: np.ndarray, second: np.ndarray, flow: np.ndarray, *, max_flow_px: float = 50.0, moving_px: float = 1.0
) -> dict[str, float]:
    """Score a pair.

    Args:
        first, second: (H, W, 3) uint8 RGB.
        flow: (H, W, 2) float32, px from first to second, finite.
        max_flow_px: range of the bins that training will use, each axis.
        moving_px: a pixel moves if its vector is longer.

    Returns:
        mean_flow_px: mean length of the vectors.
        moving_share: share of pixels that move.
        beyond_share: share of pixels with a component beyond +-max_flow_px.
        histogram_jump: distance of the colour histograms, 0 (same colours) to 1 (none in common).
        residual_before, residual_after: mean grey-level difference between the frames, and between the first and the
            second warped back by the flow (where it stays in the frame; 255 if it nowhere does).
        unexplained: residual_after over the first frame's contrast (mean distance from its mean, at least 8). About 1
            and more means that the flow found nothing of the first frame in the second.
    """
    height, width = flow.shape[:2]
    grey_first = cv2.cvtColor(first, cv2.COLOR_RGB2GRAY).astype(np.float32)
    grey_second = cv2.cvtColor(second, cv2.COLOR_RGB2GRAY).astype(np.float32)
    map_x = flow[..., 0] + np.arange(width, dtype=np.float32)
    map_y = flow[..., 1] + np.arange(height, dtype=np.float32)[:, None]
    warped = cv2.remap(grey_second, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    inside = (map_x >= 0) & (map_x <= width - 1) & (map_y >= 0) & (map_y <= height - 1)
    after = float(np.abs(grey_first - warped)[inside].mean()) if inside.any() else 255.0
    contrast = max(float(np.abs(grey_first - grey_first.mean()).mean()), _MIN_CONTRAST)
    length = np.hypot(flow[..., 0], flow[..., 1])
    scores = {
        "mean_flow_px": length.mean(),
        "moving_share": (length > moving_px).mean(),
        "beyond_share": (np.abs(flow).max(axis=2) > max_flow_px).mean(),
        "histogram_jump": 0.5 * np.abs(_histogram(first) - _histogram(second)).sum(),
        "residual_before": np.abs(grey_first - grey_second).mean(),
        "residual_after": after,
        "unexplained": after / contrast,
    }
    return {name: round(float(value), _DIGITS) for name, value in scores.items()}


def drop_reasons(scores: dict[str, float], thresholds: Thresholds) -> list[str]:
    """Why a pair with these scores is dropped, gravest first; empty to keep it."""
    reasons = []
    if scores["unexplained"] > thresholds.max_unexplained or scores["histogram_jump"] > thresholds.max_histogram_jump:
        reasons.append("cut")
    if scores["moving_share"] < thresholds.min_moving_share:
        reasons.append("still")
    if scores["beyond_share"] > thresholds.max_beyond_share:
        reasons.append("too_fast")
    return reasons


def _histogram(image: np.ndarray) -> np.ndarray:
    """(512,) shares of the colours, 8 steps an axis, of the image made small: noise and fine detail do not count."""
    side = _HISTOGRAM_SIDE_PX
    small = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
    return cv2.calcHist([small], [0, 1, 2], None, [8, 8, 8], [0, 256] * 3).ravel() / side**2
