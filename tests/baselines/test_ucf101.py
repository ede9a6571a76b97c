"""Videos arranged as UCF-101's are: trained on, with its kind of lists, and compared."""

import sys
from pathlib import Path

import numpy as np

from cmp.video import write_video

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))
import compare_predictions  # noqa: E402
import train  # noqa: E402

CONFIG = ROOT / "configs" / "baselines" / "seq2seq_ucf101_1xb16_100k.py"


def write_categories(root):
    """Three categories of three groups, 24 x 32 px; nothing moves in the last one."""
    for number, category in enumerate(("Archery", "Bowling", "Typing")):
        (root / category).mkdir(parents=True)
        for group in range(1, 4):
            frames = np.full((40, 24, 32, 3), 40 + 30 * number, np.uint8)
            for time, frame in enumerate(frames):
                x = 0 if category == "Typing" else (time * (1 + number % 2)) % 20
                frame[6:16, x : x + 10] = 220 - 20 * group
            write_video(root / category / f"v_{category}_g{group:02}_c01.mp4", frames, 25)


def test_categories_and_lists_are_trained_on_and_compared_at_a_size_that_is_not_square(tmp_path, capsys):
    root = tmp_path / "UCF-101"
    write_categories(root)
    (tmp_path / "testlist01.txt").write_text("Archery/v_Archery_g01_c01.mp4\r\nBowling/v_Bowling_g01_c01.mp4\r\n")
    (tmp_path / "still.txt").write_text("Typing\n")
    options = [
        "model.width=4",
        "model.kernel=3",
        "model.teacher_forcing=0.5",
        "model.cell_depth=2",
        "model.gdl_weight=0",
    ]
    options += ["train_dataloader.batch_size=2", "train_cfg.max_iters=2", "train_cfg.val_interval=2"]
    options += ["default_hooks.checkpoint.interval=2", "default_hooks.logger.interval=1", "log_level=WARNING"]
    for part in ("train", "val"):
        options += [f"{part}_dataloader.num_workers=0", f"{part}_dataloader.persistent_workers=False"]
        sizes = dict(short_side_px=18, size_px="[16,24]", interval_frames=2)
        lists = dict(val_list=tmp_path / "testlist01.txt", drop_list=tmp_path / "still.txt")
        options += [f"{part}_dataloader.dataset.{key}={value}" for key, value in {**sizes, **lists}.items()]
    run = tmp_path / "run"
    assert train.main([str(CONFIG), "--data", str(root), "--work-dir", str(run), "--cfg-options", *options]) == 0
    log = next(run.rglob("scalars.json")).read_text()
    assert "train/loss_l2" in log and "train/loss_gdl" not in log and "val/model_ssim_all" in log
    dumped = next(path for path in run.glob("*.py"))
    capsys.readouterr()
    assert compare_predictions.main([str(dumped), str(run / "iter_2.pth"), "--data", str(root)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].endswith("clips of 2 videos, 8 frames of 16 x 24 px each")
    assert "after the true frames" in lines[3]
