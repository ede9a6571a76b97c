import numpy as np
import pytest
import torch

from cmp.flow import FlowQuantizer
from cmp.inference import MotionPropagator
from cmp.inference.annotate import draw_mask, segment_from_clicks
from cmp.models import CMP, DiscreteLoss, MotionEncoder, PropagationDecoder, ResNet

IMAGE = np.random.default_rng(0).integers(0, 256, (30, 44, 3), np.uint8)


class NearestGuide:
    """A propagator whose answer is known: every pixel moves as the nearest guide does, times a fall-off."""

    max_pixels = 10_000

    def __init__(self, falloff=None):
        self.falloff, self.calls = falloff, []

    def predict(self, image, points_xy, vectors_xy):
        self.calls.append((image, points_xy, vectors_xy))
        height, width = image.shape[:2]
        y, x = np.mgrid[:height, :width]
        flows = []
        for points, vectors in zip(points_xy, vectors_xy, strict=True):
            nearest = np.hypot(x[..., None] - points[:, 0], y[..., None] - points[:, 1]).argmin(axis=2)
            flows.append(vectors[nearest].transpose(2, 0, 1))
        flow = np.stack(flows)
        return torch.from_numpy(flow if self.falloff is None else flow * self.falloff)


def test_the_mask_is_what_follows_the_clicks_and_not_what_stays_at_the_negative_ones():
    score, mask = segment_from_clicks(NearestGuide(), IMAGE, [[10, 5]], [[30, 5], [10, 25]])
    y, x = np.mgrid[:30, :44]
    distances = [np.hypot(x - px, y - py) for px, py in ((10, 5), (30, 5), (10, 25))]
    expected = (distances[0] <= distances[1]) & (distances[0] <= distances[2])
    assert np.array_equal(mask, expected) and np.array_equal(score, expected.astype(np.float32))
    assert score.dtype == np.float32 and mask.dtype == bool and 0 < mask.sum() < mask.size


def test_the_score_is_the_mean_of_four_lengths_each_over_its_largest():
    falloff = np.ones((4, 1, 30, 44))
    falloff[0, :, 3, 4], falloff[1, :, 3, 4], falloff[2, :, 3, 4], falloff[3] = 0.5, 0.25, 0, 7
    propagator = NearestGuide(falloff)
    score, mask = segment_from_clicks(propagator, IMAGE, [[1, 2]], length_px=6)
    assert np.isclose(score[3, 4], (0.5 + 0.25 + 0 + 1) / 4) and not mask[3, 4]
    assert (np.delete(score.ravel(), 3 * 44 + 4) == 1).all()
    assert segment_from_clicks(propagator, IMAGE, [[1, 2]], threshold=0.4)[1][3, 4]
    vectors = propagator.calls[0][2]
    assert vectors[:, 0].tolist() == [[6, 0], [-6, 0], [0, 6], [0, -6]]


def test_no_motion_at_all_is_no_mask():
    score, mask = segment_from_clicks(NearestGuide(np.zeros((4, 1, 1, 1))), IMAGE, [[1, 2]])
    assert not score.any() and not mask.any()


def test_a_working_size_moves_the_clicks_along_and_the_score_comes_back_at_the_images():
    propagator = NearestGuide()
    score, mask = segment_from_clicks(propagator, IMAGE, [[10.5, 14.5]], [[32.5, 14.5]], short_side_px=15)
    image, points, vectors = propagator.calls[0]
    assert image.shape == (15, 22, 3) and points[0].tolist() == [[5, 7], [16, 7]]
    assert vectors[0].tolist() == [[10, 0], [0, 0]]
    assert score.shape == mask.shape == (30, 44) and mask[:, :21].all() and not mask[:, 23:].any()
    segment_from_clicks(propagator, IMAGE, [[43.499999999, 29]], short_side_px=7)  # stays inside
    assert propagator.calls[1][1][0].tolist() == [[9, 6]]


