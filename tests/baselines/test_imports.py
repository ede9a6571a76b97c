"""No package imports the baselines; only commands and configs do. Systems leave drawing to `cmp.baselines.drawing`."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = ("baselines", "cli")  # folders of cmp that may import the baselines


def imported_baselines(path: Path, root: Path) -> list[str]:
    """Modules of cmp.baselines that a file imports, anywhere in it; `from a import b` counts as a and a.b."""
    parts = path.relative_to(root).with_suffix("").parts
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = parts[: len(parts) - node.level] if node.level else ()
            base = ".".join((*package, *filter(None, [node.module])))
            names |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return sorted(name for name in names if f"{name}.".startswith("cmp.baselines."))


@pytest.mark.parametrize(
    "text, found",
    [
        ("import cmp.baselines.vae", ["cmp.baselines.vae"]),
        ("def f():\n    from cmp import baselines", ["cmp.baselines"]),
        ("from ..baselines import vae", ["cmp.baselines", "cmp.baselines.vae"]),
        ("from .baselines import vae\nimport cmp.baselines_of_others", []),
    ],
)
def test_every_form_of_import_is_found(text, found, tmp_path):
    path = tmp_path / "cmp" / "engine" / "x.py"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert imported_baselines(path, tmp_path) == found


def test_no_other_package_imports_the_baselines():
    files = [path for folder in ("cmp", "data_prep") for path in (ROOT / folder).rglob("*.py")]
    others = [path for path in files if path.relative_to(ROOT).parts[1] not in COMMANDS]
    assert len(others) > 50
    found = {str(path): imported_baselines(path, ROOT) for path in others}
    assert {path: names for path, names in found.items() if names} == {}


def test_only_the_drawing_package_draws():
    names = ("make_grid", "draw_bounding_boxes", "flow_to_color", "image_grid")
    systems = list((ROOT / "cmp" / "baselines").glob("*.py"))
    assert len(systems) > 20
    assert [path.name for path in systems if any(name in path.read_text() for name in names)] == []
