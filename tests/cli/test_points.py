import re

import cv2
import numpy as np
import pytest

from cmp.cli.points import main
from cmp.video import write_video
from data_prep.job import prepare_folder
from data_prep.settings import PrepareSettings

RECIPE = "configs/pretrain/cmp_r18_quickstart_1xb16_300.py"
pytestmark = pytest.mark.usefixtures("prepared_in_this_process")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    root = tmp_path_factory.mktemp("points")
    (root / "videos").mkdir()
    ground = cv2.resize(np.random.default_rng(0).integers(0, 255, (10, 30, 3), np.uint8), (202, 156))
    write_video(root / "videos/moves.mp4", (ground[:, 3 * i : 3 * i + 172] for i in range(10)), 25)
    settings = PrepareSettings(interval_frames=2, pairs_per_video=2)
    prepare_folder(root / "videos", root / "store", settings, num_workers=1, show_progress=False)
    return root / "store"


def test_the_points_of_a_recipe_are_counted_and_k_and_g_found(store, capsys):
    assert main([str(store), RECIPE, "--crops", "2", "--wanted", "9"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"\d+ crops of 128 x 128 px \(width x height\)", lines[0])
    # 128 px with a point every 64: 2 x 2 points, as 64 divides 128.
    assert re.match(r"K 15, G 64: [\d.]+ points per crop \(4.0 of the grid, ", lines[1])
    assert lines[2].startswith("9 wanted, K and G: nms_kernel=") and lines[3].startswith("9 wanted, K alone: ")
    assert "grid_stride_px=64 " in lines[3]


def test_mistakes_are_one_line(store, capsys, tmp_path):
    for command, message in (
        ((store, "none.py"), "no such config: none.py"),
        ((tmp_path, RECIPE), str(tmp_path)),
        ((store, "configs/baselines/draw_mnist_1xb100_3k.py"), "must be a recipe for pairs"),
        ((store, RECIPE, "--wanted", "0"), "--wanted must be above 0, got 0"),
        ((store, RECIPE, "--crops", "0"), "--crops must be at least 1, got 0"),
    ):
        assert main([*map(str, command)]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
