"""Training configs: read one, change single values of it, and refuse values it does not have."""

import argparse
import difflib
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path

from mmengine.config import Config, DictAction
from mmengine.optim import OPTIMIZERS  # with its optimizers in it

# What a training config needs, and its whole numbers that must be at least 1 where it has them: mmengine takes a 0 for
# never, or divides by it.
NEEDED = ("model", "train_dataloader", "train_cfg", "optim_wrapper")
AT_LEAST_1 = (
    "train_cfg.max_iters",
    "train_cfg.val_interval",
    "train_dataloader.batch_size",
    "default_hooks.logger.interval",
    "default_hooks.checkpoint.interval",
    "log_processor.window_size",
)


class KeyValues(DictAction):
    """argparse's action for `--cfg-options KEY=VALUE ...`: mmengine's, which names what is none."""

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        for value in values:
            try:
                super().__call__(parser, namespace, [value], option_string)
            except (ValueError, AssertionError) as error:
                raise argparse.ArgumentError(self, f"expected KEY=VALUE, got {value!r}") from error


def read_config(path: str | PathLike, options: Mapping[str, object] | None = None) -> Config:
    """Read a pure-Python config and change some of its values.

    Args:
        path: the config file.
        options: dotted path to new value, such as {"train_dataloader.batch_size": 4}; a list's entries are numbers.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no config, or an option names a key that the config does not have, or one entry of a
            tuple, or puts text for a number or a number for a list.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no such config: {path}")
    try:
        config = Config.fromfile(str(path))
    except Exception as error:  # whatever the file's own code raises
        raise ValueError(f"{path} is no config: {type(error).__name__}: {error}") from error
    for dotted, value in (options or {}).items():
        _set_existing(config, dotted, value)
    return config


def check_training_config(config: Config) -> None:
    """Refuse a config that mmengine would answer with an error that names nothing, or not at all.

    Raises:
        ValueError: a part is missing, a number is below 1 or not whole, there is no such optimizer, or validation is
            split off otherwise than training, so that videos would be in both.
    """
    missing = [key for key in NEEDED if config.get(key) is None]
    if missing:
        raise ValueError(f"{config.filename} is no training config: it has no {', '.join(missing)}")
    for dotted in AT_LEAST_1:
        node = config
        for key in dotted.split("."):
            node = node.get(key) if isinstance(node, (Mapping, Config)) else None
        if node is not None and not (isinstance(node, int) and node >= 1):
            raise ValueError(f"{dotted} must be a whole number of at least 1, got {node!r}")
    kind = config.optim_wrapper.get("optimizer", {}).get("type")
    if isinstance(kind, str) and OPTIMIZERS.get(kind) is None:
        raise ValueError(f"optim_wrapper.optimizer.type: there is no optimizer {kind!r}")
    train, val = ((config.get(f"{name}_dataloader") or {}).get("dataset", {}) for name in ("train", "val"))
    if (train.get("part"), val.get("part")) == ("train", "val"):
        for key in ("val_share", "val_list"):
            if key in train and key in val and train[key] != val[key]:
                raise ValueError(
                    f"train_dataloader.dataset.{key} is {train[key]!r} and val_dataloader.dataset.{key} {val[key]!r}: "
                    "videos would be trained on and judged; change both"
                )


def _set_existing(config: Config, dotted: str, value: object) -> None:
    *parents, last = dotted.split(".")
    node = config
    for depth, name in enumerate(parents):
        node = node[_existing_key(node, name, dotted, parents[:depth])]
    key = _existing_key(node, last, dotted, parents)
    if isinstance(node, tuple):
        raise ValueError(f"{dotted}: {'.'.join(parents)} is {node!r}, which is changed as a whole")
    old = node[key]
    was_number = isinstance(old, (int, float)) and not isinstance(old, bool)
    if was_number and isinstance(value, str) or isinstance(old, (list, tuple)) and isinstance(value, (int, float)):
        raise ValueError(f"{dotted} is {old!r} and cannot become {value!r}")
    node[key] = value


def _existing_key(node: object, name: str, dotted: str, above: Sequence[str]) -> str | int:
    place = ".".join(above) or "the config"
    if isinstance(node, (list, tuple)):
        if name.isdigit() and int(name) < len(node):
            return int(name)
        raise ValueError(f"{dotted}: {place} has entries 0..{len(node) - 1}, not {name!r}")
    if not isinstance(node, (Mapping, Config)):
        raise ValueError(f"{dotted}: {place} is the value {node!r} and holds no {name!r}")
    if name not in node.keys():
        near = difflib.get_close_matches(name, [str(key) for key in node.keys()], n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; it has {sorted(map(str, node.keys()))}"
        raise ValueError(f"{dotted}: {place} has no {name!r}{hint}")
    return name
