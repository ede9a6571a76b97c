"""The endpoint errors of a network, its controls and the interpolations, as text."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

ROWS = {
    "epe": "the network",
    "epe_no_guidance": "guidance dropped",
    "epe_shuffled_image": "image of another video",
    "epe_beside": "",  # the name of the other network
    "epe_zero_flow": "zero flow",
    "epe_nearest_guide": "nearest guide",
    "epe_inverse_distance": "inverse-distance interpolation",
    "epe_fading": "inverse distance, fading out",
    "epe_thin_plate": "thin-plate spline",
    "epe_edge_aware": "edge-aware interpolation",
}
OPTIONAL_ROWS = ("epe_beside", "epe_fading", "epe_thin_plate", "epe_edge_aware")  # evaluated only where asked for


def controls_table(metrics: dict[str, float], beside: str | None = None) -> str:
    """The EPE in px of the network, its controls and the interpolations, as text, and as multiples of the first.

    Args:
        metrics: what `FlowMetric` found.
        beside: name of the network whose EPE is "epe_beside".

    A dash means that nothing was measured, such as the image of another video in a set of one video.
    """
    lines = [f"{'predicted from':32}{'EPE, px':>8}{'/ network':>11}"]
    for name, label in ROWS.items():
        value = metrics.get(name, np.nan)
        if name not in metrics and name in OPTIONAL_ROWS:
            continue
        ratio = value / metrics.get("epe", np.nan)
        shown = (f"{number:.{digits}f}" if np.isfinite(number) else "-" for number, digits in ((value, 3), (ratio, 2)))
        lines.append("{:32}{:>8}{:>11}".format(label or _beside_label(beside), *shown))
    return "\n".join(lines)


def points_table(metrics: Mapping[str, Mapping[str, float]], beside: str | None = None) -> str:
    """EPE in px with different numbers of guidance points, as text: one column per number, one row per method.

    Args:
        metrics: column title to what `FlowMetric` found, and `mean_points`, the mean number of points of a pair.
        beside: name of the network whose EPE is "epe_beside".

    A dash means that nothing was measured. The controls without points are in the first column as in all others.
    """
    title = "EPE, px, with points"
    lines = [f"{title:32}" + "".join(f"{name:>9}" for name in metrics)]
    for key, label in {"mean_points": "points of a pair, mean", **ROWS}.items():
        values = [found.get(key, np.nan) for found in metrics.values()]
        if key in OPTIONAL_ROWS and not np.isfinite(values).any():
            continue
        digits = 1 if key == "mean_points" else 3
        shown = (f"{value:.{digits}f}" if np.isfinite(value) else "-" for value in values)
        lines.append(f"{label or _beside_label(beside):32}" + "".join(f"{value:>9}" for value in shown))
    return "\n".join(lines)


def _beside_label(checkpoint: str | None) -> str:
    """The title of the other network's row; a long name is cut at its beginning, so that columns stay in line."""
    if checkpoint == "starter":
        return "the starter network"
    name = Path(checkpoint or "?").name
    return f"for comparison: {name if len(name) <= 15 else '..' + name[-13:]}"
