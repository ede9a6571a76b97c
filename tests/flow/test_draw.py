import numpy as np
import pytest

from cmp.flow import color_wheel_key, draw_guidance, flow_to_color


def color_of(u, v, **options):
    return flow_to_color(np.array([[[u, v]]], np.float32), **options)[0, 0].tolist()


def test_directions_have_the_published_hues():
    assert color_of(1, 0) == [255, 0, 0]  # right: the wheel's first color
    assert color_of(1, -0.0) == [255, 0, 0]
    # The angle runs clockwise as seen over 54 steps: down is step 13.5, between (255, 221, 0) and (255, 238, 0); left
    # is 27; up is 40.5.
    assert color_of(0, 1) == [255, 229, 0]
    assert color_of(-1, 0) == [0, 209, 255]  # step 27: two after cyan, of eleven to blue: 255 - floor(255 * 2 / 11)
    assert color_of(0, -1) == [88, 0, 255]  # steps 40 and 41: four and five of thirteen to magenta, 78 and 98


def test_short_vectors_are_pale_and_too_long_ones_dark():
    assert color_of(0, 0) == [255, 255, 255]
    assert color_of(5, 0, max_flow_px=10) == [255, 127, 127]
    assert color_of(20, 0, max_flow_px=10) == color_of(10, 0, max_flow_px=10) == [255, 0, 0]


def test_it_agrees_with_torchvision():
    flow_to_image = pytest.importorskip("torchvision.utils").flow_to_image
    import torch

    flow = np.random.default_rng(0).normal(0, 7, (23, 31, 2)).astype(np.float32)
    theirs = flow_to_image(torch.from_numpy(flow).permute(2, 0, 1)).permute(1, 2, 0).numpy()
    assert np.abs(flow_to_color(flow).astype(int) - theirs).max() <= 1  # they add a small number to the longest vector


def test_unknown_pixels_are_black_and_do_not_set_the_scale():
    flow = np.zeros((3, 4, 2), np.float32)
    flow[0, 0], flow[1, 1], flow[2, 2], flow[2, 3] = (2, 0), (np.nan, 0), (1.7e9, 1.7e9), (np.inf, 0)
    drawn_flow = flow_to_color(flow)
    assert drawn_flow.shape == (3, 4, 3) and drawn_flow.dtype == np.uint8
    assert drawn_flow[0, 0].tolist() == [255, 0, 0]
    assert (drawn_flow[[1, 2, 2], [1, 2, 3]] == 0).all()
    assert flow_to_color(np.zeros((0, 4, 2), np.float32)).shape == (0, 4, 3)


def test_the_legend_shows_right_as_red_and_is_white_in_the_middle_and_around():
    key = color_wheel_key(101)
    assert key.shape == (101, 101, 3)
    assert key[50, 100].tolist()[0] == 255 and max(key[50, 100].tolist()[1:]) < 5
    assert (key[50, 50] == 255).all() and (key[0, 0] == 255).all() and (key[-1, -1] == 255).all()
    assert key[100, 50][0] == 255 and key[100, 50][1] > 200 and key[100, 50][2] < 10  # down is orange to yellow


def test_an_arrow_runs_from_its_point_along_its_vector_on_a_copy():
    image = np.full((128, 160, 3), 90, np.uint8)
    drawn = draw_guidance(image, np.array([[40, 30]]), np.array([[60.0, 0.0]]), color=(255, 0, 0))
    assert (image == 90).all()
    changed = np.argwhere((drawn != 90).any(axis=2))
    top, left = changed.min(axis=0)
    bottom, right = changed.max(axis=0)
    assert left >= 26 and 88 <= right <= 95 and 30 <= top and bottom <= 50
    assert drawn[40, 60, 0] > 200 and drawn[40, 60, 2] < 60  # RGB: the shaft is red
    assert abs((changed[:, 0] < 40).sum() - (changed[:, 0] > 40).sum()) < 10


def test_a_still_point_is_a_dot_and_no_points_change_nothing():
    image = np.full((32, 48, 3), 90, np.uint8)
    dot = np.argwhere((draw_guidance(image, np.array([[10, 20]]), np.zeros((1, 2))) != 90).any(axis=2))
    assert 1 < len(dot) < 80 and np.abs(dot.mean(axis=0) - (10, 20)).max() < 1
    np.testing.assert_array_equal(draw_guidance(image, np.zeros((0, 2), int), np.zeros((0, 2))), image)


def test_a_vector_far_beyond_the_image_is_still_drawn():
    image = np.full((32, 48, 3), 90, np.uint8)
    assert (draw_guidance(image, np.array([[10, 5]]), np.array([[1e12, 0.0]]))[10, 47] != 90).any()


def test_inputs_are_never_changed():
    flow = np.full((3, 4, 2), np.nan, np.float32)
    flow[0] = 3
    before = flow.copy()
    flow_to_color(flow)
    np.testing.assert_array_equal(flow, before)


def test_what_makes_no_sense_is_refused():
    image = np.zeros((4, 5, 3), np.uint8)
    refused = [
        lambda: flow_to_color(np.zeros((3, 4), np.float32)),
        lambda: flow_to_color(np.zeros((3, 4, 2), int)),
        lambda: flow_to_color(np.zeros((3, 4, 2), np.float32), max_flow_px=0),
        lambda: color_wheel_key(0),
        lambda: draw_guidance(image[..., 0], np.zeros((1, 2)), np.zeros((1, 2))),
        lambda: draw_guidance(image.astype(np.float32), np.zeros((1, 2)), np.zeros((1, 2))),
        lambda: draw_guidance(image, np.zeros((1, 2)), np.zeros((2, 2))),
        lambda: draw_guidance(image, np.zeros((1, 2)), np.full((1, 2), np.nan)),
    ]
    for call in refused:
        with pytest.raises(ValueError, match="must"):
            call()
