"""Flow fields behind one protocol, and what is refused as a flow field."""

import numpy as np
import pytest
import torch

from cmp.flow import (
    CODECS,
    DenseFlow,
    FlowField,
    as_flow_field,
    check_flow,
    check_flow_batch,
    decode_flow,
    encode_flow,
    open_flow,
    resize_flow,
)

FLOW = np.random.default_rng(0).uniform(-20, 20, (9, 14, 2)).astype(np.float32)


@pytest.mark.parametrize("codec", [None, *CODECS])
@pytest.mark.parametrize("size_hw", [(9, 14), (6, 7), (20, 30)])
def test_every_flow_field_gives_windows_at_any_size_and_all_of_itself(codec, size_hw):
    coded = None if codec is None else encode_flow(FLOW, codec)
    field = DenseFlow(FLOW) if coded is None else open_flow(*coded)
    whole = FLOW if coded is None else decode_flow(*coded)
    assert isinstance(field, FlowField) and not isinstance(whole, FlowField) and field.shape == (9, 14, 2)
    np.testing.assert_array_equal(np.asarray(field), whole)
    rows, columns = slice(1, size_hw[0] - 1), slice(2, 6)
    window = field.window(size_hw, rows, columns)
    assert window.dtype == np.float32
    np.testing.assert_allclose(window, resize_flow(whole, size_hw)[rows, columns], rtol=0, atol=4e-5)


def test_a_window_scales_x_by_the_widths_and_y_by_the_heights():
    field = DenseFlow(np.full((4, 6, 2), (3.0, -5.0), np.float32))
    window = field.window((8, 18), slice(0, 2), slice(5, 8))
    np.testing.assert_allclose(window, np.full((2, 3, 2), (9.0, -10.0)), rtol=1e-6)


def test_an_array_is_wrapped_without_a_copy_and_a_field_stays_itself():
    field = as_flow_field(FLOW)
    assert np.asarray(field) is FLOW and as_flow_field(field) is field
    copy = np.array(field)
    copy[:] = 0
    assert FLOW.any() and np.asarray(field, np.float64).dtype == np.float64


def test_what_is_not_a_flow_field_is_refused():
    assert check_flow(FLOW) is FLOW and check_flow(np.zeros((0, 3, 2))).dtype == np.float32
    for flow in (FLOW[..., 0], FLOW[..., :1], FLOW.astype(int)):
        with pytest.raises(ValueError, match="flow must be"):
            check_flow(flow)
    with pytest.raises(ValueError, match=r"at least one pixel, got shape \(0, 3, 2\)"):
        check_flow(np.zeros((0, 3, 2)), may_be_empty=False)
    check_flow_batch(torch.zeros(3, 2, 0, 4, dtype=torch.float16))
    for shape, empty in (((2, 4, 5), True), ((1, 3, 4, 5), True), ((1, 2, 0, 5), False)):
        with pytest.raises(ValueError, match="flow must be"):
            check_flow_batch(torch.zeros(shape), may_be_empty=empty)
    with pytest.raises(ValueError, match="floating"):
        check_flow_batch(torch.zeros(1, 2, 4, 5, dtype=torch.int64))
