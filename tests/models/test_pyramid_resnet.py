import pytest
import torch
import torch.nn.functional as F
import torchvision

from cmp.models import PyramidResNet, ResNet
from cmp.models.backbones import recognize_encoder

LATERALS = {4: ("stage3", "stage2", "stage1"), 8: ("stage3", "stage2"), 16: ("stage3",)}


def image(height=64, width=96):
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))


def build(**arguments):
    torch.manual_seed(0)
    return PyramidResNet(**arguments).eval()


@pytest.mark.parametrize("top_stride", LATERALS)
def test_top_is_the_written_out_pyramid_over_an_ordinary_resnet(top_stride):
    net = build(depth=18, top_stride=top_stride, out_channels=12)
    plain = ResNet(18, output_stride=32, out_channels=12).eval()
    plain.load_state_dict({k: v for k, v in net.state_dict().items() if not k.startswith("laterals.")})
    with torch.no_grad():
        features, below = net(image()), plain(image())
        expected = below.top
        for name in LATERALS[top_stride]:
            finer = getattr(below, name)
            lateral = net.laterals[name]
            expected = F.interpolate(expected, size=finer.shape[2:], mode="bilinear", align_corners=False)
            expected = expected + F.conv2d(finer, lateral.weight, lateral.bias)
        torch.testing.assert_close(features.top, expected.clamp(min=0))
        for name in ("stem", "stage1", "stage2", "stage3", "stage4"):
            torch.testing.assert_close(getattr(features, name), getattr(below, name), rtol=0, atol=0)
    assert tuple(net.laterals) == LATERALS[top_stride]


@pytest.mark.parametrize("depth, top_stride", ((18, 4), (34, 16), (50, 8)))
def test_maps_have_the_channels_and_strides_that_the_encoder_states(depth, top_stride):
    net = build(depth=depth, top_stride=top_stride, out_channels=24)
    assert net.strides["top"] == top_stride and net.channels["top"] == 24
    with torch.no_grad():
        features = net(image())
    assert features.nets is None
    for name, feature in zip(features._fields[:-1], features):
        assert feature.shape == (2, net.channels[name], 64 // net.strides[name], 96 // net.strides[name]), name


def test_every_parameter_gets_a_gradient_through_the_top():
    net = build(depth=18).train()
    net(image()).top.square().sum().backward()
    assert [key for key, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_below_its_pyramid_the_keys_are_torchvisions():
    ours = build(depth=18).state_dict()
    theirs = torchvision.models.resnet18(weights=None).state_dict()
    below = {k: v.shape for k, v in ours.items() if not k.startswith(PyramidResNet.ABOVE)}
    assert below == {k: v.shape for k, v in theirs.items() if not k.startswith("fc.")}
    assert recognize_encoder(ours) == "resnet18"


def test_a_torchvision_file_is_loaded_under_the_pyramid(tmp_path):
    weights = torchvision.models.resnet18(weights=None).state_dict()
    torch.save(weights, tmp_path / "a.pth")
    net = build(depth=18, pretrained=tmp_path / "a.pth")
    assert all(torch.equal(net.state_dict()[k], v) for k, v in weights.items() if not k.startswith("fc."))
    with pytest.raises(ValueError, match="a.pth is not a resnet34"):
        build(depth=34, pretrained=tmp_path / "a.pth")


def test_sizes_that_leave_odd_cells_keep_the_stride():
    with torch.no_grad():
        assert build(depth=18, top_stride=4, out_channels=8)(image(68, 100)).top.shape == (2, 8, 17, 25)


@pytest.mark.parametrize("top_stride", (2, 32))
def test_strides_that_are_not_offered_are_refused(top_stride):
    with pytest.raises(ValueError, match=f"top_stride must be 4, 8 or 16, got {top_stride}"):
        PyramidResNet(top_stride=top_stride)
