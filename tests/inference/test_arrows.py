import json

import numpy as np
import pytest

from cmp.inference.arrows import (
    MAX_ARROWS,
    MAX_TEXT,
    NUM_BORDER,
    arrows_as_json,
    border_gap_px,
    border_points,
    check_arrows,
    parse_arrows,
    with_still_border,
    without_still_border,
)


def test_arrows_become_points_and_vectors():
    points, vectors = check_arrows([[1, 2, 4, 0.5], [69.4, 47.4, 69.4, 47.4]], (48, 70))
    assert np.array_equal(points, [[1, 2], [69.4, 47.4]]) and np.array_equal(vectors, [[3, -1.5], [0, 0]])
    assert [array.shape for array in check_arrows([], (48, 70))] == [(0, 2), (0, 2)]


@pytest.mark.parametrize(
    "arrows, message",
    (
        ([[1, 2, 3]], "of four numbers"),
        ([[1, 2, 3, float("nan")]], "finite"),
        ([[1, 2, 3, 10**400]], "finite"),
        ([[1, 2, 3, None]], "of four numbers"),
        ([["1", "2", "3", "4"]], "of four numbers"),
        ([[True, 2, 3, 4]], "of four numbers"),
        (np.zeros((3, 4, 1)), r"\(N, 4\)"),
        (7, "a list of entries"),
        ([["a", 2, 3, 4]], "entries"),
        ("; rm", "entries"),
        ([[1, 2, 3, 4], [1]], "entries"),
        ({"x": 1}, "entries"),
        ([[-1, 2, 3, 4]], "start in the image of 70 x 48 px"),
        ([[60, 48, 3, 4]], "start in the image of 70 x 48 px"),
        ([[1, 2, 1e30, 4]], "end in the image or near it"),
        ([[1, 2, 140.5, 4]], "end in the image or near it"),  # twice the width, and half a pixel
        ([[1, 2, 3, 96.5]], "end in the image or near it"),
        ([[1, 2, -70.5, 4]], "end in the image or near it"),
        ([[1, 2, 3, -48.5]], "end in the image or near it"),
        ([[1, 2, 3, 4]] * (MAX_ARROWS + 1), f"at most {MAX_ARROWS}, got {MAX_ARROWS + 1}"),
    ),
)
def test_what_is_no_arrow_is_refused(arrows, message):
    with pytest.raises(ValueError, match=message):
        check_arrows(arrows, (48, 70))


def test_arrows_may_end_outside_by_the_size_of_the_image():
    ends = [[140, 96], [-70, -48], [140, -48]]
    points, vectors = check_arrows([[1, 2, *end] for end in ends], (48, 70))
    assert np.array_equal(points + vectors, ends)


class Counted(list):
    """A list that nobody may look into."""

    def __init__(self, count):
        super().__init__()
        self.count = count

    def __len__(self):
        return self.count

    def __iter__(self):
        raise AssertionError("looked at")

    __getitem__ = __array__ = __iter__


def test_too_many_arrows_are_refused_before_any_is_looked_at():
    with pytest.raises(ValueError, match=f"at most {MAX_ARROWS}, got 3000000"):
        check_arrows(Counted(3_000_000), (48, 70))


def test_border_points_are_the_corners_and_the_middles_of_the_sides():
    x, y = [2, 99, 197], [2, 49, 97]  # a fiftieth of 100 px inside
    expected = [(x[0], y[0]), (x[1], y[0]), (x[2], y[0]), (x[0], y[1]), (x[2], y[1])]
    expected += [(x[0], y[2]), (x[1], y[2]), (x[2], y[2])]
    assert border_points((100, 200)).tolist() == [list(map(float, point)) for point in expected]
    assert len(border_points((16, 17))) == NUM_BORDER


def test_the_border_is_held_except_where_an_arrow_starts():
    points, vectors = np.array([[60.0, 50], [6, 45]]), np.array([[9.0, 0], [3, 0]])
    held, motion = with_still_border(points, vectors, (100, 200))
    assert len(held) == 2 + NUM_BORDER - 1 and [2.0, 49.0] not in held.tolist()  # 5.7 px from the second arrow
    assert np.array_equal(held[:2], points) and np.array_equal(motion[:2], vectors) and not motion[2:].any()
    assert border_gap_px((100, 200)) == 10
    many = np.full((MAX_ARROWS - 3, 2), 50.0)
    assert len(with_still_border(many, many, (100, 200))[0]) == MAX_ARROWS


