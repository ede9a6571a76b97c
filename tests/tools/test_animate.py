import importlib.util
import json
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from cmp.flow import FlowQuantizer
from cmp.inference import MotionPropagator
from cmp.models import CMP, DiscreteLoss, MotionEncoder, PropagationDecoder, ResNet

TOOL = Path(__file__).resolve().parents[2] / "tools" / "animate.py"


def command(*args):
    spec = importlib.util.spec_from_file_location("animate_command", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main([str(arg) for arg in args])


@pytest.fixture
def files(tmp_path):
    torch.manual_seed(0)
    encoder, motion = dict(type=ResNet, depth=18), dict(type=MotionEncoder)
    model = CMP(encoder, motion, dict(type=PropagationDecoder), dict(type=FlowQuantizer), dict(type=DiscreteLoss))
    torch.save({"state_dict": model.state_dict(), "meta": {"cmp": model.describe()}}, tmp_path / "net.pth")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 70, 3), np.uint8)).save(tmp_path / "in.png")
    (tmp_path / "tracks.json").write_text(json.dumps([[[3, 4], [9, 4], [9, 8]], [[60, 40]]]))
    return tmp_path


def test_arrows_and_tracks_give_films_of_the_asked_length(files, capsys):
    inputs = ("--checkpoint", files / "net.pth", "--frames", 4)
    assert command(files / "in.png", files / "a.mp4", *inputs, "--arrow", "3,4,9,4", "--arrow", "60,40,60,40") == 0
    assert command(files / "in.png", files / "b.mp4", *inputs, "--tracks", files / "tracks.json") == 0
    assert "b.mp4: 4 frames" in capsys.readouterr().out
    for name in ("a.mp4", "b.mp4"):
        with av.open(str(files / name)) as film:
            assert [(frame.height, frame.width) for frame in film.decode(video=0)] == [(48, 70)] * 4


def test_an_arrow_is_a_point_and_the_way_to_its_end(files, monkeypatch):
    asked, predict = [], MotionPropagator.predict

    def listen(self, image, points, vectors):
        asked.append((points.tolist(), vectors.tolist()))
        return predict(self, image, points, vectors)

    monkeypatch.setattr(MotionPropagator, "predict", listen)
    inputs = ("--checkpoint", files / "net.pth", "--frames", 2, "--arrow", "3,4,9,2", "--arrow", "60,40,60,40")
    assert command(files / "in.png", files / "a.gif", *inputs) == 0
    assert asked == [([[3, 4], [60, 40]], [[6, -2], [0, 0]])]


def test_mistakes_are_named(files, capsys):
    inputs = (files / "in.png", files / "a.gif", "--checkpoint", files / "net.pth")
    for more, message in (
        (("--arrow", "70,4,9,4"), "points_xy must lie in the image"),
        (("--arrow", "3,4,9,4", "--frames", 1), "--frames must be at least 2"),
        (("--tracks", files / "none.json"), "none.json"),
        (("--arrow", "3,4,9,4", "--fps", "nan"), "fps must be in 0.01..1000, got nan"),
        (("--arrow", "3,4,9,4", "--fps", "1e-9"), "fps must be in 0.01..1000, got 1e-09"),
        (("--arrow", "3,4,9,4", "--device", "typewriter"), "device must be one that torch can use here"),
        (("--arrow", "3,4,9,4", "--uncovered", files / "a.gif"), "OUT and --uncovered must be two files"),
        (("--arrow", "3,4,9,4", "--uncovered", files / "none" / "b.gif"), "no such folder"),
        (("--arrow", "3,4,9,4", "--uncovered", files / "b.avi"), "b.avi: expected a name ending in .mp4 or .gif"),
    ):
        assert command(*inputs, *more) == 2
        assert message in capsys.readouterr().err
    for content, message in (
        ("[", "is no JSON"),
        ("{}", "must hold a list"),
        ("[]", "not empty"),
        ("[[]]", "tracks[0] must be"),
        ('[{"x": 1}]', "tracks[0] must be"),
        ("[" * 100_000, "is no JSON"),
    ):
        (files / "bad.json").write_text(content)
        assert command(*inputs, "--tracks", files / "bad.json") == 2
        assert message in capsys.readouterr().err
    (files / "text.png").write_text("no picture")
    assert command(files / "text.png", *inputs[1:], "--arrow", "3,4,9,4") == 2
    assert "text.png cannot be read as an image" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        command(*inputs, "--arrow", "3,4,x,4")
    assert "an arrow is x0,y0,x1,y1, got '3,4,x,4'" in capsys.readouterr().err
    assert not (files / "a.gif").exists()


def test_a_film_of_what_is_uncovered_can_be_had_with_either_method(files, capsys):
    inputs = ("--checkpoint", files / "net.pth", "--frames", 3, "--arrow", "3,4,9,4")
    for method in ("splat", "backward"):
        where = files / f"{method}.gif"
        assert command(files / "in.png", files / "a.gif", *inputs, "--method", method, "--uncovered", where) == 0
        assert f"uncovered pixels: {where}" in capsys.readouterr().out
        with Image.open(where) as film:
            assert film.size == (70, 48) and set(np.unique(film.convert("L"))) <= {0, 255}
