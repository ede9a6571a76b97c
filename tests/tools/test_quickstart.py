"""The quick start from its first line to its last. Long: bash tools/test.sh -m slow tests/tools/test_quickstart.py"""

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch
import torchvision

CHECKOUT = Path(__file__).parents[2]


def quickstart(*arguments: object, **options) -> subprocess.CompletedProcess:
    command = ["bash", str(CHECKOUT / "tools" / "quickstart.sh"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, **options)


def test_typos_and_missing_folders_are_refused_before_anything_is_made(tmp_path):
    for arguments, words in (
        (["--videos"], "unknown option --videos"),
        ([tmp_path / "nowhere"], "no such folder"),
        (["a", "b", "c"], "at most VIDEO_DIR and OUT_DIR"),
    ):
        result = quickstart(*arguments)
        assert result.returncode == 2 and words in result.stderr
    assert quickstart("--help").returncode == 0
    assert list(tmp_path.iterdir()) == []


def test_a_python_that_is_too_old_is_named(tmp_path):
    old = tmp_path / "python"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.8.1 || exit 1\n')
    old.chmod(0o755)
    result = quickstart(tmp_path, tmp_path / "out", env=os.environ | {"PYTHON": str(old)})
    assert result.returncode == 2 and "Python 3.10 or newer is needed" in result.stderr and "3.8.1" in result.stderr


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_quick_start_learns_to_use_its_guides_and_exports_a_backbone(tmp_path):
    out = tmp_path / "out"
    result = quickstart("", out)
    assert result.returncode == 0, result.stdout + result.stderr
    metrics = json.loads((out / "judged" / "metrics.json").read_text())
    assert metrics["epe"] <= 0.6 * metrics["epe_no_guidance"]
    weights = torch.load(out / "backbone_resnet18.pth", weights_only=True)
    missing = torchvision.models.resnet18().load_state_dict(weights, strict=False)
    assert sorted(missing.missing_keys) == ["fc.bias", "fc.weight"] and not missing.unexpected_keys
    for name in ("judged/predictions.png", "judged/table.txt", "pairs/manifest.jsonl"):
        assert (out / name).is_file() and name in result.stdout


def test_a_folder_made_from_other_videos_is_not_reused(tmp_path):
    for name in ("cats", "dogs", "out"):
        (tmp_path / name).mkdir()
    (tmp_path / "out" / "source").write_text(f"{tmp_path.resolve() / 'cats'}\n")
    for arguments in ([tmp_path / "dogs", tmp_path / "out"], ["", tmp_path / "out"]):
        result = quickstart(*arguments)
        assert result.returncode == 2 and "name another OUT_DIR" in result.stderr and "cats" in result.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["source"]


def test_an_empty_folder_is_refused_and_ties_nothing_to_it(tmp_path):
    if not list(CHECKOUT.glob(".venv/installed-clips-*")):
        pytest.skip("the quick start has not run in this checkout: it would install its packages first")
    (tmp_path / "videos").mkdir()
    result = quickstart(tmp_path / "videos", tmp_path / "out")
    assert result.returncode == 1 and "contains no videos" in result.stderr
    assert not (tmp_path / "out").exists()
