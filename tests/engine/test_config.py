import argparse

import pytest
from mmengine.config import Config

from cmp.engine.config import check_training_config, read_config
from cmp.engine.options import KeyValues

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
        ("model.width.more", "model.width is the value 3, which has no 'more'"),
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


KINDS = """
from torch.optim import SGD

on = True
number = 4
share = 0.5
name = "val"
kind = SGD
several = [1.0, 0.5]
flags = [True]
names = ("a",)
empty = []
part = dict(x=1)
nothing = None
endless = float("inf")
"""


@pytest.fixture(scope="module")
def kinds(tmp_path_factory):
    path = tmp_path_factory.mktemp("kinds") / "config.py"
    path.write_text(KINDS)
    return path


def given(text):
    """The options of a command line, read as tools/train.py reads them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--cfg-options", nargs="+", action=KeyValues)
    return parser.parse_args(["--cfg-options", text]).cfg_options


@pytest.mark.parametrize(
    "text, wanted",
    (
        *((f"on={value}", "true or false") for value in ("no", "off", "yes", "0", "1", "None", "1.0", "[True]")),
        *((f"number={value}", "a whole number") for value in ("no", "true", "2.5", "1e3", "[4]", "4,")),
        *((f"share={value}", "a finite number") for value in ("no", "false", "nan", "inf", "1,2", "0.5x")),
        *((f"name={value}", "text") for value in ("5", "true", "a,b")),
        ("kind=3", "text"),
        ("several=1.0", "a list, such as [a] or a,b"),
        ("several=no", "a list"),
        ("several=1,no", "a list of numbers"),
        ("several=true,1", "a list of numbers"),
        ("flags=[1]", "a list of true or false"),
        ("names=1,2", "a list of text"),
        ("names=a", "a list, such as [a] or a,b"),
        ("part=3", "a dict: change its entries one by one"),
        ("part.x=no", "a whole number"),
    ),
)
def test_a_value_of_another_kind_is_refused_with_the_kind_that_is_wanted(kinds, text, wanted):
    with pytest.raises(ValueError) as error:
        read_config(kinds, given(text))
    key = text.partition("=")[0]
    assert str(error.value).startswith(
        f"{key} is "
    ) and f"cannot become {given(text)[key]!r}: it takes {wanted}" in str(error.value)


@pytest.mark.parametrize(
    "text, value",
    (
        ("on=false", False),
        ("on=True", True),
        ("number=7", 7),
        ("number=None", None),
        ("share=1", 1),
        ("share=1e-3", 0.001),
        ("name=train", "train"),
        ("kind=AdamW", "AdamW"),
        ("several=[2]", [2]),
        ("several=(3,4.5)", (3, 4.5)),
        ("flags=false,true", [False, True]),
        ("names=[b]", ["b"]),
        ("empty=1,a", [1, "a"]),
        ("part=None", None),
        ("nothing=no", "no"),
        ("endless=inf", float("inf")),
    ),
)
def test_a_value_of_the_same_kind_takes_the_place(kinds, text, value):
    assert read_config(kinds, given(text))[text.partition("=")[0]] == value


TRAINING = dict(model=dict(), train_dataloader=dict(batch_size=2), train_cfg=dict(max_iters=3, val_interval=1))
TRAINING |= dict(optim_wrapper=dict(optimizer=dict(type="SGD")), default_hooks=dict(checkpoint=None))


@pytest.mark.parametrize(
    "change, message",
    (
        (dict(model=None), "not a training config: model missing$"),
        (dict(model=dict(backbone="???")), "model.backbone must be given .--cfg-options model.backbone=VALUE"),
        (
            dict(hooks=[dict(path="???")], load_from="???"),
            "hooks.0.path, load_from must be given .--cfg-options hooks.0.path=VALUE",
        ),
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


@pytest.mark.parametrize(
    "key, one, other",
    [("val_share", 0.1, 0.2), ("val_list", None, "testlist01.txt"), ("drop_list", None, "still.txt")],
)
def test_training_and_validation_divide_the_same_data_in_the_same_way(key, one, other):
    def config(first, second, part="val"):
        datasets = dict(train=dict(part="train", **{key: first}), val=dict(part=part, **{key: second}))
        return Config(TRAINING | {f"{name}_dataloader": dict(dataset=dataset) for name, dataset in datasets.items()})

    check_training_config(config(other, other))
    check_training_config(config(one, other, part="all"))  # of other data, then
    config_of_one = config(other, other)
    del config_of_one.val_dataloader.dataset[key]
    with pytest.raises(ValueError, match=f"dataset.{key} is {other!r} and .* None: videos would be"):
        check_training_config(config_of_one)
    for pair in ((one, other), (other, one)):
        with pytest.raises(ValueError, match=f"dataset.{key} is {pair[0]!r} and .* {pair[1]!r}: videos would be"):
            check_training_config(config(*pair))


def test_a_missing_config_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such config: .*none.py"):
        read_config(tmp_path / "none.py")


TYPED = """
from torch.optim import SGD
from mmengine.hooks import LoggerHook
from mmengine.optim import CosineAnnealingLR, OptimWrapper

