import re

import cv2
import numpy as np

from cmp.flow import write_flow
from tools.benchmark.warp import main


def test_a_pair_whose_flow_is_exact_scores_above_no_warp_both_ways_and_below_nothing(tmp_path, capsys):
    folder = tmp_path / "middlebury" / "Noise"
    folder.mkdir(parents=True)
    ground = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8), (5, 5), 0)
    patch = cv2.GaussianBlur(np.random.default_rng(1).integers(0, 256, (12, 14, 3), np.uint8), (5, 5), 0)
    first, second, flow = ground.copy(), ground.copy(), np.zeros((40, 60, 2), np.float32)
    first[10:22, 10:24] = second[14:26, 20:34] = patch
    flow[10:22, 10:24] = 10, 4
    cv2.imwrite(str(folder / "frame10.png"), first)
    cv2.imwrite(str(folder / "frame11.png"), second)
    write_flow(folder / "flow10.flo", flow)
    assert main([str(tmp_path), "--picture", str(tmp_path / "p.png")]) == 0
    text = capsys.readouterr().out
    cells = {row: float(psnr) for row, psnr in re.findall(r"^\| (frame [^|]*) \| ([\d.]+|inf) /", text, re.MULTILINE)}
    for row in ("frame 2, visible: splat, softmax", "frame 1, visible: backward warp"):
        assert cells[row] > 40 > cells[row.split(":")[0] + ": no warp"] + 10, row
    assert cells["frame 2, visible: splat, softmax"] > cells["frame 2, visible: splat, plain average"]
    holes = 12 * 14 - (22 - 14) * (24 - 20)  # of the patch's old place what its new one does not cover
    assert f"| share: frame 2 holes | {100 * holes / 2400:.1f} % |" in text
    assert f"| share: frame 1 visible | {100 * (1 - holes / 2400):.1f} % |" in text
    assert cv2.imread(str(tmp_path / "p.png")).shape[1] == 5 * 380


def test_a_folder_without_flow_is_named(tmp_path, capsys):
    assert main([str(tmp_path)]) == 1
    assert str(tmp_path) in capsys.readouterr().err
