import numpy as np
import pytest
import torch
from skimage.filters import threshold_otsu

from cmp.flow import FlowQuantizer
from cmp.inference import MotionPropagator
from cmp.inference.discover import (
    cluster_maps,
    discover_segments,
    expected_displacement,
    grid_places,
    motion_affordance,
    otsu_threshold,
    places_by_affordance,
    segment_from_pokes,
)
from cmp.inference.pokes import PokeRule, border_points, make_pokes, respond
from cmp.inference.propagator import EncodedImage
from cmp.models import CMP, DiscreteLoss, MotionEncoder, PropagationDecoder, ResNet
from cmp.pixels import nearest_pixel

H, W = 40, 60
IMAGE = np.random.default_rng(0).integers(0, 256, (H, W, 3), np.uint8)


def box(x0, y0, x1, y1):
    mask = np.zeros((H, W), bool)
    mask[y0:y1, x0:x1] = True
    return mask


LEFT, RIGHT = box(6, 8, 22, 33), box(34, 12, 55, 24)


class RigidObjects:
    """A propagator whose answer is known: a point moves its whole object, unless another point there is nearer.

    Pixels that are in no object are the background, which stays if any point of it stays. Cells are pixels.
    """

    max_pixels = 100_000

    def __init__(self, *objects):
        self.objects, self.calls = objects, []

    def labels(self, size_hw):
        labels = np.zeros((H, W), int)
        for number, mask in enumerate(self.objects, 1):
            labels[mask] = number
        rows, columns = (np.arange(n) * full // n for n, full in zip(size_hw, (H, W)))
        return labels[np.ix_(rows, columns)]

    def encode(self, image):
        return EncodedImage(self.labels(image.shape[:2]), 1, image.shape[:2], "known")

    def predict_cells(self, encoded, points_xy, vectors_xy, *, moving_px=None):
        labels = encoded.features
        if len(np.shape(points_xy[0])) == 1:
            points_xy, vectors_xy = [points_xy], [vectors_xy]
        flows = []
        y, x = np.mgrid[: labels.shape[0], : labels.shape[1]]
        for points, vectors in zip(points_xy, vectors_xy, strict=True):
            at = points.astype(int)
            self.calls.append((at, vectors, moving_px))
            distances = np.hypot(x - at[:, 0, None, None], y - at[:, 1, None, None])
            distances[labels[at[:, 1], at[:, 0]][:, None, None] != labels] = np.inf
            moved = vectors[distances.argmin(axis=0)]
            moved[np.isinf(distances.min(axis=0))] = 0
            if ((labels[at[:, 1], at[:, 0]] == 0) & ~vectors.any(axis=1)).any():
                moved[labels == 0] = 0
            flows.append(moved.transpose(2, 0, 1))
        flow = torch.from_numpy(np.stack(flows)).float()
        return flow, None if moving_px is None else (flow.norm(dim=1, keepdim=True) > moving_px).float()

    def upsample_cells(self, cells, size_hw):
        assert tuple(cells.shape[2:]) == tuple(size_hw)
        return cells


def test_what_moves_along_with_the_click_is_the_object_and_nothing_else():
    for mask, click in ((LEFT, [14, 20]), (RIGHT, [44, 18])):
        found = segment_from_pokes(RigidObjects(LEFT, RIGHT), IMAGE, [click])
        assert np.array_equal(found.mask, mask) and np.array_equal(found.score, mask.astype(np.float32))
        assert found.quality == 1 and found.threshold == pytest.approx(threshold_otsu(found.score))
        assert found.points_xy.tolist() == [click]


def test_the_pokes_of_a_click_by_hand():
    propagator = RigidObjects(LEFT, RIGHT)
    rule = PokeRule(num_directions=4, lengths=(0.1, 0.2), num_places=1, moving=0.25, border_points=3, still_gap=0.2)
    segment_from_pokes(propagator, IMAGE, [[0, 11]], [[30, 5]], rule=rule)
    assert len(propagator.calls) == rule.num_pokes == 8
    # The corners and the middles of the sides. (0, 19.5) is 8.5 px from the click: not less than 0.2 * 40.
    border = [[0, 0], [30, 0], [59, 0], [0, 39], [30, 39], [59, 39], [0, 20], [59, 20]]
    moved = []
    for points, vectors, moving_px in propagator.calls:
        assert points.tolist() == [[0, 11], *border, [30, 5]] and not vectors[1:].any()
        assert moving_px == pytest.approx(0.25 * np.hypot(*vectors[0]))
        moved.append(np.round(vectors[0], 9).tolist())
    assert moved == [[4, 0], [0, 4], [-4, 0], [0, -4], [8, 0], [0, 8], [-8, 0], [0, -8]]
    segment_from_pokes(propagator, IMAGE, [[0, 12]], rule=rule)
    assert [0, 20] not in propagator.calls[-1][0].tolist()


def test_places_near_the_click_stay_within_reach_and_inside_the_image():
    rule = PokeRule(num_directions=1, num_places=6, near=0.1, border_points=0)
    pokes = make_pokes(np.array([[30.0, 20.0], [0.0, 39.0]]), np.empty((0, 2)), (H, W), rule)
    at = np.array(pokes.points_xy)
    assert at.shape == (6, 2, 2) and at[0].tolist() == [[30, 20], [0, 39]]
    assert np.hypot(*(at[:, 0] - [30, 20]).T).max() <= 4 + 0.5 and len(np.unique(at[:, 0], axis=0)) == 6
    assert (at >= 0).all() and (at < [60, 40]).all()


def test_a_still_point_under_the_poke_is_left_out():
    rule = PokeRule(num_directions=1, num_places=1, border_points=2, still_gap=0.0)
    points = make_pokes(np.array([[0.0, 0.0]]), np.array([[5.0, 5.0]]), (H, W), rule).points_xy[0]
    assert points.tolist() == [[0, 0], [59, 0], [0, 39], [59, 39], [5, 5]]


def test_the_border_has_each_corner_once():
    assert border_points((5, 9), 3).tolist() == [[0, 0], [4, 0], [8, 0], [0, 4], [4, 4], [8, 4], [0, 2], [8, 2]]
    assert border_points((5, 9), 0).shape == (0, 2)


def test_responses_come_in_the_order_of_the_pokes_whatever_their_lengths():
    propagator = RigidObjects(LEFT)
    rule = PokeRule(num_directions=2, lengths=(0.2, 0.1), num_places=1)
    pokes = make_pokes(np.array([[14.0, 20.0]]), np.empty((0, 2)), (H, W), rule)
    response = respond(propagator, propagator.encode(IMAGE), pokes, 0.5)
    assert response.flow[:, 0, 20, 14].tolist() == [8, -8, 4, -4]
    assert torch.allclose(response.along[:, 20, 14], torch.ones(4)) and response.moving[:, 20, 14].tolist() == [1] * 4


def test_a_negative_click_stays_and_is_never_in_the_mask():
    # Both clicks are on one object: each pixel goes with the nearer one.
    found = segment_from_pokes(RigidObjects(LEFT | RIGHT | box(20, 15, 36, 20)), IMAGE, [[14, 20]], [[44, 18]])
    assert found.mask[20, 14] and not found.mask[18, 44] and not found.mask[:, 40:].any()


class Fading(RigidObjects):
    """Motion falls with the distance from the poked point, so the score is not two values."""

    def predict_cells(self, encoded, points_xy, vectors_xy, *, moving_px=None):
        y, x = np.mgrid[:H, :W]
        flows = [
            v[0][:, None, None] * np.exp(-np.hypot(x - p[0, 0], y - p[0, 1]) / 15)
            for p, v in zip(points_xy, vectors_xy)
        ]
        flow = torch.from_numpy(np.stack(flows)).float()
        return flow, (flow.norm(dim=1, keepdim=True) > moving_px).float()


def test_the_threshold_is_otsus_and_a_negative_click_raises_it_to_its_own_score():
    rule = PokeRule(num_places=1)
    found = segment_from_pokes(Fading(), IMAGE, [[14, 20]], rule=rule)
    assert found.threshold == pytest.approx(threshold_otsu(found.score))
    assert np.array_equal(found.mask, found.score > found.threshold) and 0 < found.mask.sum() < H * W
    assert found.mask[20, 18]
    raised = segment_from_pokes(Fading(), IMAGE, [[14, 20]], [[18, 20]], rule=rule)
    assert raised.threshold == raised.score[20, 18] > found.threshold and not raised.mask[20, 18]
    assert raised.mask[20, 16] and not raised.mask[20, 10]  # as far away on the other side
    fixed = segment_from_pokes(Fading(), IMAGE, [[14, 20]], rule=rule, threshold=0.9)
    assert np.array_equal(fixed.mask, fixed.score > 0.9)


def test_the_score_is_the_mean_of_the_correlation_and_the_probability():
    found = segment_from_pokes(Fading(), IMAGE, [[14, 20]], rule=PokeRule(num_places=1, moving=0.5))
    for distance in (3, 9, 12):
        fall = np.exp(-distance / 15)
        assert found.score[20, 14 + distance] == pytest.approx((fall + (fall > 0.5)) / 2, abs=1e-4)


def test_only_the_part_with_the_click_is_taken():
    found = segment_from_pokes(RigidObjects(LEFT | RIGHT), IMAGE, [[14, 20]])
    assert np.array_equal(found.mask, LEFT) and np.array_equal(found.score > 0.5, LEFT | RIGHT)
    both = segment_from_pokes(RigidObjects(LEFT | RIGHT), IMAGE, [[14, 20], [44, 18]])
    assert np.array_equal(both.mask, LEFT | RIGHT)


def test_at_a_working_size_the_mask_comes_back_at_the_images():
    propagator = RigidObjects(LEFT, RIGHT)
    found = segment_from_pokes(propagator, IMAGE, [[14, 20]], short_side_px=20)
    assert propagator.calls[0][0][0].tolist() == [7, 10] and found.mask.shape == (H, W)
    assert not (box(7, 9, 21, 32) & ~found.mask).any() and not (found.mask & ~box(4, 6, 24, 35)).any()  # by 2 px


def test_colors_refine_a_mask():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 40, (H, W, 3), np.uint8)
    image[LEFT] = rng.integers(200, 256, (LEFT.sum(), 3), np.uint8)
    wide = RigidObjects(box(3, 4, 28, 36))
    assert np.array_equal(segment_from_pokes(wide, image, [[14, 20]]).mask, wide.objects[0])
    refined = segment_from_pokes(wide, image, [[14, 20]], refine="grabcut").mask
    assert (refined ^ LEFT).sum() < 0.05 * LEFT.sum()


