import json

import pytest
import torch

from cmp.flow import FlowQuantizer
from cmp.models import CMP, DiscreteLoss, MotionEncoder, PropagationDecoder, ResNet
from tools.export_backbone import main


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    parts = (dict(type=MotionEncoder), dict(type=PropagationDecoder), dict(type=FlowQuantizer), dict(type=DiscreteLoss))
    model = CMP(dict(type=ResNet, depth=18), *parts, init="default")
    path = tmp_path_factory.mktemp("checkpoints") / "iter_3.pth"
    torch.save({"meta": {"cmp": model.describe(), "iter": 3}, "state_dict": model.state_dict()}, path)
    return path


def test_the_command_says_what_it_wrote_and_what_loading_back_showed(checkpoint, tmp_path, capsys):
    out = tmp_path / "backbone.pth"
    assert main([str(checkpoint), str(out), "--format", "torchvision"]) == 0
    text = capsys.readouterr().out
    assert "encoder resnet18" in text and "missing only fc.bias, fc.weight" in text
    assert "largest feature difference" in text and text.splitlines()[-1] == f"backbone: {out} (written)"
    assert main([str(checkpoint), str(out)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"backbone: {out} (already there, unchanged)"


def test_failures_name_the_file_and_leave_nothing(checkpoint, tmp_path, capsys):
    (tmp_path / "broken.pth").write_bytes(checkpoint.read_bytes()[:5000])
    torch.save({"head.weight": torch.zeros(2)}, tmp_path / "other.pth")
    out = tmp_path / "backbone.pth"
    for name in ("missing.pth", "broken.pth", "other.pth"):
        assert main([str(tmp_path / name), str(out)]) == 2
        assert name in capsys.readouterr().err and not out.exists()


def test_another_file_is_replaced_only_on_demand(checkpoint, tmp_path, capsys):
    out = tmp_path / "backbone.safetensors"
    out.write_bytes(b"somebody's")
    assert main([str(checkpoint), str(out), "--format", "safetensors"]) == 2
    assert "--overwrite" in capsys.readouterr().err and out.read_bytes() == b"somebody's"
    assert main([str(checkpoint), str(out), "--format", "safetensors", "--overwrite"]) == 0


def test_the_average_is_exported_where_it_is_asked_for_and_there_is_one(checkpoint, tmp_path, capsys):
    content = torch.load(checkpoint, weights_only=True)
    trained = content["state_dict"]
    average = {key: value * 0.9 if value.is_floating_point() else value for key, value in trained.items()}
    torch.save({**content, "ema_state_dict": average}, tmp_path / "with.pth")
    for flags, expected, name in (([], trained, None), (["--ema"], average, "exponential moving average")):
        out = tmp_path / f"backbone{len(flags)}.pth"
        assert main([str(tmp_path / "with.pth"), str(out), *flags]) == 0
        exported = torch.load(out, weights_only=True)
        for key in ("conv1.weight", "layer4.1.bn2.running_var"):
            assert torch.equal(exported[key], expected[f"image_encoder.{key}"])
        assert json.loads(out.with_name(f"{out.name}.json").read_text()).get("weights") == name
    capsys.readouterr()
    assert main([str(checkpoint), str(tmp_path / "none.pth"), "--ema"]) == 2
    assert "does not contain a moving average" in capsys.readouterr().err and not (tmp_path / "none.pth").exists()
