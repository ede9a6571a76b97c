"""Every module of the packages imports: the whole test that continuous integration runs on macOS."""

import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OPTIONAL = {
    "cmp.guidance.batched_kernels": "triton",  # imported on a CUDA device only
    "cmp.playground.connections": "uvicorn",
    "cmp.playground.handlers": "gradio",
}
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for package in ("cmp", "data_prep")
    for path in (ROOT / package).rglob("*.py")
)


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports(name):
    if name in OPTIONAL:
        pytest.importorskip(OPTIONAL[name])
    assert importlib.import_module(name).__name__ == name
