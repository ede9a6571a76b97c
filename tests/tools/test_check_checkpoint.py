import json
import runpy

import numpy as np
import pytest
import torch

from cmp import checkpoint_check
from cmp.checkpoints.peer_keys import to_peer_key
from cmp.flow import FlowQuantizer
from cmp.models import CMP, DiscreteLoss, MotionEncoder, PropagationDecoder, ResNet, SkipPropagationDecoder
from tools.check_checkpoint import main


def save(path, depth, decoder):
    torch.manual_seed(0)
    parts = (dict(type=MotionEncoder), dict(type=decoder), dict(type=FlowQuantizer), dict(type=DiscreteLoss))
    model = CMP(dict(type=ResNet, depth=depth), *parts, init="default")
    weights = {to_peer_key(k): v for k, v in model.state_dict().items() if "num_batches" not in k}
    torch.save({"step": 3, "state_dict": weights, "optimizer": {}}, path)
    return path


def test_a_checkpoint_of_theirs_goes_through_every_door_but_the_graphs(tmp_path, capsys, monkeypatch):
    monkeypatch.delitem(checkpoint_check.STEPS, "graphs")  # tests/inference/test_export.py, and the slow test below
    monkeypatch.setattr(checkpoint_check, "SIZE_HW", (64, 96))
    path = save(tmp_path / "ckpt.pth.tar", 18, PropagationDecoder)
    assert main([str(path), str(tmp_path / "out")]) == 0
    text = capsys.readouterr().out
    assert text.splitlines()[-1] == f"{path}: all {len(checkpoint_check.STEPS)} steps passed" and "FAILED" not in text
    assert "missing only fc.bias, fc.weight" in text and "equal there and back" in text
    for name in ("ours.safetensors", "back.pth.tar", "video.gif", "mask.png", "backbone.pth"):
        assert (tmp_path / "out" / name).is_file()


def test_a_step_that_fails_is_named_and_the_others_run(tmp_path, capsys, monkeypatch):
    def fail(checkpoint, out):
        raise ValueError("something is wrong")

    monkeypatch.setattr(checkpoint_check, "STEPS", {"first": fail, "second": lambda checkpoint, out: "fine"})
    path = save(tmp_path / "ckpt.pth.tar", 18, PropagationDecoder)
    assert main([str(path), str(tmp_path)]) == 1
    text = capsys.readouterr().out
    assert "FAILED first: something is wrong" in text and "second: fine" in text and "failed: first" in text
    path.write_bytes(path.read_bytes()[:3000])
    assert main([str(path), str(tmp_path)]) == 2
    assert "ckpt.pth.tar" in capsys.readouterr().err


@pytest.mark.slow
def test_golden_weights_go_through_every_door_and_still_give_the_golden_flow(shared_dir, tmp_path, capsys):
    golden = shared_dir / "golden"
    recipe = runpy.run_path(str(golden / "weights_recipe.py"))
    paths = golden / "resnet50_plain.json", golden / "resnet50_plain.npz"
    weights = {k: torch.from_numpy(v) for k, v in recipe["golden_weights"](*map(str, paths)).items()}
    torch.save({"step": 3, "state_dict": weights}, tmp_path / "golden.pth.tar")
    assert main([str(tmp_path / "golden.pth.tar"), str(tmp_path / "out")]) == 0
    print(capsys.readouterr().out)

    noise, stored = json.loads(paths[0].read_text())["numeric_noise"], np.load(paths[1])
    import cmp

    for name in ("golden.pth.tar", "out/ours.safetensors", "out/back.pth.tar"):
        propagator = cmp.load_propagator(tmp_path / name, normalize="unit")  # golden images are normalised already
        for case in "ab":
            image, sparse = torch.from_numpy(stored[f"image_{case}"]), stored[f"sparse_{case}"]
            network = propagator.network
            with torch.no_grad():
                logits = network.decoder(
                    network.image_encoder(image),
                    network.motion_encoder(torch.from_numpy(sparse[:, :2]), torch.from_numpy(sparse[:, 2:3])),
                )
            flow = network.decode(logits, *torch.from_numpy(sparse).split((2, 1), dim=1))
            difference = (flow - torch.from_numpy(stored[f"flow_up_{case}"])).abs().max()
            assert difference <= 1.5 * noise[case]["nomkldnn_flow"], (name, case)


@pytest.mark.slow
def test_the_demos_network_goes_through_every_door(tmp_path):
    assert main([str(save(tmp_path / "ckpt.pth.tar", 50, SkipPropagationDecoder)), str(tmp_path / "out")]) == 0
