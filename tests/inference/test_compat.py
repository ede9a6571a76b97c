"""MOFA-Video's and DisPose's calls, replayed: 384 x 384, images in 0..1, masks of two channels, x * 2 - 1 outside."""

import pytest
import torch
import torch.nn.functional as F

import cmp
from cmp.checkpoints import read_checkpoint, write_peer_checkpoint
from cmp.compat import CMP_demo
from cmp.flow import FlowQuantizer
from cmp.inference import MotionPropagator
from cmp.models import (
    CMP,
    AlexNetFCN,
    DiscreteLoss,
    MotionEncoder,
    PropagationDecoder,
    ResNet,
    SkipPropagationDecoder,
)

CONFIG = """
model:
    arch: CMP
    total_iter: 42000
    module:
        arch: CMP
        image_encoder: {encoder}
        sparse_encoder: shallownet8x
        flow_decoder: {decoder}
        skip_layer: True
        decoder_combo: [1,2,4]
        flow_criterion: "DiscreteLoss"
        nbins: {nbins}
        fmax: {fmax}
data:
    data_mean: [123.675, 116.28, 103.53] # RGB
    data_div: [58.395, 57.12, 57.375]
"""


def write_config(folder, encoder="resnet18", decoder="MotionDecoderSkipLayer", nbins=99, fmax=50):
    (folder / "config.yaml").write_text(CONFIG.format(encoder=encoder, decoder=decoder, nbins=nbins, fmax=fmax))
    return folder / "config.yaml"


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    """A folder as the authors lay it out, with a small network."""
    folder = tmp_path_factory.mktemp("resnet18_vip+mpii_liteflow")
    torch.manual_seed(0)
    parts = (dict(type=ResNet, depth=18), dict(type=MotionEncoder), dict(type=SkipPropagationDecoder))
    model = CMP(*parts, dict(type=FlowQuantizer), dict(type=DiscreteLoss), init="default").eval()
    torch.nn.init.normal_(model.decoder.head.weight, std=3.0)
    torch.nn.init.constant_(model.motion_encoder.features[5].weight, 30.0)  # else the image drowns the guidance
    (folder / "checkpoints").mkdir()
    write_peer_checkpoint(folder / "checkpoints" / "ckpt_iter_42000.pth.tar", model.state_dict(), step=42000)
    return folder


def inputs(frames, size=384):
    random = torch.Generator().manual_seed(0)
    image = torch.rand(1, 3, size, size, generator=random)
    mask = (torch.rand(frames, 1, size, size, generator=random) < 1e-3).float().repeat(1, 2, 1, 1)
    return image, mask * (60 * torch.rand(frames, 2, size, size, generator=random) - 30), mask


def test_their_calling_convention_gives_what_predict_dense_gives(experiment):
    image, sparse, mask = inputs(2)
    checkpoint = experiment / "checkpoints" / "ckpt_iter_42000.pth.tar"

    # What their wrapper does, step by step, on the bare network: normalise outside, one frame a call, upsample.
    network = read_checkpoint(checkpoint).network()
    theirs = []
    with torch.no_grad():
        for i in range(2):
            features = network.image_encoder(image * 2 - 1)
            four = torch.cat((sparse[i : i + 1], mask[i : i + 1]), dim=1)  # u, v, mask, mask
            logits = network.decoder(features, network.motion_encoder.features(four))
            x, y = logits.chunk(2, dim=1)
            centers = (torch.arange(99) + 0.5) * 100 / 99 - 50
            flow = torch.stack([(p.softmax(1) * centers.view(1, -1, 1, 1)).sum(1) for p in (x, y)], dim=1)
            theirs.append(F.interpolate(flow, size=(384, 384), mode="bilinear", align_corners=True))
    theirs = torch.cat(theirs)

    demo = CMP_demo(str(write_config(experiment)), 42000, device="cpu")
    ours = cmp.load_propagator(checkpoint, normalize="unit").predict_dense(image, sparse, mask)
    a_call_each = torch.cat([demo.run(image, sparse[i : i + 1], mask[i : i + 1]) for i in range(2)])
    at_once = demo.run(image.repeat(2, 1, 1, 1), sparse, mask)
    assert torch.equal(a_call_each, ours) and torch.equal(at_once, ours)
    assert (ours - theirs).abs().max() < 1e-3 and (ours[0] - ours[1]).abs().max() > 0.1
    assert not torch.allclose(ours, cmp.load_propagator(checkpoint).predict_dense(image, sparse, mask), atol=1e-2)


