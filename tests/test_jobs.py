"""One call per job from `cmp`: names and defaults of the commands, and all of them in a row."""

import inspect
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

import cmp
from cmp import jobs
from cmp.cli import evaluate as evaluate_command
from cmp.cli import prepare as prepare_command
from cmp.cli import train as train_command
from cmp.flow import draw_guidance
from cmp.video import write_video
from data_prep.thresholds import Thresholds

ROOT = Path(__file__).resolve().parents[1]
SMALL = {
    **{f"{part}_dataloader.dataset.transforms.0.short_side_px": 48 for part in ("train", "val")},
    **{f"{part}_dataloader.dataset.transforms.1.size_px": 32 for part in ("train", "val")},
    **{f"{part}_dataloader.num_workers": 0 for part in ("train", "val")},
    **{f"{part}_dataloader.persistent_workers": False for part in ("train", "val")},
    **{f"{part}_dataloader.dataset.grid_stride_px": 16 for part in ("train", "val")},
}


def parameters(function):
    return {name: p.default for name, p in inspect.signature(function).parameters.items()}


def defaults(parser):
    """{argument: default} of a parser, without those of argparse itself."""
    return {action.dest: action.default for action in parser._actions if action.dest != "help"}


def test_prepare_has_the_flags_and_defaults_of_the_command():
    flags = defaults(prepare_command.build_parser("prepare"))
    # One machine, whole folders, and a report instead of an exit status; refiltering takes no videos.
    left_out = {"refilter", "strict", "executor", "ray_address", "gpus_per_task", "task_index", "num_tasks"}
    left_out |= {name for name in flags if name.startswith("dry_run")} | {"video_dir", "out_dir"} | set(jobs.LIMITS)
    names = parameters(cmp.prepare)
    assert {name: value for name, value in flags.items() if name not in left_out} == {
        name: value for name, value in names.items() if name not in ("videos", "out", "thresholds")
    }
    assert set(jobs.LIMITS) == set(Thresholds.__dataclass_fields__)


def test_pretrain_has_the_flags_and_defaults_of_the_command():
    args = vars(train_command.parse_args(["r18_quickstart"], "train"))
    renamed = {"config": "recipe", "data": "pairs", "work_dir": "out"}
    names = parameters(cmp.pretrain)
    assert {renamed.get(name, name) for name in args} - {"print_config"} == set(names)
    for name in ("steps", "batch_size", "seed", "device", "precision", "cfg_options"):
        assert names[name] is args[name] is None


@pytest.mark.parametrize(
    "task, inputs, function",
    (
        ("propagation", ["c", "none"], jobs.evaluate_propagation),
        ("knn", ["b", "d"], jobs.evaluate_probe),
        ("detection", ["c", "b", "d"], jobs.evaluate_task),
    ),
)
def test_evaluate_has_the_flags_and_defaults_of_the_command(task, inputs, function):
    args = vars(evaluate_command.parse_args([task, *inputs], "evaluate"))
    names = parameters(function)
    for name, value in args.items():
        if name in ("task", "print_config", "out") and name not in names:
            continue
        assert name in names, name
        default = names[name]
        if default is inspect.Parameter.empty or name == "resume":
            continue
        assert (list(default) if isinstance(default, tuple) else default) == (
            list(value) if isinstance(value, tuple) else value
        ), name


def test_a_wrong_task_and_a_wrong_argument_are_refused():
    with pytest.raises(ValueError, match="task must be propagation, .* got 'kn'"):
        cmp.evaluate("kn", "random", "data")
    with pytest.raises(TypeError, match="neighbours"):
        cmp.evaluate("knn", "random", "data", neighbours=3)
    with pytest.raises(TypeError, match=r"unexpected arguments \['min_move'\]; thresholds are max_unexplained"):
        cmp.prepare("videos", "out", min_move=3)


