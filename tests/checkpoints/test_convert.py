import importlib.util
import json
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

from cmp.checkpoints import convert_checkpoint, read_checkpoint
from cmp.checkpoints.peer_keys import to_peer_key
from cmp.flow import FlowQuantizer
from cmp.models import CMP, DiscreteLoss, MotionEncoder, PropagationDecoder, PyramidResNet, ResNet

TOOL = Path(__file__).resolve().parents[2] / "tools" / "convert_checkpoint.py"


def command(*args):
    spec = importlib.util.spec_from_file_location("convert_checkpoint_command", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main([str(arg) for arg in args])


def small_network(encoder=None, **quantizer):
    torch.manual_seed(0)
    return CMP(
        encoder or dict(type=ResNet, depth=18),
        dict(type=MotionEncoder),
        dict(type=PropagationDecoder),
        dict(type=FlowQuantizer, **(quantizer or dict(num_bins=9))),
        dict(type=DiscreteLoss),
        init="default",
    ).eval()


@pytest.fixture
def theirs(tmp_path):
    """The authors' file of a small network with an optimizer's state, and the network."""
    network = small_network()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    data = (torch.zeros(2, 3, 64, 64), torch.ones(2, 2, 64, 64), torch.ones(2, 1, 64, 64), torch.ones(2, 2, 64, 64))
    network.train()(*data, mode="loss")["loss"].backward()
    optimizer.step()
    weights = {to_peer_key(key): value for key, value in network.eval().state_dict().items()}
    path = tmp_path / "ckpt_iter_7.pth.tar"
    torch.save({"step": 7, "state_dict": weights, "optimizer": optimizer.state_dict()}, path)
    return path, network


def test_a_trip_there_and_back_returns_every_tensor_the_step_and_the_optimizer(theirs, tmp_path, capsys):
    path, network = theirs
    ours, back = tmp_path / "ours.pth", tmp_path / "back.pth.tar"
    assert command(path, ours) == 0 and command(ours, back, "--to", "peer") == 0
    assert "whole network, resnet18" in capsys.readouterr().out
    before, after = (torch.load(p, weights_only=True) for p in (path, back))
    assert after["step"] == 7 and list(after["state_dict"]) == list(before["state_dict"])
    assert all(torch.equal(after["state_dict"][k], v) for k, v in before["state_dict"].items())
    momentum = [o["optimizer"]["state"][3]["momentum_buffer"] for o in (before, after)]
    assert torch.equal(*momentum) and after["optimizer"]["param_groups"] == before["optimizer"]["param_groups"]
    inputs = torch.rand(1, 3, 64, 96), torch.ones(1, 2, 64, 96), torch.ones(1, 1, 64, 96)
    with torch.no_grad():
        assert torch.equal(read_checkpoint(ours).network()(*inputs, mode="predict"), network(*inputs, mode="predict"))
    assert read_checkpoint(ours).meta["iter"] == 7
    assert sorted(p.name for p in tmp_path.iterdir()) == ["back.pth.tar", "ckpt_iter_7.pth.tar", "ours.pth"]


def test_a_safetensors_file_describes_its_network_and_loads(theirs, tmp_path):
    path, network = theirs
    convert_checkpoint(path, tmp_path / "a.safetensors")
    again = read_checkpoint(tmp_path / "a.safetensors").network()
    assert again.quantizer == network.quantizer and not again.training
    assert all(torch.equal(again.state_dict()[k], v) for k, v in network.state_dict().items())
    with pytest.raises(ValueError, match="name it .pth.tar"):
        convert_checkpoint(path, tmp_path / "b.safetensors", to="peer")


def test_what_weights_do_not_tell_is_taken_from_the_caller(theirs, tmp_path):
    convert_checkpoint(theirs[0], tmp_path / "a.pth", max_flow_px=20.0)
    assert read_checkpoint(tmp_path / "a.pth").network().quantizer == FlowQuantizer(9, 20.0)


def test_an_encoder_that_their_tool_extracted_comes_in_and_goes_out(theirs, tmp_path):
    path, network = theirs
    extracted = tmp_path / "convert_iter_7.pth.tar"
    torch.save(network.image_encoder.state_dict(), extracted)  # what their tool does
    convert_checkpoint(extracted, tmp_path / "ours.pth")
    state_dict = read_checkpoint(tmp_path / "ours.pth").state_dict
    assert all(torch.equal(state_dict[f"image_encoder.{k}"], v) for k, v in network.image_encoder.state_dict().items())
    convert_checkpoint(path, tmp_path / "again.pth.tar", to="peer-backbone")
    before, after = (torch.load(p, weights_only=True) for p in (extracted, tmp_path / "again.pth.tar"))
    assert list(after) == list(before) and all(torch.equal(after[k], v) for k, v in before.items())
    convert_checkpoint(tmp_path / "ours.pth", tmp_path / "ours.safetensors")
    for name in ("ours.pth", "ours.safetensors"):  # out of our layout again
        convert_checkpoint(tmp_path / name, tmp_path / "back.pth.tar", to="peer-backbone")
        back = torch.load(tmp_path / "back.pth.tar", weights_only=True)
        assert list(back) == list(before) and all(torch.equal(back[k], v) for k, v in before.items())
    with pytest.raises(ValueError, match="an image encoder alone"):
        convert_checkpoint(extracted, tmp_path / "x.pth.tar", to="peer")


def test_an_extracted_encoder_that_lacks_or_adds_a_key_is_refused_by_name(tmp_path):
    weights = small_network().image_encoder.state_dict()
    del weights["layer1.0.conv1.weight"]
    torch.save(weights | {"fc.bias": torch.zeros(1000)}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"(?s)a.pth.*missing \(1\): layer1.0.conv1.weight.*left over \(1\): fc.bias"):
        convert_checkpoint(tmp_path / "a.pth", tmp_path / "b.pth")
    torch.save({"weight": torch.zeros(1)}, tmp_path / "c.pth")
    with pytest.raises(ValueError, match="c.pth contains neither a network nor an image encoder"):
        convert_checkpoint(tmp_path / "c.pth", tmp_path / "b.pth")
    assert not (tmp_path / "b.pth").exists()


@pytest.mark.parametrize(
    "network, message",
    (
        (dict(spacing="quadratic"), "predicts something else"),
        (dict(encoder=dict(type=ResNet, depth=18, output_stride=16)), "predicts something else"),
        (dict(encoder=dict(type=PyramidResNet, depth=18, top_stride=8)), "do not have a network with .*laterals"),
    ),
)
def test_a_network_that_they_do_not_have_is_not_written_in_their_layout(network, message, tmp_path):
    model = small_network(**network)
    torch.save({"state_dict": model.state_dict(), "meta": {"cmp": model.describe()}}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=message):
        convert_checkpoint(tmp_path / "a.pth", tmp_path / "b.pth.tar", to="peer")
    assert [file.name for file in tmp_path.iterdir()] == ["a.pth"]


def test_the_command_names_a_missing_file_and_fails(tmp_path, capsys):
    assert command(tmp_path / "none.pth", tmp_path / "out.pth") == 2
    assert "none.pth" in capsys.readouterr().err


def test_a_file_that_cannot_be_written_is_named_and_leaves_nothing(theirs, tmp_path, capsys, monkeypatch):
    (tmp_path / "folder").mkdir()
    before = sorted(tmp_path.rglob("*"))
    for name in ("none/out.pth", "folder", "none/out.safetensors"):
        assert command(theirs[0], tmp_path / name) == 2
        assert str(tmp_path / name.partition(".")[0]) in capsys.readouterr().err

    def fill_the_disk(content, file):
        file.write(b"some of it")
        raise RuntimeError("unexpected pos 64 vs 0")

    monkeypatch.setattr(torch, "save", fill_the_disk)
    assert command(theirs[0], tmp_path / "out.pth") == 1
    assert "out.pth cannot be written: unexpected pos" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "change, message",
    (
        ({"image_encoder.conv1.weight": torch.zeros(64, 3, 7, 7)}, "1 weights twice, with and without 'module.'"),
        ({5: torch.zeros(1)}, "its keys must be names, got [5]"),
        ({"module.flow_decoder.head.weight": torch.zeros(())}, "no head of 2 x bins channels"),
        ("seven", "must have a whole number as its step, got 'seven'"),
    ),
)
def test_a_malformed_file_of_theirs_is_refused_by_name(theirs, tmp_path, capsys, change, message):
    content = torch.load(theirs[0], weights_only=True)
    if isinstance(change, str):
        content["step"] = change
    else:
        content["state_dict"].update(change)
    torch.save(content, tmp_path / "bad.pth")
    assert command(tmp_path / "bad.pth", tmp_path / "out.pth") == 2
    error = capsys.readouterr().err
    assert "bad.pth" in error and message in error


