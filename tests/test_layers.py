"""Which packages may import which, and what an import of the package brings along."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# From the lowest layer up: a package imports only from layers below, or from itself. "cmp" means the modules that are
# in no package, such as `cmp.files`.
LAYERS = (
    {"cmp", "cmp.starter"},
    {"cmp.flow", "cmp.weights"},
    {"cmp.guidance", "cmp.video"},
    {"cmp.models", "cmp.datasets"},
    {"cmp.checkpoints", "cmp.engine"},
    {"cmp.export", "cmp.inference", "cmp.downstream", "cmp.evaluation", "cmp.baselines", "data_prep"},
    {"cmp.compat", "cmp.jobs", "cmp.playground"},
    {"cmp.checkpoint_check"},
    {"cmp.cli"},
    {"tools"},
)
LAYER = {package: number for number, layer in enumerate(LAYERS) for package in layer}
# What a package of one layer takes from its neighbors.
NEIGHBORS = {("cmp.downstream", "cmp.evaluation"), ("cmp.downstream", "cmp.export")}


def package_of(module: str) -> str:
    """The package that a module belongs to, as a name of `LAYERS`."""
    parts = module.split(".")
    if parts[0] != "cmp":
        return parts[0]
    if len(parts) == 1:
        return "cmp"
    name = f"cmp.{parts[1]}"
    if (ROOT / "cmp" / f"{parts[1]}.py").is_file() and name not in LAYER:
        return "cmp"
    return name


def imported(path: Path) -> set[str]:
    """The modules of this project that a file imports anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(node.module)
            if node.module == "cmp":
                found |= {f"cmp.{alias.name}" for alias in node.names if f"cmp.{alias.name}" in LAYER}
    return {module for module in found if module.split(".")[0] in ("cmp", "data_prep", "tools", "tests")}


def files() -> dict[str, Path]:
    """Every module of the project by its dotted name."""
    found = {}
    for folder in ("cmp", "data_prep", "tools"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path
    return found


def arrows() -> dict[tuple[str, str], list[str]]:
    """(package, package it imports from) to the modules that do."""
    found: dict[tuple[str, str], list[str]] = {}
    for module, path in files().items():
        if module in ("cmp", "cmp.__main__"):  # looks `load_propagator` up when it is first used
            continue
        for other in imported(path):
            pair = package_of(module), package_of(other)
            if pair[0] != pair[1]:
                found.setdefault(pair, []).append(f"{module} imports {other}")
    return found


def test_every_package_has_a_layer():
    assert {package_of(module) for module in files()} <= LAYER.keys()


def test_a_package_imports_only_from_layers_below():
    wrong = []
    for (package, other), where in arrows().items():
        if (package, other) not in NEIGHBORS and LAYER.get(other, len(LAYERS)) >= LAYER[package]:
            wrong += where
    assert wrong == []


def test_the_engine_knows_no_method():
    for method in ("models", "checkpoints", "datasets", "guidance", "flow", "evaluation", "baselines", "downstream"):
        assert arrows().get(("cmp.engine", f"cmp.{method}"), []) == []


@pytest.mark.parametrize("package", ("models", "flow", "guidance", "video", "inference"))
def test_a_package_that_a_light_install_has_does_not_mention_mmengine(package):
    found = [
        f"{path.name}: {name}"
        for path in (ROOT / "cmp" / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
        if name.split(".")[0] == "mmengine"
    ]
    assert found == []


@pytest.mark.parametrize(
    "modules, absent",
    (
        (("cmp",), {"mmengine", "torch", "cv2", "numpy"}),
        (("cmp.video",), {"mmengine", "torch"}),
        (("cmp.guidance",), {"mmengine", "scipy.interpolate", "skimage"}),
        # In one process, from the lowest layer up: each import of torch takes seconds.
        (("cmp.flow", "cmp.models", "cmp.inference"), {"mmengine"}),
    ),
)
def test_an_import_in_a_fresh_process_brings_nothing_heavy_along(modules, absent):
    code = f"import importlib, sys\nfor name in {modules!r}:\n    importlib.import_module(name)\n"
    code += f"    print(name, sorted({absent!r} & set(sys.modules)))"
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert process.stdout.splitlines() == [f"{name} []" for name in modules]
