import numpy as np
import pytest
import torch
from PIL import Image

from cmp.cli.evaluate_rigidity import main
from cmp.flow import FlowQuantizer, write_flow
from cmp.models import CMP, DiscreteLoss, MotionEncoder, PropagationDecoder, ResNet


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    torch.manual_seed(0)
    encoder, motion = dict(type=ResNet, depth=18), dict(type=MotionEncoder)
    parts = dict(type=PropagationDecoder, width=8), dict(type=FlowQuantizer, num_bins=5), dict(type=DiscreteLoss)
    model = CMP(encoder, motion, *parts, init="default")
    path = tmp_path_factory.mktemp("network") / "net.pth"
    torch.save({"state_dict": model.state_dict(), "meta": {"cmp": model.describe()}}, path)
    return str(path)


def test_measured_flow_gives_a_row_per_method_and_a_picture(network, tmp_path, capsys):
    flow = np.zeros((80, 110, 2), np.float32)
    flow[20:60, 30:70] = (6, -2)
    write_flow(tmp_path / "a.flo", flow)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (80, 110, 3), np.uint8)).save(tmp_path / "a.png")
    command = [
        "--checkpoint",
        network,
        "--pair",
        str(tmp_path / "a.png"),
        str(tmp_path / "a.flo"),
        "--short-side",
        "64",
    ]
    assert main([*command, "--picture", str(tmp_path / "p.png")]) == 0
    text = capsys.readouterr().out
    assert "1 scenes, 2 parts" in text and "| flow | 1 | network | " in text and "| flow | 2 | fading | " in text
    nearest = next(line for line in text.splitlines() if line.startswith("| flow | 1 | nearest"))
    assert float(nearest.split("|")[4]) > 0.85  # the square follows its point
    assert Image.open(tmp_path / "p.png").size[0] == 6 * 200


def test_mistakes_are_one_line(network, tmp_path, capsys):
    Image.new("RGB", (30, 20)).save(tmp_path / "a.png")
    write_flow(tmp_path / "a.flo", np.zeros((21, 30, 2), np.float32))
    pair = ("--pair", str(tmp_path / "a.png"), str(tmp_path / "a.flo"))
    for more, message in (
        (pair, r"a.flo: must have the size of"),
        (("--short-side", "20"), "--short-side must be at least 64, got 20"),
        (("--picture", str(tmp_path / "p.jpg")), "--picture must end in .png"),
        (("--pair", str(tmp_path / "none.png"), str(tmp_path / "a.flo")), "none.png"),
    ):
        assert main(["--checkpoint", network, *more]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