def test_golden_outputs_hold_after_a_trip_there_and_back(shared_dir, tmp_path):
    golden = shared_dir / "golden"
    recipe = runpy.run_path(str(golden / "weights_recipe.py"))
    paths = golden / "resnet50_plain.json", golden / "resnet50_plain.npz"
    weights = {k: torch.from_numpy(v) for k, v in recipe["golden_weights"](*map(str, paths)).items()}
    torch.save({"step": 3, "state_dict": weights}, tmp_path / "golden.pth.tar")
    convert_checkpoint(tmp_path / "golden.pth.tar", tmp_path / "ours.safetensors")
    convert_checkpoint(tmp_path / "ours.safetensors", tmp_path / "back.pth.tar", to="peer")
    back = torch.load(tmp_path / "back.pth.tar", weights_only=True)["state_dict"]
    assert all(torch.equal(back[k if k.startswith("module.") else f"module.{k}"], v) for k, v in weights.items())

    noise, stored = json.loads(paths[0].read_text())["numeric_noise"], np.load(paths[1])
    image, sparse = (torch.from_numpy(stored[f"{name}_a"]) for name in ("image", "sparse"))
    for file in ("ours.safetensors", "back.pth.tar"):
        model = read_checkpoint(tmp_path / file).network()
        model.mean.zero_()  # golden images are normalised already
        model.std.fill_(1)
        with torch.no_grad():
            flow = model(image, sparse[:, :2], sparse[:, 2:3], mode="predict")
        assert (flow - torch.from_numpy(stored["flow_up_a"])).abs().max() <= 1.5 * noise["a"]["nomkldnn_flow"]


