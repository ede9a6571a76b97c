"""The grid of experiments; its commands are stood in for, but for the slow test at the end."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from mmengine.config import Config

from cmp.downstream import grid_run
from cmp.downstream.ablation import Arm, read_grid, slug, spread
from cmp.flow import write_flow
from cmp.folder_lock import hold_folder
from tools import ablate

ROOT = Path(__file__).resolve().parents[2]
CONFIG = """
RECIPE = "configs/pretrain/cmp_r18_quickstart_1xb16_300.py"
CAMVID = "configs/downstream/segmentation_camvid_r18_1xb8_200.py"
data = dict(pairs="pairs", films="films", camvid="camvid", cifar="cifar")
seeds = [0, 1]
arms = [
    dict(name="random"),
    dict(name="no guidance", config=RECIPE, guided=False, options={"train_dataloader.dataset.max_points": 0}),
    dict(name="CMP", config=RECIPE),
    dict(
        name="autoencoder", config=RECIPE, data="films", guided=None, seeds=[1], note="one seed",
        evaluations=["propagation", "k-NN"],
    ),
]
evaluations = [
    dict(name="propagation", task="propagation", data="pairs", config=RECIPE),
    dict(name="k-NN", task="knn", data="cifar", options=dict(size=32)),
    dict(name="frozen", task="segmentation", data="camvid", config=CAMVID, frozen=True),
]
"""
EPE = {"cmp": 1.0, "no-guidance": 3.5, "interpolation": 2.0}


@pytest.fixture(autouse=True)
def unformatted(monkeypatch):
    """Configs as text without yapf's line breaks, which took most of the time of these tests."""
    monkeypatch.setattr("mmengine.config.config.FormatCode", lambda text, **_: (text, True))


@pytest.fixture(autouse=True)
def end_by_sigterm():
    """The handler of SIGTERM that the command sets is not left to the tests that follow."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def grid(tmp_path, monkeypatch):
    """A grid's config with folders of data; commands leave what the real ones would, or fail where told to."""
    (tmp_path / "grid.py").write_text(CONFIG)
    for name in ("pairs", "films", "camvid", "cifar"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    ran, failing = [], set()

    def run(command, stdout, stderr, env):
        command = list(map(str, command))
        ran.append(command)
        # train.py and segmentation are told their work dir, propagation and probes their folder
        folder = Path(command[command.index("--work-dir" if "--work-dir" in command else "--out") + 1])
        arm, seed = folder.parts[-3], int(folder.parts[-2].removeprefix("seed"))
        if (arm, folder.name) in failing:
            return subprocess.CompletedProcess(command, 2)
        if command[3] == "train":
            (folder / "last_checkpoint").write_text(str(folder / "iter_300.pth"))
        elif "propagation" in command:
            epe = EPE[arm] + 0.1 * seed
            metrics = dict(epe=epe, epe_no_guidance=epe + 1, epe_shuffled_image=epe + 0.5)
            if arm == "interpolation":
                metrics = dict(epe_nearest_guide=2.0, epe_thin_plate=2.5, epe_zero_flow=4.0)
            (folder / "metrics.json").write_text(json.dumps(metrics))
        else:
            (folder / "metrics.json").write_text(json.dumps(dict(accuracy=30.0 + seed, miou=20.0 + seed)))
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(grid_run, "subprocess", SimpleNamespace(run=run, STDOUT=subprocess.STDOUT))
    monkeypatch.setattr(grid_run, "commit", lambda: dict(commit="abc", changed=False))
    monkeypatch.setattr(grid_run, "export_backbone", lambda checkpoint, out, *_, **__: Path(out).write_text(checkpoint))
    return ran, failing


def rows(text):
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return {line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]] for line in lines}


def test_the_table_has_means_and_spreads_and_a_dash_for_what_was_not_run(grid, capsys):
    assert ablate.main(["grid.py", "out"]) == 0
    said = capsys.readouterr().out
    table = rows(said)
    assert table["CMP"] == [
        "1.050 ± 0.071 (2)", "0.525 ± 0.035 (2)", "1.550 ± 0.071 (2)", "2.050 ± 0.071 (2)", "30.5 ± 0.7 (2)",
        "20.5 ± 0.7 (2)",
    ]  # fmt: skip
    # judged as it was trained, without guides
    assert table["no guidance"][:4] == ["4.550 ± 0.071 (2)", "2.275 ± 0.035 (2)", "-", "4.550 ± 0.071 (2)"]
    assert table["random"] == ["-"] * 4 + ["30.5 ± 0.7 (2)", "20.5 ± 0.7 (2)"]
    assert table["autoencoder (one seed)"] == ["-"] * 4 + ["31.0", "-"]
    assert table["thin plate, no network"] == ["2.500"] + ["-"] * 5
    assert "edge aware, no network" not in table
    # 1 of what takes no network; random 2, no guidance and CMP 4 each, for two seeds; pretraining and k-NN of one
    assert said.splitlines()[-1] == "23 results, 0 failed; out"
    assert Path("out/table.md").read_text() in said


