import importlib.util
import json
import runpy
import zipfile

import numpy as np
import pytest
import torch

import cmp.inference.export as export
from cmp.checkpoints import read_checkpoint
from cmp.checkpoints.peer_keys import to_peer_key
from cmp.flow import FlowQuantizer
from cmp.inference import MotionPropagator
from cmp.models import (
    CMP,
    AlexNetFCN,
    DiscreteLoss,
    MotionEncoder,
    PropagationDecoder,
    PyramidResNet,
    ResNet,
    SkipPropagationDecoder,
)
from tools.export_propagator import main

RESNET, PYRAMID = dict(type=ResNet, depth=18), dict(type=PyramidResNet, depth=18, top_stride=4, out_channels=16)
NETWORKS = {
    "plain": (RESNET, dict(type=MotionEncoder), dict(type=PropagationDecoder, width=16)),
    "skip": (RESNET, dict(type=MotionEncoder), dict(type=SkipPropagationDecoder, strides=(1, 2), width=16)),
    "nearest": (
        PYRAMID,
        dict(type=MotionEncoder, fill="nearest"),
        dict(type=PropagationDecoder, strides=(1, 2), width=16, shortcut=True),
    ),
    "inverse_distance": (
        PYRAMID,
        dict(type=MotionEncoder, fill="inverse_distance"),
        dict(type=PropagationDecoder, strides=(1, 2), width=16, shortcut=True),
    ),
    "attention": (
        PYRAMID,
        dict(type=MotionEncoder, fill="attention"),
        dict(type=PropagationDecoder, strides=(1, 2), width=16, shortcut=True),
    ),
    "alexnet": (dict(type=AlexNetFCN), dict(type=MotionEncoder), dict(type=PropagationDecoder)),
    "alexnet8": (dict(type=AlexNetFCN, output_stride=8), dict(type=MotionEncoder), dict(type=PropagationDecoder)),
}
needs_onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="onnx, onnxscript and onnxruntime are not all installed",
)


def network(name):
    """A network whose output depends on all it reads."""
    torch.manual_seed(0)
    quantizer = dict(type=FlowQuantizer, num_bins=11, max_flow_px=50.0)
    reach_px = 12.0 if name in ("nearest", "attention") else None  # for both formats
    model = CMP(*NETWORKS[name], quantizer, dict(type=DiscreteLoss), init="default", guide_reach_px=reach_px).eval()
    torch.nn.init.normal_(model.decoder.head.weight, std=1.0)
    return model


def save(path, name):
    model = network(name)
    torch.save({"meta": {"cmp": model.describe(), "iter": 3}, "state_dict": model.state_dict()}, path)
    return path


QUICK = (("nearest", "onnx"), ("inverse_distance", "torch_export"))  # those with sizes that hang on values
SLOW = [(name, format) for name in NETWORKS for format in export.GRAPH_FORMATS if (name, format) not in QUICK]


@pytest.mark.parametrize("name, format", (*QUICK, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)))
def test_a_written_graph_computes_the_same_flow_at_sizes_it_was_not_traced_at(name, format, tmp_path):
    if format == "onnx":
        for library in ("onnx", "onnxscript", "onnxruntime"):
            pytest.importorskip(library)
    propagator = MotionPropagator(network(name))
    path = tmp_path / ("graph.onnx" if format == "onnx" else "graph.pt2")
    metadata = export.graph_metadata(propagator)
    export.write_graph(propagator, path, format, metadata)
    check = export.check_graph(propagator, path)  # refuses what differs
    assert len({shape[0] for shape in check.shapes}) == 2 and check.largest_flow_px > 0.5
    assert check.largest_difference_px <= 1e-4 * check.largest_flow_px
    # One that computes something else is refused: the very same file beside another network.
    other = MotionPropagator(network(name))
    other.network.decoder.head.bias[0] += 1
    with pytest.raises(ValueError, match="computes another flow: off by"):
        export.check_graph(other, path)

    assert export.read_graph_metadata(path) == metadata
    if format == "onnx":
        import onnx

        graph = onnx.load(path).graph
        sizes = {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in graph.input}
        expected = {"image": 3, "sparse": 2, "mask": 1}
        assert sizes == {name: ["batch", channels, "height", "width"] for name, channels in expected.items()}
        assert [value.name for value in graph.output] == ["flow"]


@pytest.mark.slow
@needs_onnx
@pytest.mark.parametrize("name", ("resnet50_plain", "resnet50_skip"))
def test_the_published_networks_go_through_onnx(name, shared_dir, tmp_path):
    golden = shared_dir / "golden"
    if name == "resnet50_plain":
        paths = golden / f"{name}.json", golden / f"{name}.npz"
        recipe = runpy.run_path(str(golden / "weights_recipe.py"))
        weights = {key: torch.from_numpy(v) for key, v in recipe["golden_weights"](*map(str, paths)).items()}
    else:
        parts = (dict(type=ResNet, depth=50), dict(type=MotionEncoder), dict(type=SkipPropagationDecoder))
        torch.manual_seed(0)
        model = CMP(*parts, dict(type=FlowQuantizer), dict(type=DiscreteLoss), init="default")
        weights = {to_peer_key(key): v for key, v in model.state_dict().items()}
    torch.save({"step": 3, "state_dict": weights}, tmp_path / "theirs.pth.tar")
    report = export.export_propagator(tmp_path / "theirs.pth.tar", tmp_path / "g.onnx", "onnx", normalize="unit")
    assert report.check.shapes and report.check.largest_difference_px <= 1e-3 * report.check.largest_flow_px
    if name == "resnet50_plain":  # the golden flow itself, at a size that is neither traced nor checked
        import onnxruntime

        stored = np.load(paths[1])
        session = onnxruntime.InferenceSession(tmp_path / "g.onnx", providers=["CPUExecutionProvider"])
        sparse = stored["sparse_b"]
        inputs = {"image": (stored["image_b"] + 1) / 2, "sparse": sparse[:, :2], "mask": sparse[:, 2:3]}
        flow = session.run(None, {key: value.astype(np.float32) for key, value in inputs.items()})[0]
        noise = json.loads(paths[0].read_text())["numeric_noise"]["b"]["nomkldnn_flow"]
        assert np.abs(flow - stored["flow_up_b"]).max() <= 3 * noise
    assert read_checkpoint(tmp_path / "theirs.pth.tar").network().motion_encoder.stride == 8


