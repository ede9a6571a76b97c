import json

import pytest
import torch

from cmp.downstream.backbone import BareEncoder, read_backbone_weights
from cmp.export import export_backbone
from cmp.models import CMP, AlexNetFCN, MotionEncoder, PropagationDecoder, PyramidResNet, TimmEncoder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A checkpoint as training writes it, with a mean of its own, and its image encoder."""
    from cmp.flow import FlowQuantizer
    from cmp.models import DiscreteLoss

    torch.manual_seed(0)
    model = CMP(
        image_encoder=dict(type=PyramidResNet, depth=18, top_stride=4, out_channels=8),
        motion_encoder=dict(type=MotionEncoder),
        decoder=dict(type=PropagationDecoder, width=8),
        quantizer=dict(type=FlowQuantizer, num_bins=5),
        loss=dict(type=DiscreteLoss),
        mean=(1, 2, 3),
        std=(4, 5, 6),
        init="default",
    )
    path = tmp_path_factory.mktemp("run") / "iter_1.pth"
    torch.save(dict(state_dict=model.state_dict(), meta=dict(cmp=model.describe())), path)
    return path, model.image_encoder.eval()


@pytest.mark.parametrize("form", ("checkpoint", "torchvision", "mmlab", "safetensors"))
def test_every_file_of_ours_gives_the_features_that_were_pretrained(checkpoint, form, tmp_path):
    path, encoder = checkpoint
    if form != "checkpoint":
        out = tmp_path / f"b.{'safetensors' if form == 'safetensors' else 'pth'}"
        path = export_backbone(path, out, form).path
    bare = BareEncoder("resnet18", 32)
    mean, std = bare.load(path)
    assert (mean, std) == ((1, 2, 3), (4, 5, 6))
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(bare.eval()(image), encoder(image).stage4)


@pytest.mark.parametrize("name, stride", (("convnext_atto", 32), ("vit_tiny_patch16_224", 16)))
def test_networks_of_timm_come_from_checkpoints_and_exports_at_their_own_stride(name, stride, tmp_path):
    pytest.importorskip("timm")
    torch.manual_seed(0)
    encoder = TimmEncoder(name, top_stride=8, out_channels=6).eval()
    state_dict = {f"image_encoder.{key}": value for key, value in encoder.state_dict().items()}
    described = dict(type="TimmEncoder", name=name, top_stride=8, out_channels=6)
    about = dict(image_encoder=described, encoder=name, mean=[1, 2, 3], std=[4, 5, 6])
    torch.save(dict(state_dict=state_dict, meta=dict(cmp=about)), tmp_path / "iter_1.pth")
    files = [
        export_backbone(tmp_path / "iter_1.pth", tmp_path / out, "timm").path for out in ("b.pth", "b.safetensors")
    ]
    image = torch.randn(1, 3, 70, 96)
    with torch.no_grad():
        expected = encoder(image).stage4
        for path in (tmp_path / "iter_1.pth", *files):
            bare = BareEncoder(f"timm:{name}")
            assert bare.load(path) == ((1, 2, 3), (4, 5, 6))
            torch.testing.assert_close(bare.eval()(image), expected)
    assert expected.shape == (1, bare.channels, -(-70 // stride), 96 // stride)
    bare.train()(image).sum().backward()
    assert all(parameter.grad is not None for parameter in bare.parameters())
    with pytest.raises(ValueError, match=f"has stride {stride} and is not dilated: output_stride cannot be 8"):
        BareEncoder(f"timm:{name}", 8)
    with pytest.raises(ValueError, match=f"holds a timm:{name}, but the encoder asked for is a resnet18"):
        BareEncoder("resnet18", 32).load(files[0])


def test_strides_and_widths_are_as_asked_for():
    image = torch.zeros(1, 3, 64, 96)
    for name, stride, channels in (("resnet18", 8, 512), ("resnet50", 16, 2048), ("alexnet_fcn", 32, 4096)):
        bare = BareEncoder(name, stride)
        assert bare(image).shape == (1, channels, 64 // stride, 96 // stride) and bare.channels == channels


def test_alexnet_is_taken_without_its_projection(tmp_path):
    encoder = AlexNetFCN().eval()
    torch.save({f"image_encoder.{key}": value for key, value in encoder.state_dict().items()}, tmp_path / "a.pth")
    bare = BareEncoder("alexnet_fcn", 32)
    bare.load(tmp_path / "a.pth")
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(bare.eval()(image), encoder.features(image))


def test_a_file_without_a_mean_is_taken_for_the_published_one(checkpoint, tmp_path):
    path = export_backbone(checkpoint[0], tmp_path / "b.pth", "torchvision").path
    (tmp_path / "b.pth.json").unlink()
    assert read_backbone_weights(path).mean == (123.675, 116.28, 103.53)
    (tmp_path / "b.pth.json").write_text(json.dumps(dict(mean="[1, 2]")))
    with pytest.raises(ValueError, match="states mean.*expected three numbers"):
        read_backbone_weights(path)


def test_other_encoders_and_unfit_files_are_refused(checkpoint, tmp_path):
    with pytest.raises(ValueError, match="holds a resnet18, but the encoder asked for is a resnet50"):
        BareEncoder("resnet50", 32).load(checkpoint[0])
    torch.save({"some.weight": torch.zeros(2)}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match="x.pth: these keys are of no known image encoder"):
        BareEncoder("resnet18", 32).load(tmp_path / "x.pth")
    with pytest.raises(FileNotFoundError):
        BareEncoder("resnet18", 32).load(tmp_path / "nothing.pth")
    with pytest.raises(ValueError, match="output_stride"):
        BareEncoder("resnet18", 0)
    with pytest.raises(ValueError, match="got 'vgg'"):
        BareEncoder("vgg", 32)
