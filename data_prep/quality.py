"""Judge a pair and its flow. Scores are kept with the pair, thresholds decide: docs/quality.md."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import lru_cache

import cv2
import numpy as np

_SHORT_SIDE_PX = 110  # scores are computed near this size: what they judge is larger than a pixel
_MIN_DIS_SIDE_PX = 32
_WINDOW_PX = 9  # side of the windows in which the first frame is looked for in the second
_LIGHT_PX = 15  # a change of light is even over so much
_MIN_DEVIATION = 3.0  # grey levels; a window that varies or changes less is taken for noise
_NOTHING_MOVED_PX = 1.0
_ROUND_TRIP_SHARE, _CAMERA_SHARE = 0.2, 0.05  # tolerances, of a vector's length
_CAMERA_PX = 1.0
_GRID = 16  # vectors along the longer side that the camera's motion is fitted to
_HISTOGRAM_SIDE_PX = 64
_DIGITS = 5  # scores are rounded to this before anything is decided, so stored scores explain every decision


@dataclass(frozen=True)
class Thresholds:
    """When a pair is dropped; the scores are those of `score_pair`. How they were chosen: docs/quality.md.

    max_unexplained, max_appearance_jump: "cut" above one of them.
    max_duplicate_change: "duplicate" if largest_change is at most this; below 0: never.
    min_moving_share: "still" below it.
    max_beyond_share: "too_fast" above it.
    max_inconsistent: "inconsistent" above it.
    max_camera_share: "camera" above it; 1 keeps them, the default.
    """

    max_unexplained: float = 0.52
    max_appearance_jump: float = 0.2
    max_duplicate_change: float = 3.0
    min_moving_share: float = 0.01
    max_beyond_share: float = 0.25
    max_inconsistent: float = 0.7
    max_camera_share: float = 1.0

    def __post_init__(self) -> None:
        for name in (field.name for field in fields(self)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                raise ValueError(f"{name} must be a finite number, got {value!r}")
            object.__setattr__(self, name, float(value))  # 1 and 1.0 are the same in a store


def score_pair(
    first: np.ndarray, second: np.ndarray, flow: np.ndarray, *, max_flow_px: float = 50.0
) -> dict[str, float]:
    """Score a pair.

    Computed on frames averaged over f x f pixels and on every f-th vector, f the whole number that brings the short
    side nearest to 110 px (4 for 416 px: 104 px remain; 1 below 165 px). Lengths are px of the frames as given.

    Args:
        first, second: (H, W, 3) uint8 RGB.
        flow: (H, W, 2) float32, px from first to second, finite.
        max_flow_px: range of the bins that training will use, each axis.

    Returns:
        mean_flow_px: mean length of the vectors.
        moving_share: share of vectors longer than 1 px where the pictures changed: where the mean difference in a
            window of 9 x 9, after the mean of 15 x 15 is taken from each frame, is above 3 grey levels. On plain walls
            flow is noise, and changes of light move nothing.
        beyond_share: share of vectors with a component beyond +-max_flow_px.
        unexplained: what the flow leaves unfound of the first frame's structure: 1 minus the mean correlation of
            9 x 9 windows of the first frame with the second warped back by the flow, over windows with texture
            that stay in the frame; 0 (all found) to 2, 1 for unrelated pictures. 0 if there is no such window.
            Changes of light do not count.
        histogram_jump: distance of the colour histograms, 0 (same colours) to 1 (none in common).
        appearance_jump: the same times the share of the change between the frames that is left after warping
            (residual_after / residual_before, at most 1): colours that come from nowhere, as in cuts and fades.
        largest_change: largest mean grey-level difference of the frames in a window of 3 x 3: near 0 for a frame that
            was repeated, whatever else stands still.
        residual_before, residual_after: mean grey-level difference between the frames, and between the first and the
            second warped back by the flow (where it stays in the frame; 255 if it nowhere does).
        inconsistent: share of vectors whose round trip fails: followed by the flow back (DIS on the small frames) they
            end farther off than f px and 20 % of their length; of those that stay in the frame, 1 if none does.
        camera_share: of the vectors longer than 1 px, the share that a camera before a flat or far scene explains:
            within 1 px or 5 % of the flow of one homography, fitted by RANSAC. 0 if there are none.
        camera_residual_px: mean distance of all from that homography's flow; beyond 1000 counts as 1000.
    """
    factor = max(1, (min(flow.shape[:2]) + _SHORT_SIDE_PX // 2) // _SHORT_SIDE_PX)
    first, second = _shrunk(first, factor), _shrunk(second, factor)
    height, width = first.shape[:2]
    flow = _thinned(flow, factor)[:height, :width]
    grey_first, grey_second = (cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in (first, second))
    flow_x, flow_y = cv2.split(flow)
    length = cv2.magnitude(flow_x, flow_y)
    moving = length > _NOTHING_MOVED_PX
    beyond = cv2.max(cv2.absdiff(flow_x, 0), cv2.absdiff(flow_y, 0)) > max_flow_px

    small_flow = flow / np.float32(factor)
    target = small_flow + _positions(height, width)
    inside = cv2.inRange(target, (0, 0), (width - 1, height - 1))  # (h, w) uint8, 255 where the vector ends inside
    num_inside = cv2.countNonZero(inside)
    tones_first, tones_second = grey_first.astype(np.float32), grey_second.astype(np.float32)
    warped = cv2.remap(tones_second, target, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    change = cv2.absdiff(tones_first, tones_second)
    before = float(change.mean())
    after = cv2.mean(cv2.absdiff(tones_first, warped), inside)[0] if num_inside else 255.0
    jump = 0.5 * float(np.abs(_histogram(first) - _histogram(second)).sum())

    back = cv2.remap(
        _flow_back(grey_first, grey_second), target, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    off = _lengths(flow + back * np.float32(factor))
    failed = (off > np.maximum(np.float32(factor), _ROUND_TRIP_SHARE * length)) & (inside > 0)

    # Not a number, or beyond 1000: fmin takes the 1000.
    camera_off = np.fmin(_lengths(flow - _camera_flow(small_flow) * np.float32(factor)), np.float32(1000))
    by_camera = (camera_off <= np.maximum(_CAMERA_PX, _CAMERA_SHARE * length)) & moving
    scores = {
        "mean_flow_px": length.mean(),
        "moving_share": np.count_nonzero(moving & _changed(tones_first, tones_second)) / moving.size,
        "beyond_share": np.count_nonzero(beyond) / beyond.size,
        "unexplained": _unfound(tones_first, warped, inside),
        "histogram_jump": jump,
        "appearance_jump": jump * min(1.0, after / max(before, 1e-6)),
        "largest_change": cv2.blur(change, (3, 3)).max(),
        "residual_before": before,
        "residual_after": after,
        "inconsistent": np.count_nonzero(failed) / num_inside if num_inside else 1.0,
        "camera_share": np.count_nonzero(by_camera) / max(1, np.count_nonzero(moving)),
        "camera_residual_px": camera_off.mean(),
    }
    return {name: round(float(value), _DIGITS) for name, value in scores.items()}


def drop_reasons(scores: Mapping[str, float], thresholds: Thresholds) -> list[str]:
    """Why a pair with these scores is dropped, gravest first; empty to keep it. KeyError names a missing score."""
    limits = thresholds
    found = {
        "cut": scores["unexplained"] > limits.max_unexplained or scores["appearance_jump"] > limits.max_appearance_jump,
        "duplicate": scores["largest_change"] <= limits.max_duplicate_change,
        "still": scores["moving_share"] < limits.min_moving_share,
        "too_fast": scores["beyond_share"] > limits.max_beyond_share,
        "inconsistent": scores["inconsistent"] > limits.max_inconsistent,
        "camera": scores["camera_share"] > limits.max_camera_share,
    }
    return [reason for reason, holds in found.items() if holds]


def _shrunk(image: np.ndarray, factor: int) -> np.ndarray:
    """Means of factor x factor pixels; what does not fill a block at the right and lower edge is left out.

    Rounded to whole grey levels, once for each time that factor can be halved and once more for an odd rest.
    """
    height, width = (side // factor for side in image.shape[:2])
    image = image[: height * factor, : width * factor]
    while factor % 2 == 0:  # OpenCV is three times as fast with two halves as with a quarter
        factor //= 2
        image = cv2.resize(image, (width * factor, height * factor), interpolation=cv2.INTER_AREA)
    if factor == 1:
        return image
    means = cv2.blur(image, (factor, factor), anchor=(0, 0))  # the mean of the block that begins at each pixel
    return cv2.resize(means, (width, height), interpolation=cv2.INTER_NEAREST)  # takes the pixel where a block begins


def _thinned(flow: np.ndarray, factor: int) -> np.ndarray:
    """Every factor-th vector, the middle ones of blocks: a copy, float32. A vector is moved as one number: faster."""
    vectors = np.ascontiguousarray(flow, np.float32).view(np.complex64)[..., 0]
    thin = vectors[factor // 2 :: factor, factor // 2 :: factor].copy()
    return thin.view(np.float32).reshape(*thin.shape, 2)


@lru_cache(maxsize=4)
def _positions(height: int, width: int) -> np.ndarray:
    """(height, width, 2) float32, the (x, y) of every pixel; not to be written to."""
    positions = np.empty((height, width, 2), np.float32)
    positions[..., 0] = np.arange(width)
    positions[..., 1] = np.arange(height)[:, None]
    positions.flags.writeable = False
    return positions


def _lengths(vectors: np.ndarray) -> np.ndarray:
    return cv2.magnitude(*cv2.split(vectors))


def _changed(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(h, w) bool, where the pictures differ by more than light and noise."""
    details = (tones - cv2.blur(tones, (_LIGHT_PX, _LIGHT_PX)) for tones in (first, second))
    return cv2.blur(cv2.absdiff(*details), (_WINDOW_PX, _WINDOW_PX)) > _MIN_DEVIATION