def test_what_is_done_is_not_done_again_and_only_what_is_missing_is(grid, capsys):
    ran, _ = grid
    assert ablate.main(["grid.py", "out"]) == 0
    first = len(ran)
    assert ablate.main(["grid.py", "out"]) == 0
    assert len(ran) == first
    Path("out/cmp/seed1/k-nn.json").unlink()
    Path("out/cmp/seed1/k-nn.partial").write_text("{")  # killed while it was written
    assert ablate.main(["grid.py", "out"]) == 0
    assert len(ran) == first + 1 and "knn" in ran[-1] and "out/cmp/seed1/backbone.pth" in ran[-1]
    assert "22 of 23 cells are done" in capsys.readouterr().out
    before = len(ran)
    assert ablate.main(["grid.py", "out", "--table"]) == 0
    assert len(ran) == before


def test_a_cell_that_another_process_makes_is_left_to_it_and_named(grid, capsys):
    ran, _ = grid
    cell = Path("out/random/seed1")
    cell.mkdir(parents=True)
    with hold_folder(cell, name=".k-nn.lock"):
        assert ablate.main(["grid.py", "out", "--only", "random"]) == 1
    said = capsys.readouterr()
    assert f"{cell}: another process makes 'k-NN' (host {os.uname().nodename}, process {os.getpid()}, since" in said.err
    assert "1 failed" in said.out and not (cell / "k-nn.json").exists() and (cell / "frozen.json").exists()
    before = len(ran)
    assert ablate.main(["grid.py", "out", "--only", "random"]) == 0
    assert len(ran) == before + 1 and not list(Path("out").rglob(".*"))


def test_commands_carry_seed_resume_backbone_and_the_options_of_the_arm(grid):
    ran, _ = grid
    assert (
        ablate.main(["grid.py", "out", "--only", "no guidance", "random", "--seeds", "1", "--data", "camvid=pairs"])
        == 0
    )
    train = next(command for command in ran if command[3] == "train")
    assert train[5:] == ["--data", "pairs", "--work-dir", "out/no-guidance/seed1/pretraining", "--resume"]
    config = Config.fromfile(train[4])
    assert config.randomness.seed == 1 and config.train_dataloader.dataset.seed == 1
    assert config.train_dataloader.dataset.max_points == 0 and config.val_dataloader.dataset.max_points is None
    segmentations = [command for command in ran if "segmentation" in command]
    assert [command[6] for command in segmentations] == ["random", "out/no-guidance/seed1/backbone.pth"]
    for command in segmentations:
        assert command[7] == "pairs" and "--frozen" in command and command[-3:] == ["--seed", "1", "--resume"]
    result = json.loads(Path("out/no-guidance/seed1/frozen.json").read_text())
    assert result["seed"] == 1 and result["commit"] == "abc" and result["hardware"] and result["seconds"] >= 0
    assert result["command"].split()[4] == "segmentation" and "max_points" in result["options"]
    judged = [command[6] for command in ran if "propagation" in command]
    assert judged == ["none", "out/no-guidance/seed1/pretraining/iter_300.pth"]


def test_one_pretraining_may_serve_all_seeds(grid, capsys):
    ran, _ = grid
    Path("grid.py").write_text(CONFIG.replace('name="CMP", config', 'name="CMP", pretraining_seed=1, config'))
    assert ablate.main(["grid.py", "out", "--only", "CMP"]) == 0
    assert [command[3] == "train" for command in ran].index(True) == 1  # after what takes no network, before the rest
    assert sum(command[3] == "train" for command in ran) == 1
    backbones = [command[6] for command in ran if "segmentation" in command]
    assert backbones == ["out/cmp/seed1/backbone.pth"] * 2
    assert rows(capsys.readouterr().out)["CMP"][:5] == ["1.100", "0.550", "1.600", "2.100", "31.0"]
    assert rows(Path("out/table.md").read_text())["CMP"][5] == "20.5 ± 0.7 (2)"


