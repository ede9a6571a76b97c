"""The curves of training runs as a figure."""

import re

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from cmp.engine.run_log import RunLog

Panel = tuple[str, str | None, str, dict[str, str]]  # title, unit, part of the log, curves with their styles

# Panels that are always drawn: title, unit (None: that of the run's loss), part of the log, curves with their styles.
LOSS, ERROR = "validation loss", "endpoint error on held-out pairs"
PANELS = (
    ("training loss", None, "train", {"loss": "-"}),
    (LOSS, None, "val", {"loss": "-"}),
    (ERROR, "EPE, px", "val", {"epe": "-", "epe_no_guidance": "--", "epe_zero_flow": ":"}),
    ("waiting for data", "share of the time", "train", {"data_time_share": "-"}),
)
LABELS = {"epe": "the network", "epe_no_guidance": "guidance dropped", "epe_zero_flow": "zero flow"}
NOT_METRICS = ("time", "data_time")  # of a validation
# All other metrics of a validation, by the first pattern that matches their name: title, unit. Others: one panel each.
FAMILIES = (
    (r"^epe", "endpoint error, further measures", "EPE, px"),
    (r"psnr|sharpness", "similarity of predicted frames", "dB"),
    (r"^kl_stroke", "KL of each stroke", "nats"),
    (r"elbo|importance_bound|^kl$|nats", "bounds and likelihoods", "nats"),
    (r"^(normal|empirical)_", "squared error of drawn futures", "values -1..1"),
    (r"ssim", "structural similarity of predicted frames", "SSIM"),
    (r"l2|gdl|mse|error|_total_", "errors of pixel values", "see the system's page"),
    (r"_AP", "average precision", "%"),
    (r"miou|^iou/|pixel_accuracy", "segmentation", "%"),
    (r"accuracy", "accuracy", "share right"),
    (r"^shift$", "mean length of the flow", "cells"),
    (r"^(images|pixels)$", "what was evaluated", "count"),
)
STYLES = ("-", "--", ":", "-.")


@matplotlib.rc_context({"text.parse_math": False})  # names of folders are text, also with a dollar
def draw_curves(runs: dict[str, RunLog]) -> Figure:
    """Draw a figure of four panels, and one for each further family of validation metrics that a run logged.

    Each run has one color; with a single run each curve has one. A curve of one point is a dot.

    Args:
        runs: label to what the run logged.
    """
    panels = _panels(runs)
    rows = (len(panels) + 1) // 2
    figure = Figure(figsize=(12, 4 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    colors = matplotlib.colormaps["tab10"]
    places = list(figure.subplots(rows, 2).flat)
    for axes in places[len(panels) :]:
        axes.remove()
    for axes, (title, unit, part, styles) in zip(places, panels):
        units = {run.loss_unit or "unit not recorded" for run in runs.values()} if unit is None else {unit}
        for number, (name, run) in enumerate(runs.items()):
            curves = getattr(run, part)
            for index, (key, style) in enumerate(styles.items()):
                if key not in curves:
                    continue
                label = name if len(styles) == 1 else f"{name}: {LABELS.get(key, key)}"
                if len(units) > 1:
                    label += f" ({run.loss_unit or 'unit not recorded'})"
                own = len(runs) == 1 and key not in LABELS and len(styles) > 1
                color = colors((index if own else number) % 10)
                marker = "o" if len(curves[key]) < 40 else None
                axes.plot(*curves[key].T, style, color=color, label=label, marker=marker, markersize=3)
            for step in run.resumed_after:
                axes.axvline(step, color=colors(number % 10), linestyle=":", linewidth=0.8)
        axes.set(title=title, xlabel="step", ylabel=units.pop() if len(units) == 1 else "each run's own unit")
        axes.grid(alpha=0.3)
        labels = axes.get_legend_handles_labels()[0]
        if axes.lines and labels:
            axes.legend(fontsize="small" if len(labels) <= 8 else "xx-small", ncols=1 + len(labels) // 16)
        else:
            axes.text(0.5, 0.5, "nothing logged", ha="center", va="center", transform=axes.transAxes)
    return figure


def _panels(runs: dict[str, RunLog]) -> list[Panel]:
    """`PANELS`, without those of a validation that has other metrics instead, and one per family of these."""
    logged = dict.fromkeys(key for run in runs.values() for key in run.val if key not in NOT_METRICS)
    usual = {key for _, _, part, styles in PANELS if part == "val" for key in styles}
    families: dict[tuple[str, str], list[str]] = {}
    for key in logged:
        if key not in usual:
            found = ((title, unit) for pattern, title, unit in FAMILIES if re.search(pattern, key))
            families.setdefault(next(found, (key, key)), []).append(key)
    panels: list[Panel] = [
        panel for panel in PANELS if panel[2] == "train" or not logged or panel[3].keys() & logged.keys()
    ]
    for (title, unit), keys in families.items():
        panels.append((title, unit, "val", {key: STYLES[i % len(STYLES)] for i, key in enumerate(keys)}))
    return panels
