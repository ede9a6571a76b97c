"""Sizes and nearest pixels: values by hand, and the rules they replaced."""

import numpy as np
import pytest

from cmp.pixels import is_inside, nearest_pixel, size_at_short_side


@pytest.mark.parametrize(
    ("size_hw", "short_side_px", "nearest", "down"),
    [
        ((30, 45), 20, (20, 30), (20, 30)),
        ((45, 30), 20, (30, 20), (30, 20)),
        ((10, 13), 15, (15, 20), (15, 19)),  # 19.5
        ((10, 11), 15, (15, 17), (15, 16)),  # 16.5, which Python's round makes 16
        ((7, 100), 3, (3, 43), (3, 42)),  # 42.86
        ((1080, 1920), 240, (240, 427), (240, 426)),
        ((1, 1), 1, (1, 1), (1, 1)),
    ],
)
def test_the_long_side_follows_the_short_one(size_hw, short_side_px, nearest, down):
    assert size_at_short_side(size_hw, short_side_px) == nearest
    assert size_at_short_side(size_hw, short_side_px, rounding="down") == down


def test_a_size_is_refused_if_it_makes_no_sense():
    for arguments in (((0, 4), 3), ((3, 4), 0), ((3, 4), float("nan"))):
        with pytest.raises(ValueError, match="at least 1 px"):
            size_at_short_side(*arguments)
    with pytest.raises(ValueError, match="rounding"):
        size_at_short_side((3, 4), 3, rounding="up")


def test_positions_go_to_the_nearest_pixel_and_half_goes_up():
    points = np.array([[0.49, 0.5], [1.5, 2.5], [-0.5, -0.51], [9.49, 4.5]])
    np.testing.assert_array_equal(nearest_pixel(points), [[0, 1], [2, 3], [0, -1], [9, 5]])
    np.testing.assert_array_equal(nearest_pixel(points, within=(10, 5)), [[0, 1], [2, 3], [0, 0], [9, 4]])
    assert is_inside(points, (10, 5)).tolist() == [True, True, False, False]
    assert is_inside(np.zeros((0, 2)), (10, 5)).shape == (0,)
