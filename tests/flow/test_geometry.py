import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from cmp.flow import crop_flow, flip_flow, resize_flow, rotate_flow, rotate_image, scale_flow


def drawn(height=6, width=9, seed=0):
    return np.random.default_rng(seed).normal(0, 5, (height, width, 2)).astype(np.float32)


def texture(x, y):
    """A smooth picture that can be evaluated anywhere."""
    return np.sin(0.31 * x) + np.cos(0.23 * y + 0.4) + 0.5 * np.sin(0.11 * x * 0.9 + 0.17 * y)


def moving_pair(height=61, width=83, turn=0.06, shift=(1.7, -2.2)):
    """Two frames and their exact flow: the picture turns a little and slides."""
    y, x = np.mgrid[:height, :width].astype(np.float64)
    matrix = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    center = np.array([width / 2, height / 2])
    moved = (np.stack((x, y), axis=-1) - center) @ matrix.T + center + shift
    flow = (moved - np.stack((x, y), axis=-1)).astype(np.float32)
    back = (np.stack((x, y), axis=-1) - center - shift) @ matrix + center
    return texture(x, y).astype(np.float32), texture(back[..., 0], back[..., 1]).astype(np.float32), flow


def fetch_error(first, second, flow):
    """Mean |first(p) - second(p + flow)| where both are known, by scipy."""
    y, x = np.mgrid[: first.shape[0], : first.shape[1]]
    fetched = map_coordinates(second, [y + flow[..., 1], x + flow[..., 0]], order=1, cval=np.nan, mode="constant")
    error = np.abs(fetched - first)
    assert np.isfinite(error).mean() > 0.5
    return np.nanmean(error)


def test_resizing_scales_x_by_the_widths_and_y_by_the_heights():
    flow = np.full((6, 8, 2), (4.0, 3.0), np.float32)
    resized = resize_flow(flow, (12, 4))
    assert resized.shape == (12, 4, 2) and resized.dtype == np.float32
    np.testing.assert_allclose(resized, np.full((12, 4, 2), (2.0, 6.0)), rtol=1e-6)


def test_resizing_an_analytic_motion_gives_the_motion_of_the_new_grid():
    def zoom_flow(height, width, factor=1.1):  # every point moves away from the centre: u is linear in x, v in y
        y, x = np.mgrid[:height, :width].astype(np.float32)
        return np.stack(((x - (width - 1) / 2) * (factor - 1), (y - (height - 1) / 2) * (factor - 1)), axis=2)

    resized = resize_flow(zoom_flow(40, 60), (80, 90))
    np.testing.assert_allclose(resized[4:-4, 4:-4], zoom_flow(80, 90)[4:-4, 4:-4], atol=2e-3)


def test_a_crop_is_a_copy_of_the_window():
    flow = drawn()
    crop = crop_flow(flow, 1, 2, 3, 7)
    np.testing.assert_array_equal(crop, flow[1:4, 2:9])
    crop[:] = 0
    np.testing.assert_array_equal(flow, drawn())


def test_flipping_moves_a_vector_to_the_other_side_and_turns_one_component():
    flow = drawn()
    horizontal, vertical = flip_flow(flow, "horizontal"), flip_flow(flow, "vertical")
    assert horizontal[2, 1].tolist() == [-flow[2, 7, 0], flow[2, 7, 1]]
    assert vertical[1, 2].tolist() == [flow[4, 2, 0], -flow[4, 2, 1]]
    for axis in ("horizontal", "vertical"):
        np.testing.assert_array_equal(flip_flow(flip_flow(flow, axis), axis), flow)


@pytest.mark.parametrize("axis, mirror", [("horizontal", np.fliplr), ("vertical", np.flipud)])
def test_a_flipped_pair_is_explained_by_the_flipped_flow(axis, mirror):
    first, second, flow = moving_pair()
    assert fetch_error(first, second, flow) < 0.01
    assert fetch_error(mirror(first), mirror(second), flip_flow(flow, axis)) < 0.01
    assert fetch_error(mirror(first), mirror(second), mirror(flow)) > 0.1


