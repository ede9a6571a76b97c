import json
import re

import numpy as np
import pytest
import torch
import torchvision
from mmengine.model import BaseModule
from safetensors.torch import load_file

from cmp.export import FORMATS, export_backbone, read_backbone
from cmp.export.formats import detectron2_name
from cmp.export.model_card import model_card
from cmp.flow import FlowQuantizer
from cmp.models import CMP, AlexNetFCN, DiscreteLoss, MotionEncoder, PropagationDecoder, ResNet

IMAGE = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))


def make_checkpoint(path, encoder):
    torch.manual_seed(0)
    parts = (dict(type=MotionEncoder), dict(type=PropagationDecoder), dict(type=FlowQuantizer), dict(type=DiscreteLoss))
    model = CMP(encoder, *parts, init="default")
    model.image_encoder.train()
    with torch.no_grad():  # running statistics as after some training, so features cannot agree by being dead
        model.image_encoder(torch.randn(2, 3, 64, 64))
    meta = {"cmp": model.describe(), "cfg": "model = dict(...)", "iter": 600}
    torch.save({"meta": meta, "state_dict": model.state_dict()}, path)
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("checkpoints") / "iter_600.pth", dict(type=ResNet, depth=18))


@pytest.fixture(scope="module")
def expected(checkpoint):
    """Features of our encoder, all stages."""
    with torch.no_grad():
        return read_backbone(checkpoint).encoder(IMAGE)


def agrees(theirs, ours):
    assert theirs.shape == ours.shape and ours.abs().max() > 0.02
    assert (theirs - ours).abs().max() <= 1e-4 * ours.abs().max()


def test_mmlabs_pretrained_init_fills_a_backbone_from_the_file(checkpoint, expected, tmp_path):
    export_backbone(checkpoint, tmp_path / "b.pth", "mmlab")

    class Backbone(BaseModule):
        def __init__(self, **init):
            super().__init__(init_cfg=dict(type="Pretrained", checkpoint=str(tmp_path / "b.pth"), **init))
            network = torchvision.models.resnet18(weights=None)
            for name, child in list(network.named_children())[:-2]:
                self.add_module(name, child)

        def forward(self, image):
            for child in self.children():
                image = child(image)
            return image

    backbone = Backbone(prefix="backbone.")
    backbone.init_weights()
    with torch.no_grad():
        agrees(backbone.eval()(IMAGE), expected[-1])


def test_detectron2s_names_are_the_published_ones(checkpoint, tmp_path):
    export_backbone(checkpoint, tmp_path / "b.pth", "detectron2")
    content = torch.load(tmp_path / "b.pth", weights_only=True)
    assert content["matching_heuristics"] is True and "cmp-motion" in content["__author__"]

    # The names of detectron2's ResNet-18, written out: two basic blocks a stage, a shortcut where the width changes.
    def conv(name):
        return [f"{name}.{key}" for key in ("weight", *(f"norm.{n}" for n in NORM))]

    NORM = ("weight", "bias", "running_mean", "running_var")
    names = conv("stem.conv1")
    for stage in ("res2", "res3", "res4", "res5"):
        for block in (0, 1):
            names += conv(f"{stage}.{block}.conv1") + conv(f"{stage}.{block}.conv2")
        if stage != "res2":
            names += conv(f"{stage}.0.shortcut")
    assert sorted(content["model"]) == sorted(names)
    weights = read_backbone(checkpoint).weights
    for theirs, ours in (
        ("stem.conv1.norm.running_var", "bn1.running_var"),
        ("res4.1.conv2.weight", "layer3.1.conv2.weight"),
        ("res5.0.shortcut.norm.bias", "layer4.0.downsample.1.bias"),
        ("res3.0.conv1.norm.weight", "layer2.0.bn1.weight"),
    ):
        assert torch.equal(content["model"][theirs], weights[ours])


def test_bottlenecks_have_a_third_convolution_in_detectron2():
    assert detectron2_name("layer1.2.conv3.weight") == "res2.2.conv3.weight"
    assert detectron2_name("layer4.0.bn3.running_mean") == "res5.0.conv3.norm.running_mean"
    assert detectron2_name("conv1.weight") == "stem.conv1.weight"


