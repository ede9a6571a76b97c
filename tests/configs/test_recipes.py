"""Rules that every recipe follows: two levels, names, each number once, and no default that is only copied."""

import ast
import re
from pathlib import Path

import pytest

from cmp.engine.config import _parameters, read_config

ROOT = Path(__file__).resolve().parents[2] / "configs"
FILES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py"))
BASES = [name for name in FILES if "_base_" in name]
RECIPES = [name for name in FILES if "_base_" not in name]
RUNS = [name for name in RECIPES if not name.startswith("ablation/")]


def inherited(name):
    """The files that a config inherits from, relative to configs/."""
    path = ROOT / name
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.With):
            for base in node.body:
                folder = path.parents[base.level - 1]
                yield (folder / f"{base.module.replace('.', '/')}.py").resolve().relative_to(ROOT).as_posix()


def times_written(name, key):
    """How often a recipe and its bases give an argument of this name as a number."""
    trees = [ast.parse((ROOT / file).read_text()) for file in (name, *inherited(name))]
    found = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.keyword) and node.arg == key]
    return sum(isinstance(node.value, ast.Constant) and node.value.value is not None for node in found)


def parts_of(node, place=""):
    if isinstance(node, dict):
        yield place, node
        for key, value in node.items():
            yield from parts_of(value, f"{place}.{key}" if place else key)
    elif isinstance(node, (list, tuple)):
        for i, value in enumerate(node):
            yield from parts_of(value, f"{place}.{i}")


@pytest.mark.parametrize("name", FILES)
def test_a_recipe_inherits_from_bases_only_and_a_base_from_nothing(name):
    found = list(inherited(name))
    assert set(found) <= set(BASES)
    assert bool(found) == (name in RECIPES and name != "ablation/small.py")


def test_every_base_is_used():
    assert {base for name in RECIPES for base in inherited(name)} == set(BASES)


@pytest.mark.parametrize("name", RECIPES)
def test_no_two_bases_of_a_recipe_set_the_same_value_but_for_batch_norm_of_detection(name):
    seen = {}
    for base in inherited(name):
        for node in ast.parse((ROOT / base).read_text()).body:
            for target in ast.walk(node) if isinstance(node, ast.Assign) else ():
                if isinstance(target, ast.Name) and isinstance(target.ctx, ast.Store):
                    seen.setdefault(target.id, set()).add(base)
    twice = {key: where for key, where in seen.items() if len(where) > 1 and not key.isupper()}
    assert set(twice) == ({"sync_bn"} if "downstream/_base_/detection.py" in inherited(name) else set())


@pytest.mark.parametrize("name", RUNS)
def test_a_name_is_fields_that_underscores_part_with_batch_and_length_last(name):
    assert re.fullmatch(r"[a-z]+/[a-z0-9]+(_[a-z0-9]+)*_[0-9]+xb[0-9]+_[0-9]+[km]?\.py", name)


@pytest.mark.parametrize("name", FILES)
def test_no_name_has_a_hyphen(name):
    assert "-" not in name


@pytest.mark.parametrize("name", [name for name in RUNS if name.startswith("pretrain/")])
def test_each_number_of_a_pretraining_recipe_is_written_once(name):
    for key in ("short_side_px", "size_px", "grid_stride_px", "nms_kernel", "max_points", "batch_size"):
        # The recipe for YouTube replaces stride and kernel of its base; training and validation may differ in batches.
        most = 2 if ("youtube" in name and key in ("grid_stride_px", "nms_kernel")) or key == "batch_size" else 1
        assert times_written(name, key) <= most, key


@pytest.mark.parametrize("name", RUNS)
def test_training_and_validation_are_resized_and_shown_points_alike(name):
    config = read_config(ROOT / name)
    for key in ("grid_stride_px", "nms_kernel", "max_points", "short_side_px", "size_px", "canvas_hw"):
        found = [
            {part[key] for _, part in parts_of(config[loader].dataset) if key in part}
            for loader in ("train_dataloader", "val_dataloader")
        ]
        if found[0]:  # points that the model draws are not in the training data
            assert found[0] == found[1], key


@pytest.mark.parametrize("name", RUNS)
def test_no_value_is_there_only_to_be_changed_by_an_option(name):
    """Of the parts whose defaults were copied into each recipe before."""
    config = read_config(ROOT / name)
    for place in ("train_cfg", "train_dataloader.dataset", "val_dataloader.dataset"):
        node = config
        for key in place.split("."):
            node = node[key]
        defaults = _parameters(node, place)
        for key in ("accumulate_batches", "max_skips_in_row", "val_list", "download", "max_digits", "max_clips"):
            assert key not in node or node[key] != defaults[key]


@pytest.mark.parametrize("name", RUNS)
def test_no_none_waits_for_a_command_to_fill_it_in(name):
    config = read_config(ROOT / name)
    found = [f"{place}.{key}" for place, part in parts_of(config._cfg_dict) for key in part if part[key] is None]
    said_by_none = (".max_points", ".prefetch_factor", ".strategies", ".read_size", ".write_size", ".ids", "sync_bn")
    said_by_none += ("default_scope", "load_from")
    assert [key for key in found if not key.endswith(said_by_none)] == []
