import numpy as np
import pytest

from cmp.datasets.moving_shapes import AXES_XY, SHAPES, MovingShapes, draw_shape


def test_shapes_of_radius_two_drawn_by_hand():
    circle = ["0001000", "0011100", "0111110", "0011100", "0001000"]
    square = ["0111110"] * 5
    triangle = ["0001000", "0001000", "0011100", "0011100", "0111110"]
    for form, rows in enumerate((circle, square, triangle)):
        expected = np.zeros((9, 9), bool)
        expected[1:6, 2:9] = [[cell == "1" for cell in row] for row in rows]
        assert np.array_equal(draw_shape(form, 2, (3, 5), 9), expected), SHAPES[form]


def test_the_second_frame_is_the_first_moved_along_the_axis_of_its_shape_in_either_direction():
    shapes, seen = MovingShapes(num_sequences=200, canvas_px=30, max_shift_px=3), set()
    for index in range(200):
        sample = shapes[index]
        first, second = sample["frames"].numpy()
        inside = (first != first[:, :1, :1]).any(axis=0)
        ys, xs = np.nonzero(inside)
        assert ys.min() >= 3 and xs.min() >= 3 and ys.max() < 27 and xs.max() < 27
        dx, dy = sample["shift_xy"].tolist()
        expected = np.broadcast_to(first[:, :1, :1], first.shape).copy()
        expected[:, ys + dy, xs + dx] = first[:, ys, xs]
        assert np.array_equal(second, expected)
        filled = inside[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1]
        form = 1 if filled.all() else 0 if np.array_equal(filled, filled[::-1]) else 2
        assert tuple(sample["axis_xy"].tolist()) == AXES_XY[form]
        assert (np.array((dx, dy)) == max(abs(dx), abs(dy)) * np.sign(dx + dy) * np.array(AXES_XY[form])).all()
        assert (np.abs(first[:, ys[0], xs[0]].astype(int) - first[:, 0, 0]) == 128).all()
        seen.add((form, dx, dy))
    assert len(seen) == 3 * 6  # every shape with 1, 2 and 3 px both ways


def test_a_sample_follows_from_seed_epoch_and_index():
    shapes = MovingShapes(num_sequences=5)
    assert np.array_equal(shapes[3]["frames"], shapes[3, 0]["frames"]) and len(shapes) == 5
    assert not np.array_equal(shapes[3]["frames"], shapes[3, 1]["frames"])
    assert not np.array_equal(shapes[3]["frames"], MovingShapes(num_sequences=5, part="test")[3]["frames"])
    assert not np.array_equal(shapes[3]["frames"], MovingShapes(num_sequences=5, seed=1)[3]["frames"])


def test_arguments_out_of_range_are_refused():
    for arguments, message in (
        (dict(num_sequences=0), "num_sequences and max_shift_px must be at least 1"),
        (dict(part="val"), "part must be 'train' or 'test'"),
        (dict(max_shift_px=0), "num_sequences and max_shift_px must be at least 1"),
        (dict(canvas_px=23), "canvas_px must be at least 4 max_shift_px \\+ 8 = 24, got 23"),
    ):
        with pytest.raises(ValueError, match=message):
            MovingShapes(**arguments)
