"""Edges, distances, maxima and thinning against slow loops of the same rule and outputs of Zhan et al.'s code."""

import cv2
import numpy as np
import pytest
from skimage.feature import peak_local_max
from skimage.segmentation import watershed as watershed_regions

from cmp.guidance import local_maxima, motion_edges, thin_points, watershed, watershed_map

GOLDEN_FLOWS = ("00", "02", "04", "09")


@pytest.fixture(scope="module")
def golden(shared_dir):
    with np.load(shared_dir / "golden" / "guidance.npz") as data:
        return dict(data)


def golden_flow(golden, number):
    """The flow as Zhan et al.'s sampler reads it: every second pixel of the wide one."""
    flow = golden[f"{number}_flow"].astype(np.float32)
    step = max(1, max(flow.shape[:2]) // 400)
    return np.ascontiguousarray(flow[::step, ::step])


def moving_rectangle(height=48, width=64, vector_xy=(12.0, -7.0)):
    flow = np.zeros((height, width, 2), np.float32)
    flow[14:34, 20:50] = vector_xy
    return flow


def slow_edges(flow):
    """Sobel by the book: every pixel, both channels, indices mirrored with the border pixel repeated."""
    height, width, _ = flow.shape
    kernel = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]], float)
    edges = np.zeros((height, width))
    for y in range(height):
        for x in range(width):
            rows = [min(max(i, -1 - i), 2 * height - 1 - i) for i in (y - 1, y, y + 1)]
            columns = [min(max(i, -1 - i), 2 * width - 1 - i) for i in (x - 1, x, x + 1)]
            for channel in range(2):
                patch = flow[np.ix_(rows, columns)][..., channel].astype(float)
                edges[y, x] += np.hypot((patch * kernel).sum(), (patch * kernel.T).sum())
    return edges


def slow_thinning(points_yx, d, rng):
    """Every ordered pair in row-major order; a fair coin drops one of two neighbours that are both still there."""
    stays = [True] * len(points_yx)
    for i, (y, x) in enumerate(points_yx):
        for j, (other_y, other_x) in enumerate(points_yx):
            if i != j and abs(y - other_y) < d and abs(x - other_x) < d and stays[i] and stays[j]:
                stays[i if rng.random() > 0.5 else j] = False
    return points_yx[stays]


def neighbours(points_yx, others_yx, d):
    return (np.abs(points_yx[:, None] - others_yx[None]) < d).all(axis=-1)


def random_points(rng, number, height=90, width=130):
    flat = np.sort(rng.choice(height * width, number, replace=False))
    return np.stack(np.divmod(flat, width), axis=1)


# Edges


@pytest.mark.parametrize("size_hw", [(9, 13), (2, 3), (1, 5), (4, 1), (1, 1)])
def test_motion_edges_are_the_sobel_magnitudes_of_both_channels_added(size_hw):
    flow = np.random.default_rng(0).normal(0, 10, (*size_hw, 2)).astype(np.float32)
    edges = motion_edges(flow)
    assert edges.shape == size_hw and edges.dtype == np.float32
    np.testing.assert_allclose(edges, slow_edges(flow), rtol=1e-5, atol=1e-4)


def test_a_vertical_step_of_3_px_in_x_has_edges_of_12_on_both_its_sides():
    flow = np.zeros((5, 8, 2), np.float32)
    flow[:, 4:, 0] = 3
    np.testing.assert_array_equal(motion_edges(flow), np.tile([0, 0, 0, 12, 12, 0, 0, 0], (5, 1)))


def test_a_view_of_every_second_pixel_has_the_edges_of_its_copy_and_is_not_changed():
    flow = np.random.default_rng(1).normal(size=(20, 31, 2)).astype(np.float32)
    before = flow.copy()
    np.testing.assert_array_equal(motion_edges(flow[::2, ::2]), motion_edges(flow[::2, ::2].copy()))
    np.testing.assert_array_equal(flow, before)


@pytest.mark.parametrize("shape", [(5, 6), (2, 5, 6), (5, 6, 3), (0, 6, 2)])
def test_motion_edges_refuse_what_is_not_a_flow_field(shape):
    with pytest.raises(ValueError, match=r"\(H, W, 2\)"):
        motion_edges(np.zeros(shape, np.float32))


