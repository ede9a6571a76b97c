"""Which pairs an evaluation covers: all of a store that the network has not seen, else what its config held out."""

import ast
import filecmp
from collections.abc import Sequence
from os import PathLike
from pathlib import Path

from mmengine.config import Config

from cmp.checkpoints import Checkpoint


def choose_part(
    config: Config, checkpoint: Checkpoint | None, data: Sequence[str] | None, part: str | None
) -> tuple[str, str]:
    """The part of the pairs to evaluate, and the reason.

    Args:
        config: the config that the network was trained with.
        checkpoint: the network's, which may name other training data than the config (`train.py --data`); None: no
            network.
        data: pair stores or list files to evaluate instead of the config's; None: the config's.
        part: "all", "val" or "train" where the user chose one.

    Raises:
        ValueError: the network was trained on some of the paths in data, so that the config's split does not say which
            of their pairs it has seen; or a part of the training pairs was asked for where there is no split.
    """
    if part is not None:
        return part, "as asked for"
    if not data:
        return config.val_dataloader.dataset.get("part", "all"), "as the config says"
    seen, source = training_paths(checkpoint), "checkpoint"
    if seen is None:
        seen, source = list(config.train_dataloader.dataset.source.paths), "config"
    shared = [path for path in data if any(_same_pairs(path, other) for other in seen)]
    named = ", ".join(map(str, data))
    if not shared:
        return "all", f"the {source} was trained on {', '.join(map(str, seen))}, not on {named}"
    if len(shared) == len(data) == len(seen):
        return "val", f"the {source} was trained on {named}: only what its config holds out is evaluated"
    raise ValueError(
        f"--data {named}: the {source} was trained on {', '.join(map(str, seen))}, which are some of these paths but "
        "not the same, so what was held out is not known; name the same paths as in training, or add --part all"
    )


def training_paths(checkpoint: Checkpoint | None) -> list[str] | None:
    """The pair stores or list files that a checkpoint names as its training data; None if it names none.

    The config's text in the checkpoint is parsed, not run.
    """
    if checkpoint is None:
        return None
    text = checkpoint.meta.get("cfg")
    if not isinstance(text, str) or len(text) > 1_000_000:
        return None
    try:
        statements = ast.parse(text).body
        for statement in statements:
            if isinstance(statement, ast.Assign) and getattr(statement.targets[0], "id", None) == "train_dataloader":
                node: ast.AST = statement.value
                for name in ("dataset", "source", "paths"):
                    node = _entry(node, name)
                paths = ast.literal_eval(node)
                paths = [paths] if isinstance(paths, str) else list(paths)
                return paths if paths and all(isinstance(path, str) for path in paths) else None
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError, LookupError):
        pass
    return None


def _entry(node: ast.AST, name: str) -> ast.AST:
    """The entry of a dict in a config's text: `dict(name=...)` or `{"name": ...}`. LookupError if there is none."""
    if isinstance(node, ast.Call):
        found = [keyword.value for keyword in node.keywords if keyword.arg == name]
    elif isinstance(node, ast.Dict):
        found = [v for k, v in zip(node.keys, node.values) if isinstance(k, ast.Constant) and k.value == name]
    else:
        found = []
    if not found:
        raise LookupError(name)
    return found[-1]


def _same_pairs(one: str | PathLike, other: str | PathLike) -> bool:
    """Whether two paths lead to the same pairs: the same path, or a copy of a store or list."""
    one, other = Path(one), Path(other)
    if one.resolve() == other.resolve():
        return True
    first, second = (path / "index.npz" if path.is_dir() else path for path in (one, other))
    return first.is_file() and second.is_file() and filecmp.cmp(first, second, shallow=False)
