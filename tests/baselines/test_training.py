"""Every config of a baseline is trained by tools/train.py, and one of each kind in two parts as well.

The others, of the same systems with other sizes, losses or encoders, are trained in two parts with: pytest -m slow
"""

from pathlib import Path

import pytest
import torch

from cmp.engine.config import read_config
from tools import train

ROOT = Path(__file__).resolve().parents[2]

FOLDER = ROOT / "configs" / "baselines"
CONFIGS = sorted(path.name for path in FOLDER.glob("*.py"))

MOTION = {"model.width": 4, "train_dataloader.batch_size": 2}
AUTOENCODER = {
    "model.feature_channels": 4,
    "model.hidden_channels": 4,
    "model.flow_kernel": 3,
    "train_dataloader.batch_size": 2,
    "train_dataloader.dataset.num_frames": 3,
    "val_dataloader.dataset.num_frames": 3,
    "val_dataloader.dataset.num_sequences": 4,
}
SMALL_CLIPS = {"train_dataloader.batch_size": 2} | {
    f"{part}_dataloader.dataset.{key}": value
    for part in ("train", "val")
    for key, value in (("short_side_px", 36), ("size_px", 32), ("interval_frames", 2))
}

VPN = {
    "model.given": 2,
    "model.channels": 4,
    "model.memory": 4,
    "model.sampled": 1,
    "train_cfg.accumulate_batches": 1,
    "train_dataloader.batch_size": 2,
    "train_dataloader.dataset.num_frames": 4,
    "train_dataloader.dataset.canvas_hw": [7, 8],
    "train_dataloader.dataset.shrink": 4,
    "val_dataloader.dataset.num_frames": 4,
    "val_dataloader.dataset.canvas_hw": [7, 8],
    "val_dataloader.dataset.shrink": 4,
    "val_dataloader.dataset.num_sequences": 3,
}
VAE = {"model.hidden": 8, "model.importance_draws": 2, "train_dataloader.batch_size": 4}
# Which of conftest's data a config learns from, and what makes its steps small enough for a test.
CLIPS = {
    "train_dataloader.batch_size": 2,
    **{
        f"{part}_dataloader.dataset.{key}": value
        for part in ("train", "val")
        for key, value in (("short_side_px", 36), ("size_px", 32))
    },
}
MULTI_SCALE = {"model.widths": [[4]] * 4, "model.kernels": [[3, 3]] * 4, **CLIPS}
DISCRIMINATORS = {
    "model.discriminator_kernels": [[1], [3], [3], [3]],
    "model.discriminator_widths": [[4]] * 4,
    "model.discriminator_units": [[4]] * 4,
}
DYNAMICS = {"model.latent": 4, "model.maps": 4, "model.decoder_width": 8, "model.stored": 5, **CLIPS}
SMALL = {
    "local_motion_mnist_r3_1xb16_2k.py": ("digits_folder", MOTION),
    "local_motion_mnist_r3_1xb64_10k.py": ("digits_folder", MOTION),
    "local_motion_supervised_mnist_r3_1xb16_2k.py": ("digits_folder", MOTION),
    "local_motion_r18_clips_1xb16_1k.py": ("videos_folder", {"model.width": 4, "model.levels": 2, **SMALL_CLIPS}),
    "video_autoencoder_r18_clips_1xb16_1k.py": (
        "videos_folder",
        {"model.hidden_channels": 4, "model.flow_kernel": 3, **SMALL_CLIPS},
    ),
    "video_autoencoder_bouncing_digits_1xb1_30k.py": ("digits_folder", AUTOENCODER),
    "video_autoencoder_bouncing_digits_1xb8_1k.py": ("digits_folder", AUTOENCODER),
    "multi_scale_clips_1xb16_1k.py": ("videos_folder", MULTI_SCALE),
    "multi_scale_adversarial_clips_1xb16_1k.py": (
        "videos_folder",
        {**MULTI_SCALE, **DISCRIMINATORS, "model.size_px": 32},
    ),
    "multi_scale_adversarial_ucf101_1xb8_200k.py": (
        "videos_folder",
        {**MULTI_SCALE, **DISCRIMINATORS, "model.size_px": 32},
    ),
    "seq2seq_clips_1xb16_1k.py": ("videos_folder", {"model.width": 4, **CLIPS}),
    "seq2seq_r18_clips_1xb16_1k.py": ("videos_folder", {"model.width": 4, **CLIPS}),
    "seq2seq_ucf101_1xb16_100k.py": ("videos_folder", {"model.width": 4, **CLIPS}),
    "skip_autoencoder_ucf101_1xb16_100k.py": ("videos_folder", {"model.widths": [4, 8, 8], **CLIPS}),
    "skip_autoencoder_clips_1xb16_1k.py": ("videos_folder", {"model.widths": [4, 8, 8], **CLIPS}),
    "skip_autoencoder_residual_clips_1xb16_1k.py": ("videos_folder", {"model.widths": [4, 8, 8], **CLIPS}),
    "skip_autoencoder_r18_clips_1xb16_1k.py": ("videos_folder", {"model.widths": [4, 8], **CLIPS}),
    "visual_dynamics_clips_1xb16_1k.py": ("videos_folder", {**DYNAMICS, "model.motion_pools": [2, 2, 2, 2, 2, 1]}),
    "visual_dynamics_ucf101_1xb32_100k.py": (
        "videos_folder",
        {**DYNAMICS, "model.kernel_width": 4, "model.motion_widths": [8, 8], "model.motion_pools": [4, 4]},
    ),
    "visual_dynamics_r18_clips_1xb16_1k.py": ("videos_folder", DYNAMICS),
    "visual_dynamics_shapes_1xb32_1k.py": (
        "digits_folder",
        {
            "model.maps": 4,
            "model.stored": 5,
            "train_dataloader.batch_size": 2,
            "val_dataloader.dataset.num_sequences": 4,
        },
    ),
    "draw_mnist_1xb100_3k.py": ("digits_folder", {"model.strokes": 2, "train_dataloader.batch_size": 4}),
    "draw_whole_mnist_1xb100_3k.py": ("digits_folder", {"model.strokes": 2, "train_dataloader.batch_size": 4}),
    "draw_mnist_1xb100_60k.py": ("digits_folder", {"model.strokes": 2, "train_dataloader.batch_size": 4}),
    "vae_r18_clips_1xb16_1k.py": (
        "videos_folder",
        {
            "model.size_px": 32,
            "model.width": 16,
            "train_dataloader.batch_size": 2,
            "train_dataloader.dataset.short_side_px": 32,
            "train_dataloader.dataset.size_px": 32,
            "val_dataloader.dataset.short_side_px": 32,
            "val_dataloader.dataset.size_px": 32,
        },
    ),
    "vae_adagrad_mnist_1xb100_1m.py": ("digits_folder", VAE),
    "vae_gaussian_mnist_1xb100_6k.py": ("digits_folder", VAE),
    "vae_mnist_1xb100_6k.py": ("digits_folder", VAE),
    "vpn_bouncing16_1xb16_1k.py": ("digits_folder", VPN),
    "vpn_bouncing64_1xb16_300k.py": ("digits_folder", VPN),
}