def test_half_writes_the_average_as_float16_at_half_the_size_and_predicts_the_same(tmp_path):
    network = small_network().float()
    average = {key: value.clone() for key, value in network.state_dict().items()}
    trained = {key: value + 1 if value.is_floating_point() else value for key, value in average.items()}
    source, whole, half = tmp_path / "iter_3.pth", tmp_path / "whole.safetensors", tmp_path / "half.safetensors"
    content = dict(state_dict=trained, ema_state_dict=average, meta=dict(cmp=network.describe(), iter=3))
    torch.save(content, source)
    convert_checkpoint(source, whole, ema=True)
    assert "float16" in convert_checkpoint(source, half, ema=True, half=True)
    assert half.stat().st_size < 0.52 * whole.stat().st_size
    found = read_checkpoint(half)
    for key, value in average.items():
        stored = found.state_dict[key]
        assert stored.dtype == (torch.float16 if value.ndim > 1 else value.dtype), key
        assert torch.allclose(stored.to(value.dtype), value, rtol=1e-3, atol=1e-6), key  # 2 ** -11 is half a step
    loaded = found.network()
    assert {p.dtype for p in loaded.parameters()} == {torch.float32} and found.step == 3
    image, mask = torch.rand(1, 3, 64, 96) * 255, (torch.rand(1, 1, 64, 96) < 0.02).float()
    flows = [net(image, torch.cat((mask * 5, -mask), 1), mask, mode="predict") for net in (network, loaded)]
    assert (flows[0] - flows[1]).abs().max() < 0.05 and flows[0].abs().max() > 0


def test_a_weight_beyond_float16_is_named(tmp_path):
    network = small_network()
    network.decoder.head.weight.data[0, 0] = 1e6
    source = tmp_path / "iter_3.pth"
    torch.save(dict(state_dict=network.state_dict(), meta=dict(cmp=network.describe())), source)
    with pytest.raises(ValueError, match=r"beyond the range of float16: \['decoder.head.weight'\]"):
        convert_checkpoint(source, tmp_path / "half.safetensors", half=True)
    assert not (tmp_path / "half.safetensors").exists()