@pytest.mark.parametrize("number", GOLDEN_FLOWS)
def test_edges_and_distances_equal_zhan_et_als(golden, number):
    edges = motion_edges(golden_flow(golden, number))
    if f"{number}_edge" in golden:
        expected = golden[f"{number}_edge"]
        assert np.abs(edges - expected).max() <= 1e-6 * expected.max()
    distances = watershed_map(edges)
    is_edge = np.unpackbits(golden[f"{number}_thr"], count=edges.size).reshape(edges.shape).astype(bool)
    differs = (distances == 0) != is_edge
    assert differs.sum() <= 6
    assert (np.abs(edges[differs] / edges.max() - 0.1) < 1e-5).all()
    if not differs.any():
        np.testing.assert_array_equal(np.rint(distances.astype(np.float64) ** 2), golden[f"{number}_edt_sq"])
        assert np.abs(distances.astype(np.float64) ** 2 - golden[f"{number}_edt_sq"]).max() < 0.01


# Distances


@pytest.mark.parametrize("size_hw, share", [((37, 53), 0.3), ((37, 53), 0.01), ((240, 427), 0.0003)])
def test_the_watershed_map_is_the_distance_to_the_nearest_edge_pixel_rounded_once(size_hw, share):
    # To the last bit: two pixels equally far from an edge must tie as maxima.
    rng = np.random.default_rng(2)
    edges = rng.uniform(0, 0.1, size_hw).astype(np.float32)
    edges[rng.random(size_hw) < share] = 1
    edges[5, 7] = 1
    y, x = np.nonzero(edges > 0.1)
    rows, columns = np.mgrid[: size_hw[0], : size_hw[1]]
    expected = np.sqrt(((rows[..., None] - y) ** 2 + (columns[..., None] - x) ** 2).min(axis=-1).astype(np.float32))
    distances = watershed_map(edges)
    assert distances.dtype == np.float32
    np.testing.assert_array_equal(distances, expected)


@pytest.mark.parametrize("threads", (1, 2))
def test_distances_are_right_to_the_last_bit_far_away_too_on_one_thread_and_on_two(threads):
    edges = np.zeros((60, 2000), np.float32)
    edges[7, 11] = edges[40, 1990] = 1
    rows, columns = np.mgrid[:60, :2000]
    squares = np.minimum((rows - 7) ** 2 + (columns - 11) ** 2, (rows - 40) ** 2 + (columns - 1990) ** 2)
    before, intel = cv2.getNumThreads(), cv2.ipp.useIPP()
    try:
        cv2.setNumThreads(threads)
        np.testing.assert_array_equal(watershed_map(edges), np.sqrt(squares.astype(np.float32)))
    finally:
        cv2.setNumThreads(before)
    assert cv2.ipp.useIPP() == intel  # the switch was put back


def test_the_threshold_is_a_share_of_the_largest_edge_and_exclusive():
    edges = np.array([[8.0, 2.0, 0.0, 0.0, 4.0]])
    np.testing.assert_array_equal(watershed_map(edges, threshold=0.5), [[0, 1, 2, 3, 4]])
    np.testing.assert_array_equal(watershed_map(edges, threshold=0.25), [[0, 1, 2, 1, 0]])
    np.testing.assert_array_equal(watershed_map(edges, threshold=0.2), [[0, 0, 1, 1, 0]])


def test_edges_below_a_hundredth_of_a_pixel_are_not_scaled_up():
    edges = np.array([[0.0, 0.0005, 0.0, 0.002, 0.0]], np.float32)  # 0.002 / 0.01 is above 0.1, 0.0005 / 0.01 is not
    np.testing.assert_array_equal(watershed_map(edges), [[3, 2, 1, 0, 1]])


