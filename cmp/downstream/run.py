"""Train on a task and evaluate at the end, with the runner of pretraining: logs, ETA, resuming, several processes."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.runner import Runner

from cmp.checkpoints import read_checkpoint
from cmp.engine.loops import InterruptibleValLoop
from cmp.engine.processes import join_processes, watch_processes
from cmp.engine.run import train_run
from cmp.engine.trained_model import without_process_wrapper
from cmp.files import write_file
from cmp.models.description import shown


class TaskValLoop(InterruptibleValLoop):
    """Predict every image of a set with the network's `predict`, and pass the predictions to the metric.

    Args:
        runner, dataloader, evaluator: mmengine's.
        **options: of `predict`.

    Attributes:
        metrics: of the last run.
    """

    def __init__(self, runner: Runner, dataloader, evaluator, **options) -> None:
        super().__init__(runner, dataloader, evaluator)
        self.options, self.metrics = options, {}

    def run(self) -> dict:
        """Evaluate; returns the metrics, {} if it was interrupted."""
        self.metrics = super().run()
        return self.metrics

    @torch.no_grad()
    def run_iter(self, idx: int, data_batch: dict) -> None:
        """Predict one batch."""
        self.runner.call_hook("before_val_iter", batch_idx=idx, data_batch=data_batch)
        model = without_process_wrapper(self.runner.model)
        batch = model.data_preprocessor(data_batch)
        predicted = model.predict(batch["image"], **self.options)
        self.evaluator.process(data_samples=list(predicted), data_batch=batch)
        self.runner.call_hook("after_val_iter", batch_idx=idx, data_batch=batch, outputs=predicted)


def set_given(config: Config, *, data_dir: str, backbone: str) -> None:
    """Set what the command line gives to a task that trains: the folder of both parts, the weights, the seed."""
    for loader in ("train_dataloader", "val_dataloader"):
        config[loader].dataset.root = str(data_dir)
    config.train_dataloader.dataset.seed = config.randomness.seed
    config.model.backbone = str(backbone)


def set_length(config: Config, steps: int) -> None:
    """Give a run another number of steps: its schedule ends there, and it is evaluated there."""
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    former = config.train_cfg.max_iters
    config.train_cfg.max_iters = config.train_cfg.val_interval = steps
    for scheduler in config.param_scheduler:
        if scheduler.get("end") != former:
            raise ValueError(
                "--steps: this config's learning rate changes at other steps than the last: use --cfg-options instead"
            )
        scheduler.end = steps


def check_same_run(config: Config, checkpoint: str) -> None:
    """Refuse to resume a run with another backbone, encoder or seed: its metrics would be attributed to the wrong one.

    Raises:
        ValueError: the checkpoint and the config differ; what differs is named.
    """
    meta = read_checkpoint(checkpoint).meta
    described = meta.get("cmp")
    was = (dict(described) if isinstance(described, Mapping) else {}) | {"seed": meta.get("seed")}
    asked = {key: config.model.get(key) for key in ("backbone", "encoder", "frozen")} | {
        "seed": config.randomness.get("seed")
    }
    other = [
        f"{key} was {shown(was[key])} and is now {value!r}"
        for key, value in asked.items()
        if was.get(key) is not None and value is not None and str(was[key]) != str(value)
    ]
    if other:
        raise ValueError(f"{checkpoint} is of another run: {', '.join(other)}; use another --work-dir")


def train_and_evaluate(config: Config, checkpoint: str | None) -> tuple[dict | None, str | None]:
    """Train to the end, from the start or from a checkpoint; a finished run is only evaluated.

    Returns:
        The metrics, which are also in metrics.json of the work dir with what was run; None in all processes but the
        first, and where a signal stopped the run (`--resume` goes on). And that signal's name, None if there was none.

    Raises:
        ValueError: the config wants batch norm over processes where there is no GPU, or the checkpoint is of another
            run: other weights to begin with, another network, another seed.
    """
    if config.get("sync_bn") and not torch.cuda.is_available():
        raise ValueError("sync_bn needs GPUs: torch's SyncBatchNorm does not run on CPUs (--cfg-options sync_bn=None)")
    if checkpoint:
        check_same_run(config, checkpoint)
    join_processes(config)
    watch_processes(config.work_dir, config)
    runner, start, stopped_by = train_run(config, resume_from=checkpoint)
    if runner.rank != 0 or stopped_by:
        return None, stopped_by
    metrics = runner.val_loop.metrics
    about = dict(steps=runner.iter, seed=runner.seed, backbone=str(config.model.backbone), start=start)
    write_file(Path(runner.work_dir) / "metrics.json", json.dumps(about | metrics, indent=1) + "\n")
    return metrics, None
