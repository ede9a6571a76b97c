import pytest
import torch
import torchvision
from torch import nn

from cmp.models import ResNet
from cmp.models.backbones import recognize_encoder

DEPTHS = (18, 34, 50, 101, 152)


def image(height=64, width=96):
    return torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("depth", DEPTHS)
def test_keys_and_shapes_are_torchvisions_with_conv5_in_place_of_fc(depth):
    with torch.device("meta"):
        ours = {k: v.shape for k, v in ResNet(depth).state_dict().items()}
        theirs = torchvision.models.get_model(f"resnet{depth}", weights=None).state_dict()
    theirs = {k: v.shape for k, v in theirs.items() if not k.startswith("fc.")}
    assert {k for k in ours if k not in theirs} == {"conv5.weight", "conv5.bias"}
    assert theirs == {k: v for k, v in ours.items() if k in theirs}


@pytest.mark.parametrize("depth", DEPTHS)
def test_every_3x3_of_stage_3_is_dilated_by_2_and_of_stage_4_by_4_the_first_block_too(depth):
    with torch.device("meta"):
        net = ResNet(depth, output_stride=8)
    for stage, dilation in ((net.layer1, 1), (net.layer2, 1), (net.layer3, 2), (net.layer4, 4)):
        convs = [m for m in stage.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
        assert {(m.dilation, m.padding) for m in convs} == {((dilation, dilation), (dilation, dilation))}
    convs = [m for stage in (net.layer3, net.layer4) for m in stage.modules() if isinstance(m, nn.Conv2d)]
    assert {m.stride for m in convs} == {(1, 1)}


def test_at_stride_8_features_are_torchvisions_dilated_network_with_its_first_blocks_dilated_too():
    torch.manual_seed(0)
    ours = ResNet(50, output_stride=8).eval()
    theirs = torchvision.models.resnet50(replace_stride_with_dilation=[False, True, True])
    theirs.load_state_dict(ours.state_dict(), strict=False)
    theirs = nn.Sequential(*list(theirs.children())[:-2]).eval()
    with torch.no_grad():
        features = ours(image()).stage4
        # Its own rule leaves each first block one dilation behind, and computes something else.
        assert (theirs(image()) - features).abs().max() > 1e-2 * features.abs().max()
        for stage, dilation in ((theirs[6], 2), (theirs[7], 4)):
            stage[0].conv2.dilation = stage[0].conv2.padding = (dilation, dilation)
        torch.testing.assert_close(theirs(image()), features)


@pytest.mark.parametrize("depth", (18, 50))
def test_at_stride_32_features_are_the_ordinary_torchvision_networks(depth):
    torch.manual_seed(0)
    ours = ResNet(depth, output_stride=32).eval()
    theirs = torchvision.models.get_model(f"resnet{depth}", weights=None)
    theirs.load_state_dict(ours.state_dict(), strict=False)
    with torch.no_grad():
        torch.testing.assert_close(
            nn.Sequential(*list(theirs.children())[:-2]).eval()(image()), ours(image()).stage4, rtol=0, atol=0
        )


@pytest.mark.parametrize("depth", (18, 34))
def test_a_basic_block_of_stage_4_spreads_a_change_in_two_steps_of_4_cells(depth):
    torch.manual_seed(0)
    block = ResNet(depth, output_stride=8).layer4[1].eval()
    x = torch.randn(1, 512, 23, 27, generator=torch.Generator().manual_seed(1))
    changed = x.clone()
    changed[:, :, 11, 13] += 100
    with torch.no_grad():
        y, x = (block(changed) - block(x)).abs().sum(dim=(0, 1)).nonzero(as_tuple=True)
    assert set((y - 11).tolist()) == set((x - 13).tolist()) == {-8, -4, 0, 4, 8}


@pytest.mark.parametrize("depth", DEPTHS[:3])
@pytest.mark.parametrize("output_stride", (8, 16, 32))
def test_maps_have_the_channels_and_strides_that_the_encoder_states(depth, output_stride):
    net = ResNet(depth, output_stride, out_channels=24).eval()
    with torch.no_grad():
        features = net(image())
    assert net.strides["top"] == output_stride and net.channels["top"] == 24
    assert features.nets is None
    for name, feature in zip(features._fields[:-1], features):
        assert feature.shape == (1, net.channels[name], 64 // net.strides[name], 96 // net.strides[name]), name


def test_a_torchvision_file_is_loaded_with_or_without_its_classifier(tmp_path):
    weights = torchvision.models.resnet18(weights=None).state_dict()
    torch.save(weights, tmp_path / "a.pth")
    net = ResNet(18, pretrained=tmp_path / "a.pth")
    assert all(torch.equal(net.state_dict()[k], v) for k, v in weights.items() if not k.startswith("fc."))
    torch.save({k: v for k, v in weights.items() if not k.startswith("fc.")}, tmp_path / "b.pth")
    ResNet(18, pretrained=tmp_path / "b.pth")


def test_a_file_of_another_network_is_refused_and_a_missing_one_named(tmp_path):
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), tmp_path / "a.pth")
    with pytest.raises(ValueError, match="a.pth is not a resnet34"):
        ResNet(34, pretrained=tmp_path / "a.pth")
    with pytest.raises(FileNotFoundError, match="b.pth"):
        ResNet(18, pretrained=tmp_path / "b.pth")


@pytest.mark.parametrize("arguments", (dict(depth=20), dict(output_stride=4), dict(out_channels=0)))
def test_what_is_not_offered_is_refused(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        ResNet(**arguments)


@pytest.mark.parametrize("depth", DEPTHS)
def test_an_encoder_is_recognized_by_its_keys(depth):
    with torch.device("meta"):
        assert recognize_encoder(ResNet(depth).state_dict()) == f"resnet{depth}"


def test_keys_of_no_encoder_are_not_recognized():
    with pytest.raises(ValueError, match="no known image encoder"):
        recognize_encoder(["layer1.0.conv1.weight", "head.weight"])
