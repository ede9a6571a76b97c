"""The baselines that get the points but not the image."""

import numpy as np
import pytest
from scipy.interpolate import NearestNDInterpolator

from cmp.guidance import (
    interpolate_edge_aware,
    interpolate_inverse_distance,
    interpolate_nearest,
    interpolate_thin_plate,
)


def in_grey(points_yx, vectors_xy, size_hw):
    """Edge-aware interpolation where there is no edge."""
    return interpolate_edge_aware(points_yx, vectors_xy, np.full((*size_hw, 3), 90, np.uint8))


BOTH = (interpolate_nearest, interpolate_inverse_distance)
ALL = (*BOTH, interpolate_thin_plate, in_grey)


def random_guides(number, height=37, width=53, seed=0):
    rng = np.random.default_rng(seed)
    flat = rng.choice(height * width, number, replace=False)
    vectors_xy = rng.normal(0, 10, (number, 2)).astype(np.float32)
    return np.stack(np.divmod(flat, width), axis=1), vectors_xy


@pytest.mark.parametrize("number", [1, 2, 20, 300])
@pytest.mark.parametrize("interpolate", BOTH)
def test_the_field_is_exact_at_the_points(interpolate, number):
    points_yx, vectors_xy = random_guides(number)
    flow = interpolate(points_yx, vectors_xy, (37, 53))
    assert flow.shape == (37, 53, 2) and flow.dtype == np.float32
    np.testing.assert_array_equal(flow[points_yx[:, 0], points_yx[:, 1]], vectors_xy)


@pytest.mark.parametrize("interpolate", ALL)
def test_no_point_gives_zeros(interpolate):
    for points_yx, vectors_xy in ((np.zeros((0, 2), int), np.zeros((0, 2))), ([], [])):
        flow = interpolate(points_yx, vectors_xy, (5, 8))
        assert flow.shape == (5, 8, 2) and flow.dtype == np.float32 and not flow.any()


@pytest.mark.parametrize("interpolate", ALL)
def test_one_point_fills_the_image_with_its_vector(interpolate):
    flow = interpolate(np.array([[4, 7]]), np.array([[3.0, -2.0]]), (9, 12))
    np.testing.assert_allclose(flow, np.broadcast_to((3, -2), (9, 12, 2)), rtol=1e-6)


@pytest.mark.parametrize("interpolate", ALL)
def test_of_a_point_given_twice_the_last_counts(interpolate):
    points_yx = np.array([[2, 3], [6, 1], [2, 3]])
    vectors_xy = np.array([[9.0, 9.0], [1.0, 0.0], [0.0, 1.0]])
    expected = interpolate(points_yx[1:], vectors_xy[1:], (8, 11))
    np.testing.assert_allclose(interpolate(points_yx, vectors_xy, (8, 11)), expected, rtol=1e-6)


def test_nearest_takes_a_point_that_no_other_is_nearer_than_and_agrees_with_scipy_where_one_is_nearest():
    points_yx, vectors_xy = random_guides(20)
    pixels = np.stack(np.mgrid[:37, :53], axis=-1)
    squared = ((pixels[:, :, None] - points_yx) ** 2).sum(axis=-1)
    alone = (squared == squared.min(axis=-1, keepdims=True)).sum(axis=-1) == 1
    flow = interpolate_nearest(points_yx, vectors_xy, (37, 53))
    expected = NearestNDInterpolator(points_yx, vectors_xy)(pixels.reshape(-1, 2)).reshape(37, 53, 2)
    np.testing.assert_array_equal(flow[alone], expected[alone])
    chosen = (flow[:, :, None] == vectors_xy).all(axis=-1)  # (H, W, N)
    assert (squared[chosen] == np.broadcast_to(squared.min(axis=-1, keepdims=True), squared.shape)[chosen]).all()


@pytest.mark.parametrize("power", [0.5, 1, 2, 3, 64])
def test_inverse_distance_is_the_weighted_mean_written_out(power):
    points_yx, vectors_xy = random_guides(7)
    flow = interpolate_inverse_distance(points_yx, vectors_xy, (37, 53), power=power)
    for y, x in ((0, 0), (36, 52), (20, 5), (11, 40)):
        distances = [np.hypot(y - guide_y, x - guide_x) for guide_y, guide_x in points_yx]
        if min(distances) == 0:
            continue
        weights = np.array([1 / distance**power for distance in distances])
        np.testing.assert_allclose(flow[y, x], weights @ vectors_xy / weights.sum(), rtol=1e-4, atol=1e-5)


def test_inverse_distance_in_the_middle_of_two_points_is_their_mean_and_a_third_of_the_way_weighs_4_to_1():
    flow = interpolate_inverse_distance(np.array([[3, 0], [3, 6]]), np.array([[0.0, 10.0], [5.0, 0.0]]), (5, 9))
    np.testing.assert_allclose(flow[3, 3], (2.5, 5), rtol=1e-6)
    np.testing.assert_allclose(flow[3, 2], (1, 8), rtol=1e-6)


