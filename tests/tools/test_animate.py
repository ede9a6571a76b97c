import importlib.util
import json
import shutil
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from cmp.flow import FlowQuantizer
from cmp.inference import MotionPropagator, interpolate_tracks, load_propagator, tracks_to_guidance
from cmp.inference import animate as animation
from cmp.inference.animate import flow_of_arrows
from cmp.models import CMP, DiscreteLoss, MotionEncoder, PropagationDecoder, ResNet
from cmp.video import writers

TOOL = Path(__file__).resolve().parents[2] / "tools" / "animate.py"


def command(*args):
    spec = importlib.util.spec_from_file_location("animate_command", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main([str(arg) for arg in args])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Do not change it."""
    torch.manual_seed(0)
    encoder, motion = dict(type=ResNet, depth=18), dict(type=MotionEncoder)
    parts = dict(type=PropagationDecoder, width=8), dict(type=FlowQuantizer, num_bins=5), dict(type=DiscreteLoss)
    model = CMP(encoder, motion, *parts)
    path = tmp_path_factory.mktemp("checkpoint") / "net.pth"
    torch.save({"state_dict": model.state_dict(), "meta": {"cmp": model.describe()}}, path)
    return path


@pytest.fixture
def files(checkpoint, tmp_path):
    shutil.copy(checkpoint, tmp_path)
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
        (("--arrow", "70,4,9,4"), "--arrow 70,4,9,4 starts at x=70, y=4, outside the image of 70 x 48 px"),
        (
            ("--arrow", "3,4,9,4", "--arrow", "3,4,9,48"),
            "--arrow 3,4,9,48 ends at x=9, y=48, outside the image of 70 x",
        ),
        (("--arrow", "3,4,-0.6,4"), "--arrow 3,4,-0.6,4 ends at x=-0.6, y=4, outside"),
        (("--arrow", "3,4,nan,4"), "--arrow 3,4,nan,4 ends at x=nan"),
        (("--arrow", "3,4,9,4", "--frames", 100_001), "at most 100000, got 100001"),
        (("--arrow", "3,4,9,4", "--short-side", 0), "short_side_px must be at least 1, got 0"),
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
        ("[", "is not valid JSON"),
        ("{}", "must contain a list"),
        ("[]", "not empty"),
        ("[[]]", "tracks[0] must be"),
        ("[[[3, 4], [9, 4]], [[5, 5], [70, 5]]]", "track 1 (counted from 0) is in frame 24 at x=70, y=5, outside"),
        ('[{"x": 1}]', "bad.json: tracks[0] must be"),
        ("# one\n[[[3, 4],\n[9 4]]]", "bad.json:3: is not valid JSON"),
        (f"[[[3, {10**400}]]]", "bad.json: tracks[0] must be an array of numbers"),
        ("[" * 100_000, "is not valid JSON"),
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


def test_a_file_of_arrows_is_scaled_to_the_image_and_its_arrows_may_end_outside(files, monkeypatch):
    asked, predict = [], MotionPropagator.predict

    def listen(self, image, points, vectors):
        asked.append((points.tolist(), vectors.tolist()))
        return predict(self, image, points, vectors)

    monkeypatch.setattr(MotionPropagator, "predict", listen)
    contents = (
        [[3, 4, 9, 2], [60, 40, 60, 40], [1, 1, -40, 1]],
        {"size": [140, 96], "arrows": [[6.5, 8.5, 18.5, 4.5], [120.5, 80.5, 120.5, 80.5], [2.5, 2.5, -79.5, 2.5]]},
    )
    for content in contents:
        (files / "arrows.json").write_text(json.dumps(content))
        inputs = ("--checkpoint", files / "net.pth", "--frames", 2, "--arrows", files / "arrows.json")
        assert command(files / "in.png", files / "a.gif", *inputs) == 0
    assert asked == [([[3, 4], [60, 40], [1, 1]], [[6, -2], [0, 0], [-41, 0]])] * 2


def test_mistakes_in_a_file_of_arrows_are_named(files, capsys):
    inputs = (files / "in.png", files / "a.gif", "--checkpoint", files / "net.pth")
    for content, message in (
        ("[", "bad.json:1: is not valid JSON"),
        ("{}", "bad.json: arrows must be [[x0, y0, x1, y1], ...] or"),
        ("[]", "bad.json: arrows must be .* an empty list"),
        ("[[1, 2, 3]]", "bad.json: arrows must be entries"),
        ("[[1, 2, 3, NaN]]", "bad.json: arrows must be finite"),
        (
            "[[1, 2, 3, 4], [70, 5, 3, 4]]",
            "bad.json: arrows must start in the image of 70 x 48 px (width x height), got x=70",
        ),
        ('{"size": [48, 70], "arrows": [[1, 2, 3, 4]]}', "bad.json: arrows were drawn on an image of another shape"),
        (json.dumps([[1, 2, 3, 4]] * 201), "bad.json: arrows must be at most 200, got 201"),
        (" " * (1 << 20) + "[]", "bad.json: a file of arrows has at most 1048576 bytes"),
    ):
        (files / "bad.json").write_text(content)
        assert command(*inputs, "--arrows", files / "bad.json") == 2
        error = capsys.readouterr().err
        assert len(error.splitlines()) == 1
        assert all(part in error for part in message.split(".*")), error
    assert command(*inputs, "--arrows", files / "none.json") == 2
    assert "none.json" in capsys.readouterr().err
    (files / "arrows.gif").write_text("[[1, 2, 3, 4]]")
    assert command(inputs[0], files / "arrows.gif", *inputs[2:], "--arrows", files / "arrows.gif") == 2
    assert "OUT would overwrite --arrows" in capsys.readouterr().err
    assert (files / "arrows.gif").read_text() == "[[1, 2, 3, 4]]" and not (files / "a.gif").exists()
    with pytest.raises(SystemExit):
        command(*inputs, "--arrow", "1,2,3,4", "--arrows", files / "bad.json")
    assert "not allowed with argument" in capsys.readouterr().err


def test_tracks_are_read_with_a_byte_order_mark_windows_lines_and_comments(files):
    tracks = "\ufeff# of a bear\r\n\r\n[[[3, 4], [9, 4]],\r\n  # still\r\n [[60, 40]]]\r\n"
    (files / "tracks.json").write_bytes(tracks.encode())
    more = ("--checkpoint", files / "net.pth", "--frames", 2, "--tracks", files / "tracks.json")
    assert command(files / "in.png", files / "a.gif", *more) == 0


def test_a_film_of_what_is_uncovered_can_be_had_with_either_method(files, capsys):
    inputs = ("--checkpoint", files / "net.pth", "--frames", 3, "--arrow", "3,4,9,4")
    for method in ("splat", "backward"):
        where = files / f"{method}.gif"
        assert command(files / "in.png", files / "a.gif", *inputs, "--method", method, "--uncovered", where) == 0
        assert f"uncovered pixels: {where}" in capsys.readouterr().out
        with Image.open(where) as film:
            assert film.size == (70, 48) and set(np.unique(film.convert("L"))) <= {0, 255}


def trained_at(files, short_side):
    content = torch.load(files / "net.pth", weights_only=True)
    content["meta"] |= short_side
    torch.save(content, files / "net.pth")


def seen_sizes(monkeypatch):
    seen, encode = [], MotionPropagator._encode

    def listen(self, image):
        seen.append(tuple(image.shape[2:]))
        return encode(self, image)

    monkeypatch.setattr(MotionPropagator, "_encode", listen)
    return seen


@pytest.mark.parametrize(
    "meta, flags, expected",
    (
        ({}, (), (48, 70)),
        ({"short_side_px": 24}, (), (24, 35)),
        (
            {"cfg": "x = 1\nval = dict(short_side_px=9)\ntrain_dataloader = dict(d=[dict(short_side_px=24)])"},
            (),
            (24, 35),
        ),
        ({"short_side_px": 24}, ("--short-side", 12), (12, 18)),  # 17.5 rounds to even
        ({"short_side_px": "24); import os"}, (), (48, 70)),
        ({"short_side_px": 10**9}, (), (48, 70)),
    ),
)
def test_the_network_sees_the_size_it_was_trained_at_and_the_video_has_the_images(
    files, monkeypatch, meta, flags, expected
):
    trained_at(files, meta)
    seen = seen_sizes(monkeypatch)
    for motion in (("--arrow", "3,4,9,4"), ("--tracks", files / "tracks.json")):
        inputs = ("--checkpoint", files / "net.pth", "--frames", 2, *motion, *flags)
        assert command(files / "in.png", files / "a.gif", *inputs) == 0
    assert seen == [expected] * 2
    with Image.open(files / "a.gif") as film:
        assert film.size == (70, 48)


def test_arrows_are_scaled_to_the_size_that_the_network_sees(files, monkeypatch):
    asked, predict = [], MotionPropagator.predict

    def listen(self, image, points, vectors):
        asked.append((points.tolist(), vectors.tolist()))
        flow = predict(self, image, points, vectors)
        return torch.full_like(flow, 3.0)

    monkeypatch.setattr(MotionPropagator, "predict", listen)
    flow = flow_of_arrows(
        load_propagator(files / "net.pth"), np.zeros((48, 72, 3), np.uint8), [[10, 20]], [[8, -6]], short_side_px=24
    )
    assert asked == [([[5, 10]], [[4, -3]])]  # (10 + 0.5) / 2 - 0.5 = 4.75, to the nearest pixel
    assert flow.shape == (2, 48, 72) and (flow == 6).all()


def test_a_photo_of_twelve_megapixels_is_animated_at_the_networks_size(files, monkeypatch, capsys):
    trained_at(files, {"short_side_px": 24})
    seen = seen_sizes(monkeypatch)
    monkeypatch.setattr(writers, "_write_mp4", lambda file, frames, *_: [file.write(next(frames).tobytes()), *frames])
    monkeypatch.setattr(animation, "_move", lambda image, *_: (image, None))  # moving so many pixels takes seconds
    Image.new("L", (4000, 3000), 90).save(files / "photo.png")
    inputs = (
        "--checkpoint",
        files / "net.pth",
        "--frames",
        2,
        "--arrow",
        "3999,2999,3900,2900",
        "--method",
        "backward",
    )
    assert command(files / "photo.png", files / "a.mp4", *inputs) == 0
    assert seen == [(24, 32)] and "photo.png: shrunk to 3344 x 2508 px" in capsys.readouterr().err
    assert (files / "a.mp4").stat().st_size == 3344 * 2508 * 3


def test_the_flows_of_tracks_are_the_same_in_parts_as_at_once(files, monkeypatch):
    propagator = load_propagator(files / "net.pth")
    image = np.array(Image.open(files / "in.png"))
    tracks = interpolate_tracks([[[3, 4], [9, 4], [9, 8]], [[60, 40]]], 8)
    expected = propagator.predict_dense(image, *tracks_to_guidance(tracks, (48, 70))).numpy()
    monkeypatch.setattr(animation, "PIXELS_AT_ONCE", 3 * 48 * 70)
    parts = list(animation.flows_of_tracks(propagator, image, tracks))
    assert len(parts) == 7 and np.allclose(parts, expected, atol=1e-4)


def test_thousands_of_frames_of_tracks_take_the_memory_of_some(files, monkeypatch):
    largest = []
    plain = animation.tracks_to_guidance

    def listen(tracks, size_hw, **more):
        largest.append(tracks.shape[1])
        return plain(tracks, size_hw, **more)

    monkeypatch.setattr(animation, "tracks_to_guidance", listen)
    monkeypatch.setattr(MotionPropagator, "predict_dense", lambda self, image, sparse, mask: torch.from_numpy(sparse))
    monkeypatch.setattr(animation, "PIXELS_AT_ONCE", 10 * 48 * 70)
    flows = animation.flows_of_tracks(
        load_propagator(files / "net.pth"), np.zeros((48, 70, 3), np.uint8), np.zeros((1, 5000, 2), np.float32)
    )
    assert sum(1 for _ in flows) == 4999 and max(largest) == 11


def test_a_gif_that_would_not_fit_in_memory_is_refused_before_the_work(files, capsys):
    inputs = ("--checkpoint", files / "none.pth", "--frames", 99_999, "--arrow", "3,4,9,4")  # 336 million pixels: fits
    assert command(files / "in.png", files / "a.gif", *inputs) == 2
    assert "none.pth" in capsys.readouterr().err
    Image.new("L", (100, 60)).save(files / "larger.png")  # 600 million
    assert command(files / "larger.png", files / "a.gif", *inputs) == 2
    assert "a.gif: a GIF may have 536,870,912 pixels in all its frames" in capsys.readouterr().err
