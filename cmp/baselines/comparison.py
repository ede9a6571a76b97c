"""Compare systems that predict frames, and two predictions without learning, on the same clips."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from mmengine.registry import DATASETS, MODELS
from torch.utils.data import DataLoader
from tqdm import tqdm

from cmp.baselines.frame_prediction import FramePredictor
from cmp.engine.config import read_config
from cmp.weights import load_strictly, read_weight_file

COLUMNS = {
    "PSNR, first": "psnr_first",
    "PSNR, all": "psnr_all",
    "PSNR moving, first": "psnr_moving_first",
    "PSNR moving, all": "psnr_moving_all",
    "sharpness summed, all": "sharpness_summed_all",
    "sharpness by axis, all": "sharpness_by_axis_all",
    "summed moving, all": "sharpness_summed_moving_all",
    "by axis moving, all": "sharpness_by_axis_moving_all",
    "L2, all": "l2_all",
    "L2 moving, all": "l2_moving_all",
    "GDL, all": "gdl_all",
    "GDL moving, all": "gdl_moving_all",
    "SSIM, first": "ssim_first",
    "SSIM, all": "ssim_all",
    "SSIM moving, all": "ssim_moving_all",
    "total, all": "total_all",
    "total moving, all": "total_moving_all",
}
PER_VALUE = ("l2", "gdl", "total")
METHODS = {"forced": "{}, after the true frames", "copy": "last frame repeated", "flow": "last motion continued"}


def load_predictor(config_path: str, checkpoint_path: str) -> FramePredictor:
    """Build the network of a config and load a checkpoint's weights; returned in eval mode.

    Raises:
        FileNotFoundError, ValueError: a file is missing, damaged, or belongs to another kind of network.
    """
    model = MODELS.build(read_config(config_path).model)
    if not isinstance(model, FramePredictor):
        raise ValueError(f"{config_path}: {type(model).__name__} does not predict frames")
    load_strictly(model, read_weight_file(checkpoint_path).state_dict(), source=checkpoint_path)
    return model.eval()


@torch.no_grad()
def evaluate(
    model: FramePredictor, loader: DataLoader, device: str, name: str
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Average `FramePredictor.all_metrics`, and `metrics_per_frame`, over the clips on which each is defined."""
    model.to(device)
    batches = tqdm(loader, name, disable=None, leave=False)
    tables = [model.metrics_per_frame(batch["frames"].to(device)) for batch in batches]
    curves = {key: torch.cat([table[key] for table in tables]) for key in tables[0]}  # (clips, predicted frames)
    means = {f"{key}_first": float(values[:, 0].nanmean()) for key, values in curves.items()}
    means |= {f"{key}_all": float(values.nanmean(dim=1).nanmean()) for key, values in curves.items()}
    return means, {key: values.nanmean(dim=0).tolist() for key, values in curves.items()}


class System(NamedTuple):
    """One row of a comparison."""

    means: list[float]  # one per column of COLUMNS
    curves: dict[str, list[float]]  # metric to one value per predicted frame


class Comparison(NamedTuple):
    """What was measured."""

    systems: dict[str, System]
    clips: int
    videos: int
    num_frames: int
    size_hw: tuple[int, int]

    def table(self, *, sums: bool = False) -> str:
        """The means as a Markdown table.

        Args:
            sums: L2, GDL and total of all pixels as sums over a frame instead of means per value.
        """
        lines = [f"| | {' | '.join(COLUMNS)} |", f"|{' --- |' * (1 + len(COLUMNS))}"]
        numel = 3 * self.size_hw[0] * self.size_hw[1]
        for name, system in self.systems.items():
            cells = []
            for value, column in zip(system.means, COLUMNS.values()):
                if sums and column.startswith(PER_VALUE) and "moving" not in column:
                    cells.append(f"{value * numel:.2f}")
                else:
                    cells.append(f"{value:.{4 if column.startswith((*PER_VALUE, 'ssim')) else 2}f}")
            lines.append(f"| {name} | {' | '.join(cells)} |")
        return "\n".join(lines)

    def csv(self) -> str:
        """The curves as a table with one line per system, metric and predicted frame."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("system", "metric", "frame", "value"))
        for name, system in self.systems.items():
            for metric, values in system.curves.items():
                writer.writerows((name, metric, number, value) for number, value in enumerate(values, 1))
        return text.getvalue()


def compare_predictors(
    systems: Sequence[tuple[str, str]], *, data: Sequence[str] | None = None, device: str = "cpu"
) -> Comparison:
    """Evaluate all systems on the validation clips of the first.

    Args:
        systems: config and checkpoint of each.
        data: videos to use instead of those of the first config.
        device: where to compute.

    Raises:
        FileNotFoundError, OSError, ValueError: an input cannot be used; it is named.
    """
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError("--device cuda: torch sees no GPU here")
    loader_config = read_config(systems[0][0]).val_dataloader
    if data:
        loader_config.dataset.paths = list(data)
    clips = DATASETS.build(loader_config.dataset)
    loader = DataLoader(clips, batch_size=loader_config.batch_size)
    rows: dict[str, System] = {}
    for config, checkpoint in systems:
        model = load_predictor(config, checkpoint)
        rows |= _rows_of(f"{Path(config).stem}, {checkpoint}", model, *evaluate(model, loader, device, checkpoint))
    return Comparison(rows, len(clips), len(clips.videos), clips.num_frames, clips.size_hw)


def _rows_of(
    name: str, model: FramePredictor, means: dict[str, float], curves: dict[str, list[float]]
) -> dict[str, System]:
    rows = {}
    for method, label in {"model": "{}", **METHODS}.items():
        if f"{method}_psnr" not in curves:
            continue
        label = f"{label}, after {model.given}" if method in ("copy", "flow") else label.format(name)
        start = f"{method}_"
        rows[label] = System(
            [means[start + column] for column in COLUMNS.values()],
            {key.removeprefix(start): values for key, values in curves.items() if key.startswith(start)},
        )
    return rows
