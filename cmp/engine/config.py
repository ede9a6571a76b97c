"""Training configs: read one, change single values, and refuse values that it cannot take."""

import difflib
import importlib
import inspect
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from os import PathLike
from typing import Any
from unittest.mock import patch

from cmp.engine.optimizers import OPTIMIZERS  # isort: skip  # before other parts of mmengine import them slowly
from mmengine.config import Config
from mmengine.runner import LogProcessor, set_random_seed
from mmengine.utils import get_installed_path, get_object_from_string
from torch.utils.data import DataLoader

from cmp.engine.recipes import KINDS, RECIPES, find_recipe

REQUIRED = "???"  # in a config: a value that the command line must give

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
# What mmengine builds from the parts of a config that have no "type".
BUILT_FROM: dict[str, Callable] = {
    "train_dataloader": DataLoader,
    "val_dataloader": DataLoader,
    "log_processor": LogProcessor,
    "randomness": set_random_seed,
}
# Parameters of a DataLoader that take objects; the config's dicts of these names are always there.
ONE_OR_SEVERAL = r"\bint \| .*Sequence\[int\]"  # annotation of a parameter that takes a number or a list of them
OBJECTS = {"sampler", "batch_sampler", "collate_fn", "worker_init_fn", "generator"}


def read_config(
    path: str | PathLike, options: Mapping[str, object] | None = None, *, variant: str | None = None
) -> Config:
    """Read a pure-Python config and change some of its values.

    Names in capitals are the file's own variables and do not become part of the config; neither do imported names.
    In `with read_base():`, `from configs.pretrain.NAME import *` inherits a recipe by its name, wherever the config
    that is read is.

    Args:
        path: the config file, or the name of a recipe, as for `find_recipe`.
        options: dotted path to new value, such as {"train_dataloader.batch_size": 4}; a list's entries are numbers. A
            key may be missing where the part's class or function has a parameter of that name.
        variant: key of the config whose options are set before `options`; None: none are set.

    Raises:
        FileNotFoundError: the file or recipe does not exist.
        ValueError: several recipes have this name; the file cannot be read as a config; an option names a key that
            neither the config nor the class has, or one entry of a tuple, or its value is not of the kind of the value
            or default that it replaces (true or false, whole number, text, list ...); or the config does not have this
            variant.
    """
    path = find_recipe(path, KINDS)
    try:
        with _recipes_by_name():
            config = Config.fromfile(str(path))
    except Exception as error:  # whatever the file's own code raises
        raise ValueError(f"{path}: cannot be read as a config: {type(error).__name__}: {error}") from error
    imported = getattr(config, "_imported_names", ())
    for name in [name for name in config if name.isupper() or name in imported]:
        config.pop(name)
    if variant is not None and not isinstance(config.get(variant), Mapping):
        raise ValueError(f"{path}: the config has no {variant!r}, the values that --{variant} sets")
    for dotted, value in {**(config[variant] if variant else {}), **(options or {})}.items():
        set_option(config, dotted, value)
    return config


def check_training_config(config: Config) -> None:
    """Refuse a config that mmengine would answer with an error that names nothing, or not at all.

    Raises:
        ValueError: a part or a required value is missing, a number is below 1 or not whole, the optimizer is not
            known, or validation is split off otherwise than training, so that videos would be in both.
    """
    missing = [key for key in NEEDED if config.get(key) is None]
    if missing:
        raise ValueError(f"{config.filename}: not a training config: {', '.join(missing)} missing")
    check_required(config)
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
        for key in ("val_share", "val_list", "drop_list"):
            one, other = (_value_or_default(dataset, key) for dataset in (train, val))
            if one != other:
                raise ValueError(
                    f"train_dataloader.dataset.{key} is {one!r} and val_dataloader.dataset.{key} {other!r}: "
                    "videos would be both trained on and validated on; change both"
                )


def check_required(config: Config) -> None:
    """Refuse a config in which a value is still `REQUIRED`.

    Raises:
        ValueError: there are such values; all are named.
    """
    if missing := sorted(_required(config._cfg_dict)):
        raise ValueError(f"{config.filename}: {', '.join(missing)} must be given (--cfg-options {missing[0]}=VALUE)")


def _required(node: object, place: str = "") -> Iterator[str]:
    """Dotted names of the values that must be given."""
    if node == REQUIRED:
        yield place
    elif isinstance(node, (Mapping, list, tuple)):
        entries = node.items() if isinstance(node, Mapping) else enumerate(node)
        for key, value in entries:
            yield from _required(value, f"{place}.{key}" if place else str(key))


@contextmanager
def _recipes_by_name() -> Iterator[None]:
    """While a config is read, the package `configs` is the folder of the recipes: mmengine asks where packages are."""
    module = importlib.import_module("mmengine.config.config")

    def find(package: str) -> str:
        return str(RECIPES) if package == "configs" else get_installed_path(package)

    with patch.object(module, "get_installed_path", find):
        yield


