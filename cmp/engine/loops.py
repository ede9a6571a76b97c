"""The training and validation loops: mmengine's, with exact resuming, steps that may be left out, and the controls."""

import random
from time import perf_counter

import numpy as np
import torch
from mmengine.dist import barrier, broadcast, get_rank
from mmengine.hooks import CheckpointHook, EMAHook
from mmengine.model import is_model_wrapper
from mmengine.runner import IterBasedTrainLoop, Runner, ValLoop
from mmengine.runner.loops import _InfiniteDataloaderIterator
from torch.utils.data import DataLoader

from cmp.engine.metrics import other_video
from cmp.engine.processes import any_process
from cmp.engine.step import lay_out
from cmp.engine.step_guard import StepGuard
from cmp.engine.stop_signals import StopSignals, leave_stopping_to_the_run
from cmp.models import CMP


class PairTrainLoop(IterBasedTrainLoop):
    """Training by steps over a `PairSampler`; a resumed run goes on with the draws it would have had next.

    mmengine would read and throw away every batch before that, and forget the generators' states; the sampler is told
    where to start instead, and Python's, NumPy's and torch's generators are seeded anew for each step.

    Args:
        max_iters, val_begin, val_interval, dynamic_intervals: mmengine's; a step is one update of the weights.
        channels_last: lay the weights out for convolutions (see `lay_out`).
        accumulate_batches: batches whose gradients make one step (see `StepGuard`).
        max_skips_in_row: a step that is not finite is skipped, but after so many in a row the run stops.

    Attributes:
        stopped_by: name of the signal that stopped the run before its end, else None.
        guard: says whether the last step was skipped.
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
        """Train until max_iters, or until a stop signal; then the step is finished and a checkpoint saved.

        Raises:
            ValueError: accumulate_batches is below 1.
            FloatingPointError: the steps were not finite max_skips_in_row times in a row.
        """
        lay_out(self.runner.model, self.runner.optim_wrapper.optimizer, self.channels_last)
        self.guard = StepGuard(self.runner.optim_wrapper, self.runner.model, num_batches=self.accumulate_batches)
        self.runner.call_hook("before_train")
        self.runner.call_hook("before_train_epoch")
        with self.stop:
            if self._iter > 0:
                self.dataloader.sampler.start = self._iter * self.accumulate_batches * self.dataloader.batch_size
                self.dataloader_iterator = _InfiniteDataloaderIterator(self.dataloader)
                self._validate_if_due()  # a run that was killed may not have come to it
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
        """What a step draws (dropout) then follows from seed, process and step alone, whatever was drawn before."""
        rng = np.random.default_rng((self.runner.seed, get_rank(), self._iter))
        for seed, bits in ((torch.manual_seed, 63), (np.random.seed, 32), (random.seed, 63)):
            seed(int(rng.integers(2**bits)))

    def _run_step(self, batches: list[dict], began: float, waited: float) -> None:
        """One update of the weights from batches that arrived after `waited` s."""
        runner, hub = self.runner, self.runner.message_hub
        runner.model.train()
        runner.call_hook("before_train_iter", batch_idx=self._iter, data_batch=batches[0])
        self.guard.begin()
        logs = [runner.model.train_step(batch, optim_wrapper=self.guard) for batch in batches]
        # A skipped step's loss would only hide the others in the log's averages.
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
        """Count skipped steps where a checkpoint keeps them."""
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
        """Save what the finished step left, in all processes' sight: whoever exits first takes the others along."""
        self.stopped_by = self.stop.received or "a signal to another process"
        for hook in self.runner.hooks:
            if isinstance(hook, CheckpointHook):
                hook._save_checkpoint_with_step(self.runner, self._iter, dict(epoch=self._epoch, iter=self._iter))
        barrier()


class PropagationValLoop(ValLoop):
    """Validation on the whole set, with two controls on the same images: guidance dropped, image of another video.

    All processes judge one network, the one that checkpoints hold: the first process's batch norm statistics, which
    each gathers on its own pairs, replace the others'. A stop signal breaks it off; a run that goes on starts with it.
    """

    def __init__(self, runner: Runner, dataloader: DataLoader | dict, *arguments, **named) -> None:
        super().__init__(runner, _built(runner, dataloader), *arguments, **named)
        self.stop = StopSignals()  # the training loop puts its own here

    def run(self) -> dict:
        """Validate; the metrics, none if it was broken off."""
        self.runner.call_hook("before_val")
        self.runner.call_hook("before_val_epoch")  # an average may take the weights' place here
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
                    hook.after_val_epoch(self.runner)  # puts the weights back; the other hooks would log half a set
            for metric in self.evaluator.metrics:
                metric.results.clear()
            return {}
        metrics = self.evaluator.evaluate(len(self.dataloader.dataset))
        self.runner.call_hook("after_val_epoch", metrics=metrics)
        self.runner.call_hook("after_val")
        return metrics

    @torch.no_grad()
    def run_iter(self, idx: int, data_batch: dict) -> None:
        """Predict one batch and hand it to the metrics."""
        self.runner.call_hook("before_val_iter", batch_idx=idx, data_batch=data_batch)
        model = self.runner.model.module if is_model_wrapper(self.runner.model) else self.runner.model
        outputs = predict_with_controls(model, model.data_preprocessor(data_batch))
        self.evaluator.process(data_samples=outputs, data_batch=data_batch)
        self.runner.call_hook("after_val_iter", batch_idx=idx, data_batch=data_batch, outputs=outputs)


def _built(runner: Runner, dataloader: DataLoader | dict) -> DataLoader:
    """The loader, its workers deaf to stop signals."""
    if isinstance(dataloader, dict):
        dataloader = runner.build_dataloader(dataloader, seed=runner.seed)
    dataloader.worker_init_fn = leave_stopping_to_the_run(dataloader.worker_init_fn)
    return dataloader


@torch.no_grad()
def predict_with_controls(model: CMP, batch: dict) -> list[dict]:
    """Predict a batch as it is, without guidance, and with the features of another video's image.

    If the second hardly hurts, the guides don't matter; if the third hardly does, the image doesn't, and the decoder
    merely interpolates. The image is encoded once for all three.

    Args:
        model: in eval mode.
        batch: of `PropagationDataset` samples, on the model's device.

    Returns:
        A dict a picture: `loss` (scalar, the batch's mean), and flows (2, H, W) float32, px: `flow`,
        `flow_no_guidance`, `flow_shuffled_image` (None where the batch holds no other video).
    """
    guidance, mask = batch["guidance"], batch["mask"]
    features = model.encode_image(batch["image"])
    logits = model.propagate(features, guidance, mask)
    loss = model.loss(logits, batch["flow"], batch["valid"])
    flow = model.decode(logits, guidance, mask)
    nothing = torch.zeros_like(guidance), torch.zeros_like(mask)
    unguided = model.decode(model.propagate(features, *nothing), *nothing)
    others = other_video(batch["video"])
    wrong = type(features)(*(None if f is None else f[others.to(f.device)] for f in features))
    shuffled = model.decode(model.propagate(wrong, guidance, mask), guidance, mask)
    return [
        dict(
            loss=loss,
            flow=flow[i],
            flow_no_guidance=unguided[i],
            flow_shuffled_image=shuffled[i] if others[i] >= 0 else None,
        )
        for i in range(len(flow))
    ]
