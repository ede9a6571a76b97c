"""The benchmark of estimators, on a set that the test makes."""

import importlib.util
from pathlib import Path

import cv2
import numpy as np
import pytest

from cmp.flow import write_flow

TOOL = Path(__file__).resolve().parents[2] / "tools" / "benchmark" / "estimators.py"


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("benchmark_estimators", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class _Constant:
    def estimate(self, first, second):
        return np.full((*first.shape[:2], 2), (10, 0), np.float32)


def write_kitti(root, truth, known):
    for name in ("image_2", "flow_gt"):
        (root / "kitti" / name).mkdir(parents=True)
    for number in (10, 11):
        cv2.imwrite(str(root / "kitti" / "image_2" / f"000_{number}.png"), np.zeros((*truth.shape[:2], 3), np.uint8))
    write_flow(root / "kitti" / "flow_gt" / "000_10.png", truth, valid=known)


def test_errors_count_over_known_pixels_and_outliers_need_both_three_px_and_five_percent(tool, tmp_path):
    truth = np.zeros((2, 4, 2), np.float32)
    truth[..., 0] = [[10, 12, 14, 99], [10, 10, 10, 99]]  # off by 0, 2, 4 (outlier), unknown; 0, 0, 0, unknown
    known = truth[..., 0] < 50
    write_kitti(tmp_path, truth, known)
    epe, share, ms = tool.measure(_Constant(), tool.find_examples(tmp_path)["KITTI"], 1)
    assert epe == pytest.approx(1) and share == pytest.approx(1 / 6) and ms >= 0
    truth[..., 0] = [[100, 104, 100, 100], [100, 100, 100, 100]]  # 4 px, but 4 %
    constant = _Constant()
    constant.estimate = lambda first, second: np.full((2, 4, 2), (100, 0), np.float32)
    write_flow(tmp_path / "kitti" / "flow_gt" / "000_10.png", truth, valid=np.ones((2, 4), bool))
    assert tool.measure(constant, tool.find_examples(tmp_path)["KITTI"], 1)[1] == 0


def test_the_table_has_a_row_for_what_runs_and_a_reason_for_what_does_not(tool, tmp_path, capsys):
    write_kitti(tmp_path, np.zeros((40, 60, 2), np.float32), np.ones((40, 60), bool))
    names = ["dis-fast", "raft-small"]
    weights = f"raft-small={tmp_path / 'absent.pth'}"
    assert tool.main([str(tmp_path), "--estimators", *names, "--weights", weights]) == 0
    captured = capsys.readouterr()
    assert "| dis-fast | 0.00 / 0.0 % /" in captured.out and "raft" not in captured.out
    assert "skipped raft-small" in captured.err and "absent.pth" in captured.err
    assert tool.main([str(tmp_path / "kitti")]) == 1
