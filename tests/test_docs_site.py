import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]


def pages(nav):
    for entry in nav:
        target = next(iter(entry.values())) if isinstance(entry, dict) else entry
        yield from pages(target) if isinstance(target, list) else [target]


def test_the_navigation_lists_every_page_once():
    listed = list(pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))
    images = ROOT / "docs" / "images"
    found = [p.relative_to(ROOT / "docs").as_posix() for p in (ROOT / "docs").rglob("*.md") if images not in p.parents]
    assert sorted(listed) == sorted(found)


@pytest.mark.skipif(not (find_spec("mkdocs") and find_spec("mkdocstrings")), reason="no mkdocs: pip install '.[docs]'")
def test_the_site_builds_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site"]
    result = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr
    page = (tmp_path / "site" / "api" / "models" / "index.html").read_text()
    assert "(B, 3, H, W) RGB, 0..255" in page  # a shape from the docstring of CMP.forward
