import copy
from contextlib import contextmanager

import pytest
import torch
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from torch import nn

from cmp.engine.step import AutocastOptimWrapper
from cmp.engine.step_guard import StepGuard


class Net(BaseModel):
    """A convolution with batch norm; its loss is a mean over pairs."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1))

    def forward(self, image, mode="loss"):
        return {"loss": self.layers(image).square().mean(dim=(1, 2, 3)).mean()}


def images(size, seed=0):
    return torch.randn(size, 3, 6, 9, generator=torch.Generator().manual_seed(seed))


def guarded(model, num_batches=1, **arguments):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return StepGuard(OptimWrapper(optimizer, **arguments), model, num_batches=num_batches)


def step(model, guard, *batches):
    guard.begin()
    for batch in batches:
        model.train_step(dict(image=batch), guard)


def state(model, guard):
    """Weights, statistics and momenta."""
    momenta = [s["momentum_buffer"] for s in guard.wrapper.optimizer.state.values()]
    return [value.clone() for value in (*model.state_dict().values(), *momenta)]


def same(first, second):
    return len(first) == len(second) and all(torch.equal(a, b) for a, b in zip(first, second))


@pytest.mark.parametrize("bad", (float("nan"), float("inf")))
@pytest.mark.parametrize("place", (0, 1))
def test_a_step_with_a_loss_that_is_not_finite_changes_nothing(bad, place):
    model = Net().train()
    guard = guarded(model, num_batches=2)
    step(model, guard, images(4), images(4, seed=1))
    before = state(model, guard)
    batches = [images(4, seed=2), images(4, seed=3)]
    batches[place][1, 0, 2, 3] = bad
    step(model, guard, *batches)
    assert guard.skipped and same(state(model, guard), before)
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())
    step(model, guard, images(4, seed=4), images(4, seed=5))
    assert not guard.skipped and not same(state(model, guard), before)


def test_a_loss_that_is_not_finite_counts_though_its_gradients_are():
    model = Net().train()
    guard = guarded(model, num_batches=2)
    guard.wrapper.backward = lambda loss: torch.nan_to_num(loss * 0).backward()
    before = copy.deepcopy(model.state_dict())
    step(model, guard, torch.full_like(images(4), float("nan")), images(4))
    assert guard.skipped and all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_gradient_scaler_leaves_steps_out_itself():
    model = Net().train()
    guard, taken = guarded(model), []
    model.layers[3].weight.register_hook(lambda grad: grad * float("inf"))  # as scaled ones often are
    guard.wrapper.loss_scaler, guard.wrapper.step = object(), lambda: taken.append(True)
    step(model, guard, images(4))
    assert taken == [True] and not guard.skipped


def test_the_forward_pass_has_the_wrappers_precision():
    model, seen = Net().train(), []
    guard = StepGuard(AutocastOptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1), precision="bfloat16"), model)
    model.layers[0].register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    step(model, guard, images(4))
    assert seen == [torch.bfloat16]


def test_gradients_are_exchanged_with_the_last_batch_alone():
    model, apart = Net().train(), []

    @contextmanager
    def no_sync():  # as a wrapper for several processes has it
        apart.append(True)
        yield
        apart.append(False)

    model.no_sync = no_sync
    guard = guarded(model, num_batches=3)
    for _ in range(2):
        step(model, guard, *images(12).split(4))
    assert apart == [True, False] * 4


def test_a_finite_loss_with_a_gradient_that_is_not_is_skipped_too():
    model = Net().train()
    guard = guarded(model)
    handle = model.layers[3].weight.register_hook(lambda grad: grad * float("inf"))
    before = copy.deepcopy(model.state_dict())
    step(model, guard, images(4))
    assert guard.skipped and all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    handle.remove()
    step(model, guard, images(4))
    assert not guard.skipped


def test_a_step_that_is_finite_is_the_wrappers_own():
    model, other = Net().train(), Net().train()
    guard = guarded(model, clip_grad=dict(max_norm=0.01))
    wrapper = guarded(other, clip_grad=dict(max_norm=0.01)).wrapper
    for seed in range(3):
        step(model, guard, images(4, seed))
        other.train_step(dict(image=images(4, seed)), wrapper)
    assert all(torch.equal(value, other.state_dict()[key]) for key, value in model.state_dict().items())


def test_gradients_of_three_batches_are_those_of_one_with_all_pairs():
    gradients = []
    for batches in ([images(12)], images(12).split(4)):
        model = Net().double().eval()  # batch norm by running statistics takes pairs one by one
        guard = guarded(model, num_batches=len(batches))
        guard.wrapper.zero_grad = lambda: None
        step(model, guard, *(batch.double() for batch in batches))
        gradients.append([p.grad for p in model.parameters()])
    for one, other in zip(*gradients):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-15)
        assert one.any()


def test_clipping_bounds_the_gradient_of_the_whole_step():
    model = Net().train()
    guard = guarded(model, num_batches=2, clip_grad=dict(max_norm=1e-3))
    before = [p.detach().clone() for p in model.parameters()]
    step(model, guard, images(4), images(4, seed=1))
    moved = torch.cat([(p - b).detach().flatten() for p, b in zip(model.parameters(), before)])
    assert moved.norm().item() == pytest.approx(0.1 * 1e-3, rel=1e-3)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="accumulate_batches must be at least 1, got 0"):
        guarded(Net(), num_batches=0)
    with pytest.raises(ValueError, match="set train_cfg.accumulate_batches"):
        guarded(Net(), accumulative_counts=2)


def test_a_network_without_statistics_takes_and_leaves_steps_too():
    model = Net()
    model.layers[1] = nn.Identity()
    guard = guarded(model)
    before = state(model, guard)
    step(model, guard, images(2) * float("inf"))
    assert guard.skipped and same(state(model, guard), before)
    step(model, guard, images(2))
    assert not guard.skipped and not same(state(model, guard)[: len(before)], before)
