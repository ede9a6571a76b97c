"""Configs of the baselines: validation is kept apart and stays the same; published sizes are their sources'."""

from pathlib import Path

import pytest
from mmengine.dataset import DefaultSampler

from cmp.datasets import EpochSampler
from cmp.engine.config import read_config

FOLDER = Path(__file__).resolve().parents[2] / "configs" / "baselines"
CONFIGS = sorted(path.name for path in FOLDER.glob("*.py"))

# The values in the source of each config of published size; its docstring names the source.
PUBLISHED = {
    # yangyi02/video_motion_mnist, exp012-1; of its two rates the one that it found better
    "local_motion_mnist_r3_1xb64_10k.py": {
        "model.max_shift": 3,
        "model.image_channels": 1,
        "model.width": 64,
        "model.levels": 5,
        "model.supervised": False,
        "model.two_sided": True,
        "model.disappear": "map",
        "train_dataloader.dataset.max_shift_px": 3,
        "train_dataloader.batch_size": 64,
        "train_cfg.max_iters": 10_000,
        "optim_wrapper.optimizer.type": "Adam",
        "optim_wrapper.optimizer.lr": 1e-3,
    },
    # Patraucean et al., ICLR 2016 workshop, and viorik/ConvLSTM
    "video_autoencoder_bouncing_digits_1xb1_30k.py": {
        "model.image_channels": 1,
        "model.feature_channels": 32,
        "model.hidden_channels": 45,
        "model.kernel": 7,
        "model.flow_kernel": 15,
        "model.error": "gradient",
        "model.smoothness": 1e-3,
        "model.smoothness_threshold": 1e-3,
        "train_dataloader.dataset.num_frames": 20,
        "train_dataloader.dataset.canvas_hw": [64, 64],
        "train_dataloader.batch_size": 1,
        "train_cfg.max_iters": 30_000,
        "optim_wrapper.optimizer.type": "RMSprop",
        "optim_wrapper.optimizer.lr": 1e-4,
        "optim_wrapper.clip_grad.type": "value",
        "optim_wrapper.clip_grad.clip_value": 50.0,
    },
    # Kalchbrenner et al., ICML 2017; batch and length are ours
    "vpn_bouncing64_1xb16_300k.py": {
        "model.levels": 2,
        "model.given": 10,
        "model.channels": 128,
        "model.encoder_dilations": [1] * 8,
        "model.decoder_blocks": 12,
        "model.memory": 256,
        "train_dataloader.dataset.num_frames": 20,
        "train_dataloader.dataset.canvas_hw": [64, 64],
        "train_dataloader.dataset.num_digits": 2,
        "train_dataloader.dataset.shrink": 1,
        "train_dataloader.dataset.binarize": False,
        "optim_wrapper.optimizer.type": "RMSprop",
        "optim_wrapper.optimizer.lr": 3e-4,
    },
    # Gregor et al., ICML 2015; rate and 100 epochs of 60,000 digits by jbornschein/draw
    "draw_mnist_1xb100_60k.py": {
        "model.strokes": 64,
        "model.hidden": 256,
        "model.latent": 100,
        "model.read_size": 2,
        "model.write_size": 5,
        "train_dataloader.batch_size": 100,
        "train_cfg.max_iters": 60_000,
        "optim_wrapper.optimizer.type": "Adam",
        "optim_wrapper.optimizer.lr": 3e-4,
    },
    # Kingma and Welling, ICLR 2014: a rate out of 0.01, 0.02 and 0.1, 3 to 200 numbers, 10^8 digits
    "vae_adagrad_mnist_1xb100_1m.py": {
        "model.likelihood": "bernoulli",
        "model.hidden": 500,
        "model.latent": 20,
        "model.init_std": 0.01,
        "train_dataloader.batch_size": 100,
        "train_cfg.max_iters": 1_000_000,
        "optim_wrapper.optimizer.type": "Adagrad",
        "optim_wrapper.optimizer.lr": 0.02,
        "optim_wrapper.optimizer.weight_decay": 1 / 60_000,
    },
    # the same: its network for gray faces
    "vae_gaussian_mnist_1xb100_6k.py": {
        "model.likelihood": "gaussian",
        "model.hidden": 200,
        "train_dataloader.batch_size": 100,
    },
    # the same: figure 2; the start and Adam are ours
    "vae_mnist_1xb100_6k.py": {
        "model.likelihood": "bernoulli",
        "model.hidden": 500,
        "train_dataloader.batch_size": 100,
    },
    # Xue et al., NIPS 2016
    "visual_dynamics_ucf101_1xb32_100k.py": {
        "model.latent": 3200,
        "model.beta": 0.001,
        "model.maps": 32,
        "model.motion_widths": [96, 96, 128, 128, 256, 256],
        "model.motion_pools": [4, 2, 2, 2, 2, 2],
        "model.image_widths": [64, 64, 64],
        "model.kernel_width": 128,
        "model.decoder_width": 128,
        "model.stored": 1000,
        "train_dataloader.dataset.num_frames": 2,
        "train_dataloader.dataset.size_px": 128,
        "train_dataloader.batch_size": 32,
        "optim_wrapper.optimizer.type": "Adam",
        "optim_wrapper.optimizer.lr": 1e-3,
    },
    # a project on UCF-101 after Mathieu, Couprie and LeCun; width, kernels, optimizer and length are not public
    "seq2seq_ucf101_1xb16_100k.py": {
        "model.given": 4,
        "model.trained": 4,
        "train_dataloader.dataset.num_frames": 8,
        "train_dataloader.dataset.interval_frames": 5,
        "train_dataloader.dataset.size_px": 64,
        "train_dataloader.batch_size": 16,
    },
    "skip_autoencoder_ucf101_1xb16_100k.py": {
        "model.given": 4,
        "model.trained": 1,
        "model.widths": [32, 64, 128, 256, 512],
        "train_dataloader.dataset.num_frames": 5,
        "train_dataloader.dataset.interval_frames": 5,
        "train_dataloader.dataset.size_px": [160, 240],
    },
    # Mathieu, Couprie and LeCun, ICLR 2016, by dyelax/Adversarial_Video_Generation
    "multi_scale_adversarial_ucf101_1xb8_200k.py": {
        "model.given": 4,
        "model.trained": 1,
        "model.widths": [[128, 256, 128]] * 2 + [[128, 256, 512, 256, 128]] * 2,
        "model.kernels": [[3, 3, 3, 3], [5, 3, 3, 5], [5, 3, 3, 3, 3, 5], [7, 5, 5, 5, 5, 7]],
        "model.adversarial": 0.05,
        "model.size_px": 64,
        "model.discriminator_widths": [[64], [64, 128, 128], [128, 256, 256], [128, 256, 512, 128]],
        "model.discriminator_kernels": [[3], [3, 3, 3], [5, 5, 5], [7, 7, 5, 5]],
        "model.discriminator_units": [[512, 256], [1024, 512], [1024, 512], [1024, 512]],
        "train_dataloader.dataset.size_px": 64,
        "train_dataloader.batch_size": 8,
        "optim_wrapper.optimizer.type": "SGD",
        "optim_wrapper.optimizer.lr": 0.04,
        "optim_wrapper.paramwise_cfg.custom_keys.discriminators.lr_mult": 0.5,  # 0.02
    },
}