@pytest.mark.parametrize("vector_xy", [(0, 0), (3, -20)])
@pytest.mark.parametrize("normalizer", ["max", "percentile"])
def test_flow_without_edges_has_no_distances_and_no_maxima(vector_xy, normalizer):
    flow = np.broadcast_to(np.float32(vector_xy), (40, 60, 2))
    distances = watershed_map(motion_edges(flow), normalizer=normalizer)
    assert distances.shape == (40, 60) and distances.dtype == np.float32
    assert not distances.any()
    assert local_maxima(distances, 9, keep_border=True).shape == (0, 2)


def test_one_broken_pixel_hides_edges_from_the_maximum_but_not_from_the_percentile():
    flow = moving_rectangle(vector_xy=(1.0, 0.5))
    broken = flow.copy()
    broken[3, 5] = (500, -500)
    clean_map, hidden = watershed_map(motion_edges(flow)), watershed_map(motion_edges(broken))
    robust = watershed_map(motion_edges(broken), normalizer="percentile")
    assert (clean_map[14:34, 20:50] == 0).sum() > 80
    assert not (hidden[14:34, 20:50] == 0).any()
    np.testing.assert_array_equal(robust[14:34, 20:50], clean_map[14:34, 20:50])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("normalizer", ["max", "percentile"])
def test_the_watershed_map_refuses_edges_that_are_not_finite(bad, normalizer):
    edges = np.zeros((6, 8), np.float32)
    edges[2, 3] = bad
    with pytest.raises(ValueError, match="NaN or infinity"):
        watershed_map(edges, normalizer=normalizer)


def test_the_watershed_map_refuses_unknown_words_and_negative_thresholds():
    with pytest.raises(ValueError, match="normalizer.*median"):
        watershed_map(np.ones((4, 5)), normalizer="median")
    with pytest.raises(ValueError, match="threshold.*-1"):
        watershed_map(np.ones((4, 5)), threshold=-1)
    with pytest.raises(ValueError, match=r"edges must be \(H, W\)"):
        watershed_map(np.ones((4, 5, 2)))


# Maxima


@pytest.mark.parametrize("kernel", [1, 3, 7, 41])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32])
def test_local_maxima_are_the_positive_pixels_that_their_window_does_not_exceed(kernel, dtype):
    distances = np.random.default_rng(3).integers(-3, 6, (17, 26)).astype(dtype)
    reach = kernel // 2
    expected = [
        (y, x)
        for y in range(17)
        for x in range(26)
        if distances[y, x] > 0
        and distances[y, x] == distances[max(y - reach, 0) : y + reach + 1, max(x - reach, 0) : x + reach + 1].max()
    ]
    inner = [(y, x) for y, x in expected if 0 < y < 16 and 0 < x < 25]
    found = local_maxima(distances, kernel, keep_border=True)
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(local_maxima(distances, kernel), np.reshape(inner, (-1, 2)))


def test_a_plateau_is_returned_whole_and_in_row_major_order():
    distances = np.zeros((9, 12), np.float32)
    distances[4, 3:6] = distances[5, 3:6] = 2
    assert local_maxima(distances, 5).tolist() == [[4, 3], [4, 4], [4, 5], [5, 3], [5, 4], [5, 5]]


@pytest.mark.parametrize("levels", (2, 40, 10**6))  # plateaus, ties, almost no ties
@pytest.mark.parametrize("size_hw, kernel", [((64, 80), 23), ((61, 83), 33), ((9, 130), 67), ((40, 7), 31)])
def test_wide_windows_find_the_maxima_that_a_slow_loop_finds(levels, size_hw, kernel):
    rng, half = np.random.default_rng(levels), kernel // 2
    blurred = cv2.GaussianBlur(rng.random(size_hw), (0, 0), 3)
    values = np.floor((blurred - np.median(blurred)) / np.ptp(blurred) * levels).astype(np.float32)
    expected = [
        (y, x)
        for y, x in np.ndindex(*size_hw)
        if 0 < values[y, x] >= values[max(0, y - half) : y + half + 1, max(0, x - half) : x + half + 1].max()
    ]
    np.testing.assert_array_equal(local_maxima(values, kernel, keep_border=True), np.reshape(expected, (-1, 2)))
    inside = [(y, x) for y, x in expected if 0 < y < size_hw[0] - 1 and 0 < x < size_hw[1] - 1]
    np.testing.assert_array_equal(local_maxima(values, kernel), np.reshape(inside, (-1, 2)))


