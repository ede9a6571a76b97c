import pytest
from mmengine.config import Config

from cmp.engine.config import check_training_config, read_config

CONFIG = """
from torch.optim import SGD

model = dict(width=3, strides=(1, 2))
loader = dict(batch_size=4, dataset=dict(paths=["a", "b"], steps=[dict(type=SGD, lr=0.1), dict(lr=0.2)]))
"""


@pytest.fixture
def config_file(tmp_path):
    path = tmp_path / "config.py"
    path.write_text(CONFIG)
    return path


def test_values_are_changed_wherever_they_lie(config_file):
    options = {
        "model.width": 5,
        "loader.batch_size": 8,
        "loader.dataset.steps.1.lr": 0.3,
        "loader.dataset.paths.0": "c",
        "model.strides": (1, 4),
    }
    config = read_config(config_file, options)
    assert config.model == dict(width=5, strides=(1, 4)) and config.loader.batch_size == 8
    assert [step.lr for step in config.loader.dataset.steps] == [0.1, 0.3]
    assert config.loader.dataset.paths == ["c", "b"]


def test_without_options_a_config_is_read_as_it_is(config_file):
    config = read_config(config_file)
    assert config.model == dict(width=3, strides=(1, 2)) and config.loader.dataset.paths == ["a", "b"]


@pytest.mark.parametrize(
    "option, message",
    (
        ("model.widht", "model.widht: model has no 'widht'; did you mean 'width'?"),
        ("loder.batch_size", "the config has no 'loder'; did you mean 'loader'?"),
        ("loader.dataset.steps.1.rate", "loader.dataset.steps.1 has no 'rate'; it has ['lr']"),
        ("loader.dataset.steps.2.lr", "loader.dataset.steps has entries 0..1, not '2'"),
        ("loader.dataset.steps.first.lr", "loader.dataset.steps has entries 0..1, not 'first'"),
        ("model.width.more", "model.width is the value 3 and holds no 'more'"),
        ("model.strides.0", "model.strides is (1, 2), which is changed as a whole"),
        ("", "the config has no ''"),
    ),
)
def test_a_key_that_the_config_does_not_have_is_refused_with_a_hint(config_file, option, message):
    with pytest.raises(ValueError) as error:
        read_config(config_file, {option: 1})
    assert message in str(error.value)


@pytest.mark.parametrize(
    "option, value, message",
    (
        ("model.width", "abc", "model.width is 3 and cannot become 'abc'"),
        ("model.strides", 3, "model.strides is (1, 2) and cannot become 3"),
        ("loader.dataset.paths", 2.0, "cannot become 2.0"),
    ),
)
def test_text_for_a_number_and_a_number_for_a_list_are_refused(config_file, option, value, message):
    with pytest.raises(ValueError) as error:
        read_config(config_file, {option: value})
    assert message in str(error.value)
    assert read_config(config_file, {"model.width": None, "model.strides": [4]}).model == dict(width=None, strides=[4])


TRAINING = dict(model=dict(), train_dataloader=dict(batch_size=2), train_cfg=dict(max_iters=3, val_interval=1))
TRAINING |= dict(optim_wrapper=dict(optimizer=dict(type="SGD")), default_hooks=dict(checkpoint=None))


@pytest.mark.parametrize(
    "change, message",
    (
        (dict(model=None), "it has no model$"),
        (dict(train_cfg=dict(max_iters=0)), "train_cfg.max_iters must be a whole number of at least 1, got 0"),
        (dict(train_cfg=dict(val_interval=0)), "train_cfg.val_interval must"),
        (dict(train_dataloader=dict(batch_size=1.5)), "train_dataloader.batch_size must .* got 1.5"),
        (dict(default_hooks=dict(logger=dict(interval=0))), "default_hooks.logger.interval must"),
        (dict(default_hooks=dict(checkpoint=dict(interval=-1))), "default_hooks.checkpoint.interval must"),
        (dict(log_processor=dict(window_size=0)), "log_processor.window_size must"),
        (dict(optim_wrapper=dict(optimizer=dict(type="Foo"))), "optim_wrapper.optimizer.type: there is no .* 'Foo'"),
    ),
)
def test_a_training_config_lacks_no_part_and_counts_from_1(change, message):
    check_training_config(Config(TRAINING))
    with pytest.raises(ValueError, match=message):
        check_training_config(Config(TRAINING | change))


@pytest.mark.parametrize("key, one, other", [("val_share", 0.1, 0.2), ("val_list", None, "testlist01.txt")])
def test_training_and_validation_divide_the_same_data_in_the_same_way(key, one, other):
    def config(first, second, part="val"):
        datasets = dict(train=dict(part="train", **{key: first}), val=dict(part=part, **{key: second}))
        return Config(TRAINING | {f"{name}_dataloader": dict(dataset=dataset) for name, dataset in datasets.items()})

    check_training_config(config(other, other))
    check_training_config(config(one, other, part="all"))  # of other data, then
    for pair in ((one, other), (other, one)):
        with pytest.raises(ValueError, match=f"dataset.{key} is {pair[0]!r} and .* {pair[1]!r}: videos would be"):
            check_training_config(config(*pair))


def test_a_missing_config_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such config: .*none.py"):
        read_config(tmp_path / "none.py")
