"""The training and validation loops: mmengine's, with exact resuming, skipped steps and stop signals."""

import random
from time import perf_counter

import numpy as np
import torch
from mmengine.dist import barrier, broadcast, get_rank
from mmengine.hooks import CheckpointHook, EMAHook
from mmengine.runner import IterBasedTrainLoop, Runner, ValLoop
from mmengine.runner.loops import _InfiniteDataloaderIterator
from torch.utils.data import DataLoader, IterableDataset

from cmp.engine.processes import any_process, note_progress
from cmp.engine.step import set_memory_layout
from cmp.engine.step_guard import StepGuard
from cmp.engine.stop_signals import StopSignals, ignoring_stop_signals


class ResumableTrainLoop(IterBasedTrainLoop):
    """Train by steps over an `EpochSampler`; a resumed run continues with the draws that would have come next.

    Over an iterable dataset it does not: such a dataset is told in `start` how many draws were made.

    mmengine would read every earlier batch and throw it away, and would lose the states of the random generators. Here
    the sampler starts at the right position, and Python's, NumPy's and torch's generators are seeded for each step.

    Args:
        max_iters, val_begin, val_interval, dynamic_intervals: mmengine's; a step is one update of the weights.
        channels_last: use the memory layout that convolutions are fastest with (see `set_memory_layout`).
        accumulate_batches: number of batches whose gradients make one step (see `StepGuard`).
        max_skips_in_row: a step that is not finite is skipped; after this many in a row the run stops.

    Attributes:
        stopped_by: name of the signal that stopped the run before its end, else None.
        guard: the `StepGuard`; its `skipped` tells whether the last step was skipped.
    """

    def __init__(
        self,
        runner: Runner,
        dataloader: DataLoader | dict,
        max_iters: int,
        channels_last: bool = False,
        accumulate_batches: int = 1,
        max_skips_in_row: int = 10,
        **arguments,
    ) -> None:
        if max_skips_in_row < 1:
            raise ValueError(f"max_skips_in_row must be at least 1, got {max_skips_in_row}")
        super().__init__(runner, _built(runner, dataloader), max_iters, **arguments)
        self.channels_last = channels_last
        self.accumulate_batches, self.max_skips_in_row = accumulate_batches, max_skips_in_row
        self.stop = StopSignals()
        self.stopped_by: str | None = None

    def run(self) -> torch.nn.Module:
        """Train until max_iters, or until a stop signal; then the step is finished and a checkpoint is saved.

        Raises:
            ValueError: accumulate_batches is below 1.
            FloatingPointError: the steps were not finite max_skips_in_row times in a row.
        """
        set_memory_layout(self.runner.model, self.runner.optim_wrapper.optimizer, self.channels_last)
        self.guard = StepGuard(self.runner.optim_wrapper, self.runner.model, num_batches=self.accumulate_batches)
        self.runner.call_hook("before_train")
        self.runner.call_hook("before_train_epoch")
        with self.stop:
            if self._iter > 0:
                drawn = self._iter * self.accumulate_batches * self.dataloader.batch_size
                is_stream = isinstance(self.dataloader.dataset, IterableDataset)  # it has no sampler
                (self.dataloader.dataset if is_stream else self.dataloader.sampler).start = drawn
                self.dataloader_iterator = _InfiniteDataloaderIterator(self.dataloader)
                self._validate_if_due()  # a run that was killed may not have reached it
                if any_process(self.stop.received is not None):
                    self._save_and_stop()
            while self._iter < self._max_iters and self.stopped_by is None and not self.stop_training:
                self._seed_step()
                began = perf_counter()
                batches = [next(self.dataloader_iterator) for _ in range(self.accumulate_batches)]
                self._run_step(batches, began, perf_counter() - began)
                self._decide_current_val_interval()
                self._validate_if_due()
                if any_process(self.stop.received is not None):
                    self._save_and_stop()
            self.runner.call_hook("after_train_epoch")
            self.runner.call_hook("after_train")
        return self.runner.model

    def _seed_step(self) -> None:
        """Seed all generators, so that what a step draws (dropout) follows from seed, process and step alone."""
        rng = np.random.default_rng((self.runner.seed, get_rank(), self._iter))
        for seed, bits in ((torch.manual_seed, 63), (np.random.seed, 32), (random.seed, 63)):
            seed(int(rng.integers(2**bits)))

    def _run_step(self, batches: list[dict], began: float, waited: float) -> None:
        """Update the weights once from batches that took `waited` s to arrive."""
        runner, hub = self.runner, self.runner.message_hub
        runner.model.train()
        runner.call_hook("before_train_iter", batch_idx=self._iter, data_batch=batches[0])
        note_progress()
        self.guard.begin()
        logs = [runner.model.train_step(batch, optim_wrapper=self.guard) for batch in batches]
        # The loss of a skipped step is not finite and would hide the others in the log's averages.
        outputs = {} if self.guard.skipped else {key: sum(log[key] for log in logs) / len(logs) for key in logs[0]}
        self._count_skips()
        # As value and count: the mean over a window of steps is then time waited by time passed.
        passed = perf_counter() - began
        hub.update_scalar("train/data_time_share", round(1e6 * waited), count=max(1, round(1e6 * passed)))  # whole us
        runner.call_hook("after_train_iter", batch_idx=self._iter, data_batch=batches[-1], outputs=outputs)
        self._iter += 1
        if hub.get_info("skips_in_row", 0) >= self.max_skips_in_row:
            raise FloatingPointError(
                f"the loss or its gradient was not finite in {self.max_skips_in_row} steps in a row, up to step "
                f"{self._iter}: those steps were skipped, and the weights are as they were before them. A lower "
                "learning rate, optim_wrapper.clip_grad or float32 may help; train_cfg.max_skips_in_row sets the limit"
            )

    def _count_skips(self) -> None:
        """Count skipped steps in the message hub, which checkpoints keep."""
        hub = self.runner.message_hub
        in_row = hub.get_info("skips_in_row", 0) + 1 if self.guard.skipped else 0
        hub.update_info("skips_in_row", in_row)
        skipped = hub.get_info("skipped_steps", 0) + int(self.guard.skipped)
        hub.update_info("skipped_steps", skipped)
        if skipped:
            hub.update_scalar("train/skipped_steps", skipped)
        if in_row:
            self.runner.logger.warning(f"step {self._iter + 1} is not finite: skipped, {in_row} in a row")

    def _validate_if_due(self) -> None:
        due = self._iter % self.val_interval == 0 or self._iter == self._max_iters
        if self.runner.val_loop is not None and self._iter >= self.val_begin and due:
            self.runner.val_loop.stop = self.stop
            self.runner.val_loop.run()

    def _save_and_stop(self) -> None:
        """Save a checkpoint and wait until all processes have; a process that left earlier would end the others."""
        self.stopped_by = self.stop.received or "a signal to another process"
        for hook in self.runner.hooks:
            if isinstance(hook, CheckpointHook):
                hook._save_checkpoint_with_step(self.runner, self._iter, dict(epoch=self._epoch, iter=self._iter))
        barrier()


