import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def starter(*words):
    return subprocess.run(["bash", ROOT / "tools" / "starter.sh", *words], capture_output=True, text=True)


def test_the_help_explains_every_argument():
    found = starter("--help")
    assert found.returncode == 0
    assert all(word in found.stdout for word in ("TRAIN_VIDEOS ", "HELD_OUT_VIDEOS ", "OUT_DIR ", "STEPS "))


@pytest.mark.parametrize(
    "words, message",
    [
        ([], "expected TRAIN_VIDEOS HELD_OUT_VIDEOS OUT_DIR [STEPS], got 0 arguments"),
        (["a", "b", "c", "1", "2"], "got 5 arguments"),
        (["{here}", "{here}/none", "out"], "no such folder: {here}/none"),
        (["{here}", "{here}", "out", "many"], "STEPS must be a whole number above 0, got many"),
        (["{here}", "{here}", "out", "0"], "STEPS must be a whole number above 0, got 0"),
    ],
)
def test_wrong_arguments_are_one_line_before_anything_is_installed(tmp_path, words, message):
    found = starter(*(word.format(here=tmp_path) for word in words))
    assert found.returncode == 2 and found.stdout == ""
    assert message.format(here=tmp_path) in found.stderr and len(found.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
