"""Every config is loaded, its types resolved, its numbers compared with the published ones, and one step taken."""

import ast
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import default_collate
from mmengine.logging import MessageHub
from mmengine.optim import build_optim_wrapper
from mmengine.runner import LogProcessor
from mmengine.utils import get_object_from_string

from cmp.engine.config import read_config
from cmp.engine.trained_model import build_trained_model

FOLDER = Path(__file__).resolve().parents[2] / "configs" / "pretrain"
CONFIGS = sorted(path.name for path in FOLDER.glob("*.py"))

# Zhan et al., CVPR 2019, and their configs.
# crop, short side, grid stride, kernel, cap, GPUs, batch, steps, drops of the learning rate
PUBLISHED = {
    "cmp_alexnet_yfcc_16xb12_70k.py": (384, 416, 80, 41, 150, 16, 12, 70000, [40000, 60000]),
    "cmp_alexnet_yfcc_8xb12_140k.py": (384, 416, 80, 41, 150, 8, 12, 140000, [80000, 120000]),
    "cmp_alexnet_yfcc_youtube_16xb12_140k.py": (384, 416, 200, 81, 150, 16, 12, 140000, [80000, 120000]),
    "cmp_r50_yfcc_16xb10_42k.py": (320, 416, 165, 67, None, 16, 10, 42000, [24000, 36000]),
    "cmp_r50_yfcc_coco_16xb16_42k.py": (256, 333, 133, 49, None, 16, 16, 42000, [24000, 36000]),
    "cmp_r50_four_sets_16xb10_70k.py": (320, 416, 80, 15, None, 16, 10, 70000, [40000, 60000]),
    "cmp_r50_skip_vip_mpii_8xb8_42k.py": (384, 416, 131, 41, None, 8, 8, 42000, [24000, 36000]),
}
ALEXNET, RESNET = (dict(type="AlexNetFCN", output_stride=32), dict(type="ResNet", depth=50, output_stride=8))


def load(name):
    return read_config(FOLDER / name)


def types_of(node, place="config"):
    """Every "type" in a config with its place."""
    if isinstance(node, (dict, Config)):
        for key in node:
            if key == "type":
                yield place, node[key]
            else:
                yield from types_of(node[key], f"{place}.{key}")
    elif isinstance(node, (list, tuple)):
        for i, item in enumerate(node):
            yield from types_of(item, f"{place}.{i}")


def named(part):
    """A part of a config with its class under its name."""
    return {key: value.__name__ if key == "type" else value for key, value in part.items()}


def test_the_seven_published_recipes_and_the_quick_start_are_there():
    assert set(PUBLISHED) | {"cmp_r18_quickstart_1xb16_300.py"} <= set(CONFIGS)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_type_is_a_class_or_a_function(name):
    found = list(types_of(load(name)))
    assert len(found) > 15
    assert [place for place, kind in found if not callable(kind)] == []


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_that_is_written_out_and_read_again_is_the_same(name, tmp_path):
    config = load(name)
    config.dump(tmp_path / "dumped.py")
    again = Config.fromfile(tmp_path / "dumped.py")  # its types are dotted names
    assert {place: get_object_from_string(kind) for place, kind in types_of(again)} == dict(types_of(config))
    assert again.train_cfg.max_iters == config.train_cfg.max_iters
    assert [step.get("size_px") for step in again.train_dataloader.dataset.transforms] == [
        step.get("size_px") for step in config.train_dataloader.dataset.transforms
    ]


@pytest.mark.parametrize("name", CONFIGS)
def test_its_docstring_has_its_run_line_an_expectation_and_a_source(name):
    text = ast.get_docstring(ast.parse((FOLDER / name).read_text()))
    assert all(f"\n{word}:" in text for word in ("Run", "Expect", "Source"))
    if name in PUBLISHED:
        assert f"tools/dist_train.sh configs/pretrain/{name} {PUBLISHED[name][5]} " in text and "differs in" in text


@pytest.mark.parametrize("name", PUBLISHED)
def test_data_and_schedule_are_the_published_ones(name):
    crop, short_side, stride, kernel, cap, gpus, batch_size, steps, drops = PUBLISHED[name]
    config = load(name)
    for loader, random in ((config.train_dataloader, True), (config.val_dataloader, False)):
        data = loader.dataset
        assert [named(step) for step in data.transforms] == [
            dict(type="ResizedCrop", short_side_px=short_side, size_px=crop, random=random)
        ]
        assert (data.grid_stride_px, data.nms_kernel, data.max_points) == (stride, kernel, cap)
        assert set(data.strategies) == {"grid", "watershed"}
    assert (config.train_dataloader.dataset.part, config.val_dataloader.dataset.part) == ("train", "val")
    assert config.train_dataloader.dataset.val_share == config.val_dataloader.dataset.val_share
    assert config.train_dataloader.batch_size == batch_size and f"_{gpus}xb{batch_size}_{steps // 1000}k" in name
    assert config.train_cfg.max_iters == steps
    assert named(config.param_scheduler) == dict(type="MultiStepLR", by_epoch=False, milestones=drops, gamma=0.1)
    sgd = dict(type="SGD", lr=0.1, momentum=0.9, weight_decay=1e-4, fused=True)
    assert named(config.optim_wrapper.optimizer) == sgd
    assert config.optim_wrapper.precision == "float32" and config.compile is False


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_network_is_the_published_one(name):
    model = load(name).model
    skip = "skip" in name
    assert named(model.image_encoder) == (ALEXNET if "alexnet" in name else RESNET)
    assert named(model.motion_encoder) == dict(type="MotionEncoder")
    decoder = dict(type="SkipPropagationDecoder", strides=(1, 2, 4, 8))
    assert named(model.decoder) == (decoder if skip else dict(type="PropagationDecoder", strides=(1, 2, 4)))
    assert named(model.quantizer) == dict(type="FlowQuantizer", num_bins=99, max_flow_px=50.0)
    assert named(model.loss) == dict(type="DiscreteLoss") and model.init == "published"


