"""Recipes are found by name, from any folder, in a checkout and in an installed package."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from cmp.engine import recipes
from cmp.engine.options import option_value
from cmp.engine.recipes import find_recipe

ROOT = Path(__file__).resolve().parents[2]
PRETRAIN, BASELINES = ROOT / "configs" / "pretrain", ROOT / "configs" / "baselines"


@pytest.mark.parametrize(
    "name, path",
    (
        ("cmp_r18_clips_1xb16_32k", PRETRAIN / "cmp_r18_clips_1xb16_32k.py"),
        ("r18_clips", PRETRAIN / "cmp_r18_clips_1xb16_32k.py"),  # not seq2seq_r18_clips, whose name does not begin so
        ("cmp_r18_clips", PRETRAIN / "cmp_r18_clips_1xb16_32k.py"),
        ("r50_yfcc", PRETRAIN / "cmp_r50_yfcc_16xb10_42k.py"),  # not r50_yfcc_coco: the size follows
        ("r50_skip", PRETRAIN / "cmp_r50_skip_vip_mpii_8xb8_42k.py"),
        ("seq2seq_clips", BASELINES / "seq2seq_clips_1xb16_1k.py"),
        ("coco", PRETRAIN / "cmp_r50_yfcc_coco_16xb16_42k.py"),
        ("pretrain/cmp_r18_clips_1xb16_32k.py", PRETRAIN / "cmp_r18_clips_1xb16_32k.py"),
        ("configs/pretrain/cmp_r18_clips_1xb16_32k.py", PRETRAIN / "cmp_r18_clips_1xb16_32k.py"),
    ),
)
def test_a_name_means_one_recipe(tmp_path, monkeypatch, name, path):
    monkeypatch.chdir(tmp_path)
    assert find_recipe(name) == path


def test_a_file_of_the_users_comes_before_a_recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("r18_clips").write_text("")
    assert find_recipe("r18_clips") == Path("r18_clips")


@pytest.mark.parametrize(
    "name, error, said",
    (
        ("r18", ValueError, "several recipes are named 'r18': cmp_r18_clips_1xb16_32k, cmp_r18_evidence_1xb16_800"),
        ("r18_quickstar", FileNotFoundError, "no such config: r18_quickstar; names of recipes are like cmp_r18_quick"),
        ("segmentation_camvid_r18", FileNotFoundError, "no such config: segmentation_camvid_r18"),
        ("nowhere/x.py", FileNotFoundError, "^no such config: nowhere/x.py$"),
        ("/nowhere/cmp_r18_clips_1xb16_32k.py", FileNotFoundError, "^no such config: /nowhere"),
        ("../pretrain/cmp_r18_clips_1xb16_32k", FileNotFoundError, "no such config"),
        ("", FileNotFoundError, "no such config"),
    ),
)
def test_a_name_that_fits_none_or_several_is_refused(tmp_path, monkeypatch, name, error, said):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=said):
        find_recipe(name)


def test_other_folders_are_searched_when_asked_for():
    assert find_recipe("segmentation_camvid_r18", ("downstream",)).parent.name == "downstream"
    assert find_recipe("evidence", ("ablation",)) == ROOT / "configs" / "ablation" / "evidence.py"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The wheel of this checkout, unpacked; and the names in it."""
    pytest.importorskip("setuptools", minversion="77")
    folder = tmp_path_factory.mktemp("wheel")
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True)
    if tracked.returncode:
        pytest.skip("not a git checkout")
    for name in filter(None, os.fsdecode(tracked.stdout).split("\0")):
        if name.startswith(("cmp/", "data_prep/", "configs/")) or "/" not in name:
            (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / "source" / name)
    command = ["-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation", "--quiet", "-w", str(folder)]
    subprocess.run([sys.executable, *command], cwd=folder / "source", check=True)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        wheel.extractall(folder / "site")
        return folder / "site", set(wheel.namelist())


def test_the_wheel_has_the_packages_the_recipes_and_the_command_and_nothing_else(installed):
    site, names = installed
    recipes_in_it = {name.removeprefix("cmp/") for name in names if name.startswith("cmp/configs/")}
    assert recipes_in_it == {str(p.relative_to(ROOT)) for p in (ROOT / "configs").rglob("*.py")} | {"configs/README.md"}
    for folder in ("cmp", "data_prep"):
        files = {str(path.relative_to(ROOT)) for path in (ROOT / folder).rglob("*.py")}
        assert files <= names
    assert {"cmp/py.typed", "data_prep/py.typed", "cmp/playground/canvas.js"} <= names
    assert {"data_prep/browse_page.html", "data_prep/browse_page.js"} <= names
    assert {name.split("/")[0].split("-")[0] for name in names} == {"cmp", "data_prep", "cmp_motion"}
    (points,) = site.glob("*.dist-info/entry_points.txt")
    assert "cmp-motion = cmp.cli.main:run" in points.read_text()


def test_an_installed_package_finds_its_recipes_from_any_folder_and_runs_them(installed, tmp_path):
    site, _ = installed
    (tmp_path / "mine.py").write_text(
        "from mmengine.config import read_base\nwith read_base():\n"
        "    from configs.pretrain.cmp_r18_quickstart_1xb16_300 import *\ntrain_dataloader.update(batch_size=3)\n"
    )
    code = (
        "from cmp.cli.main import main; import cmp; print(cmp.__file__)\n"
        "main(['train', 'r18_quickstart', '--print-config', '--seed', '5'])\n"
        "main(['train', 'mine.py', '--print-config'])"
    )
    environment = os.environ | {"PYTHONPATH": str(site)}
    process = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout.splitlines()[0] == str(site / "cmp" / "__init__.py")
    assert "max_iters=300" in process.stdout and "seed=5" in process.stdout and "batch_size=3" in process.stdout


def test_a_checkout_uses_its_own_folder_of_recipes():
    assert recipes.RECIPES == ROOT / "configs"


VALUES = (
    "1", "1.5", "-1", "true", "False", "None", "a", "a=b", "", "''", '"[1, 2]"', "[a]", "a,b", "4,", ",a", "nan", "1e3",
    "[1,2,(3,4)]", "(1,2)", "[]", "()", "[(1,2,3),[a,b],c]", "'x y'",
)  # fmt: skip


@pytest.mark.parametrize("text", VALUES)
def test_an_options_value_is_what_mmengine_makes_of_it(text):
    from mmengine.config import DictAction

    assert repr(option_value(text)) == repr(DictAction._parse_iterable(text))


def test_lists_may_be_listed_without_outer_brackets():
    assert option_value("(1,2),(3,4)") == [(1, 2), (3, 4)]  # mmengine's own reading never ends
    assert option_value("[1,2],[3]") == [[1, 2], [3]]


@pytest.mark.parametrize("text", ("[a,b", "(1,[2)", "1,[2"))
def test_brackets_that_are_not_closed_are_refused(text):
    with pytest.raises(ValueError, match="brackets are not closed"):
        option_value(text)
