import json
from dataclasses import replace

import pytest
import safetensors.torch
import torch
import torchvision
from safetensors import safe_open

from cmp.checkpoints import write_peer_checkpoint
from cmp.export import export_backbone, load_back, read_backbone
from cmp.flow import FlowQuantizer
from cmp.models import CMP, AlexNetFCN, DiscreteLoss, MotionEncoder, PropagationDecoder, PyramidResNet, ResNet


def build(encoder):
    torch.manual_seed(0)
    parts = (dict(type=MotionEncoder), dict(type=PropagationDecoder), dict(type=FlowQuantizer), dict(type=DiscreteLoss))
    model = CMP(encoder, *parts, mean=(1.0, 2.0, 3.0), init="default")
    # Running statistics as after some training, so features cannot agree by being dead.
    model.image_encoder.train()
    with torch.no_grad():
        model.image_encoder(torch.randn(2, 3, 64, 64))
    return model.eval()


def save(path, model):
    meta = {"cmp": model.describe(), "cfg": "model = dict(...)", "iter": 600}
    torch.save({"meta": meta, "state_dict": model.state_dict(), "optimizer": {"state": {}}}, path)
    return path


@pytest.fixture(scope="module")
def model():
    return build(dict(type=ResNet, depth=18))


@pytest.fixture(scope="module")
def checkpoint(model, tmp_path_factory):
    return save(tmp_path_factory.mktemp("checkpoints") / "iter_600.pth", model)


def features(network, image):
    return torch.nn.Sequential(*list(network.children())[:-2]).eval()(image)


@pytest.mark.parametrize("name", ("backbone.pth", "backbone.safetensors"))
def test_a_torchvision_export_is_torchvisions_network_with_our_weights(model, checkpoint, tmp_path, name):
    report = export_backbone(checkpoint, tmp_path / name, "torchvision")
    assert report.written and report.load_back.missing == ("fc.bias", "fc.weight")
    if name.endswith(".pth"):
        weights = torch.load(tmp_path / name, weights_only=True)
    else:
        weights = safetensors.torch.load_file(tmp_path / name)
    network = torchvision.models.resnet18(weights=None)
    missing, unexpected = network.load_state_dict(weights, strict=False)
    assert set(missing) == {"fc.weight", "fc.bias"} and unexpected == []
    assert all(torch.equal(value, model.image_encoder.state_dict()[key]) for key, value in weights.items())

    ordinary = ResNet(18, output_stride=32).eval()
    ordinary.load_state_dict(model.image_encoder.state_dict())
    image = torch.randn(1, 3, 96, 128)
    with torch.no_grad():
        expected = ordinary(image).stage4
        difference = (features(network, image) - expected).abs().max().item()
    assert difference <= 1e-5 * expected.abs().max() and report.load_back.largest_difference <= 1e-5


def test_a_timm_export_loads_by_timms_own_route(model, checkpoint, tmp_path):
    timm = pytest.importorskip("timm")
    out = tmp_path / "backbone.safetensors"
    report = export_backbone(checkpoint, out, "timm")
    assert report.load_back.library == f"timm {timm.__version__}" and report.load_back.largest_difference <= 1e-5
    overlay = dict(file=str(out))
    network = timm.create_model("resnet18", pretrained=True, pretrained_cfg_overlay=overlay, num_classes=0).eval()
    encoder = model.image_encoder.state_dict()
    assert all(torch.equal(value, encoder[key]) for key, value in network.state_dict().items())


@pytest.mark.parametrize(
    "encoder, stride", ((dict(type=ResNet, depth=18, output_stride=8), "8"), (dict(type=PyramidResNet), "32"))
)
def test_metadata_has_the_stride_of_the_exported_layers(encoder, stride, tmp_path):
    path = save(tmp_path / "iter_600.pth", build(encoder))
    assert read_backbone(path).metadata["pretraining_stride"] == stride


