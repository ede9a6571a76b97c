import json

import pytest
import torch

from cmp.checkpoints import read_checkpoint
from cmp.export import export_backbone
from cmp.flow import FlowQuantizer
from cmp.models import CMP, AlexNetFCN, DiscreteLoss, MotionEncoder, PropagationDecoder, PyramidResNet, TimmEncoder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A checkpoint as training writes it, with an unusual mean, and its image encoder."""
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
    found = read_checkpoint(path)
    assert found.kind == ("network" if form == "checkpoint" else "encoder")
    assert (found.encoder_name, found.mean, found.std) == ("resnet18", (1, 2, 3), (4, 5, 6))
    bare = found.encoder()
    assert not bare.training
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(bare(image)[-1], encoder(image).stage4)
    assert found.encoder(8).feature_info.reduction() == [4, 8, 8, 8]


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
            found = read_checkpoint(path)
            assert (found.encoder_name, found.mean, found.std) == (f"timm:{name}", (1, 2, 3), (4, 5, 6))
            bare = found.encoder()
            torch.testing.assert_close(bare(image)[-1], expected)
    assert expected.shape == (1, bare.feature_info.channels()[-1], -(-70 // stride), 96 // stride)
    assert bare.feature_info.reduction()[-1] == stride
    bare.train()(image)[-1].sum().backward()
    assert all(parameter.grad is not None for parameter in bare.parameters())
    with pytest.raises(ValueError, match=f"has stride {stride} and is not dilated: output_stride cannot be 8"):
        read_checkpoint(files[0]).encoder(8)


def test_alexnet_is_taken_without_its_projection(tmp_path):
    encoder = AlexNetFCN().eval()
    torch.save({f"image_encoder.{key}": value for key, value in encoder.state_dict().items()}, tmp_path / "a.pth")
    bare = read_checkpoint(tmp_path / "a.pth").encoder()
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(bare(image)[0], encoder.features(image))


def test_a_file_without_a_mean_states_none_and_a_wrong_one_is_refused(checkpoint, tmp_path):
    path = export_backbone(checkpoint[0], tmp_path / "b.pth", "torchvision").path
    (tmp_path / "b.pth.json").unlink()
    assert read_checkpoint(path).mean is None
    (tmp_path / "b.pth.json").write_text(json.dumps(dict(mean="[1, 2]")))
    with pytest.raises(ValueError, match="b.pth states mean.*expected three numbers"):
        _ = read_checkpoint(path).mean


def test_files_of_no_known_encoder_are_refused_by_name(tmp_path):
    torch.save({"some.weight": torch.zeros(2)}, tmp_path / "x.pth")
    found = read_checkpoint(tmp_path / "x.pth")
    assert found.kind == "other"
    with pytest.raises(ValueError, match="x.pth: these keys are of no known image encoder"):
        found.encoder()


@pytest.mark.parametrize(
    "name", ("local-dir:/tmp/x", "hf-hub:a/b", "vit_huge_patch16_gap_448", "no_such_model", "../x")
)
def test_a_file_names_only_networks_of_timm_that_its_weights_can_fill(tmp_path, name):
    pytest.importorskip("timm")
    torch.save(dict(state_dict={"stem.weight": torch.ones(3)}, meta=dict(encoder=name)), tmp_path / "x.pth")
    with pytest.raises(ValueError, match="x.pth|no model"):
        read_checkpoint(tmp_path / "x.pth").encoder()


@pytest.mark.parametrize("text", ("[" * 10**5, "7", '{"mean": [NaN, 0, 0]}', '{"mean": "' + "[" * 10**5 + '"}', "{"))
def test_a_json_beside_the_weights_of_any_text_is_refused_or_ignored(checkpoint, tmp_path, text):
    out = export_backbone(checkpoint[0], tmp_path / "b.pth", "torchvision").path
    (tmp_path / "b.pth.json").write_text(text)
    if text == "7":
        assert read_checkpoint(out).encoder_name == "resnet18"
        return
    with pytest.raises(ValueError, match="b.pth"):
        _ = read_checkpoint(out).mean
