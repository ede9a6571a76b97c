"""Judging a baseline on its validation set: measures averaged over all samples, pictures of the first batch."""

from collections.abc import Sequence
from pathlib import Path

import torch
from mmengine.dist import is_main_process
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from cmp.engine.loops import PropagationValLoop
from cmp.video.writers import write_video


class BaselineValLoop(PropagationValLoop):
    """Judges every sample once, by the system's own `measure`; a stop signal breaks it off."""

    @torch.no_grad()
    def run_iter(self, idx: int, data_batch: dict) -> None:
        """Judge one batch."""
        self.runner.call_hook("before_val_iter", batch_idx=idx, data_batch=data_batch)
        measures = self.runner.model.val_step(data_batch)
        samples = [dict(zip(measures, values)) for values in zip(*(v.tolist() for v in measures.values()))]
        self.evaluator.process(data_samples=samples, data_batch=data_batch)
        self.runner.call_hook("after_val_iter", batch_idx=idx, data_batch=data_batch, outputs=samples)


class MeanOverSet(BaseMetric):
    """The mean of every measure over the samples that have it: NaN is left out, and stays if there is nothing else."""

    default_prefix = ""  # none, and no warning about it

    def __init__(self) -> None:
        super().__init__(collect_device="gpu")  # by messages, on CPUs too; "cpu" needs a folder that all machines share

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Keep each sample's measures."""
        self.results.extend(data_samples)

    def compute_metrics(self, results: list[dict]) -> dict[str, float]:
        """Means over the whole set."""
        return {name: float(torch.tensor([sample[name] for sample in results]).nanmean()) for name in results[0]}


class BaselinePictures(Hook):
    """After each validation, the system's pictures of the first batch: PNG, and GIF where they move.

    Args:
        max_samples: how many samples of the batch to show.
        fps: frames per second of a GIF.
    """

    def __init__(self, max_samples: int = 8, fps: float = 5.0) -> None:
        self.max_samples, self.fps, self.batch = max_samples, fps, None

    def before_val_epoch(self, runner: Runner) -> None:
        self.batch = None

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch: dict, outputs: list[dict]) -> None:
        if self.batch is None:
            self.batch = {key: values[: self.max_samples] for key, values in data_batch.items()}

    @torch.no_grad()
    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        if self.batch is None or not is_main_process():
            return
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        for name, picture in model.pictures(**model.data_preprocessor(self.batch)).items():
            if picture.ndim == 3:
                runner.visualizer.add_image(name, picture, step=runner.iter)
                continue
            folder = Path(runner.log_dir) / "vis_data" / "vis_image"
            folder.mkdir(parents=True, exist_ok=True)
            write_video(folder / f"{name}_{runner.iter}.gif", picture, self.fps)