class Drawn:
    """Pairs in which a rectangle moves over noise."""

    pair_videos = ["a"] * 3 + ["b"] * 3 + ["c", "d", "e", "f"]

    def __len__(self):
        return len(self.pair_videos)

    def read_pair(self, index):
        flow = np.zeros((72, 90, 2), np.float32)
        flow[20:50, 30:70] = 4 + index, -2
        image = np.random.default_rng(index).integers(0, 256, (72, 90, 3), np.uint8)
        return image, flow, np.ones((72, 90), bool)


def crop_that_is_enough(config):
    """The smallest crop that the config's network takes, at most 128 px: pooled by 4 or 8, a cell of 32 px is large."""
    return 128 if config.model.image_encoder.type.__name__ == "AlexNetFCN" else 64


# The recipes of one network differ in their data only, which the table above compares.
ONE_OF_EACH_NETWORK = (
    "cmp_alexnet_yfcc_16xb12_70k.py",
    "cmp_r50_yfcc_16xb10_42k.py",
    "cmp_r50_device_points_yfcc_16xb10_42k.py",
    "cmp_r50_skip_vip_mpii_8xb8_42k.py",
    "cmp_r18_quickstart_1xb16_300.py",
    "cmp_r18_evidence_1xb16_800.py",
    "cmp_r18_clips_1xb16_32k.py",
    "cmp_r50_clips_1xb64_60k.py",
    "cmp_timm_convnext_atto_quickstart_1xb16_300.py",
)


def test_one_recipe_of_each_network_is_among_those_that_take_a_step():
    networks = {str(load(name).model) for name in CONFIGS}
    assert {str(load(name).model) for name in ONE_OF_EACH_NETWORK} == networks


@pytest.mark.parametrize("name", ONE_OF_EACH_NETWORK)
def test_one_step_on_the_recipes_own_data_moves_every_parameter(name):
    torch.manual_seed(0)
    config = load(name)
    data = config.train_dataloader.dataset
    data.source = dict(type=Drawn)
    data.transforms[0].short_side_px = 72
    next(step for step in data.transforms if "size_px" in step).size_px = crop_that_is_enough(config)
    kind = data.pop("type")
    dataset = kind(**data)
    batch = default_collate([dataset[0, 0], dataset[1, 0]])

    model = build_trained_model(config.model)
    optimizer = build_optim_wrapper(model, config.optim_wrapper)
    before, gradients = {}, {}
    for key, parameter in model.named_parameters():
        before[key] = parameter.detach().clone()
        parameter.register_post_accumulate_grad_hook(lambda p, key=key: gradients.update({key: p.grad.clone()}))
    assert model.train_step(batch, optimizer)["loss"].isfinite()
    assert gradients.keys() == before.keys() and all(gradient.isfinite().all() for gradient in gradients.values())
    weights = [key for key in before if not key.endswith("bias")]  # one before a batch norm has no gradient
    assert [key for key in weights if not gradients[key].any()] == []
    assert [key for key, p in model.named_parameters() if key in weights and torch.equal(p, before[key])] == []


@pytest.mark.parametrize("name", CONFIGS)
def test_the_log_shows_means_over_a_window_in_training_and_each_validation_as_it_is(name):
    hub, processor = MessageHub(name), LogProcessor(**load(name).log_processor)
    for value in (1.0, 3.0):
        hub.update_scalars({f"train/{key}": value for key in ("loss", "grad_norm", "lr")})
        hub.update_scalars({f"val/{key}": value for key in ("loss", "epe", "epe_moving")})
    hub.update_scalar("train/data_time_share", 1, count=2)
    hub.update_scalar("train/data_time_share", 1, count=6)
    tags = {}
    for mode in ("train", "val"):
        tags |= processor._collect_scalars([], SimpleNamespace(message_hub=hub), mode, reserve_prefix=True)
    means = {"train/loss": 2.0, "train/grad_norm": 2.0, "train/data_time_share": 0.25}
    assert tags == means | {key: 3.0 for key in ("train/lr", "val/loss", "val/epe", "val/epe_moving")}