class InterruptibleValLoop(ValLoop):
    """Validation on a whole set that a stop signal breaks off; subclasses define `run_iter`, which evaluates a batch.

    All processes evaluate one network, the one that checkpoints hold: the first process's batch norm statistics, which
    each process gathers on its own batches, replace the others'. A run that goes on starts with the validation that was
    broken off.
    """

    def __init__(self, runner: Runner, dataloader: DataLoader | dict, *arguments, **named) -> None:
        super().__init__(runner, _built(runner, dataloader), *arguments, **named)
        self.stop = StopSignals()  # the training loop puts its own here

    def run(self) -> dict:
        """Validate; returns the metrics, none if a stop signal broke it off."""
        self.runner.call_hook("before_val")
        self.runner.call_hook("before_val_epoch")  # a hook may put averaged weights in place here
        for buffer in self.runner.model.buffers():
            broadcast(buffer)
        self.runner.model.eval()
        for idx, batch in enumerate(self.dataloader):
            if self.stop.received:
                break
            self.run_iter(idx, batch)
        if any_process(self.stop.received is not None):
            for hook in self.runner.hooks:
                if isinstance(hook, EMAHook):
                    hook.after_val_epoch(self.runner)  # puts the weights back; other hooks would log half a set
            for metric in self.evaluator.metrics:
                metric.results.clear()
            return {}
        metrics = self.evaluator.evaluate(len(self.dataloader.dataset))
        self.runner.call_hook("after_val_epoch", metrics=metrics)
        self.runner.call_hook("after_val")
        return metrics

    def run_iter(self, idx: int, data_batch: dict) -> None:
        """Evaluate one batch: predict, hand the outputs to `self.evaluator`, call the hooks around it."""
        raise NotImplementedError(f"{type(self).__name__} must define run_iter")


def _built(runner: Runner, dataloader: DataLoader | dict) -> DataLoader:
    """The built loader; its workers ignore stop signals."""
    if isinstance(dataloader, dict):
        dataloader = runner.build_dataloader(dataloader, seed=runner.seed)
    dataloader.worker_init_fn = ignoring_stop_signals(dataloader.worker_init_fn)
    return dataloader
