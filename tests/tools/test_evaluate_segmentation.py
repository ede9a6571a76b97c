"""The command as a user starts it, in processes of its own: a runner leaves global state behind."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from cmp.downstream.run import check_same_run
from cmp.engine.config import read_config
from cmp.folder_lock import hold_folder
from tools.evaluate import main

ROOT = Path(__file__).resolve().parents[2]
CONFIG = str(ROOT / "configs" / "downstream" / "segmentation_camvid_r18_1xb8_200.py")
SMALL = ["train_dataloader.dataset.crop_hw=(32,48)", "train_dataloader.batch_size=2"]
SMALL += ["val_cfg.scales=(1.0,)", "log_level=WARNING"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Four images to train on and five to judge, of sizes of their own, laid out as CamVid is; 11 is void."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for part, count in (("train", 4), ("val", 5)):
        for name in (part, f"{part}annot"):
            (folder / name).mkdir()
        for i in range(count):
            size = (40 + i, 56)
            label = np.full(size, i % 3, np.uint8)
            label[:10] = 11
            cv2.imwrite(str(folder / part / f"{i}.jpg"), rng.integers(0, 255, (*size, 3), np.uint8))
            cv2.imwrite(str(folder / f"{part}annot" / f"{i}.png"), label)
        (folder / f"{part}.txt").write_text("\n".join(map(str, range(count))))
    return folder


def start(*arguments, processes=1):
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", processes] if processes > 1 else []
    command = [sys.executable, *launcher, ROOT / "tools" / "evaluate.py", "segmentation", CONFIG, "random", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    process = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, timeout=200)
    assert process.returncode == 0, process.stderr[-3000:]
    return process.stdout


def test_two_processes_count_each_image_once_and_one_process_judges_their_net_alike(folder, tmp_path):
    options = [folder, "--work-dir", tmp_path, "--steps", 2, "--frozen", "--cfg-options", *SMALL]
    start(*options, processes=2)
    two = json.loads((tmp_path / "metrics.json").read_text())
    assert (
        two["images"] == 5 and two["pixels"] == sum(30 + i for i in range(5)) * 56
    )  # five are dealt as three and three
    assert two["start"]["processes"] == 2 and two["steps"] == 2

    said = start(*options, "--resume")  # a finished run is only judged again
    one = json.loads((tmp_path / "metrics.json").read_text())
    assert one["start"]["resumed_from"].endswith("iter_2.pth") and "5 images, mean IoU" in said.splitlines()[-1]
    for key in ("miou", "pixel_accuracy", "iou/sky", "iou/building", "images", "pixels"):
        assert one[key] == pytest.approx(two[key])


@pytest.mark.parametrize("task", ("segmentation", "knn"))
def test_a_folder_that_another_run_holds_is_refused_with_its_process(folder, tmp_path, capsys, task):
    arguments = [CONFIG, "random", str(folder), "--work-dir", str(tmp_path)]
    if task == "knn":
        arguments = ["random", str(folder), "--out", str(tmp_path)]
    with hold_folder(tmp_path):
        assert main([task, *arguments]) == 2
    refused = f"evaluate.py: {tmp_path}: another run writes into this folder (host {os.uname().nodename}, process "
    assert capsys.readouterr().err.startswith(f"{refused}{os.getpid()}, since ")
    assert list(tmp_path.iterdir()) == []


def test_wrong_data_is_named_before_training_starts(folder, tmp_path, capsys):
    wrong = tmp_path / "wrong"
    wrong.mkdir()
    for path in folder.rglob("*"):
        if path.is_file():
            (wrong / path.relative_to(folder)).parent.mkdir(exist_ok=True)
            (wrong / path.relative_to(folder)).write_bytes(path.read_bytes())
    cv2.imwrite(str(wrong / "trainannot/1.png"), np.full((41, 56), 12, np.uint8))
    arguments = ["segmentation", CONFIG, "random", str(wrong), "--work-dir", str(tmp_path / "out")]
    assert main([*arguments, "--check-data"]) == 2
    assert "trainannot/1.png has label ids out of range: 12 (2296 px)" in capsys.readouterr().err
    (wrong / "val/0.jpg").unlink()
    assert main(arguments) == 2
    assert "1 files of part 'val' are missing" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_config_that_would_run_is_printed_without_looking_at_the_data(tmp_path, capsys):
    arguments = [CONFIG, "b.pth", "nowhere", "--work-dir", str(tmp_path / "out"), "--frozen", "--steps", "7", "--flip"]
    assert main(["segmentation", *arguments, "--print-config", "--cfg-options", *SMALL]) == 0
    (tmp_path / "printed.py").write_text(capsys.readouterr().out)
    config = read_config(tmp_path / "printed.py")
    assert config.model.backbone == "b.pth" and config.model.num_classes == 11 and config.model.frozen is True
    assert [config[f"{part}_dataloader"].dataset.root for part in ("train", "val")] == ["nowhere", "nowhere"]
    assert config.train_dataloader.dataset.crop_hw == (32, 48) and config.train_dataloader.dataset.seed == 0
    assert config.train_cfg.max_iters == 7 and config.val_cfg.flip is True
    assert config.optim_wrapper.optimizer.lr == 1e-2
    assert not (tmp_path / "out").exists()


def test_classes_that_the_network_does_not_have_are_refused(folder, tmp_path, capsys):
    arguments = [CONFIG, "random", str(folder), "--work-dir", str(tmp_path / "out")]
    assert main(["segmentation", *arguments, "--cfg-options", "model.num_classes=5"]) == 2
    assert "has 11 classes, which must be as many as model.num_classes (got 5)" in capsys.readouterr().err


def test_a_run_is_not_gone_on_with_under_another_backbones_name(tmp_path):
    config = read_config(CONFIG)
    config.model.update(encoder="resnet18", backbone="random", frozen=True)
    config.randomness = dict(seed=3)
    described = dict(encoder="resnet18", backbone="random", frozen=True)
    torch.save(dict(state_dict={"a": torch.zeros(1)}, meta=dict(cmp=described, seed=3)), tmp_path / "iter_1.pth")
    check_same_run(config, str(tmp_path / "iter_1.pth"))
    for change, said in (
        (dict(backbone="b.pth"), "backbone was 'random' and is now 'b.pth'"),
        (dict(frozen=False), "frozen was True and is now False"),
        (dict(encoder="resnet50"), "encoder was 'resnet18'"),
    ):
        other = copy.deepcopy(config)
        other.model.update(change)
        with pytest.raises(ValueError, match=f"is of another run: {said}"):
            check_same_run(other, str(tmp_path / "iter_1.pth"))
    config.randomness.seed = 4
    with pytest.raises(ValueError, match="seed was 3 and is now 4"):
        check_same_run(config, str(tmp_path / "iter_1.pth"))


@pytest.mark.parametrize("scale", ("0", "-1", "nan", "big"))
def test_sizes_to_test_at_are_checked_before_training(folder, capsys, scale):
    with pytest.raises(SystemExit):
        main(["segmentation", CONFIG, "random", str(folder), "--scales", scale])
    assert "--scales" in capsys.readouterr().err
