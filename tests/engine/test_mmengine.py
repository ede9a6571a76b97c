"""What the engine uses of mmengine that mmengine does not promise to keep: a new version may take it away."""

import ast
import importlib
import inspect
from pathlib import Path

from mmengine.config import Config
from mmengine.hooks import CheckpointHook
from mmengine.optim import OptimWrapper
from mmengine.runner import IterBasedTrainLoop, Runner, loops

ROOT = Path(__file__).resolve().parents[2]

# Private attributes and methods, by the class that they belong to.
PRIVATE = {
    Runner: ("_has_loaded", "_randomness_cfg", "_resume"),
    IterBasedTrainLoop: ("_decide_current_val_interval", "_epoch", "_iter", "_max_iters"),
    CheckpointHook: ("_save_checkpoint_with_step",),
    OptimWrapper: ("_accumulative_counts",),
    Config: ("_cfg_dict", "_imported_names"),
}
# Private names of modules, and one that is replaced while a config is read.
FUNCTIONS = {
    loops: ("_InfiniteDataloaderIterator",),
    importlib.import_module("mmengine.config.config"): ("get_installed_path",),
}
NOT_MMENGINES = {"_metadata"}  # torch's, of a state dict


def test_every_private_part_of_mmengine_that_is_used_exists():
    missing = [
        f"{kind.__name__}.{name}"
        for kind, names in PRIVATE.items()
        for name in names
        if not hasattr(kind, name)
        and f"self.{name} = " not in inspect.getsource(kind)
        and f"'{name}'" not in inspect.getsource(kind)
    ]
    missing += [
        f"{module.__name__}.{n}" for module, names in FUNCTIONS.items() for n in names if not hasattr(module, n)
    ]
    assert missing == []


def private_names(tree: ast.AST) -> tuple[set[str], set[str]]:
    """Private names that a file uses, and those that it defines itself; torch's and the os module's are not counted."""
    used, defined = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            defined.add(node.name)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mmengine"):
            used |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Attribute):
            root = node
            while isinstance(root, ast.Attribute):
                root = root.value
            if isinstance(root, ast.Name) and root.id in ("torch", "os", "sys"):
                continue
            used.add(node.attr)
            if isinstance(node.ctx, ast.Store) and isinstance(node.value, ast.Name) and node.value.id == "self":
                defined.add(node.attr)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("getattr", "hasattr"):
            used |= {argument.value for argument in node.args[1:2] if isinstance(argument, ast.Constant)}
    private = {name for name in used if name.startswith("_") and not name.startswith("__")}
    return private, {name for name in defined if name.startswith("_")}


def test_no_other_private_part_of_mmengine_is_used():
    listed = {name for names in (*PRIVATE.values(), *FUNCTIONS.values()) for name in names}
    others = {}
    for folder in ("engine", "evaluation", "baselines", "downstream"):
        for path in (ROOT / "cmp" / folder).glob("*.py"):
            text = path.read_text()
            if "mmengine" not in text:
                continue
            used, defined = private_names(ast.parse(text))
            unknown = used - defined - listed - NOT_MMENGINES
            if unknown:
                others[path.name] = sorted(unknown)
    assert others == {}