def test_with_a_reach_motion_fades_out_by_half_at_that_distance_and_stays_at_the_point():
    flow = interpolate_inverse_distance(np.array([[1, 2]]), np.array([[8.0, -4.0]]), (3, 30), power=4, reach_px=5)
    np.testing.assert_allclose(flow[1, 7], (4, -2), rtol=1e-6)
    np.testing.assert_allclose(flow[1, 12], np.array([8, -4]) / 17, rtol=1e-6)  # twice as far: 1 / (1 + 2^4)
    np.testing.assert_array_equal(flow[1, 2], (8, -4))
    points_yx, vectors_xy = np.array([[0, 0], [0, 6]]), np.array([[3.0, 0], [0, 6.0]])
    two = interpolate_inverse_distance(points_yx, vectors_xy, (1, 9), power=2, reach_px=3)
    np.testing.assert_allclose(two[0, 3], (1, 2), rtol=1e-6)  # three equal weights: either point, and no motion
    with pytest.raises(ValueError, match="reach_px must be at least 1, got 0"):
        interpolate_inverse_distance(np.array([[0, 0]]), np.array([[3.0, 0]]), (1, 9), reach_px=0)


def test_many_points_computed_in_chunks_of_rows_give_the_same_field(monkeypatch):
    points_yx, vectors_xy = random_guides(30)
    whole = interpolate_inverse_distance(points_yx, vectors_xy, (37, 53))
    monkeypatch.setattr("cmp.guidance.interpolate.CHUNK_WEIGHTS", 30 * 53 * 4 + 1)
    np.testing.assert_allclose(interpolate_inverse_distance(points_yx, vectors_xy, (37, 53)), whole, rtol=1e-6)


@pytest.mark.parametrize("interpolate", BOTH)
def test_wrong_points_are_named(interpolate):
    good = np.array([[1.0, 2.0]])
    with pytest.raises(ValueError, match="outside"):
        interpolate(np.array([[5, 0]]), good, (5, 8))
    with pytest.raises(ValueError, match=r"vectors_xy must be \(2, 2\)"):
        interpolate(np.array([[1, 0], [2, 3]]), good, (5, 8))
    with pytest.raises(ValueError, match="finite"):
        interpolate(np.array([[1, 0]]), good * np.nan, (5, 8))
    with pytest.raises(ValueError, match="size_hw"):
        interpolate(np.array([[1, 0]]), good, (0, 8))


@pytest.mark.parametrize("power", [0, -1, 65, float("nan")])
def test_inverse_distance_refuses_a_power_out_of_range(power):
    with pytest.raises(ValueError, match="power"):
        interpolate_inverse_distance(np.array([[1, 0]]), np.array([[1.0, 2.0]]), (5, 8), power=power)


def test_a_thin_plate_meets_the_points_and_linear_motion_everywhere():
    points_yx, vectors_xy = random_guides(20)
    flow = interpolate_thin_plate(points_yx, vectors_xy, (37, 53))
    assert flow.dtype == np.float32
    np.testing.assert_allclose(flow[points_yx[:, 0], points_yx[:, 1]], vectors_xy, atol=1e-3)
    y, x = np.mgrid[:37, :53]
    zoom = np.stack((0.1 * x - 0.05 * y + 1, 0.2 * y - 3), axis=-1).astype(np.float32)
    flow = interpolate_thin_plate(points_yx, zoom[points_yx[:, 0], points_yx[:, 1]], (37, 53))
    np.testing.assert_allclose(flow, zoom, atol=1e-3)


def test_a_thin_plate_that_is_not_determined_is_the_nearest_point():
    for points_yx in (np.array([[3, 4], [9, 8]]), np.array([[2, 2], [4, 4], [9, 9]])):
        vectors_xy = np.arange(2.0 * len(points_yx)).reshape(-1, 2)
        expected = interpolate_nearest(points_yx, vectors_xy, (12, 15))
        np.testing.assert_array_equal(interpolate_thin_plate(points_yx, vectors_xy, (12, 15)), expected)


@pytest.mark.filterwarnings("ignore:The probability range")  # a hard edge; skimage clips to it
def test_edge_aware_motion_stops_at_an_edge_of_the_image_and_not_halfway_between_points():
    image = np.zeros((20, 30, 3), np.uint8)
    image[:, 22:] = (250, 200, 30)
    points_yx, vectors_xy = np.array([[10, 3], [9, 26]]), np.array([[4.0, 0.0], [0.0, -2.0]])
    flow = interpolate_edge_aware(points_yx, vectors_xy, image)
    np.testing.assert_allclose(flow[:, :22], np.broadcast_to((4, 0), (20, 22, 2)), atol=0.2)
    np.testing.assert_allclose(flow[:, 22:], np.broadcast_to((0, -2), (20, 8, 2)), atol=0.2)
    np.testing.assert_array_equal(flow[10, 3], (4, 0))
    everywhere = np.argwhere(np.ones((3, 4), bool))
    vectors_xy = np.arange(24.0).reshape(12, 2)
    full = interpolate_edge_aware(everywhere, vectors_xy, np.zeros((3, 4, 3), np.uint8))
    np.testing.assert_array_equal(full, vectors_xy.reshape(3, 4, 2))


def test_without_edges_edge_aware_motion_changes_evenly_between_two_points():
    flow = in_grey(np.array([[0, 0], [0, 8]]), np.array([[0.0, 8.0], [8.0, 0.0]]), (1, 9))
    np.testing.assert_allclose(flow[0], np.stack((np.arange(9), 8 - np.arange(9)), axis=-1), atol=0.02)


def test_an_image_that_is_none_is_refused():
    with pytest.raises(ValueError, match="image must be"):
        interpolate_edge_aware([[0, 0]], [[1.0, 1.0]], np.zeros((4, 5)))