CROP = 320
optim_wrapper = dict(type=OptimWrapper, optimizer=dict(type=SGD, lr=0.1))
by_name = dict(type="torch.optim.SGD", lr=0.1)
by_registry = dict(type="AdamW", lr=0.1)
scheduler = dict(type=CosineAnnealingLR, T_max=CROP)
train_dataloader = dict(batch_size=2)
log_processor = dict(by_epoch=False)
switched = {"optim_wrapper.optimizer.lr": 0.01, "train_dataloader.drop_last": True}
"""


@pytest.fixture(scope="module")
def typed(tmp_path_factory):
    path = tmp_path_factory.mktemp("typed") / "config.py"
    path.write_text(TYPED)
    return path


@pytest.mark.parametrize(
    "text, value",
    (
        ("optim_wrapper.optimizer.nesterov=true", True),
        ("optim_wrapper.optimizer.momentum=0.9", 0.9),  # its default is written 0
        ("optim_wrapper.optimizer.fused=true", True),
        ("optim_wrapper.accumulative_counts=2", 2),
        ("by_name.weight_decay=1e-4", 1e-4),
        ("by_registry.betas=0.8,0.9", [0.8, 0.9]),
        ("scheduler.begin=3", 3),  # of a class above its own
        ("train_dataloader.timeout=30", 30),
        ("train_dataloader.drop_last=true", True),
        ("log_processor.window_size=5", 5),
    ),
)
def test_a_parameter_that_the_config_leaves_out_is_set(typed, text, value):
    node = read_config(typed, given(text))
    for key in text.partition("=")[0].split("."):
        node = node[key]
    assert node == value and type(node) is type(value)


@pytest.mark.parametrize(
    "text, message",
    (
        ("optim_wrapper.optimizer.nestrov=true", "optim_wrapper.optimizer has no 'nestrov'; did you mean 'nesterov'?"),
        ("by_name.momentun=1", "did you mean 'momentum'?"),
        ("by_registry.zzz=1", "it has ['amsgrad', 'betas', "),
        ("optim_wrapper.optimizer.nesterov=no", "is False by default and cannot become 'no': it takes true or false"),
        ("by_registry.betas=3", "is (0.9, 0.999) by default and cannot become 3: it takes a list"),
        ("log_processor.window_size=big", "is 10 by default and cannot become 'big': it takes a whole number"),
        ("train_dataloader.sampler=3", "train_dataloader has no 'sampler'"),
        ("optim_wrapper.optimizer.params=3", "optim_wrapper.optimizer has no 'params'"),
        ("optim_wrapper.clip_grad.max_norm=1", "the config leaves optim_wrapper.clip_grad out; write it in a config"),
        ("CROP=128", "the config has no 'CROP'"),
        ("SGD=128", "the config has no 'SGD'"),
    ),
)
def test_a_parameter_that_does_not_exist_or_is_of_another_kind_is_refused(typed, text, message):
    with pytest.raises(ValueError) as error:
        read_config(typed, given(text))
    assert message in str(error.value)


@pytest.mark.parametrize("old", ["64", "(32, 48)"])
def test_a_parameter_that_takes_one_number_or_several_can_become_either(tmp_path, old):
    path = tmp_path / "config.py"
    path.write_text(f"from cmp.datasets.clips import Clips\n\ndataset = dict(type=Clips, paths=[], size_px={old})\n")
    assert list(read_config(path, given("dataset.size_px=[160,240]")).dataset.size_px) == [160, 240]
    assert read_config(path, given("dataset.size_px=80")).dataset.size_px == 80
    for value in ("[160,wide]", "wide", "[1.5,2]", "[]", "true"):
        with pytest.raises(ValueError, match="dataset.size_px is .*: it takes a whole number, or a list of them"):
            read_config(path, given(f"dataset.size_px={value}"))
    with pytest.raises(ValueError, match="dataset.short_side_px is 80 by default .*: it takes a whole number$"):
        read_config(path, given("dataset.short_side_px=[80,90]"))


def test_names_in_capitals_and_imported_names_are_not_part_of_the_config(typed):
    config = read_config(typed)
    assert config.scheduler.T_max == 320
    assert set(config) == {
        *("optim_wrapper", "by_name", "by_registry", "scheduler"),
        *("train_dataloader", "log_processor", "switched"),
    }


def test_a_variant_is_set_before_the_options(typed):
    config = read_config(typed, {"train_dataloader.drop_last": False}, variant="switched")
    assert config.optim_wrapper.optimizer.lr == 0.01 and config.train_dataloader.drop_last is False
    with pytest.raises(ValueError, match="the config has no 'frozen', the values that --frozen sets"):
        read_config(typed, variant="frozen")


INHERITS = """
from mmengine.config import read_base

with read_base():
    from configs.pretrain.{name} import *

train_cfg.update(max_iters=5)
"""


def test_a_config_anywhere_inherits_a_recipe_by_its_name(tmp_path, monkeypatch):
    (tmp_path / "configs").mkdir()  # a folder of the same name does not matter
    path = tmp_path / "mine.py"
    path.write_text(INHERITS.format(name="cmp_r50_yfcc_16xb10_42k"))
    monkeypatch.chdir(tmp_path)
    config = read_config("mine.py", {"train_cfg.val_interval": 2})
    assert config.train_cfg.max_iters == 5 and config.train_cfg.val_interval == 2
    assert config.model.image_encoder.depth == 50
    path.write_text(INHERITS.format(name="no_such_recipe"))
    with pytest.raises(ValueError, match="mine.py: cannot be read as a config: .*no_such_recipe.py not found"):
        read_config(path)


def test_outside_of_a_checkout_a_recipe_by_name_is_refused_with_the_place_that_was_searched(tmp_path, monkeypatch):
    path = tmp_path / "mine.py"
    path.write_text(INHERITS.format(name="cmp_r50_yfcc_16xb10_42k"))
    monkeypatch.setattr("cmp.engine.config.RECIPES", tmp_path / "configs")
    with pytest.raises(ValueError, match=f"mine.py: .*{tmp_path}/configs/pretrain/cmp_r50_yfcc_16xb10_42k"):
        read_config(path)