def test_a_held_border_is_recognized_in_the_arrows_of_a_file():
    arrows = np.array([[60.0, 50, 69, 50], [6, 45, 9, 45], [80, 30, 80, 30]])
    held, motion = with_still_border(arrows[:, :2], arrows[:, 2:] - arrows[:, :2], (100, 200))
    saved = parse_arrows(json.loads(arrows_as_json(held, motion, (100, 200))), (100, 200))
    drawn, hold = without_still_border(saved, (100, 200))
    assert hold and np.array_equal(drawn, arrows)
    for others in (arrows, saved[:-1]):  # no border point, or not all
        kept, hold = without_still_border(others, (100, 200))
        assert not hold and np.array_equal(kept, others)


def test_arrows_of_a_file_are_scaled_to_the_image():
    """Borders stay borders: half a pixel outside the center of pixel 0."""
    drawn = {"size": [100, 50], "arrows": [[0, 0, 10, 5], [99, 49, 99, 49]]}
    expected = [[1.0, 1.0, 31.0, 16.0], [298.0, 148.0, 298.0, 148.0]]
    assert parse_arrows(drawn, (150, 300)).tolist() == expected
    assert parse_arrows(drawn["arrows"], (50, 100)).tolist() == drawn["arrows"]
    cut = {"size": [100, 49], "arrows": [[0, 0, 10, 5]]}  # by a row, so that its height is even
    assert parse_arrows(cut, (150, 300)).shape == (1, 4)


@pytest.mark.parametrize(
    "content, message",
    (
        (None, "got NoneType"),
        (7, "got int"),
        ("[[1, 2, 3, 4]]", "got str"),
        ([], "an empty list"),
        ({"size": [70, 48], "arrows": []}, "an empty list"),
        ({}, "got the keys"),
        ({"arrows": [[1, 2, 3, 4]]}, "got the keys"),
        ({"size": [70, 48], "arrows": [[1, 2, 3, 4]], "run": 1}, "got the keys"),
        ({"size": [70, 48], "arrows": {"0": 1}}, "a list of entries"),
        ({"size": [48, 70], "arrows": [[1, 2, 3, 4]]}, "another shape, 48 x 70 px .* 70 x 48 px"),
        ({"size": [70, 52], "arrows": [[1, 2, 3, 4]]}, "another shape"),
        ({"size": [70, 48, 3], "arrows": [[1, 2, 3, 4]]}, r"size must be \[width, height\]"),
        ({"size": [70.0, 48], "arrows": [[1, 2, 3, 4]]}, "size must be"),
        ({"size": [True, 48], "arrows": [[1, 2, 3, 4]]}, "size must be"),
        ({"size": [0, 48], "arrows": [[1, 2, 3, 4]]}, "size must be"),
        ({"size": [10**30, 48], "arrows": [[1, 2, 3, 4]]}, "size must be"),
        ({"size": "70", "arrows": [[1, 2, 3, 4]]}, "size must be"),
        ([[1, 2, 3]], "of four numbers"),
        ([[1, 2, 3, float("nan")]], "finite"),
        ([[1, 2, 3, 10**400]], "finite"),
        ([[5, 5, 6, 6], [70, 2, 3, 4]], r"start in the image of 70 x 48 px .*, got x=70, y=2 for arrow 1"),
        ([[1, 2, 141, 4]], "end in the image or near it"),
        ([[1, 2, 3, 4]] * (MAX_ARROWS + 1), f"at most {MAX_ARROWS}"),
    ),
)
def test_a_file_that_is_not_of_arrows_is_refused(content, message):
    with pytest.raises(ValueError, match=message):
        parse_arrows(content, (48, 70))


def test_the_json_of_the_most_arrows_is_taken_back():
    rng = np.random.default_rng(0)
    points = rng.uniform(0, 1000, (MAX_ARROWS, 2)).round(2)
    text = arrows_as_json(points, points + 1 / 3, (1001, 1001))
    assert len(text) < MAX_TEXT
    np.testing.assert_allclose(parse_arrows(json.loads(text), (1001, 1001))[:, :2], points)