def test_affordance_is_the_share_of_pokes_that_move_a_pixel():
    affordance = motion_affordance(RigidObjects(LEFT, RIGHT), IMAGE, num_places=24)
    places = nearest_pixel(grid_places((H, W), 24)).astype(int)
    assert len(places) == 24
    hits = [int(mask[places[:, 1], places[:, 0]].sum()) for mask in (LEFT, RIGHT)]
    assert min(hits) >= 1 and affordance.dtype == np.float32
    for mask, count in zip((LEFT, RIGHT), hits):
        assert np.allclose(affordance[mask], count / 24)
    still = motion_affordance(RigidObjects(LEFT, RIGHT), IMAGE, num_places=24, still_xy=[[44, 18]])
    assert still[18, 44] == 0 and np.allclose(still[LEFT], hits[0] / 24)


def test_expected_displacement_is_in_pixels_of_the_image():
    for short_side in (None, 20):
        flow = expected_displacement(RigidObjects(LEFT), IMAGE, [14, 20], [6, -3], short_side_px=short_side)
        assert flow.shape == (H, W, 2) and flow.dtype == np.float32
        assert np.allclose(flow[20, 14], [6, -3], atol=1e-5) and not flow[2, 50].any()


def test_objects_are_found_without_clicks():
    found, affordance = discover_segments(RigidObjects(LEFT, RIGHT), IMAGE, num_places=32)
    assert np.allclose(affordance, motion_affordance(RigidObjects(LEFT, RIGHT), IMAGE, num_places=16), atol=1e-6)
    assert len(found) == 2 and all(segment.quality == 1 for segment in found)
    assert sorted(int(s.mask.sum()) for s in found) == sorted((LEFT.sum(), RIGHT.sum()))
    for segment in found:
        assert np.array_equal(segment.mask, LEFT) or np.array_equal(segment.mask, RIGHT)
        x, y = nearest_pixel(segment.points_xy).astype(int).T
        assert segment.mask[y, x].all() and len(x) >= 2
    assert len(discover_segments(RigidObjects(LEFT, RIGHT), IMAGE, num_places=32, max_segments=1).segments) == 1
    assert discover_segments(RigidObjects(), IMAGE, num_places=8, rule=PokeRule(still_gap=0.0)).segments == []


