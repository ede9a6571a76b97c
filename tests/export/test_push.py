"""Uploads of exports, with the client of the Hub replaced."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from cmp.export.export import ExportReport
from cmp.export.push import files_to_push, push_export

hub = pytest.importorskip("huggingface_hub")


def report(tmp_path, folder=False):
    """An export of a file with what is next to it, or of a folder."""
    if folder:
        (tmp_path / "net").mkdir()
        for name in ("model.safetensors", "config.json", "README.md"):
            (tmp_path / "net" / name).write_text(name)
        return ExportReport(tmp_path / "net", (), True, None, None)
    for end in ("", ".json", ".md"):
        (tmp_path / f"net.pth{end}").write_text(f"content{end}")
    return ExportReport(tmp_path / "net.pth", (tmp_path / "net.pth.json", tmp_path / "net.pth.md"), True, None, None)


@pytest.fixture
def api(monkeypatch):
    """Notes what a client is asked; `error` is raised by the commit."""
    calls = SimpleNamespace(asked=[], error=None)

    class Client:
        def __init__(self, token=None):
            calls.asked.append(("token", token))

        def create_repo(self, repository, *, exist_ok, private):
            calls.asked.append(("repository", repository, exist_ok, private))

        def create_commit(self, repository, operations, *, commit_message):
            if calls.error:
                raise calls.error
            content = {o.path_in_repo: Path(o.path_or_fileobj).read_text() for o in operations}
            calls.asked.append(("commit", repository, content, commit_message))
            return SimpleNamespace(commit_url="https://huggingface.co/me/net/commit/1")

    monkeypatch.setattr(hub, "HfApi", Client)
    return calls


def test_an_export_goes_up_in_one_commit_with_its_card_as_readme(tmp_path, api):
    assert push_export(report(tmp_path), "me/net", token="t") == "https://huggingface.co/me/net/commit/1"
    files = {"net.pth": "content", "net.pth.json": "content.json", "README.md": "content.md"}
    assert api.asked == [
        ("token", "t"),
        ("repository", "me/net", True, True),
        ("commit", "me/net", files, "Add net.pth, exported by cmp-motion"),
    ]


def test_a_folder_goes_up_with_its_three_files(tmp_path):
    names = ("model.safetensors", "config.json", "README.md")
    assert files_to_push(report(tmp_path, folder=True)) == {name: tmp_path / "net" / name for name in names}


@pytest.mark.parametrize("repository", ["net", "a/b/c", "me/", "../net", "me/ne t", "https://huggingface.co/me/net"])
def test_a_malformed_repository_is_refused_before_anything_is_asked(tmp_path, api, repository):
    with pytest.raises(ValueError, match="is named OWNER/REPO"):
        push_export(report(tmp_path), repository)
    assert api.asked == []


def test_a_refused_upload_says_where_the_files_are(tmp_path, api):
    api.error = OSError("403 Forbidden\nmore")
    with pytest.raises(OSError, match=f"me/net: the upload failed .403 Forbidden.; the files are in {tmp_path}"):
        push_export(report(tmp_path), "me/net")


def test_without_huggingface_hub_the_package_to_install_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ValueError, match=r"pip install 'cmp-motion\[hub\]'"):
        push_export(report(tmp_path), "me/net")
