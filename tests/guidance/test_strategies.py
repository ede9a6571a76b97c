"""Where each strategy puts points, and what sampling does with them."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, maximum_filter
from scipy.signal import convolve2d

from cmp.guidance import (
    STRATEGIES,
    grid_points,
    local_maxima,
    motion_edges,
    sample_guidance,
    thin_points,
    watershed_map,
)

GOLDEN_FLOWS = ("00", "02", "04", "09")


@pytest.fixture(scope="module")
def golden(shared_dir):
    with np.load(shared_dir / "golden" / "guidance.npz") as data:
        return dict(data)


def moving_rectangle(height=48, width=64):
    """A 20 x 30 px rectangle that moves by (12, -7) over still ground."""
    flow = np.zeros((height, width, 2), np.float32)
    flow[14:34, 20:50] = (12, -7)
    return flow


def wavy_flow(height, width, seed=0):
    noise = np.random.default_rng(seed).normal(size=(height, width, 2))
    return (200 * gaussian_filter(noise, (6, 6, 0))).astype(np.float32)


def as_set(points_yx):
    return set(map(tuple, points_yx.tolist()))


def sample(flow, *strategies, seed=0, **kwargs):
    return sample_guidance(flow, rng=np.random.default_rng(seed), strategies=strategies, **kwargs)


# Grid


@pytest.mark.parametrize(
    "side, stride_px, expected",
    [
        (384, 80, [32, 112, 192, 272, 352]),
        (384, 200, [92, 292]),
        (400, 80, [0, 80, 160, 240, 320]),
        (480, 80, [0, 80, 160, 240, 320, 400]),
        (479, 80, [39, 119, 199, 279, 359, 439]),
        (30, 80, [15]),
        (1, 1, [0]),
    ],
)
def test_the_grid_is_centered_and_starts_at_0_where_the_stride_divides_the_side(side, stride_px, expected):
    # The other axis is 45 px long and has its own start.
    other = list(range(45 % stride_px // 2, 45, stride_px))
    assert grid_points((side, 45), stride_px=stride_px).tolist() == [[y, x] for y in expected for x in other]
    assert grid_points((45, side), stride_px=stride_px).tolist() == [[y, x] for y in other for x in expected]


def test_the_grid_is_int64_in_row_major_order():
    points_yx = grid_points((50, 70), stride_px=20)
    assert points_yx.dtype == np.int64
    assert points_yx.tolist() == [[y, x] for y in (5, 25, 45) for x in (5, 25, 45, 65)]


@pytest.mark.parametrize("stride_px", [0, -80, 2.5])
def test_the_grid_refuses_a_stride_below_1_or_between_pixels(stride_px):
    with pytest.raises(ValueError, match="stride_px must be a whole number of at least 1"):
        grid_points((48, 64), stride_px=stride_px)
    with pytest.raises(ValueError, match="stride_px"):
        sample(moving_rectangle(), "grid", grid_stride_px=stride_px)


@pytest.mark.parametrize("recipe, stride_px", [("A", 80), ("B", 200)])
@pytest.mark.parametrize("number", GOLDEN_FLOWS)
def test_the_grid_equals_zhan_et_als(golden, number, recipe, stride_px):
    expected = golden[f"{number}_grid{recipe}"]
    found = grid_points(golden[f"{number}_flow"].shape[:2], stride_px=stride_px)
    assert len(found) == len(expected) and as_set(found) == as_set(expected)


# Grid and watershed together


@pytest.mark.parametrize("recipe, stride_px, kernel", [("A", 80, 41), ("B", 200, 81)])
@pytest.mark.parametrize("number", GOLDEN_FLOWS)
def test_a_sample_equals_zhan_et_als_from_the_same_random_numbers(golden, number, recipe, stride_px, kernel):
    flow = golden[f"{number}_flow"].astype(np.float32)
    for seed in range(3):
        rng = np.random.RandomState(seed)  # Zhan et al.'s code draws from numpy's old generator
        found = sample_guidance(flow, rng=rng, grid_stride_px=stride_px, nms_kernel=kernel)
        assert as_set(found) == as_set(golden[f"{number}_final{recipe}_seed{seed}"])


@pytest.mark.parametrize("recipe, stride_px, kernel", [("A", 80, 41), ("B", 200, 81)])
@pytest.mark.parametrize("number", GOLDEN_FLOWS)
def test_a_sample_is_the_grid_and_as_many_candidates_as_in_zhan_et_als_code(golden, number, recipe, stride_px, kernel):
    flow = golden[f"{number}_flow"].astype(np.float32)
    step = max(1, max(flow.shape[:2]) // 400)
    grid = as_set(golden[f"{number}_grid{recipe}"])
    candidates = as_set(step * golden[f"{number}_cand{kernel}"].astype(int))
    for seed in range(3):
        found = sample(flow, "grid", "watershed", seed=seed, grid_stride_px=stride_px, nms_kernel=kernel)
        assert grid <= as_set(found) <= grid | candidates
        assert len(found) == len(grid) + len(golden[f"{number}_elim{recipe}_seed0"])
    few = sample(flow, "grid", "watershed", grid_stride_px=stride_px, nms_kernel=kernel, max_points=10)
    assert as_set(few) <= grid | candidates
    assert len(as_set(few)) == len(golden[f"{number}_final{recipe}_max10_seed7"])


def test_a_moving_rectangle_gets_the_grid_and_a_point_in_its_middle():
    flow = moving_rectangle()
    grid = as_set(grid_points((48, 64), stride_px=20))
    for seed in range(20):
        found = as_set(sample(flow, "grid", "watershed", seed=seed, grid_stride_px=20, nms_kernel=15))
        assert grid <= found
        # The edge takes one pixel inside the rectangle: rows 15 to 32, so the ridge is rows 23 and 24.
        inside = [(y, x) for y, x in found - grid if 14 <= y < 34 and 20 <= x < 50]
        assert len(inside) >= 1 and all(y in (23, 24) for y, _ in inside)


def test_watershed_points_are_candidates_and_far_from_each_other():
    flow = wavy_flow(90, 130)
    candidates = as_set(local_maxima(watershed_map(motion_edges(flow)), 9))
    for seed in range(10):
        found = sample(flow, "watershed", seed=seed, nms_kernel=9)
        assert 3 < len(found) and as_set(found) <= candidates
        close = (np.abs(found[:, None] - found[None]) < 4).all(axis=-1)
        assert close.sum() == len(found)


@pytest.mark.parametrize("kernel", [3, 5, 9])
def test_watershed_points_are_the_candidates_thinned_at_half_the_window(kernel):
    flow = wavy_flow(90, 130)
    candidates = local_maxima(watershed_map(motion_edges(flow)), kernel)
    expected = thin_points(candidates, (kernel - 1) / 2, rng=np.random.default_rng(3))
    assert as_set(sample(flow, "watershed", seed=3, nms_kernel=kernel)) == as_set(expected)


@pytest.mark.parametrize("vector_xy", [(0, 0), (5, -3)])
def test_flow_without_edges_gets_the_grid_only(vector_xy):
    flow = np.broadcast_to(np.float32(vector_xy), (48, 64, 2))
    found = sample(flow, "grid", "watershed", grid_stride_px=20, nms_kernel=15)
    assert sorted(map(tuple, found)) == sorted(map(tuple, grid_points((48, 64), stride_px=20)))
    for strategy in ("watershed", "gradnms"):
        empty = sample(flow, strategy, nms_kernel=15)
        assert empty.shape == (0, 2) and empty.dtype == np.int64


def test_one_broken_pixel_costs_points_unless_the_scale_is_robust():
    flow = np.zeros((120, 160, 2), np.float32)
    for top, left in ((15, 20), (15, 95), (70, 20), (70, 95)):  # the corner stays still for the broken pixel
        flow[top : top + 30, left : left + 45] = (1, 0.5)
    broken = flow.copy()
    broken[2, 2] = (50, -50)

    def guides_inside(flow, normalizer):
        points_yx = sample(flow, "watershed", nms_kernel=21, normalizer=normalizer)
        y, x = points_yx.T
        return int(((y >= 15) & (y < 100) & (x >= 20) & (x < 140) & (flow[y, x, 0] == 1)).sum())

    assert guides_inside(flow, "max") == guides_inside(flow, "percentile") == 4
    assert guides_inside(broken, "max") < 4
    assert guides_inside(broken, "percentile") == 4


def test_a_broken_pixel_in_real_flow_leaves_the_robust_points_where_they_were(golden):
    flow = golden["02_flow"].astype(np.float32)
    broken = flow.copy()
    broken[100, 200] = (50, -50)
    counts = {
        name: [len(sample(field, "watershed", nms_kernel=41, normalizer=name)) for field in (flow, broken)]
        for name in ("max", "percentile")
    }
    assert counts["max"][0] == 19 and counts["max"][1] < 10
    assert abs(counts["percentile"][1] - counts["percentile"][0]) <= 2


def test_wide_flow_is_looked_at_every_second_pixel_and_only_then():
    flow = wavy_flow(60, 800)
    candidates = local_maxima(watershed_map(motion_edges(flow[::2, ::2])), 11)
    found = sample(flow, "watershed", nms_kernel=11)
    assert len(found) > 3 and as_set(found) <= as_set(2 * candidates)
    narrower = flow[:, :799]
    candidates = local_maxima(watershed_map(motion_edges(narrower)), 11)
    assert as_set(sample(narrower, "watershed", nms_kernel=11)) <= as_set(candidates)


def test_scaling_the_kernel_keeps_the_distance_of_points_in_image_pixels():
    flow = wavy_flow(60, 800)
    candidates = local_maxima(watershed_map(motion_edges(flow[::2, ::2])), 11)
    scaled = [sample(flow, "watershed", seed=s, nms_kernel=21, scale_kernel=True) for s in range(3)]
    for seed, found in enumerate(scaled):
        assert as_set(found) <= as_set(2 * candidates)
        np.testing.assert_array_equal(found, sample(flow, "watershed", seed=seed, nms_kernel=11))
        assert len(found) > len(sample(flow, "watershed", seed=seed, nms_kernel=21))
    small = wavy_flow(60, 90)
    np.testing.assert_array_equal(
        sample(small, "watershed", nms_kernel=21, scale_kernel=True), sample(small, "watershed", nms_kernel=21)
    )


def test_the_maximal_rule_passes_through_and_leaves_more_points_on_a_ridge():
    flow = np.zeros((60, 200, 2), np.float32)
    flow[20:40, 10:190] = (8, 0)
    authors = sample(flow, "watershed", nms_kernel=21)
    maximal = sample(flow, "watershed", nms_kernel=21, thinning="maximal")
    assert (authors[:, 0] // 20 == 1).sum() < (maximal[:, 0] // 20 == 1).sum()


# Shuffling and the cap


def test_the_same_seed_gives_the_same_points_in_the_same_order_and_another_seed_others():
    flow = wavy_flow(90, 130)
    args = dict(grid_stride_px=30, nms_kernel=9, max_points=12)
    first, again = (sample(flow, "grid", "watershed", "uniform", seed=7, **args) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, sample(flow, "grid", "watershed", "uniform", seed=8, **args))


def test_the_global_generator_and_the_flow_are_left_alone():
    flow = wavy_flow(40, 60)
    before, state = flow.copy(), np.random.get_state()[1].copy()  # noqa: NPY002
    sample(flow, *STRATEGIES, grid_stride_px=20, nms_kernel=9, specified_yx=np.array([[1, 2]]))
    np.testing.assert_array_equal(flow, before)
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002


def test_a_cap_keeps_each_point_equally_often():
    kept = np.zeros((48, 64))
    for seed in range(300):
        y, x = sample(moving_rectangle(), "grid", seed=seed, grid_stride_px=20, max_points=4).T
        assert len(y) == 4
        kept[y, x] += 1
    grid = grid_points((48, 64), stride_px=20)
    counts = kept[grid[:, 0], grid[:, 1]]
    assert counts.sum() == kept.sum() == 1200
    assert (np.abs(counts - 1200 / len(grid)) < 45).all()


def test_a_cap_of_0_leaves_nothing_and_a_large_one_everything():
    assert sample(moving_rectangle(), "grid", grid_stride_px=20, max_points=0).shape == (0, 2)
    assert len(sample(moving_rectangle(), "grid", grid_stride_px=20, max_points=999)) == 12


# The other strategies


def test_uniform_draws_one_point_for_each_stride_squared_or_as_many_as_asked_over_the_whole_image():
    flow = moving_rectangle()
    assert len(sample(flow, "uniform", grid_stride_px=10)) == 48 * 64 // 100
    points_yx = sample(flow, "uniform", num_uniform=5000)
    assert points_yx.shape == (5000, 2) and points_yx.dtype == np.int64
    assert points_yx.min(axis=0).tolist() == [0, 0] and points_yx.max(axis=0).tolist() == [47, 63]
    np.testing.assert_allclose(points_yx.mean(axis=0), (23.5, 31.5), atol=1)


def test_single_draws_one_of_the_pixels_that_move_and_nothing_from_still_flow():
    flow = np.zeros((20, 30, 2), np.float32)
    flow[3, 4, 0] = flow[11, 25, 1] = 1
    drawn = [sample(flow, "single", seed=seed) for seed in range(40)]
    assert all(points_yx.shape == (1, 2) for points_yx in drawn)
    assert {tuple(points_yx[0]) for points_yx in drawn} == {(3, 4), (11, 25)}
    assert sample(np.zeros((20, 30, 2)), "single").shape == (0, 2)


def test_full_is_every_pixel_once():
    points_yx = sample(moving_rectangle(7, 64), "full")
    assert len(points_yx) == 7 * 64 and len(as_set(points_yx)) == 7 * 64
    assert points_yx.max(axis=0).tolist() == [6, 63]


def test_specified_returns_the_points_that_were_specified():
    given = np.array([[3, 60], [40, 2], [0, 0]])
    assert as_set(sample(moving_rectangle(), "specified", specified_yx=given)) == as_set(given)
    with pytest.raises(ValueError, match=r"outside.*y=48, x=2"):
        sample(moving_rectangle(), "specified", specified_yx=np.array([[3, 60], [48, 2]]))


@pytest.mark.parametrize("width", [130, 230])  # windows of 6 and 11 px, and their halves 3 and 5
def test_gradnms_finds_the_maxima_of_coarse_less_fine_edges(width):
    flow = wavy_flow(90, width, seed=3)
    edges = motion_edges(flow).astype(np.float64)
    score = np.zeros_like(edges)
    for size, sign in ((width // 20, 1), (width // 20 // 2, -1)):
        mean = convolve2d(edges, np.ones((size, size)), boundary="symm", mode="same")
        score += sign * mean / mean.max()
    expected = np.argwhere((score == maximum_filter(score, size=15)) & (score > 0.1))
    found = sample(flow, "gradnms", nms_kernel=15)
    assert len(expected) > 2 and as_set(found) == as_set(expected)


def test_gradnms_works_on_an_image_narrower_than_its_window_rule():
    assert sample(wavy_flow(30, 18), "gradnms", nms_kernel=5).shape[1] == 2


# What is refused


@pytest.mark.parametrize(
    "strategy, missing",
    [
        ("grid", "grid_stride_px"),
        ("watershed", "nms_kernel"),
        ("uniform", "num_uniform or grid_stride_px"),
        ("gradnms", "nms_kernel"),
        ("specified", "specified_yx"),
    ],
)
def test_an_argument_that_a_strategy_needs_is_asked_for_by_name(strategy, missing):
    with pytest.raises(ValueError, match=f"{missing} is needed"):
        sample(moving_rectangle(), strategy)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_flow_with_nan_or_infinity_is_refused_whatever_the_strategy(strategy, bad):
    flow = moving_rectangle()
    flow[5, 7, 1] = bad
    with pytest.raises(ValueError, match="NaN or infinity in 1 pixels"):
        sample(flow, strategy, grid_stride_px=20, nms_kernel=15, specified_yx=np.array([[1, 2]]))


@pytest.mark.parametrize(
    "kwargs, message",
    [
        (dict(strategies=("grid", "random")), "random"),
        (dict(strategies=("grid", "grid")), "different names"),
        (dict(strategies="grid"), "sequence of names"),
        (dict(strategies=()), "sequence of names"),
        (dict(nms_kernel=14), "nms_kernel must be odd"),
        (dict(max_points=-1), "max_points"),
        (dict(normalizer="median"), "normalizer"),
        (dict(thinning="greedy"), "rule"),
        (dict(strategies=("uniform",), num_uniform=-1), "num_uniform"),
        (dict(strategies=("uniform",), grid_stride_px=0), "stride_px"),
    ],
)
def test_a_wrong_argument_is_named(kwargs, message):
    kwargs = dict(grid_stride_px=20, nms_kernel=15) | kwargs
    with pytest.raises(ValueError, match=message):
        sample_guidance(moving_rectangle(), rng=np.random.default_rng(0), **kwargs)


def test_flow_with_channels_first_is_refused():
    with pytest.raises(ValueError, match=r"\(H, W, 2\).*\(2, 48, 64\)"):
        sample(np.zeros((2, 48, 64), np.float32), "grid", grid_stride_px=20)