def test_the_command_says_how_the_graph_is_fed_and_leaves_a_finished_one_alone(tmp_path, capsys, monkeypatch):
    checkpoint, out = save(tmp_path / "net.pth", "plain"), tmp_path / "new" / "graph.pt2"
    out.parent.mkdir()
    command = [str(checkpoint), str(out), "--format", "torch_export", "--normalize", "unit"]
    assert main(command) == 0
    text = capsys.readouterr().out
    assert "run in torch" in text and text.splitlines()[-1] == f"propagator: {out} (written)"
    metadata = export.read_graph_metadata(out)
    assert metadata["stride_px"] == "8" and metadata["least_side_px"] == "64" and metadata["max_flow_px"] == "45.45"
    assert metadata["normalize"] == "unit" and "applies 2 * x - 1" in metadata["input.image"]
    assert "multiples of 8, at least 64" in metadata["size"] and [p.name for p in out.parent.iterdir()] == [out.name]
    monkeypatch.setattr(export, "write_graph", None)  # not called again
    assert main(command) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"propagator: {out} (already there, unchanged)"
    assert main([*command[:-1], "imagenet"]) == 2
    assert "made of something else; --overwrite" in capsys.readouterr().err


def test_imagenet_metadata_states_mean_and_std():
    metadata = export.graph_metadata(MotionPropagator(network("skip")))
    assert "(255 * x - [123.675, 116.28, 103.53]) / [58.395, 57.12, 57.375]" in metadata["input.image"]
    assert metadata["encoder"] == "resnet18" and all(isinstance(value, str) for value in metadata.values())


def test_what_cannot_be_exported_is_named_and_nothing_is_left(tmp_path, capsys, monkeypatch):
    checkpoint = save(tmp_path / "net.pth", "plain")
    (tmp_path / "broken.pth").write_bytes(checkpoint.read_bytes()[:5000])
    (tmp_path / "there.pt2").write_bytes(b"somebody's")
    for arguments, message in (
        (("missing.pth", "a.onnx"), "missing.pth"),
        (("broken.pth", "a.onnx"), "broken.pth"),
        (("net.pth", "a.pth"), "out must end in .onnx for onnx, got"),
        (("net.pth", "a.onnx", "--format", "torch_export"), "out must end in .pt2"),
        (("net.pth", "there.pt2", "--format", "torch_export"), "there.pt2 exists and was made of something else"),
    ):
        assert main([str(tmp_path / name) if "." in name else name for name in arguments]) == 2
        assert message in capsys.readouterr().err
    assert (tmp_path / "there.pt2").read_bytes() == b"somebody's"
    with pytest.raises(ValueError, match="format must be one of"):
        export.export_propagator(checkpoint, tmp_path / "a.onnx", "tflite")
    with pytest.raises(FileNotFoundError, match="no such file: .*none.onnx"):
        export.read_graph_metadata(tmp_path / "none.onnx")
    with pytest.raises(ValueError, match="there.pt2 cannot be read"):
        export.read_graph_metadata(tmp_path / "there.pt2")

    def refuse(*_):
        raise ValueError("computes another flow")

    monkeypatch.setattr(export, "write_graph", lambda *_: None)
    monkeypatch.setattr(export, "check_graph", refuse)
    assert main([str(checkpoint), str(tmp_path / "a.pt2"), "--format", "torch_export"]) == 2
    assert not list(tmp_path.glob("a.*")) and not list(tmp_path.glob(".export-*"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main([str(checkpoint), str(tmp_path / "a.onnx")]) == 2
    assert "needs onnx and onnxscript: pip install" in capsys.readouterr().err


def test_without_onnxruntime_nothing_is_claimed(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    check = export.check_graph(MotionPropagator(network("plain")), tmp_path / "graph.onnx")
    assert str(check) == "not run: onnxruntime is not installed here"


def test_reading_a_graphs_metadata_runs_and_opens_nothing_else(tmp_path, monkeypatch):
    """A .pt2 that is there already may be a stranger's: torch.export.load would unpickle what is in it."""

    def loaded(*_, **__):
        raise AssertionError("the program was loaded")

    monkeypatch.setattr(torch.export, "load", loaded)
    about = {"input.image": "float32", "stride_px": "8"}
    with zipfile.ZipFile(tmp_path / "x.pt2", "w") as archive:
        archive.writestr(f"x/extra/{export.METADATA_NAME}", json.dumps(about))
        archive.writestr("x/data/constants/model_constants_config.json", "not read")
    assert export.read_graph_metadata(tmp_path / "x.pt2") == about
    for name, text in (("deep", "[" * 10**5), ("list", "[]"), ("long", " " * (2 << 20)), ("wrong", '{"a": 1}')):
        with zipfile.ZipFile(tmp_path / f"{name}.pt2", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(f"x/extra/{export.METADATA_NAME}", text)
        with pytest.raises(ValueError, match=f"{name}.pt2"):
            export.read_graph_metadata(tmp_path / f"{name}.pt2")