def test_metadata_tells_how_to_feed_the_backbone_and_where_it_comes_from(checkpoint, tmp_path):
    export_backbone(checkpoint, tmp_path / "b.safetensors", "safetensors")
    with safe_open(tmp_path / "b.safetensors", framework="pt") as file:
        metadata = file.metadata()
        keys = set(file.keys())
    assert metadata["encoder"] == "resnet18" and json.loads(metadata["mean"]) == [1.0, 2.0, 3.0]
    assert json.loads(metadata["std"]) == [58.395, 57.12, 57.375] and "0..255" in metadata["input"]
    assert metadata["steps"] == "600" and len(metadata["config_sha256"]) == 64
    assert "cmp-motion" in metadata["written_by"]
    assert not any(key.startswith(("conv5", "image_encoder", "decoder", "fc")) for key in keys)
    report = export_backbone(checkpoint, tmp_path / "b.pth", "torchvision")
    assert json.loads((tmp_path / "b.pth.json").read_text()) == metadata
    assert [path.name for path in report.beside] == ["b.pth.md", "b.pth.json"]


def test_what_a_checkpoint_does_not_say_is_called_unknown(model, tmp_path):
    torch.save(model.state_dict(), tmp_path / "plain.pth")
    metadata = read_backbone(tmp_path / "plain.pth").metadata
    assert metadata["mean"] == metadata["steps"] == metadata["config_sha256"] == "unknown"


def test_the_authors_checkpoint_is_exported_too(model, tmp_path):
    write_peer_checkpoint(tmp_path / "ckpt_iter_42000.pth.tar", model.state_dict(), step=42000)
    report = export_backbone(tmp_path / "ckpt_iter_42000.pth.tar", tmp_path / "b.pth", "torchvision")
    metadata = report.backbone.metadata
    assert metadata["steps"] == "42000" and json.loads(metadata["mean"]) == [123.675, 116.28, 103.53]
    weights = torch.load(tmp_path / "b.pth", weights_only=True)
    assert all(torch.equal(value, model.image_encoder.state_dict()[key]) for key, value in weights.items())


def test_bottleneck_backbones_are_exported(tmp_path):
    checkpoint = save(tmp_path / "a.pth", build(dict(type=ResNet, depth=50)))
    report = export_backbone(checkpoint, tmp_path / "b.pth", "torchvision")
    assert report.backbone.name == "resnet50" and report.load_back.largest_difference <= 1e-4


def test_alexnet_is_exported_as_safetensors_alone(tmp_path):
    checkpoint = save(tmp_path / "a.pth", build(dict(type=AlexNetFCN)))
    for format in ("torchvision", "timm", "mmlab", "detectron2"):
        with pytest.raises(ValueError, match="does not have alexnet_fcn: export it as"):
            export_backbone(checkpoint, tmp_path / "b.pth", format)
    report = export_backbone(checkpoint, tmp_path / "b.safetensors", "safetensors")
    assert report.backbone.name == "alexnet_fcn" and report.load_back.missing == ()
    keys = safetensors.torch.load_file(tmp_path / "b.safetensors").keys()
    assert "fc7.0.weight" in keys and not any(key.startswith("conv8") for key in keys)


def test_running_twice_changes_nothing_and_another_file_is_not_overwritten_unasked(checkpoint, tmp_path):
    for out, format in ((tmp_path / "b.pth", "torchvision"), (tmp_path / "b.safetensors", "safetensors")):
        assert export_backbone(checkpoint, out, format).written
        first = out.read_bytes(), out.stat().st_mtime_ns
        assert not export_backbone(checkpoint, out, format).written
        assert (out.read_bytes(), out.stat().st_mtime_ns) == first
        out.write_bytes(b"somebody's")
        with pytest.raises(FileExistsError, match=out.name):
            export_backbone(checkpoint, out, format)
        assert out.read_bytes() == b"somebody's"
        assert export_backbone(checkpoint, out, format, overwrite=True).written and out.read_bytes() == first[0]
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "b.pth",
        "b.pth.json",
        "b.pth.md",
        "b.safetensors",
        "b.safetensors.md",
    ]