def run(name, folder, work_dir, steps, *more):
    data, options = SMALL[name]
    options = {
        **options,
        "train_cfg.max_iters": steps,
        "train_cfg.val_interval": 4,
        "default_hooks.checkpoint.interval": 2,
        "train_dataloader.num_workers": 0,
        "train_dataloader.persistent_workers": False,
        "val_dataloader.num_workers": 0,
        "val_dataloader.persistent_workers": False,
        "val_dataloader.batch_size": 3,
        "log_level": "WARNING",
    }
    text = [f"{key}={value}" for key, value in options.items()]
    arguments = [str(FOLDER / name), "--data", str(folder), "--work-dir", str(work_dir), *more, "--cfg-options", *text]
    return train.main(arguments)


def test_every_config_is_tried():
    assert set(SMALL) == set(CONFIGS)


# These are trained in one part: the config named after each trains the same system in two.
TWINS = {
    "draw_mnist_1xb100_60k.py": "draw_mnist_1xb100_3k.py",
    "draw_whole_mnist_1xb100_3k.py": "draw_mnist_1xb100_3k.py",
    "local_motion_mnist_r3_1xb64_10k.py": "local_motion_mnist_r3_1xb16_2k.py",
    "local_motion_supervised_mnist_r3_1xb16_2k.py": "local_motion_mnist_r3_1xb16_2k.py",
    "seq2seq_r18_clips_1xb16_1k.py": "seq2seq_clips_1xb16_1k.py",
    "seq2seq_ucf101_1xb16_100k.py": "seq2seq_clips_1xb16_1k.py",
    "skip_autoencoder_clips_1xb16_1k.py": "skip_autoencoder_ucf101_1xb16_100k.py",
    "skip_autoencoder_r18_clips_1xb16_1k.py": "skip_autoencoder_ucf101_1xb16_100k.py",
    "skip_autoencoder_residual_clips_1xb16_1k.py": "skip_autoencoder_ucf101_1xb16_100k.py",
    "vae_gaussian_mnist_1xb100_6k.py": "vae_mnist_1xb100_6k.py",
    "video_autoencoder_bouncing_digits_1xb1_30k.py": "video_autoencoder_bouncing_digits_1xb8_1k.py",
    "video_autoencoder_r18_clips_1xb16_1k.py": "video_autoencoder_bouncing_digits_1xb8_1k.py",
    "visual_dynamics_r18_clips_1xb16_1k.py": "visual_dynamics_clips_1xb16_1k.py",
    "visual_dynamics_ucf101_1xb32_100k.py": "visual_dynamics_clips_1xb16_1k.py",
    "vpn_bouncing64_1xb16_300k.py": "vpn_bouncing16_1xb16_1k.py",
}
MARKED = [pytest.param(name, marks=[pytest.mark.slow] * (name in TWINS)) for name in CONFIGS]


