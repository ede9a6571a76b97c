import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS

from cmp.baselines.frame_prediction import FramePredictor
from cmp.datasets.clips import Clips
from cmp.engine.config import read_config
from cmp.video import write_video

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))
import compare_predictions  # noqa: E402

CONFIG = str(ROOT / "configs" / "baselines" / "multi_scale_clips_1xb16_1k.py")
OTHER = str(ROOT / "configs" / "baselines" / "vae_mnist_1xb100_6k.py")


def write_videos(folder):
    folder.mkdir()
    for number in range(5):
        frames = np.full((40, 40, 52, 3), 60, np.uint8)
        for time, frame in enumerate(frames):
            frame[10:24, time : time + 12] = 200 - 20 * number
        write_video(folder / f"{number}.mp4", frames, 25)
    return str(folder)


def test_the_table_has_the_means_of_every_system_and_both_ways_without_learning(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    videos = write_videos(tmp_path / "videos")
    torch.manual_seed(0)
    model: FramePredictor = MODELS.build(read_config(CONFIG).model).eval()
    torch.save({"state_dict": model.state_dict()}, tmp_path / "one.pth")
    again = tmp_path / "x" / tmp_path.name / "one.pth"
    again.parent.mkdir(parents=True)
    torch.save({"state_dict": model.state_dict()}, again)
    pairs = [CONFIG, str(tmp_path / "one.pth"), CONFIG, str(again)]
    assert compare_predictions.main([*pairs, "--data", videos]) == 0
    lines = capsys.readouterr().out.strip().splitlines()
    other = lines.pop(5).split("|")
    assert str(again) in other[1] and other[2:] == lines[2].split("|")[2:]  # the same weights under another name
    assert len(lines) == 6 and "clips of 2 videos, 8 frames of 64 px" in lines[-1]
    clips = Clips([videos], num_frames=8, interval_frames=5, short_side_px=80, size_px=64, part="val", val_share=0.2)
    with torch.no_grad():
        tables = [model.judge(clip["frames"][None]) for clip in clips]
    for line, way in zip(lines[2:5], ("model", "copy", "flow")):
        shown = [float(cell) for cell in line.split("|")[2:-1]]
        for value, column in zip(shown, compare_predictions.COLUMNS.values()):
            expected = np.nanmean([table[f"{way}_{column}"].item() for table in tables])
            assert abs(value - expected) < 0.006


def test_what_cannot_be_judged_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    videos = write_videos(tmp_path / "videos")
    torch.save({"state_dict": {"x": torch.zeros(1)}}, tmp_path / "wrong.pth")
    for config, checkpoint, message in (
        (CONFIG, str(tmp_path / "absent.pth"), "absent.pth"),
        (CONFIG, str(tmp_path / "wrong.pth"), "wrong.pth"),
    ):
        assert compare_predictions.main([config, checkpoint, "--data", videos]) == 2
        assert message in capsys.readouterr().err
    if not torch.cuda.is_available():
        assert compare_predictions.main([CONFIG, "any.pth", "--device", "cuda:1"]) == 2
        assert "torch sees no GPU" in capsys.readouterr().err
    with pytest.raises(ValueError, match="VAE does not predict frames"):
        compare_predictions.load_predictor(OTHER, "any.pth")