def _unfound(first: np.ndarray, warped: np.ndarray, inside: np.ndarray) -> float:
    def mean(values: np.ndarray) -> np.ndarray:
        return cv2.blur(values, (_WINDOW_PX, _WINDOW_PX))

    first, warped = first - 128, warped - 128  # nearer to 0, so that less is lost in the differences below
    mean_first, mean_warped = mean(first), mean(warped)
    spread_first = mean(first * first) - mean_first * mean_first
    spread_warped = mean(warped * warped) - mean_warped * mean_warped
    together = mean(first * warped) - mean_first * mean_warped
    whole = cv2.erode(inside, np.ones((_WINDOW_PX, _WINDOW_PX), np.uint8)) > 0
    chosen = whole & (spread_first > _MIN_DEVIATION**2)
    if not chosen.any():
        return 0.0
    # A flat window of the second frame resembles nothing; its own noise must not be blown up.
    correlation = together[chosen] / np.sqrt(spread_first[chosen] * np.maximum(spread_warped[chosen], 1))
    return float(np.clip(1 - correlation, 0, 2).mean())


def _flow_back(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(h, w, 2) float32 flow from second to first, by DIS (fast)."""
    height, width = first.shape
    factor = -(-_MIN_DIS_SIDE_PX // min(height, width))
    if factor > 1:
        size = (width * factor, height * factor)
        first, second = (cv2.resize(grey, size, interpolation=cv2.INTER_CUBIC) for grey in (first, second))
    flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_FAST).calc(second, first, None)
    return flow if factor == 1 else cv2.resize(flow, (width, height), interpolation=cv2.INTER_AREA) / np.float32(factor)


def _camera_flow(flow: np.ndarray) -> np.ndarray:
    """The flow of the homography that most vectors of a grid agree on; zero if there is none. Repeats exactly.

    Where its horizon lies inside the picture, values can be infinite or not a number.
    """
    height, width = flow.shape[:2]
    step = max(1, max(height, width) // _GRID)
    positions = _positions(height, width)
    points = positions[step // 2 :: step, step // 2 :: step].reshape(-1, 2)
    moved = points + flow[step // 2 :: step, step // 2 :: step].reshape(-1, 2)
    matrix = None
    if len(points) >= 8:
        # An eighth of plain RANSAC's time, and more vectors that agree: it refines good guesses on the way.
        matrix, _ = cv2.findHomography(points, moved, cv2.USAC_FAST, 0.5, maxIters=200, confidence=0.99)
    if matrix is None:
        return np.zeros_like(flow)
    with np.errstate(all="ignore"):
        return cv2.perspectiveTransform(positions, matrix) - positions


def _histogram(image: np.ndarray) -> np.ndarray:
    """(512,) shares of the colours, 8 steps an axis, of the image made small: noise and fine detail do not count."""
    side = _HISTOGRAM_SIDE_PX
    small = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
    return cv2.calcHist([small], [0, 1, 2], None, [8, 8, 8], [0, 256] * 3).ravel() / side**2
