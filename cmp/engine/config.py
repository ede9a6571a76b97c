"""Training configs: read one, change single values of it, and refuse values it does not have."""

import difflib
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path

from mmengine.config import Config


def read_config(path: str | PathLike, options: Mapping[str, object] | None = None) -> Config:
    """Read a pure-Python config and change some of its values.

    Args:
        path: the config file.
        options: dotted path to new value, such as {"train_dataloader.batch_size": 4}; a list's entries are numbers.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: an option names a key that the config does not have, or one entry of a tuple.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no such config: {path}")
    config = Config.fromfile(str(path))
    for dotted, value in (options or {}).items():
        _set_existing(config, dotted, value)
    return config


def _set_existing(config: Config, dotted: str, value: object) -> None:
    *parents, last = dotted.split(".")
    node = config
    for depth, name in enumerate(parents):
        node = node[_existing_key(node, name, dotted, parents[:depth])]
    key = _existing_key(node, last, dotted, parents)
    if isinstance(node, tuple):
        raise ValueError(f"{dotted}: {'.'.join(parents)} is {node!r}, which is changed as a whole")
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
