import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS
from PIL import Image

from cmp.baselines.comparison import COLUMNS, load_predictor
from cmp.baselines.frame_prediction import FramePredictor
from cmp.datasets.clips import Clips
from cmp.engine.config import read_config
from cmp.video import write_video
from tools import compare_predictions

ROOT = Path(__file__).resolve().parents[2]
CONFIG = str(ROOT / "configs" / "baselines" / "multi_scale_clips_1xb16_1k.py")
SEQ2SEQ = str(ROOT / "configs" / "baselines" / "seq2seq_clips_1xb16_1k.py")
OTHER = str(ROOT / "configs" / "baselines" / "vae_mnist_1xb100_6k.py")


def write_videos(folder):
    folder.mkdir()
    for number in range(5):
        frames = np.full((40, 40, 52, 3), 60, np.uint8)
        for time, frame in enumerate(frames):
            frame[10:24, time : time + 12] = 200 - 20 * number
        write_video(folder / f"{number}.mp4", frames, 25)
    return str(folder)


def test_the_table_has_the_means_of_every_system_and_both_predictions_without_learning(tmp_path, monkeypatch, capsys):
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
        tables = [model.all_metrics(clip["frames"][None]) for clip in clips]
    for line, method in zip(lines[2:5], ("model", "copy", "flow")):
        shown = [float(cell) for cell in line.split("|")[2:-1]]
        for value, column in zip(shown, COLUMNS.values()):
            expected = np.nanmean([table[f"{method}_{column}"].item() for table in tables])
            assert abs(value - expected) < 0.006


def test_curves_and_sums_are_of_each_predicted_frame_also_after_true_frames(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    videos = write_videos(tmp_path / "videos")
    config = read_config(SEQ2SEQ)
    config.model.update(width=4, kernel=3)
    config.val_dataloader.dataset.update(short_side_px=24, size_px=[16, 28])
    config.dump("config.py")
    torch.manual_seed(0)
    model: FramePredictor = MODELS.build(config.model).eval()
    torch.save({"state_dict": model.state_dict()}, "net.pth")
    arguments = ["config.py", "net.pth", "--data", videos]
    assert compare_predictions.main([*arguments, "--curves", "c.png", "--csv", "c.csv"]) == 0
    plain = capsys.readouterr().out.strip().splitlines()
    assert plain[-3].endswith("clips of 2 videos, 8 frames of 16 x 28 px each")
    assert plain[-2:] == ["wrote c.png", "wrote c.csv"] and Image.open("c.png").width > 1000
    clips = Clips([videos], num_frames=8, interval_frames=5, short_side_px=24, size_px=(16, 28), part="val")
    with torch.no_grad():
        tables = [model.metrics_per_frame(clip["frames"][None]) for clip in clips]
    with open("c.csv", newline="") as file:
        found = {(row["system"], row["metric"], int(row["frame"])): float(row["value"]) for row in csv.DictReader(file)}
    names = dict(model="config, net.pth", forced="config, net.pth, after the true frames")
    names |= dict(copy="last frame repeated, after 4", flow="last motion continued, after 4")
    assert len(found) == 4 * 14 * 4
    for method, name in names.items():
        for metric in ("psnr", "ssim_moving", "total"):
            for t in range(4):
                values = [table[f"{method}_{metric}"][0, t].item() for table in tables]
                assert found[name, metric, t + 1] == pytest.approx(np.nanmean(values), rel=1e-4, nan_ok=True)
    assert compare_predictions.main([*arguments, "--sums"]) == 0
    sums = capsys.readouterr().out.strip().splitlines()
    columns = list(COLUMNS.values())
    for before, after in zip(plain[2:6], sums[2:6]):
        for column, one, other in zip(columns, before.split("|")[2:-1], after.split("|")[2:-1]):
            if column in ("l2_all", "gdl_all", "total_all"):
                assert float(other) == pytest.approx(3 * 16 * 28 * float(one), abs=0.5 * 1e-4 * 3 * 16 * 28 + 0.01)
            else:
                assert one == other
    with pytest.raises(SystemExit):
        compare_predictions.main([*arguments, "--curves", "c.gif"])
    assert "--curves c.gif: must end in .png, .svg, .pdf" in capsys.readouterr().err


def test_what_cannot_be_compared_is_named(tmp_path, monkeypatch, capsys):
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
        load_predictor(OTHER, "any.pth")