@pytest.mark.parametrize("degrees", [30.0, -75.0, 160.0])
def test_a_rotated_pair_is_explained_by_the_rotated_flow(degrees):
    first, second, flow = moving_pair(71, 83)
    turned = rotate_flow(flow, degrees)
    first, second = (rotate_image(frame, degrees, fill=np.nan) for frame in (first, second))
    assert fetch_error(first, second, turned) < 0.02
    wrong_vectors = turned[..., ::-1]
    assert fetch_error(first, second, wrong_vectors) > 0.1


def test_ninety_degrees_turn_right_into_up_and_the_grid_as_numpy_turns_it():
    flow = drawn(7, 7)
    turned = rotate_flow(flow, 90)
    grid = np.rot90(flow)  # numpy's direction is counter-clockwise as seen too
    np.testing.assert_allclose(turned, np.stack((grid[..., 1], -grid[..., 0]), axis=2), atol=1e-5)
    right = np.zeros((5, 5, 2), np.float32)
    right[..., 0] = 1
    np.testing.assert_allclose(rotate_flow(right, 90), np.full((5, 5, 2), (0, -1)), atol=1e-6)
    picture = np.arange(25, dtype=np.uint8).reshape(5, 5)
    np.testing.assert_array_equal(rotate_image(picture, 90), np.rot90(picture))


def test_turning_keeps_every_quadrant():
    for vector in ((3, 4), (-3, 4), (-3, -4), (3, -4), (0, 5), (0, -5), (-5, 0), (0, 0)):
        turned = rotate_flow(np.full((9, 9, 2), vector, np.float32), 20)[4, 4]
        angle = np.deg2rad(20)
        expected = (
            vector[0] * np.cos(angle) + vector[1] * np.sin(angle),
            -vector[0] * np.sin(angle) + vector[1] * np.cos(angle),
        )
        np.testing.assert_allclose(turned, expected, atol=1e-5)


def test_no_turn_and_two_half_turns_change_nothing_and_lose_no_border():
    flow = drawn()
    np.testing.assert_array_equal(rotate_flow(flow, 0), flow)
    np.testing.assert_allclose(rotate_flow(rotate_flow(flow, 180), 180), flow, atol=1e-5)
    np.testing.assert_allclose(rotate_flow(flow, 180), -flow[::-1, ::-1], atol=1e-5)


def test_what_a_turn_uncovers_is_unknown():
    turned = rotate_flow(np.ones((20, 40, 2), np.float32), 45)
    assert np.isnan(turned[0, 0]).all() and np.isfinite(turned[10, 20]).all()
    assert (rotate_flow(np.ones((20, 40, 2), np.float32), 45, fill=0.0)[0, 0] == 0).all()


def test_scaling_multiplies_vectors_on_the_same_grid():
    np.testing.assert_allclose(scale_flow(drawn(), -0.5), drawn() * -0.5)


def test_inputs_are_never_changed():
    flow = drawn()
    resize_flow(flow, (3, 4)), flip_flow(flow, "vertical")[:].fill(0), rotate_flow(flow, 10)[:].fill(0)
    rotate_flow(flow, 0)[:].fill(0), crop_flow(flow, 0, 0, 6, 9)[:].fill(0), resize_flow(flow, (6, 9))[:].fill(0)
    scale_flow(flow, 1.0)[:].fill(0)
    np.testing.assert_array_equal(flow, drawn())


def test_what_makes_no_sense_is_refused():
    flow = drawn()
    refused = [
        lambda: resize_flow(flow, (0, 4)),
        lambda: resize_flow(flow[..., 0], (3, 4)),
        lambda: resize_flow(flow[:0], (3, 4)),
        lambda: crop_flow(flow, 0, 0, 7, 3),
        lambda: crop_flow(flow, -1, 0, 3, 3),
        lambda: crop_flow(flow, 0, 0, 0, 3),
        lambda: flip_flow(flow, "x"),
        lambda: flip_flow(flow.astype(int), "vertical"),
        lambda: rotate_flow(flow, np.nan),
        lambda: rotate_flow(flow[:0], 10),
        lambda: rotate_image(np.zeros((3, 4), np.int64), 10),
        lambda: rotate_image(np.zeros((3, 4, 5), np.uint8), 10),
        lambda: scale_flow(flow, np.inf),
    ]
    for call in refused:
        with pytest.raises(ValueError, match="must|fit"):
            call()
