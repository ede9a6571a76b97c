import numpy as np
import pytest

from cmp.guidance import guidance_tensors, sample_guidance, sample_video_guidance

STRATEGY = dict(strategies=("uniform",), num_uniform=20)


def flows(count=3):
    return np.random.default_rng(0).normal(size=(count, 12, 17, 2)).astype(np.float32)


def test_points_of_the_first_frame_serve_all_and_give_each_its_own_flow():
    sparse, mask = sample_video_guidance(flows(), rng=np.random.default_rng(3), **STRATEGY)
    points = sample_guidance(flows()[0], rng=np.random.default_rng(3), **STRATEGY)
    for i, flow in enumerate(flows()):
        expected = guidance_tensors(flow, points)
        assert (sparse[i] == expected[0]).all() and (mask[i] == expected[1]).all()


def test_points_of_each_frame_are_chosen_anew():
    _, mask = sample_video_guidance(flows(), rng=np.random.default_rng(3), points="each", **STRATEGY)
    assert mask.shape == (3, 1, 12, 17) and (mask[0] != mask[1]).any()
    assert (mask[0] == sample_video_guidance(flows(), rng=np.random.default_rng(3), **STRATEGY)[1][0]).all()


@pytest.mark.parametrize(
    "arguments, message",
    (
        (dict(flows=[]), "at least one field"),
        (dict(flows=[np.zeros((4, 5, 2)), np.zeros((4, 6, 2))]), "of one size"),
        (dict(flows=flows(), points="second"), "points must be 'first' or 'each', got 'second'"),
    ),
)
def test_bad_videos_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        sample_video_guidance(rng=np.random.default_rng(0), **arguments, **STRATEGY)