def test_a_failed_training_is_named_its_evaluations_are_left_and_the_rest_is_done(grid, capsys):
    ran, failing = grid
    failing.add(("cmp", "pretraining"))
    assert ablate.main(["grid.py", "out", "--seeds", "0"]) == 1
    said = capsys.readouterr()
    assert "CMP, seed 0, pretraining ended with status 2: out/cmp/seed0/pretraining/log.txt" in said.err
    assert "CMP, seed 0, k-NN not begun: its pretraining failed" in said.err
    table = rows(said.out)
    assert table["CMP"] == ["-"] * 6 and table["random"][4] == "30.0"
    failing.clear()
    assert ablate.main(["grid.py", "out", "--seeds", "0"]) == 0
    assert rows(capsys.readouterr().out)["CMP"][0] == "1.000"


def test_results_of_other_settings_are_not_taken_for_these(grid, capsys):
    assert ablate.main(["grid.py", "out", "--only", "random"]) == 0
    Path("grid.py").write_text(CONFIG.replace("size=32", "size=64"))
    assert ablate.main(["grid.py", "out", "--only", "random"]) == 2
    assert "out/random/seed0/k-nn.json was made with other settings" in capsys.readouterr().err
    Path("grid.py").write_text(CONFIG)
    assert ablate.main(["grid.py", "out", "--only", "no guidance"]) == 0
    changed = CONFIG.replace('max_points": 0', 'max_points": 1')
    assert changed != CONFIG
    Path("grid.py").write_text(changed)
    assert ablate.main(["grid.py", "out", "--only", "no guidance"]) == 2
    assert "pretraining.json was made with other settings" in capsys.readouterr().err
    Path("out/random/seed0/k-nn.json").write_text("{}")
    assert ablate.main(["grid.py", "out", "--table"]) == 2
    assert "out/random/seed0/k-nn.json" in capsys.readouterr().err
    assert ablate.main(["grid.py", "nowhere", "--table"]) == 2
    assert "no results here: nowhere" in capsys.readouterr().err


@pytest.mark.parametrize(
    "old, new, said",
    [
        ('task="knn"', 'task="kn"', "did you mean 'knn'"),
        ("seeds=[1]", "seeds=[3]", "seeds of 'autoencoder'"),
        ('"k-NN"]', '"k-NNN"]', "did you mean 'k-NN'"),
        ("guided=False", "guide=False", "did you mean 'guided'"),
        ("dataset.max_points", "dataset.max_point", "did you mean 'max_points'"),
        ('data="cifar"', 'data="cifr"', "did you mean 'cifar'"),
        ('data="films"', 'data="film"', "data of 'autoencoder' has no 'film'; did you mean 'films'"),
        ("seeds = [0, 1]", "seed = [0, 1]", "did you mean 'seeds'"),
        ('name="CMP"', 'name="random"', "different names"),
        ("quickstart_1xb16_300", "quickstart_1xb16_301", "no such config"),
        ('dict(name="random")', 'dict(name="random", options={"a": 1})', "options but no config"),
    ],
)
def test_a_slip_in_the_config_is_named_before_anything_is_run(grid, capsys, old, new, said):
    assert old in CONFIG
    Path("grid.py").write_text(CONFIG.replace(old, new))
    assert ablate.main(["grid.py", "out"]) == 2
    assert said in capsys.readouterr().err and grid[0] == []


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--data", "camvidd=x"], "did you mean 'camvid'"),
        (["--data", "camvid"], "NAME=PATH"),
        (["--data", "camvid=nowhere"], "no camvid here: nowhere"),
        (["--only", "CPM"], "no such arm"),
        (["--seeds", "7"], "no such seed"),
    ],
)
def test_a_slip_on_the_command_line_is_named_before_anything_is_run(grid, capsys, arguments, said):
    assert ablate.main(["grid.py", "out", *arguments]) == 2
    assert said in capsys.readouterr().err and grid[0] == []


def test_an_arm_is_trained_on_the_data_that_it_names(grid):
    ran, _ = grid
    assert ablate.main(["grid.py", "out", "--only", "autoencoder", "CMP", "--seeds", "1", "--data", "films=cifar"]) == 0
    data = [command[command.index("--data") + 1] for command in ran if command[3] == "train"]
    assert data == ["pairs", "cifar"]


def test_time_left_is_what_cells_of_a_kind_took():
    class OfKind:
        def __init__(self, kind):
            self.kind = kind

    took = {"pretraining": [600.0, 660.0], "k-NN": [30.0]}
    left = [OfKind("pretraining"), OfKind("k-NN"), OfKind("frozen")]  # the last unknown: the mean of the kinds
    assert grid_run.time_left(left, took) == f"about {(630 + 30 + 330) / 60:.0f} min left"
    assert grid_run.time_left(left, {}) == "time left unknown yet"


