import copy
from contextlib import contextmanager

import pytest
import torch
from mmengine.optim import OptimWrapper
from torch import nn

from cmp.engine import step
from cmp.engine.step import AutocastOptimWrapper, computes_in_bfloat16, set_memory_layout
from cmp.engine.trained_model import TrainedModel
from cmp.flow import FlowQuantizer
from cmp.models import CMP, DiscreteLoss, MotionEncoder, PropagationDecoder, PyramidResNet


def network(seed=0):
    torch.manual_seed(seed)
    return CMP(
        image_encoder=dict(type=PyramidResNet, depth=18, top_stride=8, out_channels=16),
        motion_encoder=dict(type=MotionEncoder),
        decoder=dict(type=PropagationDecoder, strides=(1, 2), width=16),
        quantizer=dict(type=FlowQuantizer, num_bins=11),
        loss=dict(type=DiscreteLoss),
        init="default",
    ).train()


def batch(seed=0):
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (2, 3, 64, 96), generator=generator, dtype=torch.uint8)
    flow = 10 * torch.randn(2, 2, 64, 96, generator=generator)
    mask = (torch.rand(2, 1, 64, 96, generator=generator) < 0.01).float()
    return dict(image=image, flow=flow, guidance=flow * mask, mask=mask)


def sgd(model, **kwargs):
    return torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9, weight_decay=1e-4, **kwargs)


def losses(model, wrapper, steps=4):
    trained = model if isinstance(model, TrainedModel) else TrainedModel(model)
    return [trained.train_step(batch(i), wrapper)["loss"].item() for i in range(steps)]


def test_float32_is_mmengines_own_step_to_the_bit():
    expected_model, model = network(), network()
    expected = losses(expected_model, OptimWrapper(sgd(expected_model)))
    assert losses(model, AutocastOptimWrapper(sgd(model))) == expected
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), expected_model.parameters()))


def test_bfloat16_works_convolutions_in_half_and_keeps_weights_updates_and_loss_whole():
    model = network()
    wrapper = AutocastOptimWrapper(sgd(model), precision="bfloat16")
    seen = {}
    for name, module in model.named_modules():
        if isinstance(module, (nn.Conv2d, DiscreteLoss)):
            module.register_forward_hook(lambda m, inputs, output, name=name: seen.update({name: output.dtype}))
    in_half = losses(model, wrapper)
    assert seen.pop("loss") == torch.float32
    assert len(seen) > 20 and set(seen.values()) == {torch.bfloat16}
    assert {p.dtype for p in model.parameters()} == {b.dtype for b in model.buffers() if b.is_floating_point()}
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert {s["momentum_buffer"].dtype for s in wrapper.optimizer.state.values()} == {torch.float32}
    whole = network()
    in_whole = losses(whole, AutocastOptimWrapper(sgd(whole)))
    assert in_half == pytest.approx(in_whole, rel=0.01) and in_half != in_whole


def test_gradients_accumulate_as_in_mmengine():
    model = network()
    wrapper = AutocastOptimWrapper(sgd(model), precision="bfloat16", accumulative_counts=2)
    before = model.decoder.head.weight.detach().clone()
    losses(model, wrapper, steps=1)
    assert torch.equal(model.decoder.head.weight, before)
    losses(model, wrapper, steps=1)
    assert not torch.equal(model.decoder.head.weight, before)


def test_processes_wait_for_each_other_only_when_weights_are_about_to_move(monkeypatch):
    model, alone = TrainedModel(network()), []

    @contextmanager
    def no_sync():
        alone.append(True)
        yield

    monkeypatch.setattr(model, "no_sync", no_sync, raising=False)  # as a model wrapper for several processes has it
    losses(model, AutocastOptimWrapper(sgd(model), precision="bfloat16", accumulative_counts=2), steps=2)
    assert alone == [True]


@pytest.mark.parametrize("native", (False, True))
def test_auto_precision_is_bfloat16_where_the_device_computes_in_it_and_says_which(native, monkeypatch):
    monkeypatch.setattr(step, "computes_in_bfloat16", lambda device_type: native and device_type == "cpu")
    chosen = "bfloat16" if native else "float32"
    said = []
    monkeypatch.setattr(step, "print_log", lambda line, logger: said.append(line))
    model, same = network(), network()
    expected = losses(same, AutocastOptimWrapper(sgd(same), precision=chosen), steps=2)
    assert losses(model, AutocastOptimWrapper(sgd(model), precision="auto"), steps=2) == expected
    assert said == [f"precision: {chosen}, the faster one on this CPU"]


def test_whether_a_cpu_computes_in_bfloat16_can_be_asked():
    assert computes_in_bfloat16("cpu") in (False, True)
    assert computes_in_bfloat16("xpu") is False


def test_an_unknown_precision_is_refused():
    with pytest.raises(ValueError, match="float16"):
        AutocastOptimWrapper(sgd(network()), precision="float16")


def test_channels_last_lays_out_every_map_and_changes_no_value():
    expected_model, model = network(), network()
    expected_wrapper, wrapper = AutocastOptimWrapper(sgd(expected_model)), AutocastOptimWrapper(sgd(model))
    set_memory_layout(model, wrapper.optimizer, channels_last=True)
    outputs = []
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda m, inputs, output: outputs.append(output))
    assert losses(model, wrapper) == pytest.approx(losses(expected_model, expected_wrapper), rel=1e-4)
    assert all(output.is_contiguous(memory_format=torch.channels_last) for output in outputs)
    wide = [p for p in model.parameters() if p.ndim == 4 and min(p.shape) > 1]
    assert wide and not any(p.is_contiguous() for p in wide)
    set_memory_layout(model, wrapper.optimizer, channels_last=False)
    assert all(p.is_contiguous() for p in model.parameters())


@pytest.mark.parametrize("saved_last, resumed_last", ((True, False), (False, True), (True, True)))
def test_a_fused_optimizer_goes_on_rightly_whatever_layout_the_state_was_saved_in(saved_last, resumed_last):
    model = network()
    optimizer = sgd(model, fused=True)
    set_memory_layout(model, optimizer, saved_last)
    losses(model, AutocastOptimWrapper(optimizer), steps=2)
    weights, state = copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict())

    ends = []
    for fused, channels_last in ((True, resumed_last), (False, False)):
        resumed = network(seed=1)
        resumed.load_state_dict(weights)
        resumed_optimizer = sgd(resumed)
        resumed_optimizer.load_state_dict(copy.deepcopy(state))
        for group in resumed_optimizer.param_groups:
            group["fused"] = fused
        set_memory_layout(resumed, resumed_optimizer, channels_last)
        resumed.zero_grad()
        # The same gradient for both, so that the update alone is compared.
        for i, parameter in enumerate(resumed.parameters()):
            generator = torch.Generator().manual_seed(i)
            parameter.grad = torch.empty_like(parameter)
            parameter.grad.copy_(torch.randn(parameter.shape, generator=generator))
        resumed_optimizer.step()
        ends.append([p.detach().clone() for p in resumed.parameters()])
    for fused, plain in zip(*ends):
        torch.testing.assert_close(fused, plain)
