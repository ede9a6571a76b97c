"""Another length or batch of a recipe: schedules worked out by hand."""

import pytest
from mmengine.optim import OptimWrapper

from cmp.engine.adjust import set_batch_size, set_precision, set_seed, set_steps
from cmp.engine.config import read_config

WARM_UP = ("by_epoch", "begin", "end", "T_max", "milestones")


def schedule(config):
    parts = config.param_scheduler if isinstance(config.param_scheduler, list) else [config.param_scheduler]
    return [{key: part[key] for key in WARM_UP[1:] if key in part} for part in parts]


def test_a_warm_up_and_a_cosine_keep_their_shares():
    config = read_config("r18_quickstart")  # 300 steps: warm-up to 30, cosine to 300
    line = set_steps(config, 100)
    assert schedule(config) == [dict(begin=0, end=10), dict(begin=10, end=100, T_max=90)]
    assert (config.train_cfg.max_iters, config.train_cfg.val_interval) == (100, 100)
    assert line == (
        "100 steps instead of the config's 300: the learning rate's schedule is rescaled (LinearLR 0 to 10, "
        "CosineAnnealingLR 10 to 100), validation is every 100 steps"
    )


def test_drops_of_the_learning_rate_keep_their_shares():
    config = read_config("r50_yfcc")  # 42,000 steps: drops at 24,000 and 36,000, validation every 2,000
    line = set_steps(config, 4200)
    assert schedule(config) == [dict(milestones=[2400, 3600])]
    assert (config.train_cfg.max_iters, config.train_cfg.val_interval) == (4200, 200)
    assert "MultiStepLR at 2400, 3600" in line


def test_a_run_may_be_longer_and_as_short_as_a_step():
    config = read_config("r18_quickstart")
    set_steps(config, 3000)
    assert schedule(config) == [dict(begin=0, end=300), dict(begin=300, end=3000, T_max=2700)]
    config = read_config("r18_quickstart")
    set_steps(config, 1)
    assert schedule(config) == [dict(begin=0, end=1)] and config.default_hooks.logger.interval == 1
    with pytest.raises(ValueError, match="--steps must be at least 1, got 0"):
        set_steps(config, 0)


@pytest.mark.parametrize(
    "recipe, rule, batch, rate",
    (
        ("r18_quickstart", "sqrt", 64, 0.008),  # 16 pairs at 0.004
        ("r18_quickstart", "sqrt", 4, 0.002),
        ("r18_quickstart", "linear", 64, 0.016),
        ("r50_yfcc", "constant", 20, 0.1),  # as published, whatever the batch
    ),
)
def test_the_learning_rate_follows_the_batch_by_the_recipes_rule(recipe, rule, batch, rate):
    config = read_config(recipe)
    if rule == "linear":
        config.batch_rule = rule
    assert config.batch_rule == rule
    line = set_batch_size(config, batch)
    assert config.train_dataloader.batch_size == batch
    assert config.optim_wrapper.optimizer.lr == pytest.approx(rate)
    assert f"rule: {rule}" in line and f"batches of {batch} instead" in line
    assert (f"is {rate:g} instead" in line) == (rule != "constant")


def test_a_wrong_batch_or_rule_is_refused():
    config = read_config("r18_quickstart")
    with pytest.raises(ValueError, match="--batch-size must be at least 1, got 0"):
        set_batch_size(config, 0)
    config.batch_rule = "cubic"
    with pytest.raises(ValueError, match="batch_rule must be one of constant, linear, sqrt, got 'cubic'"):
        set_batch_size(config, 4)


def test_a_seed_is_of_weights_and_samples_and_a_precision_of_the_step():
    config = read_config("r18_quickstart")
    set_seed(config, 7)
    set_precision(config, "bfloat16")
    assert config.randomness.seed == config.train_dataloader.dataset.seed == 7
    assert "seed" not in config.val_dataloader.dataset and config.optim_wrapper.precision == "bfloat16"
    for function, value, said in ((set_seed, -1, "--seed must be in 0"), (set_precision, "half", "--precision must")):
        with pytest.raises(ValueError, match=said):
            function(config, value)
    with pytest.raises(ValueError, match="is not an AutocastOptimWrapper"):
        config.optim_wrapper = dict(type=OptimWrapper, optimizer=config.optim_wrapper.optimizer)
        set_precision(config, "bfloat16")
