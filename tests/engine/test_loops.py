import logging
import os
import random
import signal
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.evaluator import Evaluator
from mmengine.hooks import CheckpointHook, EMAHook
from mmengine.logging import MessageHub
from mmengine.optim import OptimWrapper

from cmp.datasets import EpochSampler
from cmp.engine import loops
from cmp.engine.loops import InterruptibleValLoop, ResumableTrainLoop
from cmp.engine.stop_signals import STOP_SIGNALS


class Drawing(torch.nn.Module):
    """Notes what it is given and what generators draw; the loss is NaN where a batch starts with a `bad` number."""

    def __init__(self, bad=()):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.register_buffer("statistic", torch.zeros(()))
        self.seen, self.bad = [], bad

    def train_step(self, data_batch, optim_wrapper):
        self.seen.append((data_batch, (torch.rand(()).item(), np.random.rand(), random.random())))  # noqa: NPY002
        loss = self.weight * (float("nan") if data_batch[0][0] in self.bad else 1.0)
        optim_wrapper.update_params(loss)
        return {"loss": loss.detach()}


class Runner:
    """As much of a runner as the loops ask for."""

    seed, val_loop, hooks, logger = 3, None, (), logging.getLogger("test")

    def __init__(self, model=None):
        self.model = Drawing() if model is None else model
        self.visualizer, self.message_hub, self.called = self, MessageHub("test"), []
        self.optim_wrapper = OptimWrapper(torch.optim.SGD(self.model.parameters(), lr=0.1))

    def call_hook(self, name, **arguments):
        self.called.append((name, arguments))


class Numbers(torch.utils.data.Dataset):
    metainfo = None

    def __len__(self):
        return 5

    def __getitem__(self, index):
        return index


def loader_of_numbers(num_workers=0, batch_size=2):
    return torch.utils.data.DataLoader(
        Numbers(),
        batch_size=batch_size,
        sampler=EpochSampler(Numbers(), seed=1),
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        collate_fn=tuple,
    )


def run(steps, *, resumed_at=0, num_workers=0, accumulate_batches=1):
    """What each step of a run sees and draws."""
    runner = Runner()
    loop = ResumableTrainLoop(
        runner, loader_of_numbers(num_workers), max_iters=steps, accumulate_batches=accumulate_batches
    )
    loop._iter = resumed_at
    loop.run()
    return runner.model.seen


@pytest.mark.parametrize("num_workers", (0, 1))
def test_a_resumed_run_sees_the_pairs_and_draws_the_numbers_it_would_have(num_workers):
    whole = run(7, num_workers=num_workers)
    assert [len(pairs) for pairs, _ in whole] == [2] * 7
    torch.rand(17), np.random.rand(3), random.random()  # noqa: NPY002
    assert run(7, resumed_at=4, num_workers=num_workers) == whole[4:]
    assert len({number for _, drawn in whole for number in drawn}) == 3 * 7


def test_a_step_of_two_batches_sees_the_pairs_of_one_twice_as_large_and_goes_on_where_it_was():
    whole = run(4, accumulate_batches=2)
    assert [pairs for pairs, _ in whole] == [pairs for pairs, _ in run(8)]
    assert run(4, resumed_at=3, accumulate_batches=2) == whole[6:]


def test_the_loss_of_a_step_of_two_batches_is_their_mean():
    runner = Runner()
    ResumableTrainLoop(runner, loader_of_numbers(), max_iters=1, accumulate_batches=2).run()
    (outputs,) = [arguments["outputs"] for name, arguments in runner.called if name == "after_train_iter"]
    assert outputs["loss"].item() == 1.0


def test_a_stop_signal_ends_the_run_after_its_step_with_a_checkpoint_of_that_step():
    saved = []

    class Checkpoints(CheckpointHook):
        def __init__(self):
            pass

        def _save_checkpoint_with_step(self, runner, step, meta):
            saved.append((step, meta["iter"]))

    class Stopped(Runner):
        hooks = (EMAHook(), Checkpoints())

        def call_hook(self, name, **arguments):
            super().call_hook(name, **arguments)
            if name == "after_train_iter" and arguments["batch_idx"] == 1:
                os.kill(os.getpid(), signal.SIGUSR1)

    before = [signal.getsignal(number) for number in STOP_SIGNALS]
    try:
        runner = Stopped()
        runner.val_loop = SimpleNamespace(run=lambda: None, stop=None)
        loop = ResumableTrainLoop(runner, loader_of_numbers(), max_iters=5, val_interval=2)
        loop.run()
    finally:
        for number, handler in zip(STOP_SIGNALS, before):
            signal.signal(number, handler)
    assert loop.stopped_by == "SIGUSR1" and loop.iter == 2 and saved == [(2, 2)]
    assert runner.val_loop.stop is loop.stop  # a validation hears of it
    assert [name for name, _ in runner.called][-2:] == ["after_train_epoch", "after_train"]