def set_option(config: Config, dotted: str, value: Any) -> None:
    """Change one value, or set a parameter that the config leaves at its default.

    Raises:
        ValueError: as `read_config` for an option.
    """
    *parents, last = dotted.split(".")
    node: Any = config
    for depth, name in enumerate(parents):
        node = node[_known_key(node, name, dotted, parents[:depth])]
    parameters = _parameters(node, ".".join(parents))
    key = _known_key(node, last, dotted, parents, parameters)
    if isinstance(node, tuple):
        raise ValueError(f"{dotted}: {'.'.join(parents)} is {node!r}, which is changed as a whole")
    is_there = not isinstance(node, (Mapping, Config)) or key in node.keys()
    old = node[key] if is_there else parameters[str(key)]
    wanted = None if old == REQUIRED else _other_kind(old, value)
    parameter = _signature(node, ".".join(parents)).get(str(key))
    if value is not None and parameter is not None and re.search(ONE_OR_SEVERAL, str(parameter.annotation)):
        several = isinstance(value, (list, tuple)) and len(value) > 0
        fits = all(_is(item, int) for item in (value if several else [value]))
        wanted = None if fits else "a whole number, or a list of them"
    if wanted:
        said = f"is {old!r}" if is_there else f"is {old!r} by default"
        raise ValueError(f"{dotted} {said} and cannot become {value!r}: it takes {wanted}")
    node[key] = value


def _value_or_default(node: Mapping, key: str) -> object:
    return node[key] if key in node else _parameters(node, "").get(key)


def _parameters(node: object, place: str) -> dict[str, object]:
    """Parameters of what a part of a config is built as, with their defaults.

    Those without a default are left out: the config has them, or the code that builds the part passes them.

    Args:
        node: the part; its "type" is a class, a function, or the name of one.
        place: its dotted name, for parts without a type.
    """
    return {
        name: _default(parameter)
        for name, parameter in _signature(node, place).items()
        if parameter.default is not parameter.empty and name not in OBJECTS
    }


def _signature(node: object, place: str) -> dict[str, inspect.Parameter]:
    """All parameters of what a part of a config is built as; arguments as in `_parameters`."""
    if not isinstance(node, Mapping):
        return {}
    kind = node.get("type", BUILT_FROM.get(place))
    if isinstance(kind, str):
        kind = get_object_from_string(kind) if "." in kind else OPTIMIZERS.get(kind)
    if kind is None:
        return {}
    functions = [kind]
    if inspect.isclass(kind):
        functions = [vars(base)["__init__"] for base in kind.__mro__ if "__init__" in vars(base)]
    found: dict[str, inspect.Parameter] = {}
    for function in functions:
        try:
            parameters = inspect.signature(function).parameters.values()
        except (TypeError, ValueError):  # one without a signature
            break
        for parameter in parameters:
            found.setdefault(parameter.name, parameter)
        if all(parameter.kind is not parameter.VAR_KEYWORD for parameter in parameters):  # else it hands the rest on
            break
    return found


def _default(parameter: inspect.Parameter) -> object:
    """A parameter's default; torch writes `momentum: float = 0`, which takes 0.9 as well."""
    default = parameter.default
    is_whole = isinstance(default, int) and not isinstance(default, bool)
    return float(default) if is_whole and "float" in str(parameter.annotation) else default


def _other_kind(old: Any, value: Any) -> str | None:
    """What a value should be to take the place of `old`, in words; None where it may, or where `old` does not tell.

    None takes any place but that of True or False: it switches off, or means the default.
    """
    if old is None:
        return None
    if isinstance(old, bool):
        return None if isinstance(value, bool) else "true or false"
    if value is None:
        return None
    if isinstance(old, int):
        return None if isinstance(value, int) and not isinstance(value, bool) else "a whole number"
    if isinstance(old, float):
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return None if number and (math.isfinite(value) or not math.isfinite(old)) else "a finite number"
    if isinstance(old, (list, tuple)):
        if not isinstance(value, (list, tuple)):
            return "a list, such as [a] or a,b"
        for kind, word in ((bool, "true or false"), ((int, float), "numbers"), (str, "text")):
            if old and all(_is(item, kind) for item in old) and not all(_is(item, kind) for item in value):
                return f"a list of {word}"
        return None
    if isinstance(old, Mapping):
        return None if isinstance(value, Mapping) else "a dict: change its entries one by one, or None"
    return None if isinstance(value, str) else "text"  # also in the place of a class, by its name


def _is(item: object, kind: type | tuple[type, ...]) -> bool:
    return isinstance(item, kind) and (kind is bool or not isinstance(item, bool))


def _known_key(
    node: object, name: str, dotted: str, above: Sequence[str], parameters: Mapping[str, object] | None = None
) -> str | int:
    """The key of a part of the config for a name of an option; ValueError with the nearest name if there is none."""
    place = ".".join(above) or "the config"
    if isinstance(node, (list, tuple)):
        if name.isdigit() and int(name) < len(node):
            return int(name)
        raise ValueError(f"{dotted}: {place} has entries 0..{len(node) - 1}, not {name!r}")
    if not isinstance(node, (Mapping, Config)):
        raise ValueError(f"{dotted}: {place} is the value {node!r}, which has no {name!r}")
    known = sorted({*map(str, node.keys()), *(parameters or ())})
    if name not in known:
        if above and name in _parameters(node, ".".join(above)):
            raise ValueError(
                f"{dotted}: the config leaves {place}.{name} out; write it in a config to change its parts"
            )
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; it has {known}"
        raise ValueError(f"{dotted}: {place} has no {name!r}{hint}")
    return name
