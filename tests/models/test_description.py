import inspect
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.registry import MODELS

from cmp.flow import FlowQuantizer, JointFlowQuantizer, PolarFlowQuantizer
from cmp.models import (
    CMP,
    AlexNetFCN,
    DirectFlow,
    DiscreteLoss,
    MotionEncoder,
    PropagationDecoder,
    PyramidResNet,
    RegressionLoss,
    ResNet,
    SkipPropagationDecoder,
)
from cmp.models.description import MAX_CHANNELS, PARTS


def build(**parts):
    usual = dict(
        image_encoder=dict(type=ResNet, depth=18, out_channels=32),
        motion_encoder=dict(type=MotionEncoder),
        decoder=dict(type=PropagationDecoder, strides=(1, 2), width=16),
        quantizer=dict(type=FlowQuantizer, num_bins=11),
        loss=dict(type=DiscreteLoss),
    )
    return CMP(**usual | parts)


DESCRIPTION = build().describe()


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


def changed(part, **values):
    """The usual description with other values in one part, or with part=None of the network itself."""
    return DESCRIPTION | (values if part is None else {part: DESCRIPTION[part] | values})


HOSTILE = {
    "a preprocessor that is a command": changed(None, data_preprocessor={"type": "os.system", "command": "true"}),
    "an argument of mmengine's base class": changed(None, init_cfg={"type": "Pretrained", "checkpoint": "x.pth"}),
    "an unknown key": changed(None, hook="print"),
    "a key that is not a name": {**DESCRIPTION, 7: 7},
    "a class by its dotted name": changed("image_encoder", type="os.system"),
    "a class of another part": changed("decoder", type="ResNet"),
    "a type that is no name": changed("decoder", type=["ResNet"]),
    "a part that is text": changed(None) | {"decoder": "PropagationDecoder"},
    "a part that is missing": {key: value for key, value in DESCRIPTION.items() if key != "quantizer"},
    "a module as an argument": changed("motion_encoder", image_channels={"top": 32}),
    "a registry's dict as an argument": changed("image_encoder", norm_layer={"type": "os.system"}),
    "3,000 strides": changed("decoder", strides=list(range(1, 3001))),
    "a stride of a million": changed("decoder", strides=[1, 10**6]),
    "no strides": changed("decoder", strides=[]),
    "strides as text": changed("decoder", strides="12"),
    "a huge width": changed("decoder", width=MAX_CHANNELS + 1),
    "channels beyond any integer": changed("image_encoder", out_channels=10**400),
    "negative channels": changed("image_encoder", out_channels=-1),
    "fractional channels": changed("image_encoder", out_channels=32.0),
    "channels that are True": changed("image_encoder", out_channels=True),
    "another depth": changed("image_encoder", depth=10**9),
    "depth as text": changed("image_encoder", depth="18"),
    "another stride": changed("image_encoder", output_stride=1),
    "a billion bins": changed("quantizer", num_bins=10**9),
    "no bins": changed("quantizer", num_bins=0),
    "NaN as the range": changed("quantizer", max_flow_px=float("nan")),
    "an infinite range": changed("quantizer", max_flow_px=float("inf")),
    "a range beyond any float": changed("quantizer", max_flow_px=10**400),
    "an unknown spacing": changed("quantizer", spacing="cubic"),
    "spacing as a list": changed("quantizer", spacing=["linear"]),
    "a million heads": changed("motion_encoder", fill="attention", heads=10**6),
    "an unknown fill": changed("motion_encoder", fill="os.system"),
    "NaN as the mean": changed(None, mean=[float("nan"), 0.0, 0.0]),
    "an infinite mean": changed(None, mean=[float("inf"), 0.0, 0.0]),
    "two means": changed(None, mean=[0.0, 0.0]),
    "the mean as text": changed(None, mean="123"),
    "no deviation": changed(None, std=[0.0, 1.0, 1.0]),
    "NaN as the deviation": changed(None, std=[1.0, float("nan"), 1.0]),
    "an unknown start": changed(None, init="os.system"),
    "an infinite reach": changed(None, guide_reach_px=float("inf")),
    "a reach that is a dict": changed(None, guide_reach_px={"type": "os.system"}),
    "a deep list": changed("decoder", strides=nested(10**4)),
    "a deep key": changed(None, hook=nested(10**4)),
    "a deep part": changed(None) | {"decoder": nested(10**4)},
    "weights without end": changed("loss", bin_weights=[[1.0] * 10**6, None]),
    "weights that are NaN": changed("loss", group_weights=[float("nan"), 1.0]),
    "a flag that is text": changed("loss", banded="no"),
    "timm's address of a model": changed("image_encoder", type="TimmEncoder")
    | {"image_encoder": {"type": "TimmEncoder", "name": "hf-hub:somebody/something"}},
    "timm's name of a folder": changed(None)
    | {"image_encoder": {"type": "TimmEncoder", "name": "local-dir:/tmp/resnet18"}},
    "timm's name with a path": changed(None) | {"image_encoder": {"type": "TimmEncoder", "name": "resnet18.../x"}},
    "timm's name that is a number": changed(None) | {"image_encoder": {"type": "TimmEncoder", "name": 18}},
    "an argument for timm": changed(None)
    | {"image_encoder": {"type": "TimmEncoder", "name": "resnet18", "checkpoint_path": "/etc/passwd"}},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_description_is_refused_in_one_short_line_and_nothing_is_built(name, monkeypatch):
    def built(*_, **__):
        raise AssertionError("the registry was reached")

    monkeypatch.setattr(MODELS, "build", built)
    monkeypatch.setattr(torch.nn.Conv2d, "__init__", built)
    with pytest.raises(ValueError, match="cannot rebuild") as refused:
        CMP.from_description(HOSTILE[name])
    assert len(str(refused.value)) < 600 and "\n" not in str(refused.value)


def test_a_description_opens_no_pretrained_file(tmp_path):
    """The weights are in the checkpoint: a path in its description is never touched, not even to see whether it is."""
    described = changed("image_encoder", pretrained="/proc/self/mem")
    assert CMP.from_description(described).image_encoder.pretrained is None
    assert (
        CMP.from_description(changed("image_encoder", pretrained={"type": "os.system"})).image_encoder.pretrained
        is None
    )


NETWORKS = {
    "resnet": {},
    "pyramid, attention, shortcut": dict(
        image_encoder=dict(type=PyramidResNet, depth=18, top_stride=4, out_channels=16),
        motion_encoder=dict(type=MotionEncoder, fill="attention", heads=2, still=True, hidden_channels=8),
        decoder=dict(type=PropagationDecoder, strides=(1, 2), width=16, shortcut=True),
        guide_reach_px=8,
    ),
    "skips, quadratic bins": dict(
        decoder=dict(type=SkipPropagationDecoder, strides=(1, 2, 4, 8), width=16),
        quantizer=dict(type=FlowQuantizer, num_bins=9, spacing="quadratic"),
    ),
    "alexnet": dict(image_encoder=dict(type=AlexNetFCN, output_stride=8, out_channels=16, dropout=0.0)),
    "joint bins, weighted": dict(
        quantizer=dict(type=JointFlowQuantizer, num_bins=5),
        loss=dict(type=DiscreteLoss, group_weights=[2.0], bin_weights=[[1.0] * 25], ignore_invalid=True),
    ),
    "polar bins": dict(
        quantizer=dict(type=PolarFlowQuantizer, num_angles=8, num_radii=5),
        loss=dict(type=DiscreteLoss, banded=False, bin_weights=[None, [1.0, 2.0, 0.0, 1.0, 1.0]]),
    ),
    "regression": dict(quantizer=dict(type=DirectFlow), loss=dict(type=RegressionLoss, kind="mse")),
    "other colors": dict(mean=(0, 0, 0), std=(1, 255.0, 1), init="default"),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_kind_of_network_is_rebuilt_as_it_was_described(name):
    model = build(**NETWORKS[name])
    again = CMP.from_description(model.describe())
    assert again.describe() == model.describe()
    again.load_state_dict(model.state_dict())


DERIVED = {"stride", "image_channels", "motion_channels", "num_logits", "quantizer"}  # by `CMP` from the other parts


def test_every_argument_of_every_class_may_be_described():
    for classes in PARTS.values():
        for kind, checks in classes.items():
            arguments = inspect.signature(kind).parameters.keys() - DERIVED
            assert arguments == checks.keys(), kind.__name__


def test_a_preprocessor_in_a_file_runs_no_command(tmp_path):
    """The whole way, in a fresh process: from a file to a refusal, without the command's trace."""
    trace = tmp_path / "ran"
    description = changed(None, data_preprocessor={"type": "os.system", "command": f"touch {trace}"})
    torch.save({"meta": {"cmp": description}, "state_dict": build().state_dict()}, tmp_path / "x.pth")
    code = f"from cmp.inference import load_propagator; load_propagator({str(tmp_path / 'x.pth')!r})"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).resolve().parents[2]
    )
    assert done.returncode == 1 and "ValueError: cannot rebuild" in done.stderr and not trace.exists()
