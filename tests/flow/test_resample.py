import numpy as np
import pytest

from cmp.flow import decode_flow, encode_flow, open_flow, resize_flow
from cmp.flow.resample import resize_matrix, resized_window

# Enlarged and shrunk, hardly and much, upright, odd, kept along one axis; the last as in training.
SIZES = (
    ((37, 52), (50, 71)),
    ((52, 37), (21, 15)),
    ((41, 60), (41, 44)),
    ((3, 2), (8, 5)),
    ((1, 9), (4, 4)),
    ((480, 854), (416, 740)),
)


def noise(height, width, seed=0):
    return np.random.default_rng(seed).normal(0, 9, (height, width, 2)).astype(np.float32)


def windows(size_hw, count=6):
    """Windows of a field: all of it, its first and last pixel, and random ones."""
    height, width = size_hw
    yield slice(0, height), slice(0, width)
    yield slice(0, 1), slice(0, 1)
    yield slice(height - 1, height), slice(width - 1, width)
    rng = np.random.default_rng(1)
    for _ in range(count):
        starts = [int(rng.integers(0, side)) for side in size_hw]
        yield tuple(slice(a, int(rng.integers(a + 1, side + 1))) for a, side in zip(starts, size_hw))


@pytest.mark.parametrize("old_hw, new_hw", SIZES)
def test_a_window_is_the_resized_field_cut_to_a_millionth_of_its_largest_value(old_hw, new_hw):
    flow = noise(*old_hw)
    before, whole = flow.copy(), resize_flow(flow, new_hw)
    factors = new_hw[1] / old_hw[1], new_hw[0] / old_hw[0]
    for window in windows(new_hw):
        cut = resized_window(flow, new_hw, window, factors)
        assert cut.dtype == np.float32 and cut.shape == whole[window].shape
        np.testing.assert_allclose(cut, whole[window], rtol=0, atol=1e-6 * np.abs(flow).max())
    np.testing.assert_array_equal(flow, before)


@pytest.mark.parametrize("old_hw, new_hw", SIZES)
def test_a_window_of_flow_that_is_not_decoded_is_that_of_the_decoded(old_hw, new_hw):
    coded = encode_flow(noise(*old_hw))
    flow, closed = decode_flow(*coded), open_flow(*coded)
    assert closed.shape == flow.shape
    for window in windows(new_hw):
        expected = resize_flow(flow, new_hw)[window]
        cut = closed.window(new_hw, *window)
        np.testing.assert_allclose(cut, expected, rtol=0, atol=1e-6 * np.abs(flow).max())


def test_weights_are_those_worked_out_by_hand():
    doubled = [[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]]
    np.testing.assert_array_equal(resize_matrix(2, 4).toarray(), doubled)
    # Shrunk to half again a pixel is the mean of two.
    np.testing.assert_array_equal(resize_matrix(2, 4, 2).toarray(), [[0.875, 0.125], [0.125, 0.875]])
    np.testing.assert_array_equal(resize_matrix(3, 3).toarray(), np.eye(3))


def test_a_field_of_one_pixel_or_one_channel_is_not_written_to():
    for shape in ((1, 1, 1), (1, 5, 1), (4, 1, 2)):
        field = np.ones(shape, np.float32)
        field.setflags(write=False)
        cut = resized_window(field, (6, 6), (slice(0, 6), slice(1, 6)), (2.0,) * shape[2])
        np.testing.assert_array_equal(cut, np.full((6, 5, shape[2]), 2))