@pytest.fixture(autouse=True)
def short_log(monkeypatch):
    """A run's log without yapf's line breaks and the compiler's version, which take longer than its small steps."""
    monkeypatch.setattr("mmengine.config.config.FormatCode", lambda text, **_: (text, True))
    monkeypatch.setattr("mmengine.runner.runner.collect_env", dict)


def test_every_twin_has_one_that_is_trained_in_two_parts():
    assert TWINS.keys() <= set(CONFIGS) and set(TWINS.values()) <= set(CONFIGS) - TWINS.keys()


def assert_learned_and_drew(run_dir):
    start, end = (torch.load(run_dir / f"iter_{step}.pth", weights_only=True) for step in (2, 4))
    assert end["meta"]["cmp"]["system"]
    assert any(not torch.equal(value, start["state_dict"][key]) for key, value in end["state_dict"].items())
    pictures = list(run_dir.rglob("vis_image/*"))
    assert pictures and all(path.suffix in (".png", ".gif") for path in pictures)


@pytest.mark.parametrize("name", MARKED)
def test_a_run_in_two_parts_ends_where_one_in_one_part_ends_and_leaves_pictures(name, request, tmp_path):
    folder = request.getfixturevalue(SMALL[name][0])
    assert run(name, folder, tmp_path / "whole", 4) == 0
    assert_learned_and_drew(tmp_path / "whole")
    assert run(name, folder, tmp_path / "part", 4, "--resume", str(tmp_path / "whole" / "iter_2.pth")) == 0
    whole, part = (torch.load(tmp_path / d / "iter_4.pth", weights_only=True) for d in ("whole", "part"))
    assert all(torch.equal(value, part["state_dict"][key]) for key, value in whole["state_dict"].items())
    assert not (tmp_path / "part" / "iter_2.pth").exists()  # it did not begin anew


@pytest.mark.parametrize("name", sorted(TWINS))
def test_a_run_learns_and_leaves_pictures(name, request, tmp_path):
    assert run(name, request.getfixturevalue(SMALL[name][0]), tmp_path, 4) == 0
    assert_learned_and_drew(tmp_path)


@pytest.mark.parametrize("name", CONFIGS)
def test_its_docstring_says_how_to_run_it_and_where_it_is_from(name):
    text = (FOLDER / name).read_text()
    assert "\nRun: " in text and "\nSource: " in text and read_config(FOLDER / name).train_cfg.max_iters > 0
