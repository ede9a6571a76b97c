"""Score a pair and its flow, and decide by thresholds whether it is dropped; see docs/quality.md."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from data_prep.thresholds import Thresholds

_SHORT_SIDE_PX = 110  # scores are computed near this size, because they are about details larger than a pixel
_MIN_DIS_SIDE_PX = 32
_WINDOW_PX = 9  # side of the windows in which the first frame is looked for in the second
_LIGHT_PX = 15  # a change of light is even over this many pixels
_MIN_DEVIATION = 3.0  # gray levels; a window that varies or changes less is taken for noise
_MIN_JUMP = 0.05  # above this appearance_jump, a change of light is fitted to it
_NOISE = 4.0  # variance that is added to both frames' before contrasts are compared
_FOUND = 0.7  # correlation from which a window counts as found
_TONES = 128  # bins of gray levels that the change of light is fitted to
_LOCAL = 1.85  # windows with a light each explain more by chance than one curve: fades of one scene are still found
_SOFT = 2.75  # of details alone they explain still more
_SAME_DETAILS, _CLIPPED = 0.06, 250  # a light that moves leaves less; clipped pixels do not count
_LOST = 0.7  # structure that is lost counts with this weight against light that differs from place to place
_NOTHING_MOVED_PX = 1.0
_FOLLOWED = 0.5  # motion, and not light, if warping leaves less than this share of a window's variance
_ROUND_TRIP_SHARE, _CAMERA_SHARE = 0.2, 0.05  # tolerances, of a vector's length
_SECOND_LOOK = 0.5  # the fast flow back fails more often than the slow one, which is computed above this share
_CAMERA_PX = 1.0
_GRID = 16  # vectors along the longer side that the camera's motion is fitted to
_HISTOGRAM_SIDE_PX = 64
_DIGITS = 5  # scores are rounded to this before the decision, so that stored scores explain every decision
# Reasons, gravest first. Each has alternatives, of comparisons that must all hold: (score, how, field of Thresholds).
_DECIDED_BY = {
    "cut": (
        (("unexplained", "above", "max_unexplained"),),
        (("appearance_jump", "above", "max_appearance_jump"), ("uneven_light", "above", "max_uneven_light")),
    ),
    "duplicate": ((("largest_change", "at most", "max_duplicate_change"),),),
    "still": ((("moving_share", "below", "min_moving_share"),),),
    "too_fast": ((("beyond_share", "above", "max_beyond_share"),),),
    "inconsistent": ((("inconsistent", "above", "max_inconsistent"),),),
    "camera": ((("camera_share", "above", "max_camera_share"),),),
}
_HOLDS = {"above": operator.gt, "at most": operator.le, "below": operator.lt}
_WITHOUT_SCORE = {
    "bad_flow": "the flow is not finite, or longer than the codec holds",
    "forgotten": "it would be kept now, but was not stored (--forget-dropped)",
}


def score_pair(
    first: np.ndarray, second: np.ndarray, flow: np.ndarray, *, max_flow_px: float = 50.0
) -> dict[str, float]:
    """Score a pair of frames and its flow.

    Scores are computed on frames averaged over f x f pixels and on every f-th vector. f is the whole number that brings
    the short side nearest to 110 px (4 for 416 px: 104 px remain; 1 below 165 px). Lengths are in px of the frames as
    given.

    Args:
        first, second: (H, W, 3) uint8 RGB.
        flow: (H, W, 2) float32, px from first to second, finite.
        max_flow_px: range of the bins that training will use, per axis.

    Returns:
        mean_flow_px: mean length of the vectors.
        moving_share: share of the pixels whose vector is longer than 1 px and whose frames differ. They differ where
            the mean difference in a window of 9 x 9 is above 3 gray levels, after the mean of 15 x 15 pixels has been
            subtracted from each frame: on plain walls flow is noise, and a change of light is not motion. Where
            appearance_jump is above 0.05, a pixel must also differ by more than light: in all windows of 9 x 9 that
            contain it, a gain and an offset leave a deviation above 3 gray levels, and less than half of that variance
            once the second frame is warped.
        beyond_share: share of vectors with a component beyond +-max_flow_px.
        unexplained: how much of the first frame's structure is not where the flow points in the second: 1 minus the
            mean correlation of 9 x 9 windows of the first frame with the second warped back by the flow, over windows
            with texture that stay in the frame. 0 (all found) to 2; 1 for unrelated frames; 0 without such a
            window. Changes of light do not count. Where appearance_jump is above 0.05, the lower value of the flow and
            of no motion counts, because a change of light can mislead the flow of a still scene.
        histogram_jump: distance of the color histograms, 0 (same colors) to 1 (none in common).
        appearance_jump: the same times the share of the change between the frames that is left after warping
            (residual_after / residual_before, at most 1). It is high where colors appear that were not there before:
            in cuts and fades, but also where the exposure changes.
        uneven_light: how much of that change an even change of light does not explain, 0 (light explains all) to 1.
            Light is even if one smooth curve maps the gray levels of the first frame to those of the second, warped
            back by the flow, everywhere (gain, offset, gamma, clipping). The curve is the best parabola, from the first
            to the second or the other way. The score is the lowest of several values. The first is the mean gray-level
            difference after the curve, as a share of that before it, or of twice the deviation of the gray levels if
            that is less. The second is the mean change of contrast, |log(deviation before / after)|, after the curve,
            in those windows of 9 x 9 with texture that are found again: in a dissolve one scene's contrast falls while
            the other's rises. The others are for light on a part of the frame (a shadow, a lamp), with the flow and
            without motion: see `_locally_uneven`.
            1 where appearance_jump is at most 0.05: there is nothing to explain.
        largest_change: largest mean gray-level difference of the frames in a window of 3 x 3. It is near 0 for a
            repeated frame, and larger where a scene is only still.
        residual_before, residual_after: mean gray-level difference between the frames, and between the first and the
            second warped back by the flow (where the vectors end in the frame; 255 if none does).
        inconsistent: share of vectors whose round trip fails, of those that end in the frame; 1 if none does. A round
            trip follows a vector and then the flow back (DIS on the small frames); it fails if it ends farther from its
            start than f px and 20 % of the vector's length. The flow back is computed by DIS's fast preset. If the
            share is above 0.5, its medium preset, five times slower, is computed too, and the lower share counts.
        camera_share: of the vectors longer than 1 px, the share that the motion of a camera explains, for a flat or far
            scene: within 1 px or 5 % of the flow of one homography, fitted by RANSAC. 0 if there are no such vectors.
        camera_residual_px: mean distance of all vectors from that homography's flow; more than 1000 counts as 1000.
    """
    factor = max(1, (min(flow.shape[:2]) + _SHORT_SIDE_PX // 2) // _SHORT_SIDE_PX)
    first, second = _shrunk(first, factor), _shrunk(second, factor)
    height, width = first.shape[:2]
    flow = _thinned(flow, factor)[:height, :width]
    gray_first, gray_second = (cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in (first, second))
    flow_x, flow_y = cv2.split(flow)
    length = cv2.magnitude(flow_x, flow_y)
    moving = length > _NOTHING_MOVED_PX
    beyond = cv2.max(cv2.absdiff(flow_x, 0), cv2.absdiff(flow_y, 0)) > max_flow_px

    small_flow = flow / np.float32(factor)
    target = small_flow + _positions(height, width)
    inside = cv2.inRange(target, (0, 0), (width - 1, height - 1))  # (h, w) uint8, 255 where the vector ends inside
    num_inside = cv2.countNonZero(inside)
    tones_first, tones_second = gray_first.astype(np.float32), gray_second.astype(np.float32)
    warped = cv2.remap(tones_second, target, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    change = cv2.absdiff(tones_first, tones_second)
    before = float(change.mean())
    after = cv2.mean(cv2.absdiff(tones_first, warped), inside)[0] if num_inside else 255.0
    jump = 0.5 * float(np.abs(_histogram(first) - _histogram(second)).sum())
    appearance = jump * min(1.0, after / max(before, 1e-6))
    light = _fit_light(gray_first, warped, inside, after) if num_inside and appearance > _MIN_JUMP else None
    unexplained, contrast_change = _compare_windows(tones_first, warped, inside, light)
    moving_where = _changed(tones_first, tones_second)
    uneven = 1.0
    if light is not None:
        everywhere = np.full_like(inside, 255)
        lost_at_rest = _compare_windows(tones_first, tones_second, everywhere, None)[0]
        hard, soft = _locally_uneven(tones_first, warped, inside, after)
        _, soft_at_rest = _locally_uneven(tones_first, tones_second, everywhere, before)
        hard = max(hard, _LOCAL * _LOST * unexplained)
        uneven = min(1.0, light.left, contrast_change, hard, soft, soft_at_rest)
        unexplained = min(unexplained, lost_at_rest)
        moving_where &= _moved_beyond_light(tones_first, tones_second, warped)

    inconsistent = 1.0
    for preset in (cv2.DISOPTICAL_FLOW_PRESET_FAST, cv2.DISOPTICAL_FLOW_PRESET_MEDIUM):
        if num_inside and inconsistent > _SECOND_LOOK:
            back = _flow_back(gray_first, gray_second, preset)
            back = cv2.remap(back, target, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
            off = _lengths(flow + back * np.float32(factor))
            failed = (off > np.maximum(np.float32(factor), _ROUND_TRIP_SHARE * length)) & (inside > 0)
            inconsistent = min(inconsistent, np.count_nonzero(failed) / num_inside)

    # Not a number, or beyond 1000: fmin takes the 1000.
    camera_off = np.fmin(_lengths(flow - _camera_flow(small_flow) * np.float32(factor)), np.float32(1000))
    by_camera = (camera_off <= np.maximum(_CAMERA_PX, _CAMERA_SHARE * length)) & moving
    scores = {
        "mean_flow_px": length.mean(),
        "moving_share": np.count_nonzero(moving & moving_where) / moving.size,
        "beyond_share": np.count_nonzero(beyond) / beyond.size,
        "unexplained": unexplained,
        "histogram_jump": jump,
        "appearance_jump": appearance,
        "uneven_light": uneven,
        "largest_change": cv2.blur(change, (3, 3)).max(),
        "residual_before": before,
        "residual_after": after,
        "inconsistent": inconsistent,
        "camera_share": np.count_nonzero(by_camera) / max(1, int(np.count_nonzero(moving))),
        "camera_residual_px": camera_off.mean(),
    }
    return {name: round(float(value), _DIGITS) for name, value in scores.items()}


def drop_reasons(scores: Mapping[str, float], thresholds: Thresholds) -> list[str]:
    """List the reasons for which a pair with these scores is dropped, gravest first; empty if it is kept.

    Raises KeyError, naming it, if a score is missing.

    Scores of an older version lack uneven_light: appearance_jump alone then decides, as it did in that version.
    """
    known = {"uneven_light": math.inf, **scores}
    return [
        reason
        for reason, alternatives in _DECIDED_BY.items()
        # Lists, so that a missing score is found whatever the others are.
        if any([all([_HOLDS[how](known[name], getattr(thresholds, limit)) for name, how, limit in compared])
                for compared in alternatives])
    ]  # fmt: skip


def explain_reason(reason: str, scores: Mapping[str, float], thresholds: Thresholds) -> str:
    """State in words why a pair is dropped: each score that decides, with its threshold.

    Args:
        reason: one of those of `drop_reasons`.
        scores: of the pair; those of a store from others may lack some.
        thresholds: of the store.

    Returns:
        Such as "moving_share 0.004, below 0.01"; empty for a reason that these scores and thresholds do not give, such
        as one of another version.
    """
    if reason in _WITHOUT_SCORE:
        return _WITHOUT_SCORE[reason]
    for compared in _DECIDED_BY.get(reason, ()):
        known = [(name, how, getattr(thresholds, limit)) for name, how, limit in compared if name in scores]
        if known and all(_HOLDS[how](scores[name], limit) for name, how, limit in known):
            return " and ".join(f"{name} {scores[name]:.3g}, {how} {limit:.3g}" for name, how, limit in known)
    return ""


def _shrunk(image: np.ndarray, factor: int) -> np.ndarray:
    """Average factor x factor pixels; incomplete blocks at the right and lower edge are left out.

    Means are rounded to whole gray levels, once for each time that factor can be halved and once for an odd rest.
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
    """Copy every factor-th vector, the middle one of each block, float32. A vector is copied as one complex number."""
    vectors = np.ascontiguousarray(flow, np.float32).view(np.complex64)[..., 0]
    thin = vectors[factor // 2 :: factor, factor // 2 :: factor].copy()
    return thin.view(np.float32).reshape(*thin.shape, 2)


@lru_cache(maxsize=4)
def _positions(height: int, width: int) -> np.ndarray:
    """(height, width, 2) float32, the (x, y) of every pixel; read-only."""
    positions = np.empty((height, width, 2), np.float32)
    positions[..., 0] = np.arange(width)
    positions[..., 1] = np.arange(height)[:, None]
    positions.flags.writeable = False
    return positions


def _lengths(vectors: np.ndarray) -> np.ndarray:
    return cv2.magnitude(*cv2.split(vectors))


def _changed(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(h, w) bool, where the frames differ by more than light and noise."""
    details = (tones - cv2.blur(tones, (_LIGHT_PX, _LIGHT_PX)) for tones in (first, second))
    return cv2.blur(cv2.absdiff(*details), (_WINDOW_PX, _WINDOW_PX)) > _MIN_DEVIATION


@dataclass(frozen=True)
class _Light:
    """The even change of light that best explains what is left after warping.

    curve: (256,) float32, the gray level in one frame for each gray level of the other.
    slope: (256,) float32, the slope of the curve; 0 where it is clipped.
    forward: whether the curve maps the first frame to the second.
    left: what remains of the mean difference, as a share of it, or of twice the deviation of the gray levels if that is
        less.
    """

    curve: np.ndarray
    slope: np.ndarray
    forward: bool
    left: float


def _fit_light(first: np.ndarray, warped: np.ndarray, inside: np.ndarray, difference: float) -> _Light:
    """Fit a parabola to the gray levels of first (uint8) and warped (float32), (h, w), where inside is not 0.

    `difference` is the mean difference of their gray levels there.
    """
    levels, powers, table = _tone_bins()
    size = [_TONES, _TONES]
    joint = cv2.calcHist([first, warped.astype(np.uint8)], [0, 1], inside, size, [0, 256, 0, 256])
    total, fits = float(joint.sum()), []
    for forward, counts in ((True, joint), (False, joint.T)):
        normal = (powers.T * counts.sum(1)) @ powers + 1e-6 * total * np.eye(3)
        weights = np.linalg.solve(normal, powers.T @ (counts @ levels)).astype(np.float32)
        curve = np.clip(powers @ weights, 0, 255)
        error = float(np.vdot(counts, np.abs(curve[:, None] - levels))) / total
        center = float(counts.sum(1) @ powers[:, 1]) / total
        if weights[1] + 2 * weights[2] * center <= 0:
            error = math.inf  # bright pixels become dark: a negative, which is not a change of light
        mean, square = (float(counts.sum(0) @ values) / total for values in (levels, levels**2))
        fits.append((error, forward, weights, math.sqrt(max(0.0, square - mean**2))))
    remaining, forward, weights, deviation = min(fits, key=lambda fit: fit[0])
    curve = table @ weights
    slope = np.where((curve > 0) & (curve < 255), (weights[1] + 2 * weights[2] * table[:, 1]) / 255, 0)
    # A difference below one gray level is noise and rounding: no share of it is taken.
    return _Light(
        np.clip(curve, 0, 255), slope.astype(np.float32), forward, remaining / max(1.0, min(difference, 2 * deviation))
    )


@lru_cache(maxsize=1)
def _tone_bins() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gray levels of the bins (N,), their powers 0 to 2 (N, 3), and those of all 256 levels, as shares of 255."""
    levels = ((np.arange(_TONES) + 0.5) * (256 / _TONES) - 0.5).astype(np.float32)
    powers, table = (np.stack([x**0, x, x**2], 1) for x in (levels / 255, np.arange(256, dtype=np.float32) / 255))
    return levels, powers, table


def _left_by_light(first: np.ndarray, second: np.ndarray, size_px: int = _LIGHT_PX) -> tuple[np.ndarray, np.ndarray]:
    """Variances in windows that no change of gain (at least 0) and offset of each window explains.

    Args:
        first, second: (h, w) float32 gray levels.
        size_px: side of the windows.

    Returns:
        (h, w) float32 twice: of second, explained by first, and of first, explained by second.
    """

    def mean(values: np.ndarray) -> np.ndarray:
        return cv2.blur(values, (size_px, size_px))

    first, second = first - 128, second - 128
    mean_first, mean_second = mean(first), mean(second)
    spread_first = np.maximum(mean(first * first) - mean_first * mean_first, 0)
    spread_second = np.maximum(mean(second * second) - mean_second * mean_second, 0)
    together = np.maximum(mean(first * second) - mean_first * mean_second, 0) ** 2
    return (
        np.maximum(spread_second - together / np.maximum(spread_first, 1), 0),
        np.maximum(spread_first - together / np.maximum(spread_second, 1), 0),
    )


def _locally_uneven(
    first: np.ndarray, second: np.ndarray, inside: np.ndarray, difference: float
) -> tuple[float, float]:
    """How much of the change no light explains that differs from place to place: with hard, and with soft borders.

    Each is the higher of two values, with weights; 0 if light explains all. One is the mean deviation that a gain and
    an offset leave in a window of 15 x 15, as a share of `difference`, or of twice the deviation of the gray levels if
    that is less. Of all windows that contain a pixel the best counts, so a hard border between light and shadow costs
    nothing. Where a border is soft, the light changes inside the windows: there the windows are also compared after the
    mean of 15 x 15 pixels has been subtracted from both frames.

    The other is the share of the change that goes against the rest: places that become darker while the frame becomes
    brighter. It does not count for soft borders if gain and offset leave almost nothing of the details, because then a
    light has moved.

    Args:
        first, second: (h, w) float32 gray levels.
        inside: (h, w) uint8, not 0 where second is known.
        difference: mean difference of the gray levels there.
    """
    window = np.ones((_LIGHT_PX, _LIGHT_PX), np.uint8)
    whole = cv2.erode(inside, window)
    if not cv2.countNonZero(whole):
        return 1.0, 1.0
    details, others = (tones - cv2.blur(tones, (_LIGHT_PX, _LIGHT_PX)) for tones in (first, second))
    left, left_of_details = np.minimum(*_left_by_light(first, second)), np.minimum(*_left_by_light(details, others))
    best, best_of_details = cv2.erode(left, window), cv2.erode(left_of_details, window)
    total = max(1.0, min(difference, 2 * min(float(first.std()), float(second.std()))))
    hard, soft = (cv2.mean(np.sqrt(x), whole)[0] / total for x in (best, np.minimum(best, best_of_details)))
    # A lamp or a shadow makes places brighter or darker, not some brighter and others darker, as a dissolve does.
    changes = cv2.blur(second - first, (_LIGHT_PX, _LIGHT_PX))
    brighter, darker = (cv2.mean(np.maximum(sign * changes, 0), whole)[0] for sign in (1, -1))
    opposed = _LOCAL * min(brighter, darker) / max(brighter + darker, 1e-6)
    clipped = cv2.dilate((np.maximum(first, second) > _CLIPPED).astype(np.uint8), window)
    usable = cv2.bitwise_and(whole, 255 - 255 * clipped)
    is_same = _relative_left(details, others, left_of_details, usable) <= _SAME_DETAILS
    return max(_LOCAL * hard, opposed), max(_SOFT * soft, 0.0 if is_same else opposed)


def _relative_left(first: np.ndarray, second: np.ndarray, left: np.ndarray, whole: np.ndarray) -> float:
    """The mean of what light leaves of the details (h, w), as a share of the lower contrast, where there is any."""
    spread = [cv2.blur(details * details, (_LIGHT_PX, _LIGHT_PX)) for details in (first, second)]
    chosen = (whole > 0) & (np.maximum(*spread) > _MIN_DEVIATION**2)
    if not chosen.any():
        return 1.0
    least = np.minimum(*spread)[chosen]
    return float(np.sqrt(np.maximum(left[chosen] - _NOISE / 2, 0) / np.maximum(least, _NOISE)).mean())


def _moved_beyond_light(first: np.ndarray, second: np.ndarray, warped: np.ndarray) -> np.ndarray:
    """(h, w) bool, where the second frame differs from the first by more than light, and less once it is warped."""
    window = np.ones((_WINDOW_PX, _WINDOW_PX), np.uint8)
    at_rest, followed = (
        cv2.erode(np.minimum(*_left_by_light(first, other, _WINDOW_PX)), window) for other in (second, warped)
    )
    return (at_rest > _MIN_DEVIATION**2) & (followed < _FOLLOWED * at_rest)


def _compare_windows(
    first: np.ndarray, warped: np.ndarray, inside: np.ndarray, light: _Light | None
) -> tuple[float, float]:
    """Compute `unexplained`, and the change of contrast that an even change of light leaves; see `score_pair`."""

    def mean(values: np.ndarray) -> np.ndarray:
        return cv2.blur(values, (_WINDOW_PX, _WINDOW_PX))

    first, warped = first - 128, warped - 128  # nearer to 0, so that the differences below lose less precision
    mean_first, mean_warped = mean(first), mean(warped)
    spread_first = mean(first * first) - mean_first * mean_first
    spread_warped = mean(warped * warped) - mean_warped * mean_warped
    together = mean(first * warped) - mean_first * mean_warped
    whole = cv2.erode(inside, np.ones((_WINDOW_PX, _WINDOW_PX), np.uint8)) > 0
    chosen = whole & (spread_first > _MIN_DEVIATION**2)
    unexplained = 0.0
    if chosen.any():
        # A flat window of the second frame resembles nothing; its noise must not be amplified.
        correlation = together[chosen] / np.sqrt(spread_first[chosen] * np.maximum(spread_warped[chosen], 1))
        unexplained = float(np.clip(1 - correlation, 0, 2).mean())
    if light is None:
        return unexplained, 0.0
    # Windows overlap, so every third is enough.
    thin = [values[1::3, 1::3] for values in (whole, spread_first, spread_warped, together, mean_first, mean_warped)]
    whole, spread_first, spread_warped, together, mean_first, mean_warped = thin
    chosen = whole & (np.maximum(spread_first, spread_warped) > _MIN_DEVIATION**2)
    chosen &= together > _FOUND * np.sqrt(np.maximum(spread_first, 1) * np.maximum(spread_warped, 1))
    if not chosen.any():
        return unexplained, 0.0
    means, spread, target = mean_first[chosen], spread_first[chosen], spread_warped[chosen]
    if not light.forward:
        means, spread, target = mean_warped[chosen], target, spread
    slope = light.slope[(means + 128).astype(np.uint8)]
    ratio = (np.maximum(spread, 0) * slope**2 + _NOISE) / (np.maximum(target, 0) + _NOISE)
    return unexplained, float(np.abs(0.5 * np.log(ratio)).mean())


def _flow_back(first: np.ndarray, second: np.ndarray, preset: int) -> np.ndarray:
    """(h, w, 2) float32 flow from second to first, by DIS."""
    height, width = first.shape
    factor = -(-_MIN_DIS_SIDE_PX // min(height, width))
    if factor > 1:
        size = (width * factor, height * factor)
        first, second = (cv2.resize(gray, size, interpolation=cv2.INTER_CUBIC) for gray in (first, second))
    flow = cv2.DISOpticalFlow_create(preset).calc(second, first, None)
    return flow if factor == 1 else cv2.resize(flow, (width, height), interpolation=cv2.INTER_AREA) / np.float32(factor)


def _camera_flow(flow: np.ndarray) -> np.ndarray:
    """The flow of the homography that most vectors of a grid agree on; zero if none is found. Deterministic.

    Where the horizon of the homography lies inside the frame, values can be infinite or not a number.
    """
    height, width = flow.shape[:2]
    step = max(1, max(height, width) // _GRID)
    positions = _positions(height, width)
    points = positions[step // 2 :: step, step // 2 :: step].reshape(-1, 2)
    moved = points + flow[step // 2 :: step, step // 2 :: step].reshape(-1, 2)
    matrix = None
    if len(points) >= 8:
        # Eight times as fast as plain RANSAC, and more vectors agree, because it refines good guesses on the way.
        matrix, _ = cv2.findHomography(points, moved, cv2.USAC_FAST, 0.5, maxIters=200, confidence=0.99)
    if matrix is None:
        return np.zeros_like(flow)
    with np.errstate(all="ignore"):
        return cv2.perspectiveTransform(positions, matrix) - positions


def _histogram(image: np.ndarray) -> np.ndarray:
    """(512,) shares of the colors, 8 steps per channel, of the reduced image: noise and fine detail do not count."""
    side = _HISTOGRAM_SIDE_PX
    small = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
    return cv2.calcHist([small], [0, 1, 2], None, [8, 8, 8], [0, 256] * 3).ravel() / side**2
