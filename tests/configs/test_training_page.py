"""The configs that the documentation shows can be read from any folder, and do what their comments say."""

import re
from pathlib import Path

from cmp.engine.config import check_required, read_config
from cmp.engine.weight_average import WeightAverage

ROOT = Path(__file__).resolve().parents[2]


def shown(page, folder):
    """The only config that a page shows, as a file in a folder."""
    (code,) = re.findall(r"```python\n(\"\"\".*?)```", (ROOT / page).read_text(), re.DOTALL)
    path = folder / "my_run.py"
    path.write_text(code)
    return path


def test_the_pages_config_reads_as_it_is(tmp_path):
    path = shown("docs/training.md", tmp_path)
    config = read_config(path)
    assert config.train_cfg.accumulate_batches == 2 and config.train_cfg.max_iters == 42000
    assert config.optim_wrapper.clip_grad == dict(max_norm=10.0) and config.optim_wrapper.optimizer.lr == 0.1
    assert config.optim_wrapper.paramwise_cfg == dict(norm_decay_mult=0.0, bias_decay_mult=0.0)
    assert config.custom_hooks[-1] == dict(type=WeightAverage, momentum=0.001) and len(config.custom_hooks) > 3
    assert config.sync_bn == "torch" and config.default_hooks.checkpoint.max_keep_ckpts == 3
    assert config.default_hooks.checkpoint.by_epoch is False


def test_a_data_set_of_ones_own_is_described_as_the_page_shows(tmp_path):
    config = read_config(shown("docs/downstream.md", tmp_path), {"model.backbone": "random"})
    train, val = (config[f"{part}_dataloader"].dataset for part in ("train", "val"))
    assert train.classes[1] == ("ground", [3, 4]) and train.classes == val.classes
    assert (train.part, val.part, train.ignore_ids, train.crop_hw) == ("train", "val", [255], (480, 480))
    assert config.model.num_classes == 3 and config.val_evaluator.names == ["sky", "ground", "things"]
    train.root = val.root = "data"
    check_required(config)


def test_single_values_of_the_page_are_in_every_recipe():
    for path in sorted((ROOT / "configs" / "pretrain").glob("*.py")):
        options = {"train_cfg.max_skips_in_row": 5, "train_cfg.accumulate_batches": 2, "sync_bn": "torch"}
        config = read_config(path, options)
        assert config.train_cfg.max_skips_in_row == 5