def test_a_network_takes_the_four_motions_with_one_encoding_and_leaves_its_inputs_alone():
    torch.manual_seed(0)
    parts = (dict(type=MotionEncoder), dict(type=PropagationDecoder), dict(type=FlowQuantizer), dict(type=DiscreteLoss))
    propagator = MotionPropagator(CMP(dict(type=ResNet, depth=18), *parts, init="default"))
    encoded = []
    propagator.network.image_encoder.register_forward_pre_hook(lambda module, args: encoded.append(len(args[0])))
    image, clicks, negative = IMAGE.copy(), np.array([[3, 4]]), np.array([[20, 9]])
    score, mask = segment_from_clicks(propagator, image, clicks, negative)
    assert encoded == [1] and score.shape == (30, 44) and 0 <= score.min() and score.max() <= 1
    assert np.array_equal(mask, score > 0.5)
    assert np.array_equal(image, IMAGE) and clicks.tolist() == [[3, 4]] and negative.tolist() == [[20, 9]]

    once = propagator.encode(image)
    encoded.clear()
    again, _ = segment_from_clicks(propagator, image, clicks, negative, encoded=once)
    assert np.array_equal(again, score) and encoded == []
    for wrong in (dict(image=IMAGE[:20]), dict(short_side_px=30)):
        with pytest.raises(ValueError, match="encoded must be of this one image"):
            segment_from_clicks(propagator, **(dict(image=image, clicks_xy=clicks, encoded=once) | wrong))


@pytest.mark.parametrize(
    "change, message",
    (
        (dict(image=IMAGE.astype(float)), "image must be .* uint8"),
        (dict(image=IMAGE[..., 0]), "image must be"),
        (dict(image=IMAGE[:0]), "image must be .* not empty"),
        (dict(clicks_xy=[]), "clicks_xy must have at least one"),
        (dict(clicks_xy=[1, 2]), r"clicks_xy must be \(N, 2\), got \(2,\)"),
        (dict(clicks_xy=[["a", 2]]), "clicks_xy must be numbers"),
        (dict(clicks_xy=[[np.nan, 2]]), "clicks_xy must be finite"),
        (dict(clicks_xy=[[44, 2]]), "clicks_xy must lie in the image of 44 x 30 px .*, got x=44, y=2"),
        (dict(negative_xy=[[2, 30]]), "negative_xy must lie in the image of 44 x 30"),
        (dict(negative_xy=[[1, 2]]), "different pixels, got x=1, y=2 in both"),
        (dict(threshold=1.5), "threshold must be in 0..1, got 1.5"),
        (dict(length_px=0), "length_px must be above 0"),
        (dict(short_side_px=0), "short_side_px must be at least 1, got 0"),
        (dict(short_side_px=np.nan), "short_side_px must be at least 1, got nan"),
        (dict(short_side_px=1000), "short_side_px must keep the image below 10000 pixels, got 1000"),
    ),
)
def test_bad_input_is_refused_by_name(change, message):
    arguments = dict(image=IMAGE, clicks_xy=[[1, 2]], negative_xy=np.empty((0, 2))) | change
    with pytest.raises(ValueError, match=message):
        segment_from_clicks(NearestGuide(), **arguments)


def test_a_mask_is_drawn_on_a_copy():
    mask = np.zeros((30, 44), bool)
    mask[5:20, 8:30] = True
    image = IMAGE.copy()
    picture = draw_mask(image, mask, [[15, 10]], [[40, 25]], color=(255, 0, 0))
    assert np.array_equal(image, IMAGE) and picture.dtype == np.uint8
    assert np.array_equal(picture[25:, :30], IMAGE[25:, :30]) and tuple(picture[5, 8]) == (255, 0, 0)
    assert picture[12, 25].tolist() == np.round(0.55 * IMAGE[12, 25] + 0.45 * np.array([255, 0, 0])).tolist()
    assert picture[10, 15, 1] > picture[10, 15, 0] and picture[25, 40, 0] > picture[25, 40, 1]
    with pytest.raises(ValueError, match=r"mask must be \(30, 44\) bool"):
        draw_mask(image, mask.astype(int))