def plain(value):
    """A config's value as the table above writes it: lists for tuples, names for classes."""
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value.__name__ if isinstance(value, type) else value


@pytest.mark.parametrize("name", PUBLISHED)
def test_what_the_source_says_is_what_the_config_says(name):
    config = read_config(FOLDER / name)
    found = {}
    for key in PUBLISHED[name]:
        node = config
        for part in key.split("."):
            node = node[part]
        found[key] = plain(node)
    assert found == PUBLISHED[name]


def test_every_config_that_is_named_published_is_in_the_table():
    named = {name for name in CONFIGS if "published size" in (FOLDER / name).read_text().split("\n", 1)[0]}
    assert named | {name for name in CONFIGS if "ucf101" in name} <= set(PUBLISHED) <= set(CONFIGS)


@pytest.mark.parametrize("name", CONFIGS)
def test_validation_is_of_another_part_of_the_same_data_and_not_drawn_anew(name):
    config = read_config(FOLDER / name)
    train, val = config.train_dataloader, config.val_dataloader
    assert train.dataset.part == "train" and val.dataset.part in ("val", "test")
    # Validation may use more frames than training, and any number of samples.
    shared = (set(train.dataset) | set(val.dataset)) - {"part", "num_frames", "binarize", "flip"}
    shared -= {"num_sequences", "max_digits", "max_clips"}  # how many samples are used
    assert [key for key in sorted(shared) if train.dataset.get(key) != val.dataset.get(key)] == []
    assert val.dataset.get("num_frames", 0) >= train.dataset.get("num_frames", 0)
    drawn = train.dataset.get("binarize")
    assert val.dataset.get("binarize") == ("fixed" if drawn == "random" else drawn)
    # An epoch is what a draw may hang on: its number comes from the pair sampler alone.
    assert train.sampler.type is EpochSampler and val.sampler.type is DefaultSampler
    assert not val.dataset.get("training")
