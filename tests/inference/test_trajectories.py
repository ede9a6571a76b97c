import numpy as np
import pytest
import torch

from cmp.flow import resize_flow
from cmp.inference import (
    interpolate_tracks,
    resize_flow_batch,
    resize_guidance,
    resize_tracks,
    tracks_to_guidance,
)


def test_known_positions_are_met_and_nothing_overshoots():
    track = np.array([[0.0, 5], [10, 5], [10, 2], [12, 9]])
    frames = interpolate_tracks([track], 31)[0]
    assert np.allclose(frames[::10], track, atol=1e-5)
    for i in range(3):  # monotone between neighbours
        part = frames[10 * i : 10 * i + 11]
        assert (part >= track[i : i + 2].min(0) - 1e-5).all() and (part <= track[i : i + 2].max(0) + 1e-5).all()
    assert (np.diff(frames[:11, 0]) >= 0).all() and np.allclose(frames[10:21, 0], 10)


def test_two_positions_give_a_straight_even_line_and_one_stays():
    frames = interpolate_tracks([[[0, 0], [8, -4]], [[3, 4]]], 5)
    assert frames.shape == (2, 5, 2) and frames.dtype == np.float32
    assert np.allclose(frames[0], np.linspace(0, 1, 5)[:, None] * [8, -4], atol=1e-6)
    assert (frames[1] == [3, 4]).all()
    assert interpolate_tracks(np.zeros((0, 3, 2)), 4).shape == (0, 4, 2)
    assert (interpolate_tracks([[[1, 2], [3, 4]]], 1) == [[[1, 2]]]).all()


def test_guidance_is_the_way_from_frame_0_where_the_track_starts():
    tracks = np.array([[[2.3, 1.4], [3.3, 1.4], [5.3, 0.4]], [[0, 0], [0, 0], [-9, 9]]])
    visible = np.array([[True, True, True], [True, True, False]])
    sparse, mask = tracks_to_guidance(tracks, (4, 6), visible=visible)
    assert sparse.shape == (2, 2, 4, 6) and mask.shape == (2, 1, 4, 6) and sparse.dtype == mask.dtype == np.float32
    assert np.allclose(sparse[:, :, 1, 2], [[1, 0], [3, -1]])
    assert mask[:, 0, 1, 2].tolist() == [1, 1] and mask[:, 0, 0, 0].tolist() == [1, 0] and mask.sum() == 3
    assert np.count_nonzero(sparse) == 3
    hidden, none = tracks_to_guidance(tracks, (4, 6), visible=np.array([[False, True, True]] * 2))
    assert not hidden.any() and not none.any()
    assert tracks_to_guidance(np.zeros((0, 3, 2)), (4, 6))[1].shape == (2, 1, 4, 6)


@pytest.mark.parametrize("to_hw", ((8, 18), (2, 3), (7, 5), (4, 6)))
def test_resizing_tracks_or_their_guidance_is_the_same(to_hw):
    tracks = np.array([[[2.0, 1], [3, 1]], [[5, 3], [4, 5]]])
    sparse, mask = resize_guidance(*tracks_to_guidance(tracks, (4, 6)), to_hw)
    expected = tracks_to_guidance(resize_tracks(tracks, (4, 6), to_hw), to_hw)
    assert np.allclose(sparse, expected[0], atol=1e-6) and (mask == expected[1]).all() and mask.sum() == 2


def test_each_component_scales_by_its_own_ratio_and_guides_that_meet_are_averaged():
    sparse, mask = np.zeros((1, 2, 4, 6), np.float32), np.zeros((1, 1, 4, 6), np.float32)
    sparse[0, :, 0, 0], sparse[0, :, 1, 1], mask[0, 0, [0, 1], [0, 1]] = (4, 8), (8, 0), 1
    smaller, where = resize_guidance(sparse, mask, (2, 3))
    assert smaller[0, :, 0, 0].tolist() == [3, 2] and where.sum() == 1  # means (6, 4), halved
    wider, _ = resize_guidance(sparse, mask, (4, 18))
    assert wider[0, :, 0, 1].tolist() == [12, 8]