@pytest.mark.parametrize("band_bytes", (1, 3 * 8 * 48, 10 * 8 * 48))
def test_motion_edges_do_not_depend_on_how_many_rows_are_filtered_at_a_time(monkeypatch, band_bytes):
    flow = np.random.default_rng(0).normal(size=(31, 45, 2)).astype(np.float32)
    at_once = motion_edges(flow)
    monkeypatch.setattr(watershed, "BAND_BYTES", band_bytes)
    np.testing.assert_array_equal(motion_edges(flow), at_once)


@pytest.mark.parametrize("kernel", [0, -3, 4, 2.5])
def test_local_maxima_refuse_a_kernel_that_has_no_center(kernel):
    with pytest.raises(ValueError, match="kernel must be odd"):
        local_maxima(np.ones((5, 6)), kernel)


@pytest.mark.parametrize("kernel", [41, 81])
@pytest.mark.parametrize("number", GOLDEN_FLOWS)
def test_candidates_equal_zhan_et_als_before_and_after_the_border_is_dropped(golden, number, kernel):
    distances = watershed_map(motion_edges(golden_flow(golden, number)))
    np.testing.assert_array_equal(local_maxima(distances, kernel, keep_border=True), golden[f"{number}_nms{kernel}"])
    np.testing.assert_array_equal(local_maxima(distances, kernel), golden[f"{number}_cand{kernel}"])


# Thinning


@pytest.mark.parametrize("number", [0, 1, 2, 40, 200])
@pytest.mark.parametrize("d", [0, 1, 7.5, 20])
def test_zhan_et_als_rule_drops_what_the_slow_loop_drops_coin_for_coin(number, d):
    for seed in range(5):
        points_yx = random_points(np.random.default_rng(seed), number)
        expected = slow_thinning(points_yx, d, np.random.default_rng(seed + 100))
        np.testing.assert_array_equal(thin_points(points_yx, d, rng=np.random.default_rng(seed + 100)), expected)


@pytest.mark.parametrize("recipe, kernel", [("A", 41), ("B", 81)])
@pytest.mark.parametrize("number", GOLDEN_FLOWS)
def test_thinning_equals_zhan_et_als_from_the_same_random_numbers(golden, number, recipe, kernel):
    candidates = golden[f"{number}_cand{kernel}"]
    for seed in range(3):
        rng = np.random.RandomState(seed)  # Zhan et al.'s code draws from numpy's old generator
        expected = golden[f"{number}_elim{recipe}_seed{seed}"]
        np.testing.assert_array_equal(thin_points(candidates, (kernel - 1) / 2, rng=rng), expected)


@pytest.mark.parametrize("recipe, kernel", [("A", 41), ("B", 81)])
@pytest.mark.parametrize("number", GOLDEN_FLOWS)
def test_as_many_points_survive_as_in_zhan_et_als_code_and_each_as_often(golden, number, recipe, kernel):
    candidates, count = golden[f"{number}_cand{kernel}"], len(golden[f"{number}_elim{recipe}_seed0"])
    stayed = np.zeros(len(candidates))
    for seed in range(200):
        kept = thin_points(candidates, (kernel - 1) / 2, rng=np.random.default_rng(seed))
        assert len(kept) == count
        stayed += (candidates[:, None] == kept[None]).all(axis=-1).any(axis=1)
    np.testing.assert_allclose(stayed / 200, golden[f"{number}_survival{recipe}"], atol=0.25)


def test_a_ridge_of_tied_candidates_collapses_to_one_of_its_last_points():
    rows, columns = np.mgrid[100:102, 150:222]
    ridge = np.stack([rows.ravel(), columns.ravel()], axis=1)
    for seed in range(50):
        kept = thin_points(ridge, 20, rng=np.random.default_rng(seed))
        assert len(kept) == 1 and kept[0, 1] >= 205
        assert 2 <= len(thin_points(ridge, 20, rng=np.random.default_rng(seed), rule="maximal")) <= 4


