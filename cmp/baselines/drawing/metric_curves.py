"""Drawing for frame predictors: each metric by predicted frame, as curves."""

from collections.abc import Mapping, Sequence

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

PANELS = {
    "psnr": "PSNR, dB",
    "ssim": "SSIM",
    "sharpness_summed": "sharpness, summed, dB",
    "sharpness_by_axis": "sharpness by axis, dB",
    "l2": "L2 per value (values -1..1)",
    "gdl": "GDL per value (values -1..1)",
    "total": "total: L2 + GDL",
}


@matplotlib.rc_context({"text.parse_math": False})  # names of files are text, also with a dollar
def draw_metric_curves(curves: Mapping[str, Mapping[str, Sequence[float]]]) -> Figure:
    """Draw one panel per metric with a curve per system over the predicted frames, and the same for moving pixels.

    Args:
        curves: name of a system to its metrics, as `FramePredictor.metrics_per_frame` names them without the method:
            METRIC and METRIC_moving, one value per predicted frame. Systems may predict different numbers of frames.
    """
    figure = Figure(figsize=(4 * len(PANELS), 7), layout="constrained")
    FigureCanvasAgg(figure)
    colors = matplotlib.colormaps["tab10"]
    for row, region in zip(figure.subplots(2, len(PANELS)), ("", "_moving")):
        for axes, (metric, unit) in zip(row, PANELS.items()):
            for number, (name, metrics) in enumerate(curves.items()):
                values = metrics[metric + region]
                axes.plot(range(1, len(values) + 1), values, "o-", color=colors(number % 10), label=name, markersize=3)
            axes.set(title=unit + ", moving pixels" * bool(region), xlabel="predicted frame")
            axes.xaxis.get_major_locator().set_params(integer=True)
            axes.grid(alpha=0.3)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize="small")
    return figure
