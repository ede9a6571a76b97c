import pytest
import torch
from mmengine.optim import OptimWrapper

from cmp.datasets import PairSampler
from cmp.engine import loops
from cmp.engine.loops import PairTrainLoop, PropagationValLoop, predict_with_controls
from cmp.flow import FlowQuantizer
from cmp.models import CMP, DiscreteLoss, MotionEncoder, PropagationDecoder, PyramidResNet

HEIGHT, WIDTH = 32, 64


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = CMP(
        image_encoder=dict(type=PyramidResNet, depth=18, top_stride=8, out_channels=16),
        motion_encoder=dict(type=MotionEncoder, fill="nearest"),
        decoder=dict(type=PropagationDecoder, strides=(1, 2), width=16, shortcut=True),
        quantizer=dict(type=FlowQuantizer, num_bins=11),
        loss=dict(type=DiscreteLoss),
        init="default",
    )
    return model.eval()


def batch(videos=("a", "b", "a")):
    generator = torch.Generator().manual_seed(0)
    size = len(videos)
    flow = torch.randn(size, 2, HEIGHT, WIDTH, generator=generator) * 10
    mask = (torch.rand(size, 1, HEIGHT, WIDTH, generator=generator) < 0.01).float()
    image = torch.randint(0, 256, (size, 3, HEIGHT, WIDTH), generator=generator, dtype=torch.uint8)
    valid = torch.ones(size, 1, HEIGHT, WIDTH, dtype=torch.bool)
    return dict(image=image, flow=flow, valid=valid, guidance=flow * mask, mask=mask, video=list(videos))


def close(first, second):
    return torch.allclose(first, second, rtol=1e-4, atol=1e-4)


def test_each_control_is_what_the_network_says_of_the_changed_batch(model):
    samples = batch()
    outputs = predict_with_controls(model, samples)
    arguments = (samples["image"], samples["guidance"], samples["mask"])
    others = [1, 2, 1]
    with torch.no_grad():
        flow = model(*arguments, mode="predict")
        loss = model(*arguments, samples["flow"], samples["valid"], mode="loss")["loss"]
        unguided = model(arguments[0], arguments[1] * 0, arguments[2] * 0, mode="predict")
        shuffled = model(arguments[0][others], *arguments[1:], mode="predict")
    assert len(outputs) == 3
    for i, output in enumerate(outputs):
        assert close(output["flow"], flow[i]) and output["flow"].shape == (2, HEIGHT, WIDTH)
        assert close(output["flow_no_guidance"], unguided[i]) and close(output["flow_shuffled_image"], shuffled[i])
        torch.testing.assert_close(output["loss"], loss)
        assert not close(output["flow"], output["flow_no_guidance"])
        assert not close(output["flow"], output["flow_shuffled_image"])


def test_where_a_batch_holds_one_video_there_is_no_wrong_image(model):
    assert all(output["flow_shuffled_image"] is None for output in predict_with_controls(model, batch("aa")))


def test_the_image_is_encoded_once_and_the_batch_not_written_to(model):
    samples = batch()
    before = {name: value.clone() for name, value in samples.items() if name != "video"}
    calls = []
    handle = model.image_encoder.register_forward_hook(lambda *_: calls.append(1))
    predict_with_controls(model, samples)
    handle.remove()
    assert len(calls) == 1
    assert all(torch.equal(value, samples[name]) for name, value in before.items())


class Runner(torch.nn.Module):
    """As much of a runner as the loops ask for; as its own model it notes what it is given and what torch draws."""

    seed, val_loop = 3, None

    def __init__(self, model=None):
        super().__init__()
        weight = torch.nn.Parameter(torch.zeros(2, 3, 1, 2))
        self.optim_wrapper = OptimWrapper(torch.optim.SGD([weight], lr=1))
        self.__dict__.update(model=model or self, visualizer=self, seen=[])

    def call_hook(self, name, **_):
        pass

    def train(self):
        pass

    def train_step(self, data_batch, optim_wrapper):
        self.seen.append((data_batch, torch.rand(()).item()))


class Numbers(torch.utils.data.Dataset):
    metainfo = None

    def __len__(self):
        return 5

    def __getitem__(self, index):
        return index


def run(steps, *, resumed_at=0, num_workers=0):
    """What each step of a run sees and draws."""
    loader = torch.utils.data.DataLoader(
        Numbers(),
        batch_size=2,
        sampler=PairSampler(Numbers(), seed=1),
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        collate_fn=tuple,
    )
    runner = Runner()
    loop = PairTrainLoop(runner, loader, max_iters=steps)
    loop._iter = resumed_at
    loop.run()
    return runner.seen


@pytest.mark.parametrize("num_workers", (0, 1))
def test_a_resumed_run_sees_the_pairs_and_draws_the_numbers_it_would_have(num_workers):
    whole = run(7, num_workers=num_workers)
    assert [len(pairs) for pairs, _ in whole] == [2] * 7
    torch.rand(17)
    assert run(7, resumed_at=4, num_workers=num_workers) == whole[4:]
    assert len({drawn for _, drawn in whole}) == 7


@pytest.mark.parametrize("channels_last", (False, True))
def test_weights_and_state_are_laid_out_before_the_first_step(channels_last):
    runner = Runner()
    runner.convolution = torch.nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    weight = runner.convolution.weight
    runner.optim_wrapper = OptimWrapper(torch.optim.SGD([weight], lr=1, momentum=0.9))
    momentum = torch.randn_like(weight)
    runner.optim_wrapper.optimizer.state[weight]["momentum_buffer"] = momentum
    loader = torch.utils.data.DataLoader(Numbers(), batch_size=2, sampler=PairSampler(Numbers()), collate_fn=tuple)
    PairTrainLoop(runner, loader, max_iters=1, channels_last=channels_last).run()
    laid_out = runner.optim_wrapper.optimizer.state[weight]["momentum_buffer"]
    assert weight.is_contiguous() != channels_last and laid_out.stride() == weight.stride()
    assert torch.equal(laid_out, momentum)


def test_processes_draw_different_numbers(monkeypatch):
    first = run(2)
    monkeypatch.setattr(loops, "get_rank", lambda: 1)
    assert not {drawn for _, drawn in first} & {drawn for _, drawn in run(2)}


def test_all_processes_judge_the_first_ones_network(monkeypatch, model):
    given = []
    monkeypatch.setattr(loops, "broadcast", lambda buffer: given.append(buffer))
    monkeypatch.setattr(loops.ValLoop, "run", lambda self: "metrics")
    loop = PropagationValLoop.__new__(PropagationValLoop)
    loop._runner = Runner(model)
    assert loop.run() == "metrics"
    assert {id(buffer) for buffer in given} == {id(buffer) for buffer in model.buffers()}
    assert any(name.endswith("running_mean") for name, _ in model.named_buffers())
