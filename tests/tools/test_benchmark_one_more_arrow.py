"""The benchmark of one more arrow prints a row for each number of arrows and for the animation."""

import cv2
import pytest
import torch

from tools.benchmark import one_more_arrow


@pytest.fixture(autouse=True)
def as_many_threads_as_before():
    before = torch.get_num_threads(), cv2.getNumThreads()
    yield
    torch.set_num_threads(before[0])
    cv2.setNumThreads(before[1])


def test_every_row_is_printed(capsys, monkeypatch):
    frames = []
    monkeypatch.setattr(one_more_arrow, "animate", lambda image, flow, count: frames.append(flow.shape) or [image])
    assert one_more_arrow.main(["--sizes", "64", "--rounds", "2"]) == 0
    rows = [line.split(" | ")[:2] for line in capsys.readouterr().out.splitlines() if line.startswith("| 64x64")]
    assert rows == [["| 64x64", what] for what in (*(f"prediction from {n} arrows" for n in (1, 8)), "16 frames")]
    assert frames == [(64, 64, 2)] * 3  # one call warms up


def test_a_checkpoint_that_is_missing_is_named(tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_:
        one_more_arrow.main(["--checkpoint", str(tmp_path / "none.pth")])
    assert exit_.value.code == 2 and "none.pth" in capsys.readouterr().err
