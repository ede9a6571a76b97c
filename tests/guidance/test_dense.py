"""The sparse field and its mask."""

import numpy as np
import pytest

from cmp.guidance import guidance_tensors, sample_guidance


def random_flow(height=11, width=17):
    return np.random.default_rng(0).normal(0, 10, (height, width, 2)).astype(np.float32)


def test_the_sparse_field_is_the_flow_at_the_points_and_zero_elsewhere():
    flow = random_flow()
    flow[4, 9] = 0  # a point that does not move shows in the mask alone
    points_yx = np.array([[0, 16], [10, 0], [4, 9], [7, 3], [7, 3]])
    sparse, mask = guidance_tensors(flow, points_yx)
    assert sparse.shape == (2, 11, 17) and mask.shape == (1, 11, 17)
    assert sparse.dtype == mask.dtype == np.float32
    expected, expected_mask = np.zeros((2, 11, 17)), np.zeros((1, 11, 17))
    for y, x in points_yx:
        expected[0, y, x], expected[1, y, x] = flow[y, x]
        expected_mask[0, y, x] = 1
    np.testing.assert_array_equal(sparse, expected)
    np.testing.assert_array_equal(mask, expected_mask)


@pytest.mark.parametrize("empty", [np.zeros((0, 2), np.int64), []])
def test_no_point_gives_zeros(empty):
    sparse, mask = guidance_tensors(random_flow(), empty)
    assert not sparse.any() and not mask.any() and mask.shape == (1, 11, 17)


def test_all_points_give_back_the_flow():
    flow = random_flow()
    points_yx = sample_guidance(flow, rng=np.random.default_rng(1), strategies=("full",))
    sparse, mask = guidance_tensors(flow, points_yx)
    np.testing.assert_array_equal(sparse, flow.transpose(2, 0, 1))
    assert mask.all()


def test_the_flow_is_neither_changed_nor_shared():
    flow = random_flow()
    before = flow.copy()
    sparse, _ = guidance_tensors(flow, np.array([[1, 2]]))
    sparse += 1
    np.testing.assert_array_equal(flow, before)


@pytest.mark.parametrize("point", [(-1, 0), (0, -1), (11, 0), (0, 17)])
def test_a_point_outside_the_image_is_refused(point):
    with pytest.raises(ValueError, match=f"outside.*y={point[0]}, x={point[1]}"):
        guidance_tensors(random_flow(), np.array([(2, 3), point]))


def test_points_between_pixels_and_channels_first_and_nan_at_a_point_are_refused():
    with pytest.raises(ValueError, match="integers"):
        guidance_tensors(random_flow(), np.array([[1.5, 2.0]]))
    with pytest.raises(ValueError, match=r"\(N, 2\)"):
        guidance_tensors(random_flow(), np.array([1, 2]))
    with pytest.raises(ValueError, match=r"\(H, W, 2\)"):
        guidance_tensors(np.zeros((2, 11, 17), np.float32), np.array([[1, 2]]))
    flow = random_flow()
    flow[1, 2, 1] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        guidance_tensors(flow, np.array([[1, 2]]))
