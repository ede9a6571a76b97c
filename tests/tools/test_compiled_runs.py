"""Training with compile=True by torch's own compiler, which takes minutes to make the first step.

bash tools/test.sh -m slow tests/tools/test_compiled_runs.py
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from cmp.flow import write_flow

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "configs" / "pretrain" / "cmp_r18_quickstart_1xb16_300.py"
STEPS = 12
OPTIONS = ["model.image_encoder.out_channels=8", f"train_cfg.max_iters={STEPS}", f"train_cfg.val_interval={STEPS}"]
OPTIONS += ["default_hooks.logger.interval=1", "log_processor.window_size=1"]
for loader in ("train_dataloader", "val_dataloader"):
    OPTIONS += [f"{loader}.batch_size=2", f"{loader}.num_workers=0", f"{loader}.persistent_workers=False"]
    OPTIONS += [f"{loader}.dataset.transforms.{i}=64" for i in ("0.short_side_px", "1.size_px")]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """A list file of 3 videos with 5 pairs each: noise, in which a rectangle moves."""
    folder = tmp_path_factory.mktemp("pairs")
    lines = []
    for number in range(15):
        rng = np.random.default_rng(number)
        flow = np.zeros((64, 80, 2), np.float32)
        flow[20:44, 10 + number : 50] = rng.normal(0, 4, 2)
        names = [f"v{number // 5}/{number}.png", f"v{number // 5}/{number}.flo"]
        (folder / names[0]).parent.mkdir(exist_ok=True)
        cv2.imwrite(str(folder / names[0]), rng.integers(0, 256, (64, 80, 3), np.uint8))
        write_flow(folder / names[1], flow)
        lines.append(f"{names[0]} {names[0]} {names[1]}")
    (folder / "list.txt").write_text("\n".join(lines))
    return folder / "list.txt"


def train(work_dir, pairs, *options, **environment):
    arguments = [CONFIG, "--data", pairs, "--work-dir", work_dir, "--cfg-options", *OPTIONS, *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **environment}
    command = [sys.executable, ROOT / "tools" / "train.py", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)


def logged(work_dir):
    """The losses of all steps, and what the validation found."""
    (scalars,) = work_dir.glob("*/vis_data/scalars.json")
    lines = [json.loads(line) for line in scalars.read_text().splitlines()]
    (validation,) = (line for line in lines if "val/epe" in line)
    return [line["train/loss"] for line in lines if "train/loss" in line], validation


@pytest.mark.skipif(shutil.which(os.environ.get("CXX", "g++")) is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_run_trains_validates_and_saves_with_the_losses_of_a_plain_one(pairs, tmp_path):
    for name, options in (("plain", []), ("compiled", ["compile=True"])):
        process = train(tmp_path / name, pairs, *options)
        assert process.returncode == 0, process.stderr[-3000:]
        assert (tmp_path / name / f"iter_{STEPS}.pth").is_file()
    (plain, validated), (compiled, validated_compiled) = logged(tmp_path / "plain"), logged(tmp_path / "compiled")
    assert len(compiled) == STEPS and plain[-1] < plain[0]
    # The same but for rounding, which training magnifies.
    np.testing.assert_allclose(compiled[:4], plain[:4], rtol=2e-4)
    np.testing.assert_allclose(compiled, plain, rtol=0.05)
    assert validated_compiled["val/epe_zero_flow"] == pytest.approx(validated["val/epe_zero_flow"])


def test_without_a_compiler_a_compiled_run_says_what_it_needs(pairs, tmp_path):
    missing = tmp_path / "no-such-compiler"
    # A cache of its own: what was compiled before would be taken from the usual one.
    process = train(
        tmp_path / "run", pairs, "compile=True", CXX=str(missing), TORCHINDUCTOR_CACHE_DIR=str(tmp_path / "cache")
    )
    assert process.returncode == 2
    last = process.stderr.splitlines()[-1]
    assert last.startswith("train.py: torch.compile failed: ") and "C++ compiler" in last and missing.name in last