def test_maps_that_correlate_are_one_cluster():
    ramp, steps = np.arange(12.0), np.tile([0.0, 1.0], 6)
    maps = np.stack((ramp, steps, 3 * ramp + 5, np.ones(12), steps * 0.1, -ramp))
    assert [part.tolist() for part in cluster_maps(maps, 0.9)] == [[0, 2], [1, 4], [3], [5]]
    assert [part.tolist() for part in cluster_maps(maps[:1], 0.9)] == [[0]] and cluster_maps(maps[:0], 0.9) == []


def test_new_places_are_where_affordance_times_distance_is_highest():
    affordance = np.zeros((20, 30))
    affordance[4, 25], affordance[15, 5], affordance[15, 8] = 0.5, 1.0, 0.9
    # Distances are cut at 20 / 4: 0.5 * 5, 1.0 * 5, and once the second is taken 0.9 * 3.
    assert places_by_affordance(affordance, np.array([[0, 0]]), 5).tolist() == [[5, 15], [8, 15], [25, 4]]


def test_places_on_a_grid_are_the_middles_of_equal_cells():
    assert grid_places((4, 6), 6).tolist() == [[0.5, 0.5], [2.5, 0.5], [4.5, 0.5], [0.5, 2.5], [2.5, 2.5], [4.5, 2.5]]
    assert grid_places((4, 6), 1).tolist() == [[2.5, 1.5]] and len(grid_places((9, 90), 7)) == 7