@pytest.mark.parametrize("size_hw", ((8, 18), (3, 5)))
def test_dense_flow_resizes_as_one_field_does(size_hw):
    flow = np.random.default_rng(0).normal(size=(2, 4, 6, 2)).astype(np.float32)
    resized = resize_flow_batch(torch.from_numpy(flow).permute(0, 3, 1, 2), size_hw)
    for i in range(2):
        assert np.allclose(resized[i].permute(1, 2, 0).numpy(), resize_flow(flow[i], size_hw), atol=1e-4)


@pytest.mark.parametrize(
    "call, message",
    (
        (lambda: interpolate_tracks([[[0, 0]]], 0), "num_frames must be a whole number of at least 1, got 0"),
        (lambda: interpolate_tracks([[[0, 0]]], 2.5), "num_frames must be a whole number of at least 1, got 2.5"),
        (lambda: interpolate_tracks(None, 3), "tracks must be an array or a sequence of arrays .* got NoneType"),
        (lambda: interpolate_tracks([[{"x": 1}]], 3), r"tracks\[0\] must be an array of numbers"),
        (lambda: interpolate_tracks([[[1, 2], [3]]], 3), r"tracks\[0\] must be an array of numbers"),
        (lambda: interpolate_tracks([[[0, 1e300]]], 3), r"tracks\[0\] must be finite in float32"),
        (lambda: tracks_to_guidance([[[0, 0], [1e300, 0]]], (4, 6)), "tracks must be finite in float32"),
        (lambda: tracks_to_guidance([[[1e30, 0], [0, 0]]], (4, 6)), "got track 0 at x=1e.30, y=0"),
        (lambda: tracks_to_guidance(np.zeros((1, 2, 2)), (4.5, 6)), "sizes must be whole numbers .* got .4.5, 6."),
        (lambda: resize_tracks(np.zeros(2), (4, 6), None), "sizes must be whole numbers .* got None"),
        (lambda: resize_guidance(np.zeros((1, 2, 4, 6)), np.zeros((1, 1, 4, 6)), (2,)), "sizes must be whole numbers"),
        (
            lambda: resize_guidance(np.full((1, 2, 4, 6), np.nan), np.ones((1, 1, 4, 6)), (2, 3)),
            "sparse must be finite",
        ),
        (lambda: resize_flow_batch(np.zeros((1, 2, 4, 6)), (3, 3)), "flow must be a floating tensor .* got ndarray"),
        (lambda: interpolate_tracks([np.zeros((0, 2))], 3), r"tracks\[0\] must be \(K, 2\) with K at least 1"),
        (lambda: interpolate_tracks([[[0, np.nan]]], 3), r"tracks\[0\] must be finite"),
        (lambda: tracks_to_guidance(np.zeros((2, 1, 2)), (4, 6)), "T at least 2, got"),
        (lambda: tracks_to_guidance(np.full((1, 2, 2), 6.0), (4, 6)), "got track 0 at x=6, y=6"),
        (lambda: tracks_to_guidance(np.full((1, 2, 2), np.nan), (4, 6)), "tracks must be finite"),
        (lambda: tracks_to_guidance(np.zeros((1, 2, 2)), (4, 6), visible=np.ones((1, 3), bool)), "visible must be"),
        (lambda: resize_tracks(np.zeros(3), (4, 6), (4, 6)), r"tracks must be \(..., 2\)"),
        (lambda: resize_guidance(np.zeros((1, 2, 4, 6)), np.zeros((1, 2, 4, 6)), (2, 3)), "sparse must be"),
        (lambda: resize_flow_batch(torch.zeros(1, 2, 4, 6), (0, 3)), "sizes must be at least 1 px"),
        (lambda: resize_flow_batch(torch.zeros(1, 3, 4, 6), (2, 3)), "flow must be a floating tensor"),
    ),
)
def test_bad_tracks_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
