"""The config that docs/training.md shows is one that can be read, and says what its comments say."""

import re
import shutil
from pathlib import Path

from cmp.engine.config import read_config
from cmp.engine.weight_average import WeightAverage

ROOT = Path(__file__).resolve().parents[2]


def test_the_pages_config_reads_as_it_is(tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "training.md").read_text(), re.DOTALL)
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    path = tmp_path / "configs" / "pretrain" / "my_run.py"
    path.write_text(code)
    config = read_config(path)
    assert config.train_cfg.accumulate_batches == 2 and config.train_cfg.max_iters == 42000
    assert config.optim_wrapper.clip_grad == dict(max_norm=10.0) and config.optim_wrapper.optimizer.lr == 0.1
    assert config.optim_wrapper.paramwise_cfg == dict(norm_decay_mult=0.0, bias_decay_mult=0.0)
    assert config.custom_hooks[-1] == dict(type=WeightAverage, momentum=0.001) and len(config.custom_hooks) > 3
    assert config.sync_bn == "torch" and config.default_hooks.checkpoint.max_keep_ckpts == 3
    assert config.default_hooks.checkpoint.by_epoch is False


def test_single_values_of_the_page_are_in_every_recipe():
    for path in sorted((ROOT / "configs" / "pretrain").glob("*.py")):
        options = {"train_cfg.max_skips_in_row": 5, "train_cfg.accumulate_batches": 2, "sync_bn": "torch"}
        config = read_config(path, options)
        assert config.train_cfg.max_skips_in_row == 5