@pytest.mark.parametrize("rule", ["authors", "maximal"])
def test_no_two_survivors_are_closer_than_d_on_both_axes(rule):
    for seed in range(10):
        points_yx = random_points(np.random.default_rng(seed), 300)
        kept = thin_points(points_yx, 12, rng=np.random.default_rng(seed), rule=rule)
        assert kept.dtype == np.int64
        assert not np.triu(neighbours(kept, kept, 12), 1).any()
        assert neighbours(points_yx, kept, 1).any(axis=0).all(), "a survivor is not one of the points"


def test_the_maximal_rule_leaves_no_dropped_point_without_a_neighbor_that_stayed():
    for seed in range(10):
        points_yx = random_points(np.random.default_rng(seed), 300)
        kept = thin_points(points_yx, 12, rng=np.random.default_rng(seed), rule="maximal")
        assert neighbours(points_yx, kept, 12).any(axis=1).all()


def test_the_maximal_rule_keeps_either_of_two_neighbors_equally_often():
    pair = np.array([[10, 10], [12, 30]])
    lower = sum(
        thin_points(pair, 25, rng=np.random.default_rng(seed), rule="maximal")[0, 0] == 12 for seed in range(400)
    )
    assert 140 < lower < 260


def test_points_exactly_d_apart_on_one_axis_both_stay():
    apart = np.array([[10, 10], [10, 15], [15, 12]])
    for rule in ("authors", "maximal"):
        np.testing.assert_array_equal(thin_points(apart, 5, rng=np.random.default_rng(0), rule=rule), apart)


def test_the_order_in_which_points_are_given_does_not_matter_and_the_input_is_not_changed():
    points_yx = random_points(np.random.default_rng(4), 100)
    mixed = np.random.default_rng(5).permutation(points_yx)
    before = mixed.copy()
    np.testing.assert_array_equal(
        thin_points(mixed, 15, rng=np.random.default_rng(6)), thin_points(points_yx, 15, rng=np.random.default_rng(6))
    )
    np.testing.assert_array_equal(mixed, before)


def test_thinning_names_what_is_wrong():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="rule.*greedy"):
        thin_points(np.array([[1, 2]]), 3, rng=rng, rule="greedy")
    with pytest.raises(ValueError, match="min_distance_px.*-1"):
        thin_points(np.array([[1, 2]]), -1, rng=rng)
    with pytest.raises(ValueError, match="integers"):
        thin_points(np.array([[1.0, 2.0]]), 3, rng=rng)


@pytest.mark.parametrize("kernel", [3, 7, 15])
def test_local_maxima_without_ties_are_scikit_images_peaks(kernel):
    values = np.random.default_rng(kernel).permutation(61 * 83).reshape(61, 83).astype(np.float32)
    peaks = peak_local_max(values, min_distance=kernel // 2, threshold_abs=0, exclude_border=1)
    expected = peaks[np.lexsort(peaks.T[::-1])]
    assert len(expected) > 10 and np.array_equal(local_maxima(values, kernel), expected)


def test_the_maxima_of_moving_rectangles_lie_one_in_each_of_scikit_images_watershed_regions():
    flow = np.zeros((60, 100, 2), np.float32)
    flow[10:30, 12:40], flow[34:54, 60:90] = (9, 0), (0, -8)
    distances = watershed_map(motion_edges(flow))
    inside = np.zeros((60, 100), bool)
    inside[12:28, 14:38] = inside[36:52, 62:88] = True  # without the edges, which are two pixels wide
    maxima = [point for point in local_maxima(distances, 21) if inside[tuple(point)]]
    markers = np.zeros((60, 100), np.int32)
    markers[20, 26], markers[44, 75] = 1, 2
    regions = watershed_regions(-distances, markers, mask=inside)
    assert {int(regions[tuple(point)]) for point in maxima} == {1, 2}
    for label in (1, 2):
        of_region = distances * (regions == label)
        ridge = {tuple(point) for point in np.argwhere(of_region == of_region.max())}
        assert {tuple(point) for point in maxima if regions[tuple(point)] == label} == ridge
