import cv2
import numpy as np
import pytest
import torch

from tools.benchmark.feature_rank import effective_rank, main


def test_channels_that_say_the_same_count_once_and_unrelated_ones_each():
    random = torch.Generator().manual_seed(0)
    noise = torch.randn(6, 20000, generator=random)
    assert effective_rank(noise) == pytest.approx(6, abs=0.01)
    assert effective_rank(noise * 10.0 ** torch.arange(6)[:, None] + 3) == pytest.approx(6, abs=0.01)  # at any scale
    assert effective_rank(noise[:1].repeat(6, 1) * torch.arange(1, 7)[:, None] + 5) == pytest.approx(1)
    assert effective_rank(torch.cat((noise[:2], noise[:2]))) == pytest.approx(2, abs=0.01)
    assert effective_rank(torch.cat((noise[:3], torch.full((4, 20000), 3.0)))) == pytest.approx(3, abs=0.01)
    assert effective_rank(torch.ones(4, 10)) == 0


def test_it_prints_a_line_a_stage_and_names_an_empty_folder(tmp_path, capsys):
    assert main(["random", str(tmp_path)]) == 2
    assert "no image in" in capsys.readouterr().err
    cv2.imwrite(str(tmp_path / "a.png"), np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8))
    assert main(["random", str(tmp_path), "--size", "64", "96"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines[:5]] == ["stem", "stage1", "stage2", "stage3", "stage4"]
    assert lines[0].endswith("of 64 channels") and "1 images" in lines[-1]
