import numpy as np
import pytest
import torch

from cmp.engine.pictures import GAP_PX, LEAST_SIDE_PX, TITLE_PX, choose_rows, prediction_sheet
from cmp.flow import flow_to_color

HEIGHT, WIDTH = 24, 40


def row(target=(5, 0), predicted=(0, 5), guides=()):
    constant = lambda xy: np.broadcast_to(np.float32(xy)[:, None, None], (2, HEIGHT, WIDTH)).copy()  # noqa: E731
    mask = np.zeros((1, HEIGHT, WIDTH), np.float32)
    for y, x in guides:
        mask[0, y, x] = 1
    image = np.full((3, HEIGHT, WIDTH), 90, np.uint8)
    return dict(image=image, flow=constant(target), predicted=constant(predicted), mask=mask, video="a")


def test_a_row_shows_image_prediction_and_target_side_by_side_each_in_its_colour():
    sheet = prediction_sheet([row()])
    scale = LEAST_SIDE_PX // HEIGHT
    assert sheet.dtype == np.uint8
    assert sheet.shape == (TITLE_PX + scale * HEIGHT, 3 * scale * WIDTH + 2 * GAP_PX, 3)
    columns = [sheet[-2, i * (scale * WIDTH + GAP_PX) + 5] for i in range(3)]
    colour = lambda xy: flow_to_color(np.float32([[xy]]), max_flow_px=5)[0, 0]  # noqa: E731
    for shown, expected in zip(columns, ((90, 90, 90), colour((0, 5)), colour((5, 0)))):
        np.testing.assert_array_equal(shown, expected)


def test_colours_are_on_the_targets_scale():
    sheet = prediction_sheet([row(target=(10, 0), predicted=(5, 0))])
    scale = LEAST_SIDE_PX // HEIGHT
    shown = sheet[-2, scale * WIDTH + GAP_PX + 5]
    np.testing.assert_array_equal(shown, flow_to_color(np.float32([[(5, 0)]]), max_flow_px=10)[0, 0])


def test_guides_are_drawn_on_the_image_where_they_are():
    scale = LEAST_SIDE_PX // HEIGHT
    sheet = prediction_sheet([row(guides=((6, 30),))])
    image = sheet[TITLE_PX:, : scale * WIDTH]
    y, x = np.argwhere((image != 90).any(axis=2)).T
    assert y.min() > 3 * scale and y.max() < 10 * scale  # around row 6
    assert x.min() > 28 * scale and 35 * scale < x.max() < 38 * scale  # from column 30 five px to the right


def test_rows_lie_under_each_other():
    scale = LEAST_SIDE_PX // HEIGHT
    assert len(prediction_sheet([row()] * 3)) == TITLE_PX + 3 * scale * HEIGHT + 2 * GAP_PX


def test_a_still_target_and_a_sheet_of_one_small_picture_can_be_drawn():
    assert prediction_sheet([row(target=(0, 0), predicted=(0, 0))]).any()


def test_rows_are_not_written_to():
    given = row(guides=((6, 30),))
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
