import sys

import pytest
import torch
import torch.nn.functional as F

timm = pytest.importorskip("timm", reason="no timm: pip install '.[timm]'")

from cmp.flow import FlowQuantizer  # noqa: E402
from cmp.models import CMP, DiscreteLoss, MotionEncoder, PropagationDecoder, TimmEncoder  # noqa: E402

SMALL = ("resnet18", "convnext_atto", "vit_tiny_patch16_224")


def build(name, **arguments):
    torch.manual_seed(0)
    return TimmEncoder(name, **{"out_channels": 12} | arguments).eval()


def image(height=64, width=96):
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("top_stride", (4, 8, 16))
def test_top_has_the_stride_and_channels_asked_for_at_any_size(name, top_stride):
    net = build(name, top_stride=top_stride)
    assert (net.strides["top"], net.channels["top"]) == (top_stride, 12)
    for height, width in ((48, 80), (64, 96)):  # 48 and 80 are no multiples of 32
        with torch.no_grad():
            features = net(image(height, width))
        assert features.top.shape == (2, 12, height // top_stride, width // top_stride)
        stride = net.strides["stage4"]
        assert features.stage4.shape == (2, net.channels["stage4"], -(-height // stride), -(-width // stride))


def test_top_of_stages_is_the_written_out_pyramid_over_timms_own_features():
    net = build("convnext_atto")
    weights, _ = net.timm_state_dict()
    theirs = timm.create_model("convnext_atto", num_classes=0).eval()
    theirs.load_state_dict(weights, strict=True)
    with torch.no_grad():
        maps = theirs.forward_intermediates(image(), intermediates_only=True)[1:]  # strides 8, 16, 32
        assert [m.shape[2] for m in maps] == [8, 4, 2]
        convs = [F.conv2d(m, c.weight, c.bias) for m, c in zip(maps, net.laterals, strict=True)]
        top = F.interpolate(convs[2], size=(4, 6), mode="bilinear", align_corners=False) + convs[1]
        top = F.interpolate(top, size=(8, 12), mode="bilinear", align_corners=False) + convs[0]
        features = net(image())
    torch.testing.assert_close(features.top, top.clamp(min=0))
    torch.testing.assert_close(features.stage4, maps[-1])


def test_top_of_a_transformer_is_four_depths_summed_and_brought_to_the_stride():
    net = build("vit_tiny_patch16_224")
    assert net.taps == (2, 5, 8, 11) and net.strides["stage4"] == 16
    theirs = timm.create_model("vit_tiny_patch16_224", num_classes=0, dynamic_img_size=True).eval()
    theirs.load_state_dict(net.timm_state_dict()[0], strict=True)
    with torch.no_grad():
        maps = theirs.forward_intermediates(image(), indices=[2, 5, 8, 11], intermediates_only=True)
        total = sum(F.conv2d(m, c.weight, c.bias) for m, c in zip(maps, net.laterals, strict=True))
        top = F.conv_transpose2d(total, net.rise[0].weight, net.rise[0].bias, stride=2)
        torch.testing.assert_close(net(image()).top, top.clamp(min=0))


def test_what_does_not_fill_a_patch_is_padded_by_the_last_pixels():
    net = build("vit_tiny_patch16_224")
    small = image(40, 72)
    with torch.no_grad():
        whole = net(F.pad(small, (0, 8, 0, 8), mode="replicate")).top
        assert torch.equal(net(small).top, whole[:, :, :5, :9])


def network(name, **arguments):
    torch.manual_seed(0)
    parts = dict(type=MotionEncoder), dict(type=PropagationDecoder, strides=(1, 2)), dict(type=FlowQuantizer)
    encoder = dict(type=TimmEncoder, name=name, out_channels=12, **arguments)
    return CMP(encoder, *parts, dict(type=DiscreteLoss), init="default")


@pytest.mark.parametrize("name", SMALL)
def test_every_parameter_gets_a_gradient_in_the_same_decoder(name):
    model = network(name).train()
    for module in model.modules():  # timm's ResNets begin with residual branches multiplied by zero: a step ends that
        if isinstance(module, torch.nn.BatchNorm2d) and not module.weight.any():
            torch.nn.init.ones_(module.weight)
    flow = 9 * torch.randn(2, 2, 64, 96, generator=torch.Generator().manual_seed(1))
    mask = torch.zeros(2, 1, 64, 96)
    mask[..., ::9, ::7] = 1
    model(image(), flow * mask, mask, flow, mode="loss")["loss"].backward()
    assert [key for key, p in model.named_parameters() if p.grad is None] == []
    assert [key for key, p in model.named_parameters() if not key.endswith("bias") and not p.grad.any()] == []


@pytest.mark.parametrize("name", ("convnext_atto", "vit_tiny_patch16_224"))
def test_a_description_rebuilds_the_network(name):
    model = network(name).eval()
    again = CMP.from_description(model.describe()).eval()
    again.load_state_dict(model.state_dict(), strict=True)
    mask = torch.zeros(2, 1, 64, 96)
    with torch.no_grad():
        assert torch.equal(
            again(image(), mask.expand(-1, 2, -1, -1), mask), model(image(), mask.repeat(1, 2, 1, 1), mask)
        )


def test_a_file_of_timms_weights_is_loaded_also_under_an_initialisation_that_redraws(tmp_path):
    weights = timm.create_model("convnext_atto").state_dict()  # with a classifier
    torch.save(weights, tmp_path / "a.pth")
    torch.manual_seed(1)
    for net in (build("convnext_atto", pretrained=tmp_path / "a.pth"), _redrawn(tmp_path / "a.pth")):
        back, untouched = net.timm_state_dict()
        assert set(untouched) == {"head.norm.weight", "head.norm.bias"}
        assert all(torch.equal(value, weights[key]) for key, value in back.items() if key not in untouched)
    with pytest.raises(ValueError, match="a.pth is not a resnet18 in timm's layout"):
        build("resnet18", pretrained=tmp_path / "a.pth")
    del weights["stages.0.blocks.0.conv_dw.weight"]
    torch.save(weights | {"more": torch.zeros(1)}, tmp_path / "b.pth")
    with pytest.raises(ValueError, match=r"2 keys are missing, extra or misshapen.*conv_dw.weight', 'more'"):
        build("convnext_atto", pretrained=tmp_path / "b.pth")


def _redrawn(path):
    parts = dict(type=MotionEncoder), dict(type=PropagationDecoder), dict(type=FlowQuantizer), dict(type=DiscreteLoss)
    return CMP(dict(type=TimmEncoder, name="convnext_atto", pretrained=path), *parts, init="published").image_encoder


def test_building_draws_from_the_given_seed_and_what_is_exported_is_the_same_every_time():
    nets = [build("efficientnet_b0") for _ in range(2)]
    first, second = (net.timm_state_dict() for net in nets)
    assert first[1] == second[1] and "conv_head.weight" in first[1]
    torch.rand(5)
    third = nets[0].timm_state_dict()
    assert all(torch.equal(first[0][k], second[0][k]) and torch.equal(first[0][k], third[0][k]) for k in first[0])
    torch.manual_seed(1)
    other = TimmEncoder("efficientnet_b0").timm_state_dict()[0]
    next_one = TimmEncoder("efficientnet_b0").timm_state_dict()[0]
    for weights in (other, next_one):
        assert not torch.equal(weights["conv_stem.weight"], first[0]["conv_stem.weight"])
    assert not torch.equal(other["conv_stem.weight"], next_one["conv_stem.weight"])


@pytest.mark.parametrize(
    "arguments, message",
    (
        (dict(name="convnext_ato"), "has no model 'convnext_ato'; near it: convnext_atto"),
        (dict(name="vit_tiny"), "has no model 'vit_tiny'; near it: .*vit_tiny_patch16_224"),
        (dict(name="hf-hub:timm/resnet18.a1_in1k"), "has no model 'hf-hub:"),
        (dict(name="local-dir:somewhere"), "has no model 'local-dir:"),
        (dict(name=None), "has no model None"),
        (dict(name="mixer_s32_224"), "mixer_s32_224 does not take images of any size"),
        (dict(name="vit_tiny_r_s16_p8_224", top_stride=2), "top_stride must be 4, 8 or 16, got 2"),
        (dict(name="eva02_tiny_patch14_224"), r"strides \[14, 14, 14, 14\]: no powers of two times 8"),
        (dict(name="resnet18", out_channels=0), "out_channels must be at least 1"),
    ),
)
def test_what_cannot_be_built_is_refused_by_name(arguments, message):
    with pytest.raises(ValueError, match=message):
        TimmEncoder(**arguments)


def test_without_timm_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(
        ModuleNotFoundError, match=r"'resnet18' comes from the package timm.*pip install \"\.\[timm\]\""
    ):
        TimmEncoder("resnet18")
