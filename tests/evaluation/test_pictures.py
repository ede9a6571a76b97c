from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cmp.evaluation.pictures import (
    GAP_PX,
    MIN_SIDE_PX,
    TITLE_PX,
    PredictionPictures,
    SheetRow,
    choose_rows,
    flow_sheet,
    prediction_sheet,
)
from cmp.flow import flow_to_color

HEIGHT, WIDTH = 24, 40


def row(target=(5, 0), predicted=(0, 5), points=()):
    constant = lambda xy: np.broadcast_to(np.float32(xy)[:, None, None], (2, HEIGHT, WIDTH)).copy()  # noqa: E731
    mask = np.zeros((1, HEIGHT, WIDTH), np.float32)
    for y, x in points:
        mask[0, y, x] = 1
    image = np.full((3, HEIGHT, WIDTH), 90, np.uint8)
    return dict(image=image, flow=constant(target), predicted=constant(predicted), mask=mask, video="a")


SCALE = MIN_SIDE_PX // HEIGHT
STEP = SCALE * WIDTH + GAP_PX  # from one column of a sheet to the next


def color(xy, full=5):
    return flow_to_color(np.float32([[xy]]), max_flow_px=full)[0, 0]


def test_a_row_shows_image_nearest_point_prediction_and_target_each_in_its_color():
    sheet = prediction_sheet([row(points=((6, 30),))])
    assert sheet.dtype == np.uint8
    assert sheet.shape == (TITLE_PX + SCALE * HEIGHT, 4 * STEP - GAP_PX, 3)
    columns = [sheet[-2, i * STEP + 5] for i in range(4)]
    for shown, expected in zip(columns, ((90, 90, 90), color((5, 0)), color((0, 5)), color((5, 0)))):
        np.testing.assert_array_equal(shown, expected)


def test_without_points_the_nearest_point_moves_nothing():
    np.testing.assert_array_equal(prediction_sheet([row()])[-2, STEP + 5], color((0, 0)))


def test_colors_are_on_the_targets_scale():
    sheet = prediction_sheet([row(target=(10, 0), predicted=(5, 0))])
    np.testing.assert_array_equal(sheet[-2, 2 * STEP + 5], color((5, 0), full=10))


def test_motion_beyond_the_scale_has_the_full_color_and_is_not_darker():
    sheet = prediction_sheet([row(target=(5, 0), predicted=(0, 50))])
    np.testing.assert_array_equal(sheet[-2, 2 * STEP + 5], color((0, 5)))


def test_a_sheet_may_have_other_columns_and_rows_of_other_sizes():
    rows = [
        SheetRow(np.zeros((*size_hw, 3), np.uint8), np.array([[1, 2]]), np.array([[3.0, 0.0]]), {"one": flow}, 3.0)
        for size_hw in ((192, 200), (200, 230))
        for flow in [np.full((*size_hw, 2), (3, 0), np.float32)]
    ]
    sheet = flow_sheet(rows)
    assert sheet.shape == (TITLE_PX + 192 + 200 + GAP_PX, 2 * 230 + GAP_PX, 3)
    np.testing.assert_array_equal(sheet[TITLE_PX + 190, 210], color((3, 0), full=3))
    assert (sheet[TITLE_PX + 190, 410] == 255).all()  # right of the narrower row


def test_points_are_drawn_on_the_image_where_they_are():
    scale = MIN_SIDE_PX // HEIGHT
    sheet = prediction_sheet([row(points=((6, 30),))])
    image = sheet[TITLE_PX:, : scale * WIDTH]
    y, x = np.argwhere((image != 90).any(axis=2)).T
    assert y.min() > 3 * scale and y.max() < 10 * scale  # around row 6
    assert x.min() > 28 * scale and 35 * scale < x.max() < 38 * scale  # from column 30 five px to the right


def test_rows_lie_under_each_other():
    scale = MIN_SIDE_PX // HEIGHT
    assert len(prediction_sheet([row()] * 3)) == TITLE_PX + 3 * scale * HEIGHT + 2 * GAP_PX


def test_a_still_target_and_a_sheet_of_one_small_picture_can_be_drawn():
    assert prediction_sheet([row(target=(0, 0), predicted=(0, 0))]).any()


def test_rows_are_not_written_to():
    given = row(points=((6, 30),))
    before = {name: value.copy() for name, value in given.items() if name != "video"}
    prediction_sheet([given])
    assert all(np.array_equal(value, given[name]) for name, value in before.items())


def test_a_sheet_needs_rows():
    with pytest.raises(ValueError, match="at least one row"):
        prediction_sheet([])


def chosen_videos(batches, max_rows):
    rows = []
    for videos in batches:
        size = len(videos)
        batch = dict(video=list(videos), image=torch.zeros(size, 3, 2, 3), flow=torch.zeros(size, 2, 2, 3))
        batch["mask"] = torch.zeros(size, 1, 2, 3)
        before = list(rows)
        rows, given = choose_rows(rows, batch, [dict(flow=torch.zeros(2, 2, 3))] * size, max_rows), rows
        assert given == before
    return "".join(sorted(row["video"] for row in rows))


def test_rows_are_of_different_videos_where_there_are_enough():
    assert chosen_videos(["aaa", "ab", "ca"], 3) == "abc"
    assert chosen_videos(["aaa", "bcde"], 3) == "abc"
    assert chosen_videos(["aab"], 5) == "aab"
    assert chosen_videos(["aa", "ab"], 3) == "aab"
    assert chosen_videos(["abc", "d"], 2) == "ab"


class Visualizer:
    def __init__(self):
        self.added = []

    def add_image(self, name, image, step):
        self.added.append((name, image, step))


def test_each_validation_draws_its_own_predictions():
    runner = SimpleNamespace(visualizer=Visualizer(), iter=7)
    batch = dict(
        image=torch.zeros(2, 3, 8, 12, dtype=torch.uint8),
        flow=torch.ones(2, 2, 8, 12),
        mask=torch.zeros(2, 1, 8, 12),
        video=["a", "b"],
    )
    hook = PredictionPictures(max_rows=2)
    for _ in range(2):
        hook.before_val_epoch(runner)
        hook.after_val_iter(runner, 0, batch, [dict(flow=torch.ones(2, 8, 12))] * 2)
        hook.after_val_epoch(runner)
    (name, image, step), (_, again, _) = runner.visualizer.added
    assert name == "predictions" and step == 7 and image.dtype == np.uint8 and image.shape == again.shape


def test_only_the_first_process_draws(monkeypatch):
    runner = SimpleNamespace(visualizer=Visualizer(), iter=7)
    hook = PredictionPictures()
    hook.rows = [None]
    monkeypatch.setattr("cmp.evaluation.pictures.is_main_process", lambda: False)
    hook.after_val_epoch(runner)
    assert runner.visualizer.added == []


def test_a_validation_of_nothing_draws_nothing():
    runner = SimpleNamespace(visualizer=Visualizer(), iter=0)
    hook = PredictionPictures()
    hook.before_val_epoch(runner)
    hook.after_val_epoch(runner)
    assert runner.visualizer.added == []