def test_the_names_of_cmp_are_looked_up_late():
    code = (
        "import sys, cmp; names = sorted(set(cmp.__all__) - {'__version__'}); assert set(names) <= set(dir(cmp)); "
        "assert not {'torch', 'numpy', 'cv2', 'mmengine'} & set(sys.modules); cmp.prepare, cmp.pretrain, cmp.evaluate; "
        "assert not {'torch', 'numpy', 'cv2', 'mmengine'} & set(sys.modules)\n"
        "for name in names: assert callable(getattr(cmp, name)), name\n"
        "cmp.no_such_name"
    )
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert process.stderr.splitlines()[-1] == "AttributeError: module 'cmp' has no attribute 'no_such_name'"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with videos: a bright square moves right by 3 px per frame over noise, at another height in each."""
    folder = tmp_path_factory.mktemp("jobs")
    (folder / "videos").mkdir()
    for number in range(6):
        rng = np.random.default_rng(number)
        ground, square = rng.integers(0, 90, (64, 96, 3), np.uint8), rng.integers(120, 255, (24, 24, 3), np.uint8)
        frames = np.repeat(ground[None], 16, axis=0)
        for time, frame in enumerate(frames):
            frame[4 + 5 * number : 28 + 5 * number, 3 * time : 3 * time + 24] = square
        write_video(folder / "videos" / f"{number}.mp4", list(frames), 25)
    return folder


def test_from_videos_to_a_backbone_in_torchvision(folder):
    report = cmp.prepare(
        folder / "videos", folder / "pairs", short_side=48, interval_frames=2, pairs_per_video=6, workers=1, quiet=True
    )
    assert (report.videos, report.failures) == (6, []) and report.store_pairs > 20

    trained = cmp.pretrain(
        folder / "pairs", folder / "run", steps=2, batch_size=4, seed=3, device="cpu", cfg_options=SMALL
    )
    assert (trained.step, trained.stopped_by, trained.work_dir) == (2, None, folder / "run")
    assert trained.checkpoint == folder / "run" / "iter_2.pth"
    with pytest.raises(ValueError, match="is of an earlier run"):
        cmp.pretrain(folder / "pairs", folder / "run", steps=2, batch_size=4, device="cpu", cfg_options=SMALL)

    found = cmp.evaluate("propagation", folder / "run" / "cmp_r18_quickstart_1xb16_300.py", trained.checkpoint,
                         out=folder / "judged", device="cpu")  # fmt: skip
    assert 0 < found["epe"] < 50 and found["epe_zero_flow"] > 0 and found["judged"]["part"] == "val"
    assert {path.name for path in (folder / "judged").iterdir()} >= {"metrics.json", "table.txt", "predictions.png"}

    exported = cmp.export_backbone(trained.checkpoint, folder / "backbone.pth")
    assert exported.written
    weights = torch.load(folder / "backbone.pth", weights_only=True)
    network = torchvision.models.resnet18(weights=None)
    missing, unexpected = network.load_state_dict(weights, strict=False)
    assert set(missing) == {"fc.weight", "fc.bias"} and unexpected == []
    trained_weights = torch.load(trained.checkpoint, weights_only=True)["state_dict"]
    assert torch.equal(network.conv1.weight, trained_weights["image_encoder.conv1.weight"])

    propagator = cmp.load_propagator(trained.checkpoint)
    image = np.full((48, 64, 3), 100, np.uint8)
    points, vectors = [[20, 10], [40, 30]], [[6.0, 0.0], [0.0, 0.0]]
    flow = propagator.predict(image, points, vectors)
    assert cmp.flow_to_color(flow).shape == (1, 48, 64, 3)
    drawn = cmp.draw_arrows(image, points, vectors)
    assert np.array_equal(drawn, draw_guidance(image, np.array(points)[:, ::-1], np.array(vectors)))


def test_colors_of_a_tensor_are_those_of_its_array():
    flow = torch.randn(3, 2, 5, 7, generator=torch.Generator().manual_seed(0)) * 4
    arrays = [field.permute(1, 2, 0).numpy() for field in flow]
    longest = max(float(np.hypot(*array.reshape(-1, 2).T).max()) for array in arrays)
    expected = np.stack([cmp.flow_to_color(array, max_flow_px=longest) for array in arrays])
    assert np.array_equal(cmp.flow_to_color(flow), expected)
    assert np.array_equal(cmp.flow_to_color(flow.double().requires_grad_()), expected)
    assert np.array_equal(cmp.flow_to_color(flow[1]), cmp.flow_to_color(arrays[1]))
    assert cmp.flow_to_color(flow[:0]).shape == (0, 5, 7, 3)
    flow[2, :, 0, 0] = float("nan")  # unknown: black, and no length
    assert not cmp.flow_to_color(flow)[2, 0, 0].any() and cmp.flow_to_color(flow)[2, 1].any()
    for wrong in (flow[0, 0], torch.zeros(5, 7, 2), torch.zeros(2, 5, 7, dtype=torch.int64)):
        with pytest.raises(ValueError, match=r"a flow tensor must be \(2, H, W\) or \(B, 2, H, W\) and floating"):
            cmp.flow_to_color(wrong)


def test_arrows_are_drawn_onto_every_kind_of_image_alike():
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    expected = draw_guidance(image, np.array([[8.0, 30.0]]), np.array([[9.0, -2.0]]))
    tensor = torch.from_numpy(image).permute(2, 0, 1)
    for same in (image, tensor, tensor[None], tensor / 255, Image.fromarray(image)):
        assert np.array_equal(cmp.draw_arrows(same, [[30.0, 8.0]], [[9.0, -2.0]]), expected)
    assert np.array_equal(cmp.draw_arrows(image, [], []), image)
    with pytest.raises(ValueError, match="an image tensor must be"):
        cmp.draw_arrows(torch.zeros(40, 60, 3), [[1, 1]], [[1, 1]])
