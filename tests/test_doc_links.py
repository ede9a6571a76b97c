"""Relative links in the documentation lead to files and headings that exist."""

import re
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def outside_code(text: str) -> str:
    """The text without code blocks, indented or fenced, and without inline code."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"^ {4}.*$", "", text, flags=re.MULTILINE)
    return re.sub(r"`[^`]*`", "", text)


def headings(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.M), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def broken_links(page: Path) -> list[str]:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", outside_code(page.read_text())):
        if re.match(r"[a-z]+:", target):  # another site
            continue
        path, _, anchor = unquote(target).partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in headings(file)):
            broken.append(target)
    return broken


def test_a_missing_file_or_heading_is_found(tmp_path):
    (tmp_path / "other.md").write_text("# What is it, and why?\n```\n# not a heading\n```\n")
    page = tmp_path / "page.md"
    page.write_text(
        "[a](other.md) [b](other.md#what-is-it-and-why) [c](#top) [d](gone.md) [e](other.md#not-a-heading)\n"
        "`[code](gone.md)` [site](https://example.org/gone.md)\n\n    [code](gone.md)\n\n# Top\n"
    )
    assert broken_links(page) == ["gone.md", "other.md#not-a-heading"]


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_every_link_of_a_page_leads_somewhere(page):
    assert broken_links(page) == []


def test_the_index_of_baselines_links_to_every_page_of_them():
    index = (ROOT / "docs" / "baselines.md").read_text()
    assert [p.name for p in (ROOT / "docs" / "baselines").glob("*.md") if f"](baselines/{p.name})" not in index] == []