def test_a_hub_folder_loads_offline_in_timm_with_our_normalisation(checkpoint, expected, tmp_path):
    timm = pytest.importorskip("timm")
    export_backbone(checkpoint, tmp_path / "hub", "huggingface")
    model = timm.create_model(f"local-dir:{tmp_path / 'hub'}", pretrained=True, num_classes=0).eval()
    with torch.no_grad():
        agrees(model.forward_features(IMAGE), expected[-1])
    config = timm.data.resolve_data_config({}, model=model)
    np.testing.assert_allclose(config["mean"], (0.485, 0.456, 0.406), atol=1e-6)
    np.testing.assert_allclose(config["std"], (0.229, 0.224, 0.225), atol=1e-3)


def test_a_hub_folder_loads_offline_in_transformers(checkpoint, expected, tmp_path, monkeypatch):
    transformers = pytest.importorskip("transformers")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    export_backbone(checkpoint, tmp_path / "hub", "huggingface")
    model = transformers.AutoModel.from_pretrained(tmp_path / "hub", local_files_only=True).eval()
    with torch.no_grad():
        agrees(model(pixel_values=IMAGE).last_hidden_state, expected[-1])


def test_segmentation_models_take_the_torchvision_file(checkpoint, expected, tmp_path):
    smp = pytest.importorskip("segmentation_models_pytorch")
    export_backbone(checkpoint, tmp_path / "b.pth", "torchvision")
    network = smp.Unet("resnet18", encoder_weights=None)
    network.encoder.load_state_dict(torch.load(tmp_path / "b.pth", weights_only=True))
    with torch.no_grad():
        agrees(network.encoder.eval()(IMAGE)[-1], expected[-1])


