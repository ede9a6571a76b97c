import re
from pathlib import Path

import torch

from cmp.engine.config import read_config
from tools.benchmark.video_pixels import VideoPixelNetwork, main

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "baselines" / "vpn_bouncing16_1xb16_1k.py"
FEW = ["--count-clips", "5", "--clips", "3", "--sample-clips", "1", "--rounds", "1"]


def test_both_tables_come_with_the_networks_own_nats_and_equal_samples(digits_folder, tmp_path, capsys):
    torch.manual_seed(0)
    arguments = {key: value for key, value in read_config(CONFIG).model.items() if key != "type"}
    model = VideoPixelNetwork(**arguments)
    with torch.no_grad():
        model.decoder.logits.weight.zero_(), model.decoder.logits.bias.zero_()  # every pixel by chance
    torch.save(dict(state_dict=model.state_dict(), meta={}), tmp_path / "iter_1.pth")
    assert main([str(CONFIG), str(tmp_path / "iter_1.pth"), str(digits_folder), *FEW]) == 0
    text = capsys.readouterr().out
    assert "| video pixel network | 177.45 (0.00) |" in text  # 256 ln 2
    assert len(re.findall(r"^\| counts: ", text, re.MULTILINE)) == 4
    assert re.search(r"^[\d.]+ times as fast; 100.00 % of pixels equal$", text, re.MULTILINE)


def test_what_is_wrong_is_named(digits_folder, tmp_path, capsys):
    assert main([str(CONFIG), str(tmp_path / "none.pth"), str(digits_folder)]) == 2
    assert "none.pth" in capsys.readouterr().err
    other = CONFIG.with_name("vae_mnist_1xb100_6k.py")
    assert main([str(other), "x.pth", str(digits_folder)]) == 2
    assert "want a config of a video pixel network, got one of VAE" in capsys.readouterr().err
    assert main([str(CONFIG), "x.pth", str(digits_folder), "--clips", "1"]) == 2
    assert "--clips must be at least 2" in capsys.readouterr().err
