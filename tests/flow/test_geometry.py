import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from cmp.flow import flip_flow, resize_flow, scale_flow


def drawn(height=6, width=9, seed=0):
    return np.random.default_rng(seed).normal(0, 5, (height, width, 2)).astype(np.float32)


def texture(x, y):
    """A smooth image that can be evaluated anywhere."""
    return np.sin(0.31 * x) + np.cos(0.23 * y + 0.4) + 0.5 * np.sin(0.11 * x * 0.9 + 0.17 * y)


def moving_pair(height=61, width=83, turn=0.06, shift=(1.7, -2.2)):
    """Two frames and their exact flow: the image turns a little and slides."""
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
    def zoom_flow(height, width, factor=1.1):  # every point moves away from the center: u is linear in x, v in y
        y, x = np.mgrid[:height, :width].astype(np.float32)
        return np.stack(((x - (width - 1) / 2) * (factor - 1), (y - (height - 1) / 2) * (factor - 1)), axis=2)

    resized = resize_flow(zoom_flow(40, 60), (80, 90))
    np.testing.assert_allclose(resized[4:-4, 4:-4], zoom_flow(80, 90)[4:-4, 4:-4], atol=2e-3)


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


def test_scaling_multiplies_vectors_on_the_same_grid():
    np.testing.assert_allclose(scale_flow(drawn(), -0.5), drawn() * -0.5)


def test_inputs_are_never_changed():
    flow = drawn()
    resize_flow(flow, (3, 4)), flip_flow(flow, "vertical")[:].fill(0), resize_flow(flow, (6, 9))[:].fill(0)
    scale_flow(flow, 1.0)[:].fill(0)
    np.testing.assert_array_equal(flow, drawn())


def test_what_makes_no_sense_is_refused():
    flow = drawn()
    refused = [
        lambda: resize_flow(flow, (0, 4)),
        lambda: resize_flow(flow[..., 0], (3, 4)),
        lambda: resize_flow(flow[:0], (3, 4)),
        lambda: flip_flow(flow, "x"),
        lambda: flip_flow(flow.astype(int), "vertical"),
        lambda: scale_flow(flow, np.inf),
    ]
    for call in refused:
        with pytest.raises(ValueError, match="must"):
            call()
