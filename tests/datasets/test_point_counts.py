import numpy as np
import pytest

from cmp.datasets.point_counts import Crop, count_points, crops_of_source, describe_points, fit_sampling
from cmp.guidance import sample_guidance

H, W = 96, 128


def moving_squares(side_px, gap_px):
    """Squares that move to the right on a still background, in rows; not one of them touches the border."""
    flow = np.zeros((H, W, 2), np.float32)
    for y in range(gap_px, H - side_px, side_px + gap_px):
        for x in range(gap_px, W - side_px, side_px + gap_px):
            flow[y : y + side_px, x : x + side_px, 0] = 5
    return Crop(flow, np.ones((H, W), bool))


def test_the_counts_are_those_of_the_sampler():
    crop = moving_squares(15, 9)
    counts = count_points([crop, crop], nms_kernel=9, grid_stride_px=40)
    # 96 and 128 px with a point every 40 px: 3 rows (8, 48, 88) and 4 columns (4, 44, 84, 124).
    assert counts.grid.tolist() == [12, 12]
    for number, found in enumerate(counts.watershed.tolist()):
        rng = np.random.default_rng((0, number))
        assert found == len(sample_guidance(crop.flow, rng=rng, strategies=("watershed",), nms_kernel=9)) > 0
    assert counts.mean == pytest.approx(12 + counts.watershed.mean())


def test_points_where_the_flow_is_not_known_are_not_counted():
    crop = moving_squares(15, 9)
    left = crop.valid.copy()
    left[:, 64:] = False
    counts = count_points([crop, Crop(crop.flow, left)], nms_kernel=9, grid_stride_px=40)
    assert counts.grid.tolist() == [12, 6] and counts.watershed[1] < counts.watershed[0]


def test_still_crops_have_only_the_grid():
    still = Crop(np.zeros((H, W, 2), np.float32), np.ones((H, W), bool))
    counts = count_points([still], nms_kernel=9, grid_stride_px=40)
    assert counts.watershed.tolist() == [0]
    assert describe_points(counts) == (
        "12.0 points per crop (12.0 of the grid, 0.0 in moving regions; 1 of 1 crops have only the grid's)"
    )
    assert describe_points(count_points([], nms_kernel=9, grid_stride_px=40)) == "no crops"


@pytest.mark.parametrize("wanted", (8.0, 20.0, 60.0))
def test_the_fitted_k_and_g_give_the_wanted_number(wanted):
    crops = [moving_squares(side, gap) for side, gap in ((9, 5), (15, 9), (21, 6), (11, 4))]
    found = fit_sampling(crops, wanted, nms_kernel=15, grid_stride_px=48)
    measured = count_points(crops, nms_kernel=found.nms_kernel, grid_stride_px=found.grid_stride_px).mean
    assert measured == found.mean_points and found.nms_kernel % 2 == 1
    assert abs(measured - wanted) <= 0.15 * wanted
    assert found.grid_stride_px == pytest.approx(48 * (found.nms_kernel - 1) / 14, abs=4)


def test_with_the_grid_kept_still_clips_do_not_reach_the_wanted_number():
    still = Crop(np.zeros((H, W, 2), np.float32), np.ones((H, W), bool))
    found = fit_sampling([still], 30, nms_kernel=15, grid_stride_px=40, keep_grid=True)
    assert (found.grid_stride_px, found.mean_points) == (40, 12)
    with pytest.raises(ValueError, match="wanted must be above 0, got 0"):
        fit_sampling([still], 0, nms_kernel=15, grid_stride_px=40)
    with pytest.raises(ValueError, match="at least one crop"):
        fit_sampling([], 5, nms_kernel=15, grid_stride_px=40)


class Source:
    """Pairs whose flow is their number."""

    def __init__(self, count):
        self.pair_videos = [f"v{i}" for i in range(count)]

    def __len__(self):
        return len(self.pair_videos)

    def read_pair(self, index):
        flow = np.full((40, 60, 2), index, np.float32)
        valid = np.ones((40, 60), bool)
        valid[:, :30] = index != 5
        return np.zeros((40, 60, 3), np.uint8), flow, valid


def test_crops_are_of_pairs_spread_over_the_source():
    crops = crops_of_source(Source(9), short_side_px=40, size_px=32, num_crops=3)
    assert [float(crop.flow.max()) for crop in crops] == [1, 4, 7] and crops[0].flow.shape == (32, 32, 2)
    again = crops_of_source(Source(9), short_side_px=40, size_px=32, num_crops=99)
    assert len(again) == 9 and not again[5].valid.all() and again[4].valid.all()
    with pytest.raises(ValueError, match="contains no pairs"):
        crops_of_source(Source(0), short_side_px=40, size_px=32)
