"""What the documents point to exists: functions, files, links and anchors."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
FOLDERS = r"(?:cmp|configs|data_prep|docs|tests|tools)"
# `cmp/models/cmp.py:CMP.forward`; the part in front of the colon is a path from the root of the checkout.
FUNCTION = re.compile(r"`([\w./-]+\.py):([A-Za-z_][\w.]*)(?:\(\))?`")
PATH = re.compile(rf"(?<![\w./-])({FOLDERS}/[\w./-]*\.(?:py|sh|md|yml|toml|jpg|png|gif))\b")
LINK = re.compile(r"\]\(([^()\s]+)\)")


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@cache
def names_in(path: Path) -> set[str]:
    """The functions, classes, methods and constants that a module defines: {"load", "Store", "Store.read"}."""
    names = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
            if isinstance(node, ast.ClassDef):
                names |= {f"{node.name}.{part.name}" for part in node.body if isinstance(part, ast.FunctionDef)}
    return names


def missing_functions(text: str) -> list[str]:
    """The `file.py:name` of a text whose file does not exist or does not define the name."""
    return [
        f"{path}:{name}"
        for path, name in FUNCTION.findall(text)
        if not (ROOT / path).is_file() or name not in names_in(ROOT / path)
    ]


def anchors_of(page: Path) -> set[str]:
    """The anchors of a page's headings, made as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(page: Path, text: str) -> list[str]:
    """The relative links of a page that lead to no file, or to no heading of it."""
    broken = []
    for link in LINK.findall(text):
        if re.match(r"[a-z]+:", link):
            continue  # an address: not looked up, the tests need no network
        path, _, anchor = link.partition("#")
        target = page if not path else page.parent / path
        if not target.exists() or (anchor and anchor not in anchors_of(target)):
            broken.append(link)
    return broken


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_functions_that_a_page_names_exist(page):
    assert missing_functions(page.read_text()) == []


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=name_of)
def test_files_that_a_page_names_exist(page):
    paths = [path for path in PATH.findall(page.read_text()) if not Path(path).name.startswith(("my_", "CONFIG"))]
    assert [path for path in paths if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_of_a_page_lead_somewhere(page):
    assert broken_links(page, page.read_text()) == []


def test_architecture_names_every_package_and_links_no_unknown_function():
    text = (ROOT / "docs/architecture.md").read_text()
    packages = {init.parent.relative_to(ROOT).as_posix() for init in (ROOT / "cmp").glob("*/__init__.py")}
    assert sorted(name for name in packages if f"`{name}/`" not in text) == []
    assert len(FUNCTION.findall(text)) >= 20  # the path of a pair


def test_a_wrong_function_a_wrong_link_and_a_wrong_anchor_are_found():
    right, wrong = (
        "cmp/flow/io.py:read_flow",
        ["cmp/flow/io.py:read_flows", "cmp/flow/no.py:f", "cmp/models/cmp.py:CMP.no"],
    )
    text = ", ".join(f"`{name}`" for name in (right, *wrong))
    assert missing_functions(text) == wrong
    page = ROOT / "docs/results.md"
    links = "[a](training.md) [b](trainings.md) [c](https://example.org/x.md) [d](#no-such-heading) [e](../README.md)"
    assert broken_links(page, links) == ["trainings.md", "#no-such-heading"]
