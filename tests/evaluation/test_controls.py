import copy
from types import SimpleNamespace

import pytest
import torch
from mmengine.evaluator import Evaluator

from cmp.evaluation.controls import PropagationValLoop, encode_with_other, predict_with_controls
from cmp.evaluation.metrics import keep_points
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
    found = dict(image=image, flow=flow, valid=valid, guidance=flow * mask, mask=mask, video=list(videos))
    return found | dict(other_image=image.flip(0).flip(3), index=torch.arange(size))


def close(first, second):
    return torch.allclose(first, second, rtol=1e-4, atol=1e-4)


def test_each_control_is_what_the_network_says_of_the_changed_batch(model):
    samples = batch()
    outputs = predict_with_controls(model, samples)
    arguments = (samples["image"], samples["guidance"], samples["mask"])
    with torch.no_grad():
        flow = model(*arguments, mode="predict")
        loss = model(*arguments, samples["flow"], samples["valid"], mode="loss")["loss"]
        unguided = model(arguments[0], arguments[1] * 0, arguments[2] * 0, mode="predict")
        shuffled = model(samples["other_image"], *arguments[1:], mode="predict")
    assert len(outputs) == 3
    for i, output in enumerate(outputs):
        assert close(output["flow"], flow[i]) and output["flow"].shape == (2, HEIGHT, WIDTH)
        assert close(output["flow_no_guidance"], unguided[i]) and close(output["flow_shuffled_image"], shuffled[i])
        torch.testing.assert_close(output["loss"], loss)
        assert not close(output["flow"], output["flow_no_guidance"])
        assert not close(output["flow"], output["flow_shuffled_image"])


def test_without_another_image_there_is_no_wrong_image(model):
    samples = {name: value for name, value in batch().items() if name != "other_image"}
    assert all(output["flow_shuffled_image"] is None for output in predict_with_controls(model, samples))


def test_a_prediction_with_a_wrong_image_is_the_same_in_any_batch(model):
    samples = batch()
    together = predict_with_controls(model, samples)
    for i in range(3):
        one = {name: value[i : i + 1] for name, value in samples.items()}
        assert close(predict_with_controls(model, one)[0]["flow_shuffled_image"], together[i]["flow_shuffled_image"])


def test_features_can_be_given_for_several_sets_of_guidance(model):
    samples = batch()
    features, fewer = encode_with_other(model, samples), keep_points(samples, 1)
    calls = []
    handle = model.image_encoder.register_forward_hook(lambda *_: calls.append(1))
    given = predict_with_controls(model, fewer, features)
    handle.remove()
    assert calls == []
    for one, other in zip(given, predict_with_controls(model, fewer)):
        assert all(close(one[name], other[name]) for name in ("flow", "flow_no_guidance", "flow_shuffled_image"))


def test_each_image_is_encoded_once_and_the_batch_not_written_to(model):
    samples = batch()
    before = {name: value.clone() for name, value in samples.items() if name != "video"}
    calls = []
    handle = model.image_encoder.register_forward_hook(lambda *_: calls.append(1))
    predict_with_controls(model, samples)
    handle.remove()
    assert len(calls) == 2  # the right one and the wrong one
    assert all(torch.equal(value, samples[name]) for name, value in before.items())


def test_a_validation_asks_its_pairs_for_images_of_other_videos():
    class Pairs(torch.utils.data.Dataset):
        metainfo: dict = {}
        asked = 0

        def __len__(self):
            return 5

        def bring_other_images(self):
            self.asked += 1

    runner = SimpleNamespace(visualizer=SimpleNamespace())
    loop = PropagationValLoop(runner, torch.utils.data.DataLoader(Pairs(), batch_size=2), Evaluator([]))
    assert loop.dataloader.dataset.asked == 1


def test_the_control_without_guidance_is_not_corrected_by_guidance(model):
    """A network that obeys its guides would move the control's flow towards them, and the control would say nothing."""
    plain, obedient = model, copy.deepcopy(model)
    obedient.guide_reach_px = 12.0
    samples = batch()
    expected, outputs = (predict_with_controls(network, samples) for network in (plain, obedient))
    at_guides = samples["mask"].expand(-1, 2, -1, -1) > 0
    assert at_guides.any()
    for i, (without, output) in enumerate(zip(expected, outputs)):
        assert torch.equal(output["flow_no_guidance"], without["flow_no_guidance"])
        # the others are corrected: at the guides they are nearly what the guides say
        for name in ("flow", "flow_shuffled_image"):
            error = (output[name] - samples["flow"][i])[at_guides[i]].abs().mean()
            assert error < 0.1 * (without[name] - samples["flow"][i])[at_guides[i]].abs().mean()