def test_a_constant_map_has_nothing_above_its_threshold():
    assert otsu_threshold(np.full((3, 4), 0.25, np.float32)) == 0.25


def test_a_network_encodes_once_and_leaves_its_inputs_alone():
    torch.manual_seed(0)
    parts = (dict(type=MotionEncoder), dict(type=PropagationDecoder), dict(type=FlowQuantizer), dict(type=DiscreteLoss))
    propagator = MotionPropagator(CMP(dict(type=ResNet, depth=18), *parts, init="default"))
    encoded = []
    propagator.network.image_encoder.register_forward_pre_hook(lambda module, args: encoded.append(len(args[0])))
    image, clicks = IMAGE.copy(), np.array([[14, 20]])
    found = segment_from_pokes(propagator, image, clicks, [[50, 5]])
    assert encoded == [1] and found.mask.shape == (H, W) and 0 <= found.score.min() and found.score.max() <= 1
    assert np.array_equal(image, IMAGE) and clicks.tolist() == [[14, 20]]
    again = segment_from_pokes(propagator, image, clicks, [[50, 5]], encoded=propagator.encode(image))
    assert np.array_equal(again.score, found.score)
    encoded.clear()
    for segment in discover_segments(propagator, image, num_places=8, short_side_px=32).segments:
        assert segment.mask.shape == (H, W)
    assert encoded == [1]


@pytest.mark.parametrize(
    "change, message",
    (
        (dict(image=IMAGE.astype(float)), "image must be .* uint8"),
        (dict(clicks_xy=[]), "clicks_xy must have at least one"),
        (dict(clicks_xy=[[60, 2]]), "clicks_xy must lie in the image of 60 x 40 px .*, got x=60, y=2"),
        (dict(negative_xy=[[np.nan, 2]]), "negative_xy must be finite"),
        (dict(negative_xy=[[1, 2]]), "different pixels, got x=1, y=2 in both"),
        (dict(threshold=1.5), "threshold must be in 0..1, got 1.5"),
        (dict(refine="snap"), "refine must be one of .*, got 'snap'"),
        (dict(short_side_px=0), "short_side_px must be at least 1, got 0"),
    ),
)
def test_bad_input_is_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        segment_from_pokes(RigidObjects(LEFT), **(dict(image=IMAGE, clicks_xy=[[1, 2]]) | change))


@pytest.mark.parametrize(
    "change, message",
    (
        (dict(num_directions=0), "num_directions must be a whole number of at least 1, got 0"),
        (dict(num_places=1.5), "num_places must be a whole number"),
        (dict(border_points=1), "border_points must be 0 or at least 2"),
        (dict(lengths=()), "lengths must be above 0"),
        (dict(lengths=(0.1, 0.0)), "lengths must be above 0"),
        (dict(moving=1.5), "moving must be in 0..1, got 1.5"),
    ),
)
def test_a_rule_out_of_range_is_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        PokeRule(**change)


def test_numbers_of_the_automatic_search_are_checked():
    for change, message in (
        (dict(num_places=3), "num_places must be at least 4"),
        (dict(max_segments=0), "max_segments 1, got 40 and 0"),
        (dict(cluster_similarity=2), "cluster_similarity must be in -1..1"),
        (dict(refine="x"), "refine must be one of"),
    ):
        with pytest.raises(ValueError, match=message):
            discover_segments(RigidObjects(LEFT), IMAGE, **change)
    with pytest.raises(ValueError, match="num_places must be at least 1, got 0"):
        motion_affordance(RigidObjects(LEFT), IMAGE, num_places=0)
    with pytest.raises(ValueError, match="vector_xy must be two finite numbers"):
        expected_displacement(RigidObjects(LEFT), IMAGE, [1, 2], [np.nan, 2])
