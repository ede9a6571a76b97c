"""The histograms of the page about a pair store, as values for its template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np

MAX_NUMBER = 2.0**60  # of what is shown as a number; infinite values and those that are not a number exceed it too
SCORES = {  # name: title, unit, threshold
    "mean_flow_px": ("mean motion", "px", None),
    "moving_share": ("moving", "share of pixels", "min_moving_share"),
    "beyond_share": ("beyond range", "share of pixels", "max_beyond_share"),
    "unexplained": ("unexplained", "0 to 2", "max_unexplained"),
    "appearance_jump": ("appearance jump", "0 to 1", "max_appearance_jump"),
    "uneven_light": ("uneven light", "0 to 1", "max_uneven_light"),
    "largest_change": ("largest change", "gray levels", "max_duplicate_change"),
    "inconsistent": ("inconsistent", "share of pixels", "max_inconsistent"),
    "camera_share": ("camera share", "share of moving pixels", "max_camera_share"),
}
_BINS = 24


def score_charts(records: Mapping[str, dict], thresholds: Any) -> list[dict]:
    """One histogram per score, kept pairs against rejected ones, with the threshold that decides.

    Args:
        records: by video id, as `read_record` checks them.
        thresholds: what store.json has under this name, whatever it is.
    """
    limits = thresholds if isinstance(thresholds, dict) else {}
    kept, rejected = (
        [row["quality"] for record in records.values() for row in record[name]] for name in ("samples", "dropped")
    )
    charts = []
    for name, (title, unit, limit) in SCORES.items():
        of_kept, of_rejected = ([quality[name] for quality in part if name in quality] for part in (kept, rejected))
        charts.append(histogram(f"{title}, {unit}", "pairs", of_kept, of_rejected, limits.get(limit)))
    return charts


def histogram(
    x_title: str, y_title: str, values: Sequence[float], rejected: Sequence[float] = (), limit: Any = None
) -> dict:
    """A chart for the template. Its last bar also counts what is beyond the 99th percentile. `limit` becomes a line."""
    values, rejected = ([value for value in part if abs(value) <= MAX_NUMBER] for part in (values, rejected))
    everything = [*values, *rejected]
    chart = {"x_title": x_title, "y_title": y_title, "empty": not everything}
    if not everything:
        return chart
    low, high = float(min(everything)), float(np.percentile(everything, 99))
    if high - low < 1e-6 * max(1.0, abs(low)):
        low, high = low - 0.5 * max(1.0, abs(low)), low + 0.5 * max(1.0, abs(low))
    counts = [np.histogram(np.clip(part, low, high), bins=_BINS, range=(low, high))[0] for part in (values, rejected)]
    most = int((counts[0] + counts[1]).max())
    scale = 96 / most
    bars = [
        {"kind": kind, "x": 10 * i + 1, "y": 100 - scale * (under + n), "height": scale * n, "count": int(n)}
        for kind, part, below in (("", counts[0], 0 * counts[0]), ("no", counts[1], counts[0]))
        for i, (n, under) in enumerate(zip(part, below))
        if n
    ]
    width = 10 * _BINS
    is_number = isinstance(limit, Real) and not isinstance(limit, bool)
    place = width * (limit - low) / (high - low) if is_number and low <= limit <= high else None
    return chart | {
        "width": width,
        "bars": bars,
        "most": most,
        "limit": place,
        "threshold": limit if place is not None else None,
        "low": low,
        "high": high,
        "is_cut": max(everything) > high,
        "median": float(np.median(everything)),
    }