def test_an_onnx_graph_takes_any_size_and_puts_out_every_stage(checkpoint, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    report = export_backbone(checkpoint, tmp_path / "b.onnx", "onnx")
    assert "onnxruntime" in report.load_back.library and report.load_back.largest_difference < 1e-4
    session = runtime.InferenceSession(tmp_path / "b.onnx")
    assert [output.name for output in session.get_outputs()] == ["stage1", "stage2", "stage3", "stage4"]
    assert session.get_modelmeta().custom_metadata_map == report.backbone.metadata
    features = report.backbone.encoder
    for shape in ((1, 3, 65, 131), (3, 3, 96, 64)):
        image = torch.randn(shape)
        with torch.no_grad():
            for theirs, ours in zip(session.run(None, {"image": image.numpy()}), features(image), strict=True):
                agrees(torch.from_numpy(theirs), ours)
    assert "onnxruntime" in (tmp_path / "b.onnx.md").read_text()


@pytest.mark.slow
def test_alexnets_graph_ends_below_its_projection(tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    checkpoint = make_checkpoint(tmp_path / "a.pth", dict(type=AlexNetFCN))
    report = export_backbone(checkpoint, tmp_path / "a.onnx", "onnx")
    (fc7,) = runtime.InferenceSession(tmp_path / "a.onnx").run(None, {"image": IMAGE.numpy()})
    with torch.no_grad():
        agrees(torch.from_numpy(fc7), report.backbone.encoder(IMAGE)[-1])
    assert not export_backbone(checkpoint, tmp_path / "a.onnx", "onnx").written


STRANGE = "x | y |\n\n# Heading\n<script>alert(1)</script> ![i](http://example.org/i.png) `c` **b** \udcff"


def test_what_a_checkpoint_says_of_itself_is_text_in_its_card(checkpoint, tmp_path):
    content = torch.load(checkpoint, weights_only=True)
    on_one_line = " ".join(STRANGE.removesuffix("\udcff").split())
    for name, shown in (
        (STRANGE, "unknown"),  # line breaks and bytes that are not text
        (
            on_one_line,
            r"x \| y \| # Heading &lt;script&gt;alert(1)&lt;/script&gt; "
            r"![i\](http://example.org/i.png) \`c\` \*\*b\*\*",
        ),
    ):
        content["meta"] |= {"experiment_name": name}
        torch.save(content, tmp_path / "strange.pth")
        card = model_card(read_backbone(tmp_path / "strange.pth"), "torchvision", ".pth")
        (line,) = (line for line in card.splitlines() if line.startswith("| config |"))
        assert line == f"| config | {shown} |"
        assert "\n# Heading" not in card and "<script" not in card
        card.encode()


@pytest.mark.parametrize("format", [format for format in FORMATS if format != "onnx"])
def test_a_card_goes_with_every_format_and_a_second_run_changes_nothing(checkpoint, tmp_path, format):
    ends = {"huggingface": "", "safetensors": ".safetensors"}
    out = tmp_path / f"b{ends.get(format, '.pth')}"
    export_backbone(checkpoint, out, format)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    card = (out / "README.md" if format == "huggingface" else out.with_name(out.name + ".md")).read_text()
    assert (
        "resnet18" in card and "[123.675, 116.28, 103.53]" in card and "600" in card and "{" not in card.split("```")[0]
    )
    assert not export_backbone(checkpoint, out, format).written
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    "format, name",
    (("torchvision", "b.pth"), ("torchvision", "b.safetensors"), ("timm", "b.pth"), ("huggingface", "hub")),
)
def test_the_cards_python_runs_as_it_stands(checkpoint, expected, tmp_path, format, name):
    if format != "torchvision":
        pytest.importorskip("timm")
    out = tmp_path / name
    export_backbone(checkpoint, out, format)
    card = (out / "README.md" if format == "huggingface" else tmp_path / f"{name}.md").read_text()
    code = re.search(r"```python\n(.*?)```", card, re.DOTALL)[1].replace("FILE", str(out)).replace("FOLDER", str(out))
    names = {}
    exec(code, names)
    network = names["network"].eval()
    with torch.no_grad():
        body = torch.nn.Sequential(*list(network.children())[:-2])
        agrees(body(IMAGE), expected[-1])


def test_cards_for_openmmlab_and_detectron2_say_how_our_images_are_fed(checkpoint, tmp_path):
    for format in ("mmlab", "detectron2"):
        export_backbone(checkpoint, tmp_path / f"{format}.pth", format)
    mmlab, detectron2 = ((tmp_path / f"{format}.pth.md").read_text() for format in ("mmlab", "detectron2"))
    assert "bgr_to_rgb=True" in mmlab and 'style="pytorch"' in mmlab  # their images come as BGR, ours were RGB
    assert "FORMAT: RGB" in detectron2
    assert "{DEPTH: 18, STRIDE_IN_1X1: false, RES2_OUT_CHANNELS: 64}" in detectron2  # asked for below depth 50


def test_features_that_differ_beyond_rounding_are_refused(checkpoint, tmp_path, monkeypatch):
    from cmp.export import load_back

    real = load_back._load

    def slightly_off(model, *arguments):
        missing = real(model, *arguments)
        with torch.no_grad():
            model.layer4[1].bn2.weight.mul_(1.01)
        return missing

    monkeypatch.setattr(load_back, "_load", slightly_off)
    with pytest.raises(ValueError, match="computes other features"):
        export_backbone(checkpoint, tmp_path / "b.pth", "torchvision")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_the_library_reads_differently_is_refused(checkpoint, tmp_path, monkeypatch):
    from cmp.export import formats

    def spoiled(backbone):
        content = real(backbone)
        content["state_dict"]["backbone.layer4.1.bn2.bias"] = torch.ones(512)
        return content

    real = formats._mmlab
    monkeypatch.setattr(formats, "_mmlab", spoiled)
    with pytest.raises(ValueError, match="have not arrived, first .'layer4.1.bn2.bias'"):
        export_backbone(checkpoint, tmp_path / "b.pth", "mmlab")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "format", "message"),
    [
        ("b.onnx", "safetensors", "misleads"),
        ("b.pth", "onnx", "misleads"),
        ("b.safetensors", "mmlab", "reads torch files"),
        ("b.onnx", "detectron2", "reads torch files"),
        ("b.pth", "huggingface", "is a folder"),
    ],
)
def test_names_that_mislead_are_refused(checkpoint, tmp_path, name, format, message):
    with pytest.raises(ValueError, match=message):
        export_backbone(checkpoint, tmp_path / name, format)
    assert list(tmp_path.iterdir()) == []


def test_a_hub_folder_with_something_else_in_its_place_is_not_overwritten_unasked(checkpoint, tmp_path):
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "config.json").write_text("mine")
    with pytest.raises(FileExistsError, match="config.json"):
        export_backbone(checkpoint, tmp_path / "hub", "huggingface")
    export_backbone(checkpoint, tmp_path / "hub", "huggingface", overwrite=True)
    assert json.loads((tmp_path / "hub" / "config.json").read_text())["architecture"] == "resnet18"
    assert load_file(tmp_path / "hub" / "model.safetensors").keys() == read_backbone(checkpoint).weights.keys()
