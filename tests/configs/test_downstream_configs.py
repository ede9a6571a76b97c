"""Every config of the downstream tasks; what pretraining's must hold is in test_configs.py."""

import ast
from pathlib import Path

import pytest

from cmp.engine.config import read_config

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
    data = read_config(FOLDER / name).data
    assert len(data.classes) == NUM_CLASSES[name.split("_")[1]] == len({label for label, _ in data.classes})
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
