"""Validation of a baseline: averages its measures over all samples and writes pictures of the first batch."""

from collections.abc import Sequence
from pathlib import Path

import torch
from mmengine.dist import is_main_process
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.runner import Runner

from cmp.engine.loops import InterruptibleValLoop
from cmp.engine.trained_model import without_process_wrapper
from cmp.video.writers import write_video


class BaselineValLoop(InterruptibleValLoop):
    """Measures every sample once with the system's own `measure`; a stop signal ends the loop early."""

    @torch.no_grad()
    def run_iter(self, idx: int, data_batch: dict) -> None:
        """Measure one batch."""
        self.runner.call_hook("before_val_iter", batch_idx=idx, data_batch=data_batch)
        measures = self.runner.model.val_step(data_batch)
        samples = [dict(zip(measures, values)) for values in zip(*(v.tolist() for v in measures.values()))]
        self.evaluator.process(data_samples=samples, data_batch=data_batch)
        self.runner.call_hook("after_val_iter", batch_idx=idx, data_batch=data_batch, outputs=samples)


class MeanOverSet(BaseMetric):
    """Averages every measure over the validation set without its NaN values; NaN if a measure has only those."""

    default_prefix = ""  # an empty prefix, so that mmengine does not warn about a missing one

    def __init__(self) -> None:
        # "gpu" collects by messages, on CPUs too; "cpu" would need a folder that all machines share.
        super().__init__(collect_device="gpu")

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Keep the measures of each sample."""
        self.results.extend(data_samples)

    def compute_metrics(self, results: list[dict]) -> dict[str, float]:
        """Compute the mean of each measure over the whole set."""
        return {name: float(torch.tensor([sample[name] for sample in results]).nanmean()) for name in results[0]}


class BaselinePictures(Hook):
    """Writes the system's pictures of the first batch after each validation: images as PNG, animations as GIF.

    Args:
        max_samples: number of samples of the batch to show.
        fps: frames per second of a GIF.
    """

    def __init__(self, max_samples: int = 8, fps: float = 5.0) -> None:
        self.max_samples, self.fps = max_samples, fps
        self.batch: dict | None = None

    def before_val_epoch(self, runner: Runner) -> None:
        self.batch = None

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch: dict, outputs: list[dict]) -> None:
        if self.batch is None:
            self.batch = {key: values[: self.max_samples] for key, values in data_batch.items()}

    @torch.no_grad()
    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        if self.batch is None or not is_main_process():
            return
        model = without_process_wrapper(runner.model)
        for name, picture in model.pictures(**model.data_preprocessor(self.batch)).items():
            if picture.ndim == 3:
                runner.visualizer.add_image(name, picture, step=runner.iter)
                continue
            folder = Path(runner.log_dir) / "vis_data" / "vis_image"
            folder.mkdir(parents=True, exist_ok=True)
            write_video(folder / f"{name}_{runner.iter}.gif", picture, self.fps)