def test_the_flow_has_the_images_dtype_and_repeated_frames_are_encoded_once(experiment):
    demo = CMP_demo(write_config(experiment), 42000, device="cpu").train()
    image, sparse, mask = inputs(3, size=128)
    calls = []
    demo.propagator.network.image_encoder.register_forward_pre_hook(lambda m, args: calls.append(len(args[0])))
    for dtype in (torch.float64, torch.float16):
        flow = demo.run(image.to(dtype).repeat(3, 1, 1, 1), sparse, mask)
        assert flow.shape == (3, 2, 128, 128) and flow.dtype == dtype
    assert calls == [1, 1]
    assert isinstance(demo, torch.nn.Module) and not any(p.requires_grad for p in demo.parameters())


@pytest.mark.parametrize("name, stride", (("alexnet_fcn_8x", 8), ("alexnet_fcn_32x", 32)))
def test_the_config_tells_what_no_weight_does(tmp_path, name, stride):
    torch.manual_seed(0)
    parts = (dict(type=AlexNetFCN, output_stride=stride), dict(type=MotionEncoder), dict(type=PropagationDecoder))
    model = CMP(*parts, dict(type=FlowQuantizer, max_flow_px=20.0), dict(type=DiscreteLoss), init="default").eval()
    torch.nn.init.normal_(model.decoder.head.weight, std=3.0)
    (tmp_path / "checkpoints").mkdir()
    write_peer_checkpoint(tmp_path / "checkpoints" / "ckpt_iter_7.pth.tar", model.state_dict(), step=7)
    demo = CMP_demo(write_config(tmp_path, name, "MotionDecoderPlain", fmax=20), 7, device="cpu")
    image, sparse, mask = inputs(1, size=128)
    sparse = sparse / 2  # within these bins
    expected = MotionPropagator(model, normalize="unit").predict_dense(image, sparse, mask)
    assert demo.propagator.max_flow_px == pytest.approx(20 * (1 - 1 / 99))
    assert torch.equal(demo.run(image, sparse, mask), expected) and expected.std() > 0


@pytest.mark.parametrize(
    "changes, message",
    (
        (dict(encoder="resnet50"), "states image_encoder resnet50, the weights are of resnet18"),
        (dict(encoder="alexnet_fcn_32x"), "the weights are of resnet18"),
        (dict(decoder="MotionDecoderPlain"), "states flow_decoder MotionDecoderPlain, the weights are of one with"),
        (dict(nbins=19), "states nbins 19, the weights have 99"),
    ),
)
def test_a_config_that_does_not_fit_the_weights_is_refused(experiment, changes, message):
    with pytest.raises(ValueError, match=f"config.yaml {message}|config.yaml.*{message}"):
        CMP_demo(write_config(experiment, **changes), 42000, device="cpu")


def test_broken_or_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="config.yaml"):
        CMP_demo(tmp_path / "config.yaml", 1)
    with pytest.raises(FileNotFoundError, match="ckpt_iter_7.pth.tar"):
        CMP_demo(write_config(tmp_path), 7)
    for text, message in (
        ("model: [", "cannot be read as YAML"),
        ("3", "no model.module"),
        ("model: {}", "no model.module"),
        ("model: {module: {nbins: 99}}", "lacks .'image_encoder', 'flow_decoder', 'fmax'"),
        ("!!python/object/apply:os.system ['true']", "cannot be read as YAML"),
    ):
        (tmp_path / "config.yaml").write_text(text)
        with pytest.raises(ValueError, match=message):
            CMP_demo(tmp_path / "config.yaml", 1)
