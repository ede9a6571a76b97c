"""Backbones that come from timm go back to timm."""

import json

import pytest
import torch

timm = pytest.importorskip("timm", reason="no timm: pip install '.[timm]'")

from cmp.export import export_backbone, read_backbone  # noqa: E402
from cmp.export.load_back import load_back  # noqa: E402
from cmp.flow import FlowQuantizer  # noqa: E402
from cmp.inference import load_propagator  # noqa: E402
from cmp.models import CMP, DiscreteLoss, MotionEncoder, PropagationDecoder, TimmEncoder  # noqa: E402

# What comes after the last feature map, which training does not touch.
UNTOUCHED = {
    "resnet18": [],
    "convnext_atto": ["head.norm.weight", "head.norm.bias"],
    "vit_tiny_patch16_224": ["norm.weight", "norm.bias"],
}


def save(path, name):
    torch.manual_seed(0)
    parts = dict(type=MotionEncoder), dict(type=PropagationDecoder, width=8), dict(type=FlowQuantizer)
    model = CMP(dict(type=TimmEncoder, name=name, out_channels=12), *parts, dict(type=DiscreteLoss), init="default")
    with torch.no_grad():
        for parameter in model.image_encoder.parameters():
            parameter += 0.02 * torch.randn(parameter.shape)
    torch.save({"meta": {"cmp": model.describe(), "iter": 600}, "state_dict": model.state_dict()}, path)
    return model.eval()


@pytest.mark.parametrize(
    "name, suffix", (("resnet18", "pth"), ("convnext_atto", "safetensors"), ("vit_tiny_patch16_224", "pth"))
)
def test_an_export_fits_timms_model_strictly_and_gives_its_features(tmp_path, name, suffix):
    model, out = save(tmp_path / "iter_600.pth", name), tmp_path / f"backbone.{suffix}"
    report = export_backbone(tmp_path / "iter_600.pth", out, "timm")
    assert report.written and report.load_back.missing == () and report.load_back.largest_difference < 1e-4
    metadata = report.backbone.metadata
    assert (metadata["encoder"], metadata["steps"]) == (name, "600")
    assert json.loads(metadata["not_pretrained"]) == UNTOUCHED[name]
    assert metadata["pretraining_stride"] == ("16" if "vit" in name else "32")

    theirs = timm.create_model(name, num_classes=0)
    weights = timm.models.load_state_dict(str(out))
    theirs.load_state_dict(weights, strict=True)
    ours = {key.removeprefix("net.model."): value for key, value in model.image_encoder.state_dict().items()}
    assert set(weights) - set(ours) == set(UNTOUCHED[name])
    assert all(torch.equal(value, ours[key]) for key, value in weights.items() if key in ours)

    by_route = timm.create_model(
        name, pretrained=True, pretrained_cfg_overlay=dict(file=str(out)), features_only=True, out_indices=[-1]
    ).eval()
    image = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model.image_encoder(image).stage4
        assert (by_route(image)[-1] - expected).abs().max() < 1e-4 * expected.abs().max()
    assert not export_backbone(tmp_path / "iter_600.pth", out, "timm").written  # the same file, bit by bit


def test_other_formats_are_written_or_refused_by_name(tmp_path):
    save(tmp_path / "iter_600.pth", "convnext_atto")
    report = export_backbone(tmp_path / "iter_600.pth", tmp_path / "a.safetensors", "safetensors")
    assert report.written and report.load_back.largest_difference == 0
    with pytest.raises(ValueError, match="convnext_atto is timm's: export it as one of .*timm.*safetensors"):
        export_backbone(tmp_path / "iter_600.pth", tmp_path / "b.pth", "torchvision")
    assert not (tmp_path / "b.pth").exists()


def test_a_file_that_is_not_what_was_meant_is_found_out(tmp_path):
    save(tmp_path / "iter_600.pth", "convnext_atto")
    backbone = read_backbone(tmp_path / "iter_600.pth")
    changed = dict(backbone.weights)
    changed["stages.3.blocks.0.mlp.fc1.weight"] = 2 * changed["stages.3.blocks.0.mlp.fc1.weight"]
    torch.save(changed, tmp_path / "changed.pth")
    with pytest.raises(ValueError, match="computes other features"):
        load_back(tmp_path / "changed.pth", "timm", backbone)
    del changed["stem.0.bias"]
    torch.save(changed, tmp_path / "short.pth")
    with pytest.raises(ValueError, match="(?s)does not take short.pth.*stem.0.bias"):
        load_back(tmp_path / "short.pth", "timm", backbone)


def test_a_checkpoint_that_names_another_model_than_it_holds_is_refused(tmp_path):
    save(tmp_path / "iter_600.pth", "convnext_atto")
    content = torch.load(tmp_path / "iter_600.pth", weights_only=True)
    for change, message in (({"name": "resnet18"}, "resnet18"), ({"name": "none"}, "no model 'none'"), ({"x": 1}, "x")):
        description = content["meta"]["cmp"] | {"image_encoder": content["meta"]["cmp"]["image_encoder"] | change}
        torch.save(content | {"meta": {"cmp": description}}, tmp_path / "lies.pth")
        with pytest.raises(ValueError, match=message):
            read_backbone(tmp_path / "lies.pth")


def test_a_propagator_is_loaded_from_such_a_checkpoint(tmp_path):
    model = save(tmp_path / "iter_600.pth", "vit_tiny_patch16_224")
    propagator = load_propagator(tmp_path / "iter_600.pth")
    image = torch.randint(0, 256, (3, 40, 72), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    flow = propagator.predict(image, [[5, 9]], [[3, 4]])
    mask = torch.zeros(1, 1, 40, 72)
    mask[..., 9, 5] = 1
    with torch.no_grad():
        expected = model(image[None], mask * torch.tensor([3.0, 4.0]).view(1, 2, 1, 1), mask, mode="predict")
    torch.testing.assert_close(flow, expected)
