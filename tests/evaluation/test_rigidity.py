import numpy as np
import pytest

from cmp.evaluation.rigidity import (
    Scene,
    guidance_of,
    interpolation_methods,
    made_scenes,
    measure_rigidity,
    parts_of_flow,
    points_of_part,
    rigid_flow,
    score_flow,
    turn_of,
)

H, W = 40, 60


def box(x0, y0, x1, y1):
    mask = np.zeros((H, W), bool)
    mask[y0:y1, x0:x1] = True
    return mask


def photographs(count=3):
    rng = np.random.default_rng(0)
    return {f"p{i}": rng.integers(0, 256, (90, 120, 3), np.uint8) for i in range(count)}


def test_a_quarter_turn_by_hand():
    flow = rigid_flow((5, 7), (3, 2), 90.0, (1, 0))
    # Clockwise as seen, y down: the right neighbor of the center goes below it, the lower one to the left.
    assert (
        np.allclose(flow[2, 4], [-1 + 1, 1])
        and np.allclose(flow[3, 3], [-1 + 1, -1])
        and np.allclose(flow[2, 3], [1, 0])
    )


@pytest.mark.parametrize("degrees", (-70.0, -3.0, 0.0, 25.0, 120.0))
def test_a_turn_is_fitted_whatever_the_shift(degrees):
    flow = rigid_flow((H, W), (10, 31), degrees, (4, -7))
    assert turn_of(flow, box(5, 3, 20, 33)) == pytest.approx(degrees, abs=1e-9)
    assert turn_of(0.5 * rigid_flow((H, W), (10, 31), 0.0, (4, -7)), box(5, 3, 20, 33)) == pytest.approx(0, abs=1e-9)


def test_made_scenes_move_exactly_and_only_in_their_parts():
    scenes = made_scenes(photographs(), 64)
    assert [(s.name, s.kind) for s in scenes[:4]] == [("p0", "shift"), ("p0", "turn"), ("p0", "hinge"), ("p1", "shift")]
    for scene in scenes:
        moving = np.any(scene.parts, axis=0)
        assert scene.image.shape == (64, 80, 3) and not scene.flow[~moving].any() and scene.valid.all()
        assert sum(part.sum() for part in scene.parts) == moving.sum()
    shift, turn, hinge = scenes[:3]
    assert np.allclose(shift.flow[shift.parts[0]], [3.2, -1.6])
    assert turn_of(turn.flow, turn.parts[0]) == pytest.approx(15, abs=1e-4)
    assert [turn_of(hinge.flow, part) for part in hinge.parts] == pytest.approx([5, 20], abs=1e-4)
    # The joint is a point of both: what they do there differs by less than a step of a pixel.
    joint = round(0.45 * 64), round(0.5 * 80)
    both = [hinge.flow[part][np.hypot(*(np.argwhere(part) - joint).T).argmin()] for part in hinge.parts]
    assert np.abs(both[0] - both[1]).max() < 4
    with pytest.raises(ValueError, match="photographs must be at least two"):
        made_scenes(photographs(1))


def test_points_are_well_inside_and_far_apart():
    part = box(10, 5, 51, 16)
    assert points_of_part(part, 1).tolist() == [[10, 15]]
    two = points_of_part(part, 2)
    assert sorted(two[:, 1].tolist()) == [12, 48] and part[tuple(two.T)].all()
    with pytest.raises(ValueError, match="count must be 1 or 2, got 3"):
        points_of_part(part, 3)


def scene_of(flow, *parts, kind="shift"):
    image = np.zeros((H, W, 3), np.uint8)
    return Scene("s", kind, image, list(parts), flow.astype(np.float32), np.ones((H, W), bool))


def test_scores_by_hand():
    part = box(10, 5, 30, 25)
    flow = np.zeros((H, W, 2))
    flow[part] = (4, 0)
    scene = scene_of(flow, part)
    assert score_flow(scene, flow)[:2] == (1, 0) and np.isnan(score_flow(scene, flow).turn)
    half = np.zeros((H, W, 2))
    half[box(10, 5, 20, 25)] = (6, 3)  # too far and partly across: still follows; the other half does not move
    half[box(50, 0, 60, 40)] = (0, 2)
    score = score_flow(scene, half)
    assert score.follows == pytest.approx(0.5)
    assert score.leaks == pytest.approx(400 * 2 / (H * W - 400) / 4)
    assert score_flow(scene, -flow).follows == 0
    turning = scene_of(np.where(part[..., None], rigid_flow((H, W), (20, 15), 20.0, (0, 0)), 0), part, kind="turn")
    assert score_flow(turning, rigid_flow((H, W), (20, 15), 5.0, (9, 9))).turn == pytest.approx(0.25, abs=1e-6)


def test_guidance_is_the_true_motion_of_the_parts_and_still_at_the_border():
    part = box(0, 5, 30, 25)  # it covers (20, 0) of the border, which is not still
    flow = np.zeros((H, W, 2))
    flow[part] = (4, 1)
    points, vectors = guidance_of(scene_of(flow, part), 1)
    assert vectors[0].tolist() == [4, 1] and not vectors[1:].any() and len(points) == 1 + 8 - 1
    assert [19, 0] not in points.tolist() and [0, 0] in points.tolist() and [39, 59] in points.tolist()
    assert len(guidance_of(scene_of(flow, part, kind="flow"), 2)[0]) == 2


def test_parts_of_flow_are_the_regions_between_motion_edges():
    flow = np.zeros((H, W, 2), np.float32)
    left, right = box(4, 4, 24, 36), box(34, 10, 54, 30)
    flow[left], flow[right] = (3, 0), (0, -5)
    background, first, second = parts_of_flow(flow, np.ones((H, W), bool))
    for found, truth in ((first, left), (second, right)):
        assert not (found & ~truth).any() and found.sum() >= 0.7 * truth.sum()
    assert not (background & (left | right)).any()
    valid = ~right
    assert len(parts_of_flow(flow, valid)) == 2


def test_an_interpolation_from_one_point_shifts_a_turning_part_and_from_two_turns_it():
    means = measure_rigidity(made_scenes(photographs(2), 64), interpolation_methods())
    one, two = means["turn", "nearest", 1], means["turn", "nearest", 2]
    assert abs(one.turn) < 0.2 < two.turn
    assert means["shift", "nearest", 1].follows > 0.9 and means["shift", "fading", 1].leaks < 0.3
    exact = measure_rigidity(
        made_scenes(photographs(2), 64)[:1], {"truth": lambda *_: made_scenes(photographs(2), 64)[0].flow}
    )
    assert exact["shift", "truth", 1][:2] == (1, 0)