def test_a_cell_that_an_earlier_call_began_has_no_time(grid, capsys):
    begun = Path("out/random/seed0/k-nn")
    begun.mkdir(parents=True)
    (begun / "log.txt").write_text("killed here\n")
    assert ablate.main(["grid.py", "out", "--only", "random"]) == 0
    assert json.loads(Path("out/random/seed0/k-nn.json").read_text())["seconds"] is None
    assert json.loads(Path("out/random/seed1/k-nn.json").read_text())["seconds"] >= 0
    assert "random, seed 0, k-NN: finished;" in capsys.readouterr().out


def test_numbers_and_names_are_written_as_said():
    assert spread([1.0, 2.0, 3.0], 2) == "2.00 ± 1.00 (3)" and spread([1.5], 1) == "1.5" and spread([], 1) == "-"
    assert spread([float("nan")], 1) == "-" and slug("CMP, K = 9") == "cmp-k-9"
    assert Arm("x").seeds is None and read_grid


def test_the_grids_that_come_with_the_project_name_what_exists():
    folder = ROOT / "configs" / "ablation"
    paths = sorted(folder.glob("*.py"))
    assert paths
    for path in paths:
        cells = grid_run.list_cells(read_grid(path), Path("nowhere"))  # reads every config and sets every option
        assert len({cell.result for cell in cells}) == len(cells)


@pytest.mark.slow
def test_a_real_grid_runs_to_its_table_and_goes_on_where_a_killed_one_stood(tmp_path):
    random = np.random.default_rng(0)
    lines = []
    for video in range(6):
        for k in range(3):
            name = f"v{video}/{k}"
            (tmp_path / f"v{video}").mkdir(exist_ok=True)
            cv2.imwrite(str(tmp_path / f"{name}.png"), random.integers(0, 256, (64, 80, 3), np.uint8))
            write_flow(tmp_path / f"{name}.flo", random.normal(0, 2, (64, 80, 2)).astype(np.float32))
            lines.append(f"{name}.png {name}.png {name}.flo")
    (tmp_path / "list.txt").write_text("\n".join(lines))
    for part in ("train", "test"):
        for kind in ("a", "b"):
            (tmp_path / "classes" / part / kind).mkdir(parents=True)
            for i in range(12):
                path = tmp_path / "classes" / part / kind / f"{i}.png"
                cv2.imwrite(str(path), random.integers(0, 256, (32, 32, 3), np.uint8))
    sizes = {}
    for loader in ("train_dataloader", "val_dataloader"):
        sizes |= {f"{loader}.dataset.transforms.0.short_side_px": 64, f"{loader}.dataset.transforms.1.size_px": 64}
        sizes |= {f"{loader}.batch_size": 2, f"{loader}.num_workers": 0, f"{loader}.persistent_workers": False}
    steps = {"train_cfg.max_iters": 4, "train_cfg.val_interval": 4, "default_hooks.checkpoint.interval": 2}
    (tmp_path / "grid.py").write_text(
        f"""
RECIPE = "configs/pretrain/cmp_r18_quickstart_1xb16_300.py"
OPTIONS = {sizes | steps!r}
data = dict(pairs="list.txt", classes="classes")
seeds = [0]
arms = [
    dict(name="random"),
    dict(
        name="no guidance", config=RECIPE, guided=False,
        options={{**OPTIONS, "train_dataloader.dataset.max_points": 0}},
    ),
    dict(name="CMP", config=RECIPE, options=OPTIONS),
]
evaluations = [
    dict(name="propagation", task="propagation", data="pairs", config=RECIPE, options={sizes!r}),
    dict(name="k-NN", task="knn", data="classes", options=dict(size=32)),
]
"""
    )

    command = [sys.executable, str(ROOT / "tools" / "ablate.py"), "grid.py", "out"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    first = subprocess.Popen(command, cwd=tmp_path, env=environment)
    while not list(tmp_path.glob("out/no-guidance/seed0/pretraining/iter_2.pth")) and first.poll() is None:
        time.sleep(0.1)
    first.terminate()
    assert first.wait(60) == 143
    done = {path: path.read_bytes() for path in tmp_path.glob("out/*/seed0/*.json")}
    second = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert second.returncode == 0, second.stderr
    assert all(path.read_bytes() == content for path, content in done.items())
    starts = (tmp_path / "out/no-guidance/seed0/pretraining/starts.jsonl").read_text().splitlines()
    assert [json.loads(line)["resumed_from"] is None for line in starts] == [True, False]
    table = rows(second.stdout)
    assert (
        "-" not in table["CMP"][:5] and table["random"][:4] == ["-"] * 4 and table["edge aware, no network"][0] != "-"
    )
