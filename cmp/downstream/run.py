"""Training on a task and judging at its end, by pretraining's runner: logs, ETA, resuming, several processes."""

import json
import os
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from cmp.engine.checkpoint import read_checkpoint
from cmp.engine.loops import PropagationValLoop
from cmp.engine.processes import leave_together
from cmp.engine.provenance import record_start
from cmp.engine.runner import PairRunner


class TaskValLoop(PropagationValLoop):
    """Predicts every image of a set by the network's `predict`, and hands what it says to the metric.

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
        """Judge; the metrics, none if it was broken off."""
        self.metrics = super().run()
        return self.metrics

    @torch.no_grad()
    def run_iter(self, idx: int, data_batch: dict) -> None:
        """Predict one batch."""
        self.runner.call_hook("before_val_iter", batch_idx=idx, data_batch=data_batch)
        model = self.runner.model.module if is_model_wrapper(self.runner.model) else self.runner.model
        batch = model.data_preprocessor(data_batch)
        predicted = model.predict(batch["image"], **self.options)
        self.evaluator.process(data_samples=list(predicted), data_batch=batch)
        self.runner.call_hook("after_val_iter", batch_idx=idx, data_batch=batch, outputs=predicted)


def set_length(config: Config, steps: int) -> None:
    """Give a run another number of steps: its schedule ends there, and it is judged there."""
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    former = config.train_cfg.max_iters
    config.train_cfg.max_iters = config.train_cfg.val_interval = steps
    for scheduler in config.param_scheduler:
        if scheduler.get("end") != former:
            raise ValueError("this config's learning rate changes at steps of its own: use --cfg-options instead")
        scheduler.end = steps


def join_processes(config: Config) -> None:
    """Under torchrun or srun: one process a GPU, or gloo on CPUs where there is none."""
    if "RANK" not in os.environ:
        return
    config.launcher = "pytorch"
    if not torch.cuda.is_available():
        torch.distributed.init_process_group("gloo")
        config.model_wrapper_cfg = dict(type="MMDistributedDataParallel", device_ids=None, broadcast_buffers=False)


def check_same_run(config: Config, checkpoint: str) -> None:
    """Refuse to go on under a name that is not the checkpoint's: its metrics would be taken for another backbone's.

    Raises:
        ValueError: the checkpoint says other than the config; what differs is named.
    """
    meta = read_checkpoint(checkpoint).meta
    was = meta.get("cmp", {}) | {"seed": meta.get("seed")}
    asked = {key: config.model.get(key) for key in ("backbone", "encoder", "frozen")} | {
        "seed": config.randomness.get("seed")
    }
    other = [
        f"{key} was {was[key]!r} and is now {value!r}"
        for key, value in asked.items()
        if was.get(key) is not None and value is not None and str(was[key]) != str(value)
    ]
    if other:
        raise ValueError(f"{checkpoint} is of another run: {', '.join(other)}; use another --work-dir")


def train_and_judge(config: Config, checkpoint: str | None) -> dict | None:
    """Train to the end, or go on from a checkpoint; a finished one is only judged.

    Returns:
        The metrics, which also stand in metrics.json of the work dir with what was run; None in all processes but the
        first, and where a signal stopped the run (`--resume` goes on).

    Raises:
        ValueError: the config wants batch norm over processes where there is no GPU, or the checkpoint is of another
            run: other weights to begin with, another network, another seed.
    """
    if config.get("sync_bn") and not torch.cuda.is_available():
        raise ValueError("sync_bn needs GPUs: torch's SyncBatchNorm does not run on CPUs (--cfg-options sync_bn=None)")
    if checkpoint:
        check_same_run(config, checkpoint)
        config.load_from, config.resume = checkpoint, True
    join_processes(config)
    runner = PairRunner.from_cfg(config)
    start = {}
    if runner.rank == 0:
        start = record_start(runner.work_dir, resumed_from=checkpoint, num_processes=runner.world_size)
    runner.train()
    metrics, stopped = runner.val_loop.metrics, runner.train_loop.stopped_by
    first = runner.rank == 0
    leave_together()
    if not first or stopped:
        return None
    about = dict(steps=runner.iter, seed=runner.seed, backbone=str(config.model.backbone), start=start)
    (Path(runner.work_dir) / "metrics.json").write_text(json.dumps(about | metrics, indent=1) + "\n")
    return metrics
