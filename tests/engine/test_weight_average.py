from types import SimpleNamespace

import pytest
import torch
from torch import nn

from cmp.engine.weight_average import WeightAverage
from cmp.weights import load_strictly, read_weight_file


def runner_with(model, skipped=False):
    guard = SimpleNamespace(skipped=skipped)
    return SimpleNamespace(model=model, iter=0, max_iters=9, _resume=True, train_loop=SimpleNamespace(guard=guard))


def norm_of(value):
    norm = nn.BatchNorm1d(3)
    for tensor in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
        tensor.fill_(value)
    return norm


def take_steps(hook, runner, values):
    for value in values:
        runner.model.load_state_dict(norm_of(value).state_dict())
        hook.after_train_iter(runner, 0)


def test_the_average_is_the_formula_and_holds_statistics_too():
    runner = runner_with(norm_of(0.0))
    hook = WeightAverage(momentum=0.1)
    hook.before_run(runner)
    take_steps(hook, runner, [1.0, 2.0, 4.0])
    expected = (1.0 * 0.9 + 2.0 * 0.1) * 0.9 + 4.0 * 0.1  # the first step is copied
    average = hook.ema_model.module
    for tensor in (average.weight, average.running_mean, average.running_var):
        torch.testing.assert_close(tensor.data, torch.full((3,), expected))
    runner.train_loop.guard.skipped = True
    take_steps(hook, runner, [8.0])
    torch.testing.assert_close(average.weight.data, torch.full((3,), expected))


def test_validation_sees_the_average_and_training_goes_on_without():
    runner = runner_with(norm_of(0.0))
    hook = WeightAverage(momentum=0.5)
    hook.before_run(runner)
    take_steps(hook, runner, [1.0, 3.0])
    hook.before_val_epoch(runner)
    assert runner.model.weight.data.unique().item() == runner.model.running_mean.unique().item() == 2.0
    hook.after_val_epoch(runner)
    assert runner.model.weight.data.unique().item() == runner.model.running_mean.unique().item() == 3.0


def test_a_checkpoint_says_which_is_which_and_a_resumed_average_goes_on(tmp_path):
    runner = runner_with(norm_of(0.0))
    hook = WeightAverage(momentum=0.5)
    hook.before_run(runner)
    take_steps(hook, runner, [1.0, 3.0])
    checkpoint = {"state_dict": runner.model.state_dict(), "meta": {}}
    hook.before_save_checkpoint(runner, checkpoint)
    torch.save(checkpoint, tmp_path / "iter_2.pth")
    assert read_weight_file(tmp_path / "iter_2.pth").state_dict()["weight"].unique().item() == 3.0
    assert read_weight_file(tmp_path / "iter_2.pth").state_dict(ema=True)["weight"].unique().item() == 2.0
    with pytest.raises(ValueError, match="does not contain a moving average"):
        torch.save({"state_dict": runner.model.state_dict()}, tmp_path / "none.pth")
        read_weight_file(tmp_path / "none.pth").state_dict(ema=True)

    other = runner_with(norm_of(7.0))
    resumed = WeightAverage(momentum=0.5)
    resumed.before_run(other)
    content = torch.load(tmp_path / "iter_2.pth", weights_only=True)
    resumed.after_load_checkpoint(other, content)
    load_strictly(other.model, content["state_dict"], source="it")
    for each, a_runner in ((hook, runner), (resumed, other)):
        take_steps(each, a_runner, [5.0])
    assert hook.ema_model.steps.item() == resumed.ema_model.steps.item() == 3
    assert torch.equal(hook.ema_model.module.weight, resumed.ema_model.module.weight)
    assert resumed.ema_model.module.weight.unique().item() == 3.5


def test_a_run_that_kept_no_average_starts_one_from_its_weights():
    runner = runner_with(norm_of(0.0))
    hook = WeightAverage(momentum=0.5)
    hook.before_run(runner)
    hook.after_load_checkpoint(runner, {"state_dict": norm_of(6.0).state_dict()})
    assert hook.ema_model.module.weight.unique().item() == 6.0 and hook.ema_model.steps.item() == 0


def test_weights_that_are_loaded_without_resuming_bring_their_average_and_start_counting_anew():
    runner = runner_with(norm_of(0.0))
    runner._resume = False
    hook = WeightAverage(momentum=0.5)
    hook.before_run(runner)
    content = {"ema_state_dict": norm_of(2.0).state_dict(), "state_dict": norm_of(6.0).state_dict(), "ema_steps": 7}
    hook.after_load_checkpoint(runner, content)
    assert hook.ema_model.module.weight.unique().item() == 2.0 and hook.ema_model.steps.item() == 0


def test_before_its_first_step_the_average_is_a_copy():
    runner = runner_with(norm_of(0.0))
    hook = WeightAverage(momentum=0.5, begin_iter=2)
    hook.before_run(runner)
    for step, (value, expected) in enumerate([(1.0, 1.0), (3.0, 3.0), (5.0, 4.0), (7.0, 5.5)]):
        runner.iter = step
        take_steps(hook, runner, [value])
        assert hook.ema_model.module.weight.unique().item() == expected