def test_skipped_steps_are_counted_and_too_many_in_a_row_end_the_run():
    def train(bad, steps=6, **arguments):
        runner = Runner(Drawing(bad))
        loop = ResumableTrainLoop(runner, loader_of_numbers(batch_size=1), max_iters=steps, **arguments)
        try:
            loop.run()
        finally:
            called = [arguments for name, arguments in runner.called if name == "after_train_iter"]
            runner.outputs = [arguments["outputs"] for arguments in called]
        return runner

    order = [pairs[0][0] for pairs, _ in run_of_single_numbers()]
    runner = train(bad=[order[1]])  # epochs are of 5: steps 2 and whichever step of the next epoch draws it again
    hub = runner.message_hub
    assert hub.get_info("skipped_steps") >= 1 and runner.outputs[1] == {} and "loss" in runner.outputs[0]
    assert runner.model.weight.item() == pytest.approx(1 - 0.1 * (6 - hub.get_info("skipped_steps")))
    assert hub.get_scalar("train/skipped_steps").current() == hub.get_info("skipped_steps")

    with pytest.raises(FloatingPointError, match="not finite in 2 steps in a row, up to step 3"):
        train(bad=order[1:3], max_skips_in_row=2)
    train(bad=[order[1]], max_skips_in_row=2)
    train(bad=[order[1], order[3]], steps=5, max_skips_in_row=2)  # twice, but not in a row
    with pytest.raises(ValueError, match="max_skips_in_row must be at least 1, got 0"):
        train(bad=[], max_skips_in_row=0)


def run_of_single_numbers():
    runner = Runner()
    ResumableTrainLoop(runner, loader_of_numbers(batch_size=1), max_iters=5).run()
    return runner.model.seen


def test_a_resumed_run_makes_up_for_a_validation_that_may_have_been_cut_off():
    class Validation:
        steps, stop = [], None

        def run(self):
            Validation.steps.append(loop.iter)

    for resumed_at, expected in ((0, [2, 4, 5]), (2, [2, 4, 5]), (3, [4, 5])):
        runner = Runner()
        runner.val_loop = Validation()
        Validation.steps = []
        loop = ResumableTrainLoop(runner, loader_of_numbers(), max_iters=5, val_interval=2)
        loop._iter = resumed_at
        loop.run()
        assert Validation.steps == expected and Validation.stop is None


def test_no_validation_comes_before_its_time_and_each_step_trains_after_one():
    runner, training = Runner(), []

    class Validation:
        steps = []

        def run(self):
            Validation.steps.append(loop.iter)
            runner.model.eval()

    runner.val_loop = Validation()
    take = runner.model.train_step
    runner.model.train_step = lambda *a, **k: (training.append(runner.model.training), take(*a, **k))[1]
    loop = ResumableTrainLoop(runner, loader_of_numbers(), max_iters=6, val_interval=2, val_begin=3)
    loop.run()
    assert Validation.steps == [4, 6] and training == [True] * 6


@pytest.mark.parametrize("channels_last", (False, True))
def test_weights_and_state_are_laid_out_before_the_first_step(channels_last):
    model = Drawing()
    model.convolution = torch.nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    runner, weight = Runner(model), model.convolution.weight
    runner.optim_wrapper = OptimWrapper(torch.optim.SGD([weight], lr=1, momentum=0.9))
    momentum = torch.randn_like(weight)
    runner.optim_wrapper.optimizer.state[weight]["momentum_buffer"] = momentum
    loader = torch.utils.data.DataLoader(Numbers(), batch_size=2, sampler=EpochSampler(Numbers()), collate_fn=tuple)
    ResumableTrainLoop(runner, loader, max_iters=1, channels_last=channels_last).run()
    laid_out = runner.optim_wrapper.optimizer.state[weight]["momentum_buffer"]
    assert weight.is_contiguous() != channels_last and laid_out.stride() == weight.stride()
    assert torch.equal(laid_out, momentum)


def test_processes_draw_different_numbers(monkeypatch):
    first = run(2)
    monkeypatch.setattr(loops, "get_rank", lambda: 1)
    assert not {drawn for _, drawn in first} & {drawn for _, drawn in run(2)}


class Counting(Evaluator):
    """Counts what it is given."""

    def __init__(self):
        self.given, self.metrics = [], [SimpleNamespace(results=[1])]

    def process(self, data_samples, data_batch):
        self.given.append(data_batch)

    def evaluate(self, size):
        return {"seen": len(self.given)}


def validation(runner):
    loop = InterruptibleValLoop(runner, torch.utils.data.DataLoader(Numbers(), batch_size=2), Counting())
    loop.run_iter = lambda idx, batch: loop.evaluator.process([], batch)
    return loop


def test_all_processes_evaluate_the_first_ones_network(monkeypatch):
    given, model = [], torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4))
    monkeypatch.setattr(loops, "broadcast", lambda buffer: given.append(buffer))
    runner = Runner(model)
    assert validation(runner).run() == {"seen": 3}
    assert {id(buffer) for buffer in given} == {id(buffer) for buffer in model.buffers()}
    assert any(name.endswith("running_mean") for name, _ in model.named_buffers())
    assert [name for name, _ in runner.called] == ["before_val", "before_val_epoch", "after_val_epoch", "after_val"]


def test_a_stop_breaks_a_validation_off_puts_the_weights_back_and_logs_nothing():
    runner, swaps = Runner(), []

    class Average(EMAHook):
        def after_val_epoch(self, runner, metrics=None):
            swaps.append(runner)

    runner.hooks = [Average()]
    loop = validation(runner)
    loop.stop.received = "SIGTERM"
    assert loop.run() == {} and loop.evaluator.given == [] and loop.evaluator.metrics[0].results == []
    assert swaps == [runner] and [name for name, _ in runner.called] == ["before_val", "before_val_epoch"]
