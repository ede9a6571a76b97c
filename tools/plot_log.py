"""Draw the curves of training runs: loss and endpoint error over the steps, several runs in one picture.

Example:
    python tools/plot_log.py work_dirs/r50 work_dirs/r50_ema curves.png

Each RUN is a work dir of tools/train.py. A run that was resumed is one curve; dotted lines show where it went on.
"""

import argparse
import os
import sys
from pathlib import Path

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the checkout's own packages, installed or not

from cmp.engine.run_log import RunLog, read_run

# What is drawn: title, unit, curves of the log, each with its line style.
PANELS = (
    ("training loss", "cross-entropy, nats (x and y summed)", "train", {"loss": "-"}),
    ("validation loss", "cross-entropy, nats (x and y summed)", "val", {"loss": "-"}),
    ("endpoint error on held-out pairs", "EPE, px", "val", {"epe": "-", "epe_no_guidance": "--", "epe_zero_flow": ":"}),
    ("waiting for data", "share of the time", "train", {"data_time_share": "-"}),
)
LABELS = {"epe": "the network", "epe_no_guidance": "guidance dropped", "epe_zero_flow": "zero flow"}


def draw(runs: dict[str, RunLog]) -> Figure:
    """A figure of four panels, a colour a run; a curve of one point is a dot."""
    figure = Figure(figsize=(12, 8), layout="constrained")
    FigureCanvasAgg(figure)
    colours = matplotlib.colormaps["tab10"]
    for axes, (title, unit, part, styles) in zip(figure.subplots(2, 2).flat, PANELS):
        for number, (name, run) in enumerate(runs.items()):
            curves = getattr(run, part)
            for key, style in styles.items():
                if key not in curves:
                    continue
                label = name if len(styles) == 1 else f"{name}: {LABELS[key]}"
                marker = "o" if len(curves[key]) < 40 else None
                axes.plot(*curves[key].T, style, color=colours(number % 10), label=label, marker=marker, markersize=3)
            for step in run.resumed_after:
                axes.axvline(step, color=colours(number % 10), linestyle=":", linewidth=0.8)
        axes.set(title=title, xlabel="step", ylabel=unit)
        axes.grid(alpha=0.3)
        if axes.lines and axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize="small")
        else:
            axes.text(0.5, 0.5, "nothing logged", ha="center", va="center", transform=axes.transAxes)
    return figure


def main(argv: list[str] | None = None) -> int:
    """Draw; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="work dirs of tools/train.py")
    parser.add_argument("out", metavar="OUT", help="picture to write: .png, .svg or .pdf")
    args = parser.parse_args(argv)
    try:
        names = [Path(run).name for run in args.runs]
        names = [name if names.count(name) == 1 else str(run) for name, run in zip(names, args.runs)]
        runs = {name: read_run(run) for name, run in zip(names, args.runs)}
        out = Path(args.out)
        if out.suffix not in (".png", ".svg", ".pdf"):
            raise ValueError(f"the picture must end in .png, .svg or .pdf, got {args.out}")
        partial = out.with_name(f".{out.name}.partial")
        draw(runs).savefig(partial, dpi=110, format=out.suffix[1:])
        os.replace(partial, out)
    except (OSError, ValueError) as error:
        print(f"plot_log.py: {error}", file=sys.stderr)
        return 2
    for name, run in runs.items():
        steps = [int(curve[-1, 0]) for curve in run.train.values()]
        again = f", went on after {run.resumed_after}" if run.resumed_after else ""
        print(f"{name}: {max(steps, default=0)} steps{again}")
    print(f"wrote {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
