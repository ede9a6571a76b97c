"""Every config of the downstream tasks; those of pretraining are tested in test_configs.py."""

import ast
from pathlib import Path

import pytest

from cmp.engine.config import check_required, read_config

FOLDER = Path(__file__).resolve().parents[2] / "configs" / "downstream"
CONFIGS = sorted(path.name for path in FOLDER.glob("*.py"))
NUM_CLASSES = {"camvid": 11, "ccp": 8, "cityscapes": 19, "lip": 20, "voc": 21}


def types_of(node):
    if isinstance(node, dict):
        for key, value in node.items():
            yield from [value] if key == "type" else types_of(value)
    elif isinstance(node, (list, tuple)):
        for item in node:
            yield from types_of(item)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_type_is_a_class_or_a_function(name):
    found = list(types_of(dict(read_config(FOLDER / name).items())))
    assert len(found) > 10 and all(callable(kind) for kind in found)


@pytest.mark.parametrize("name", CONFIGS)
def test_its_docstring_says_how_to_run_it_what_to_expect_and_what_is_ours(name):
    text = ast.get_docstring(ast.parse((FOLDER / name).read_text()))
    assert all(f"\n{word}:" in text for word in ("Run", "Expect", "Source")) and "ours" in text.lower()


@pytest.mark.parametrize("name", [name for name in CONFIGS if name.startswith("segmentation_")])
def test_a_data_set_has_its_classes_and_describes_no_label_id_twice(name):
    config = read_config(FOLDER / name)
    data = config.train_dataloader.dataset
    assert len(data.classes) == NUM_CLASSES[name.split("_")[1]] == len({label for label, _ in data.classes})
    assert config.model.num_classes == len(data.classes)
    assert config.val_evaluator.names == [label for label, _ in data.classes]
    described = ("images", "labels", "ids", "classes", "ignore_ids")
    assert [config.val_dataloader.dataset[key] for key in described] == [data[key] for key in described]
    assert (data.part, config.val_dataloader.dataset.part) == ("trainaug" if "voc" in name else "train", "val")
    ids = [i for _, some in data.classes for i in (some if isinstance(some, list) else [some])] + list(data.ignore_ids)
    assert len(ids) == len(set(ids))
    if "ccp" in name:
        assert sorted(ids) == list(range(59))
    if "cityscapes" in name:
        assert sorted(ids) == [*range(34), 255]


def test_the_papers_segmentation_protocols_have_their_networks():
    network = {"alexnet_fcn": 32, "resnet50": 8}
    for name in ("segmentation_voc_alexnet_4xb4_20k.py", "segmentation_voc_r50_4xb4_20k.py"):
        model = read_config(FOLDER / name).model
        assert model.output_stride == network[model.encoder]
    assert read_config(FOLDER / "segmentation_voc_alexnet_4xb4_20k.py").model.hidden_channels == 0


@pytest.mark.parametrize("name", CONFIGS)
def test_what_the_command_line_gives_is_required_and_everything_else_is_written(name):
    config = read_config(FOLDER / name)
    must_be_given = {"model.backbone", "train_dataloader.dataset.root", "val_dataloader.dataset.root"}
    if name.startswith("detection_"):
        must_be_given.add("val_evaluator.annotations")
    with pytest.raises(ValueError) as error:
        check_required(config)
    assert set(str(error.value).split(": ")[1].split(" must be given")[0].split(", ")) == must_be_given
    assert config.optim_wrapper.optimizer.lr > 0


# learning rate of fine-tuning and of a frozen backbone
RATES = {"camvid": (1e-3, 1e-2), "ccp": (1e-3, 1e-2)} | dict.fromkeys(("cityscapes", "lip", "voc"), (0.01, 0.1))


@pytest.mark.parametrize("name", [name for name in CONFIGS if name.startswith("segmentation_")])
def test_a_frozen_backbone_gets_a_linear_head_and_its_rate_and_an_option_still_wins(name):
    tuned, frozen = (read_config(FOLDER / name, variant=variant) for variant in (None, "frozen"))
    assert frozen.model.frozen is True and frozen.model.hidden_channels == 0 and "frozen" not in tuned.model
    rates = tuple(config.optim_wrapper.optimizer.lr for config in (tuned, frozen))
    assert rates == RATES[name.split("_")[1]]
    other = read_config(FOLDER / name, {"optim_wrapper.optimizer.lr": 0.5}, variant="frozen")
    assert other.optim_wrapper.optimizer.lr == 0.5 and other.model.frozen is True
