"""Choose which frames of a video become pairs."""

from __future__ import annotations

import math

import numpy as np


def choose_pairs(
    times_s: np.ndarray,
    *,
    interval_frames: int | None = None,
    interval_s: float | None = None,
    pairs_per_video: int | None = None,
    stride_frames: int | None = None,
    stride_s: float | None = None,
) -> np.ndarray:
    """Choose the pairs (t, t+k) of a video by a fixed rule: the same time stamps always give the same pairs.

    Args:
        times_s: (T,) float64 rising time stamps of the frames, s.
        interval_frames, interval_s: distance between the two frames; exactly one is given. In seconds, the second
            frame is the one shown nearest to t + interval_s (never t itself), so that varying rates are handled.
        pairs_per_video, stride_frames, stride_s: which first frames; exactly one is given. A number of pairs is spread
            evenly over the video (all possible pairs if it has fewer). A stride is the distance between first frames,
            from frame 0 on.

    Returns:
        (N, 2) int64 positions of both frames, rising in both columns; N is 0 if the video is shorter than the interval.

    Raises:
        ValueError: not exactly one argument of each group is given, or a value is not positive.
    """
    _exactly_one(interval_frames=interval_frames, interval_s=interval_s)
    _exactly_one(pairs_per_video=pairs_per_video, stride_frames=stride_frames, stride_s=stride_s)
    times_s = np.asarray(times_s, np.float64)
    first = np.arange(len(times_s))
    if interval_frames is not None:
        second = first + interval_frames
        keep = second < len(times_s)
    else:
        wanted = times_s + interval_s
        right = np.searchsorted(times_s, wanted).clip(1, max(1, len(times_s) - 1))
        if len(times_s) < 2:
            return np.empty((0, 2), np.int64)
        nearer_left = wanted - times_s[right - 1] <= times_s[right] - wanted + 1e-6  # a tie goes to the earlier frame
        second = np.maximum(right - nearer_left, first + 1)
        # The last frames are left out: the frame nearest to their partner is too early by more than half a frame.
        keep = (second < len(times_s)) & (wanted <= times_s[-1] + 0.5 * np.median(np.diff(times_s)))
    first, second = first[keep], second[keep]
    if stride_frames is not None:
        chosen = np.arange(0, len(first), stride_frames)
    elif stride_s is not None:
        # The first frame at or after each multiple of the stride; tolerance against stamps rounded down by containers.
        marks = np.arange(0, (times_s[first[-1]] if len(first) else -1) + 1e-6, stride_s)
        chosen = np.unique(np.searchsorted(times_s[first] + 1e-6, marks))
    elif pairs_per_video is None or len(first) <= pairs_per_video:
        chosen = np.arange(len(first))
    else:  # the middles of equal parts
        chosen = (2 * np.arange(pairs_per_video) + 1) * len(first) // (2 * pairs_per_video)
    pairs = np.stack([first[chosen], second[chosen]], axis=1).astype(np.int64)
    return pairs[np.diff(pairs[:, 1], prepend=-1) > 0]  # gaps in the stamps can give two frames the same partner


def _exactly_one(**values: float | None) -> None:
    given = {name: value for name, value in values.items() if value is not None}
    if len(given) != 1:
        raise ValueError(f"give exactly one of {', '.join(values)}, got {given or 'none'}")
    for name, value in given.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{name} must be above 0 and finite, got {value}")