def test_where_the_library_is_missing_nothing_is_claimed(checkpoint, tmp_path, monkeypatch):
    def no_timm(name, *args):
        if name == "timm":
            raise ImportError(name)
        return real(name, *args)

    real = load_back.importlib.import_module
    monkeypatch.setattr(load_back.importlib, "import_module", no_timm)
    report = export_backbone(checkpoint, tmp_path / "b.safetensors", "timm")
    assert report.written and report.load_back.largest_difference is None
    assert str(report.load_back) == "not loaded back: timm is not installed here"


def test_a_file_that_loads_back_differently_is_not_left_behind(checkpoint, tmp_path, monkeypatch):
    real = load_back.read_weight_file

    def spoiled(file, spoil):
        return replace(file, content=spoil(file.content))

    for spoil in (
        lambda weights: weights | {"conv1.weight": weights["conv1.weight"] * 1.01},
        lambda weights: weights | {"conv5.weight": torch.zeros(1)},
        lambda weights: {key: value for key, value in weights.items() if key != "bn1.bias"},
    ):
        monkeypatch.setattr(load_back, "read_weight_file", lambda path, spoil=spoil: spoiled(real(path), spoil))
        for format in ("torchvision", "safetensors"):
            with pytest.raises(ValueError):
                export_backbone(checkpoint, tmp_path / "b.safetensors", format)
            assert list(tmp_path.iterdir()) == []


def test_checkpoints_without_a_whole_encoder_are_refused_by_name(model, tmp_path):
    weights = model.state_dict()
    cases = {
        "none.pth": ({"decoder.head.bias": torch.zeros(2)}, "does not contain an image encoder"),
        "half.pth": ({k: v for k, v in weights.items() if "layer4" not in k}, "no known image encoder"),
        "less.pth": ({k: v for k, v in weights.items() if "bn1.bias" not in k}, "missing"),
        "nan.pth": (weights | {"image_encoder.bn1.bias": torch.full((64,), torch.nan)}, "not finite.*bn1.bias"),
    }
    for name, (content, message) in cases.items():
        torch.save(content, tmp_path / name)
        with pytest.raises(ValueError, match=f"(?s){name}.*{message}"):
            read_backbone(tmp_path / name)


def test_unknown_formats_and_misleading_names_are_refused(checkpoint, tmp_path):
    with pytest.raises(ValueError, match="format must be one of"):
        export_backbone(checkpoint, tmp_path / "b.pth", "caffe")
    with pytest.raises(ValueError, match="misleads"):
        export_backbone(checkpoint, tmp_path / "b.pth", "safetensors")


@pytest.mark.parametrize(
    "described, message",
    (
        (dict(image_encoder={"type": "TimmEncoder", "name": "local-dir:/tmp/x"}), "image_encoder.name"),
        (dict(image_encoder={"type": "TimmEncoder", "name": "resnet18", "checkpoint_path": "/x"}), "unknown"),
        (dict(image_encoder={"type": "TimmEncoder", "name": "vit_huge_patch16_gap_448"}), "does not fit the network"),
        (dict(mean=[float("nan"), 0, 0], std=[1, 1, 1]), "mean or std"),
        (dict(mean=[0, 0, 0], std=[0, 1, 1]), "mean or std"),
        (dict(mean=7, std="x"), "mean or std"),
    ),
)
def test_what_a_file_says_of_its_encoder_is_checked_before_it_is_used(model, tmp_path, described, message):
    if "image_encoder" in described:
        pytest.importorskip("timm")
    path = save(tmp_path / "x.pth", model)
    content = torch.load(path, weights_only=True)
    content["meta"]["cmp"] |= described
    torch.save(content, path)
    with pytest.raises(ValueError, match="x.pth") as refused:
        read_backbone(path)
    assert message in str(refused.value)


def test_only_short_text_of_a_file_gets_into_metadata(model, tmp_path):
    path = save(tmp_path / "x.pth", model)
    content = torch.load(path, weights_only=True)
    content["meta"]["cmp"]["system"] = "a\n# heading"
    content["meta"] |= dict(experiment_name="x" * 10**4, iter=["os.system"])
    torch.save(content, path)
    metadata = read_backbone(path).metadata
    assert [metadata[key] for key in ("pretrained_with", "config", "steps")] == ["unknown"] * 3
