import math

import numpy as np
import pytest
import torch

from cmp.evaluation.metrics import FlowMetric, keep_points
from cmp.evaluation.propagation import PropagationResult
from cmp.evaluation.tables import controls_table, points_table


def pair(target, predicted, *, valid=None, points=((0, 0),), **controls):
    """A batch of one 3x5 picture with constant flows, and what the loop would have predicted for it."""
    constant = lambda xy: torch.tensor(xy, dtype=torch.float32).view(2, 1, 1).expand(2, 3, 5).clone()  # noqa: E731
    mask = torch.zeros(1, 1, 3, 5)
    for y, x in points:
        mask[0, 0, y, x] = 1
    valid = torch.ones(1, 1, 3, 5, dtype=torch.bool) if valid is None else valid
    batch = dict(flow=constant(target)[None], valid=valid, mask=mask, video=["a"])
    outputs = {name: None if flow is None else constant(flow) for name, flow in controls.items()}
    return batch, [dict(loss=torch.tensor(2.0), flow=constant(predicted), **outputs)]


def evaluate(*pictures, **arguments):
    metric = FlowMetric(**arguments)
    for batch, outputs in pictures:
        metric.process(batch, outputs)
    return metric.evaluate(len(metric.results))


def test_the_endpoint_error_is_the_length_of_the_difference():
    metrics = evaluate(pair((3, 4), (0, 0), flow_no_guidance=(3, 4), flow_shuffled_image=(6, 8)))
    assert metrics["epe"] == pytest.approx(5) and metrics["epe_zero_flow"] == pytest.approx(5)
    assert metrics["epe_no_guidance"] == 0 and metrics["epe_shuffled_image"] == pytest.approx(5)
    assert metrics["epe_nearest_guide"] == metrics["epe_inverse_distance"] == 0  # one point, constant flow
    assert metrics["loss"] == pytest.approx(2)


def test_means_are_over_the_pixels_of_the_whole_set():
    half = torch.zeros(1, 1, 3, 5, dtype=torch.bool)
    half[..., 0] = True  # 3 of 15 pixels
    pictures = [pair((0, 0), (0, error)) for error in (1, 1, 1, 4)] + [pair((0, 0), (0, 13), valid=half)]
    metrics = evaluate(*pictures)
    assert metrics["epe"] == pytest.approx((15 * (1 + 1 + 1 + 4) + 3 * 13) / (4 * 15 + 3))


def test_pixels_that_are_not_valid_count_nowhere():
    batch, outputs = pair((1, 0), (1, 0), flow_no_guidance=(1, 0), flow_shuffled_image=(1, 0))
    batch["valid"][0, 0, 1, 3] = False
    batch["flow"][0, :, 1, 3] = 1000
    for name, value in evaluate((batch, outputs)).items():
        if name.startswith("epe") and name != "epe_zero_flow" and not math.isnan(value):
            assert value == 0, name
    assert evaluate((batch, outputs))["epe_zero_flow"] == pytest.approx(1)


def test_only_pixels_that_move_further_than_the_threshold_are_moving():
    batch, outputs = pair((0, 0), (0, 0))
    batch["flow"][0, 0, 0] = 0.9
    batch["flow"][0, 0, 1] = 3
    metrics = evaluate((batch, outputs), moving_px=1.0)
    assert metrics["epe_moving"] == pytest.approx(3) and metrics["epe"] == pytest.approx((0.9 + 3) / 3)
    assert math.isnan(evaluate((batch, outputs), moving_px=5)["epe_moving"])


def test_distance_ranges_are_exact_and_share_no_pixel():
    # The point is in the corner; the error of a pixel is its column, and its distance the root of y^2 + x^2.
    batch, outputs = pair((0, 0), (0, 0), points=((0, 0),))
    outputs[0]["flow"][0] = torch.arange(5.0)
    metrics = evaluate((batch, outputs), distances_px=(1, 2, 3))
    assert metrics["epe_within_0_1_px"] == 0  # (0, 0)
    assert metrics["epe_within_1_2_px"] == pytest.approx((0 + 1 + 1) / 3)  # (1, 0), (0, 1), (1, 1)
    # (2, 0), (0, 2), (2, 1), (1, 2), (2, 2)
    assert metrics["epe_within_2_3_px"] == pytest.approx((0 + 2 + 1 + 2 + 2) / 5)
    assert metrics["epe_within_3_inf_px"] == pytest.approx((3 + 4) * 3 / 6)


def test_a_pair_without_points_is_in_no_distance_range():
    metrics = evaluate(pair((0, 0), (1, 0), points=()))
    assert metrics["epe"] == 1 and all(math.isnan(v) for name, v in metrics.items() if "within" in name)
    assert metrics["epe_nearest_guide"] == 0


def test_a_control_that_could_not_be_made_is_averaged_over_the_others():
    pictures = [pair((0, 0), (0, 1), flow_shuffled_image=other) for other in (None, (0, 7), None)]
    assert evaluate(*pictures)["epe_shuffled_image"] == pytest.approx(7)
    assert "epe_shuffled_image" not in evaluate(pictures[0])


def test_each_picture_of_a_batch_is_compared_with_its_own_target():
    one, two = pair((1, 0), (1, 0)), pair((0, 5), (0, 5))
    batch = {name: torch.cat((one[0][name], two[0][name])) for name in ("flow", "valid", "mask")}
    assert evaluate((batch, one[1] + two[1]))["epe"] == 0
    assert evaluate((batch, two[1] + one[1]))["epe"] == pytest.approx(26**0.5)


def test_interpolations_are_left_out_on_demand():
    metrics = evaluate(pair((1, 0), (1, 0)), interpolations=())
    assert not {"epe_nearest_guide", "epe_inverse_distance"} & metrics.keys()


def test_a_pair_keeps_the_same_points_alone_and_in_a_batch_and_fewer_are_some_of_the_more():
    mask = torch.zeros(3, 1, 4, 6)
    mask[0, 0, 1, 2:] = 1  # 4 points
    mask[1, 0, :, :] = 1  # 24
    batch = dict(mask=mask, guidance=torch.arange(3 * 2 * 24.0).view(3, 2, 4, 6) * mask, index=torch.tensor([7, 8, 9]))
    kept = {n: keep_points(batch, n) for n in (1, 2, 8)}
    assert [[int(m.sum()) for m in k["mask"]] for k in kept.values()] == [[1, 1, 0], [2, 2, 0], [4, 8, 0]]
    nested = [kept[1]["mask"], kept[2]["mask"], kept[8]["mask"], mask]
    assert all((fewer <= more).all() for fewer, more in zip(nested, nested[1:]))
    assert all(torch.equal(k["guidance"], batch["guidance"] * k["mask"]) for k in kept.values())
    alone = keep_points({name: value[1:2] for name, value in batch.items()}, 8)
    assert torch.equal(alone["mask"][0], kept[8]["mask"][1])
    again = keep_points(batch | dict(index=torch.tensor([8, 7, 9])), 8)  # another pair, other points
    assert not torch.equal(again["mask"][1], kept[8]["mask"][1])
    assert keep_points(batch, None) is batch and int(mask.sum()) == 28
    with pytest.raises(ValueError, match="num_points must be at least 1, got 0"):
        keep_points(batch, 0)


def test_with_fewer_points_network_and_interpolations_are_judged_by_the_same_points():
    batch, outputs = pair((3, 4), (3, 4), points=((0, 0), (2, 4)))
    batch["flow"][0, :, 0, 0] = torch.tensor([0.0, 0.0])  # the two points disagree
    batch |= dict(guidance=batch["flow"] * batch["mask"], index=torch.tensor([0]))
    one = keep_points(batch, 1)
    left_over = evaluate((one, outputs), interpolations=["nearest", "fading"])
    moving = bool(one["mask"][0, 0, 2, 4])  # of the point that was kept: all zeros, or all (3, 4)
    assert left_over["epe_nearest_guide"] == pytest.approx(5 / 15 if moving else 5 * 14 / 15)
    assert left_over["epe"] == pytest.approx(5 / 15) and left_over["epe_zero_flow"] == pytest.approx(5 * 14 / 15)


def test_the_table_of_points_has_a_column_for_each_number():
    one = {"epe": 2.0, "epe_zero_flow": 4.0, "epe_fading": 3.0, "mean_points": 1.0}
    every = one | {"epe": 1.5, "mean_points": 12.25, "epe_fading": float("nan")}
    lines = points_table({"1": one, "all": every}).splitlines()
    cells = {line[:32].strip(): line[32:].split() for line in lines}
    assert cells["EPE, px, with points"] == ["1", "all"] and cells["points of a pair, mean"] == ["1.0", "12.2"]
    assert cells["the network"] == ["2.000", "1.500"] and cells["inverse distance, fading out"] == ["3.000", "-"]
    assert cells["image of another video"] == ["-", "-"] and "thin-plate spline" not in cells
    assert len({len(line) for line in lines}) == 1


def test_the_table_compares_each_row_with_the_network():
    metrics = {"epe": 2.0, "epe_no_guidance": 5.0, "epe_shuffled_image": float("nan"), "epe_zero_flow": 4.0}
    lines = controls_table(metrics | {"loss": 1.0}).splitlines()
    values = [line.split()[-2:] for line in lines[1:]]
    assert values == [["2.000", "1.00"], ["5.000", "2.50"], ["-", "-"], ["4.000", "2.00"], ["-", "-"], ["-", "-"]]
    assert lines[2].startswith("guidance dropped") and len({len(line) for line in lines}) == 1


def test_another_networks_error_is_a_row_of_its_own():
    result = PropagationResult({"all": {"epe": 2.0}}, 1, 1, 1, [])
    other = PropagationResult({"all": {"epe": 3.0, "epe_shuffled_image": 9.0}}, 1, 1, 1, [])
    for name, label in (
        ("starter", "the starter network"),
        ("runs/a_longer_name.pth", "for comparison: ..nger_name.pth"),
    ):
        beside = result.add_beside(other, name)
        assert [line for line in beside.table.splitlines() if line.startswith(label)] == [
            f"{label:32}   3.000       1.50"
        ]
        assert "9.000" not in beside.table and "3.000" not in result.table
    both = PropagationResult({"1": {"epe": 2.0}, "all": {"epe": 1.0}}, 1, 1, 1, [])
    several = both.add_beside(PropagationResult({"1": {"epe": 4.0}, "all": {"epe": 5.0}}, 1, 1, 1, []), "starter")
    assert "the starter network                 4.000    5.000" in several.table


def test_inputs_are_not_written_to():
    batch, outputs = pair((3, 4), (1, 1), flow_no_guidance=(0, 0))
    before = [value.clone() for value in (batch["flow"], batch["mask"], outputs[0]["flow"])]
    evaluate((batch, outputs))
    assert all(torch.equal(a, b) for a, b in zip(before, (batch["flow"], batch["mask"], outputs[0]["flow"])))
    assert np.isfinite(batch["flow"].numpy()).all()


def test_a_row_that_nobody_measured_has_a_dash():
    lines = controls_table({"epe": 1.5, "epe_zero_flow": 3.0}).splitlines()
    assert lines[3].split() == ["image", "of", "another", "video", "-", "-"] and lines[4].split()[-2:] == [
        "3.000",
        "2.00",
    ]
    assert controls_table({"epe_zero_flow": 3.0}).splitlines()[4].split()[-2:] == ["3.000", "-"]  # without a network


def test_all_interpolations_are_judged_where_asked_for_without_a_network_too():
    batch, _ = pair((3, 4), (0, 0), points=((0, 0), (2, 4), (2, 0)))
    batch["image"] = torch.zeros(1, 3, 3, 5, dtype=torch.uint8)
    names = ["nearest", "inverse_distance", "fading", "thin_plate", "edge_aware"]
    metrics = evaluate((batch, [{}]), interpolations=names)
    assert "epe" not in metrics and metrics["epe_zero_flow"] == pytest.approx(5)
    keys = ("epe_nearest_guide", "epe_inverse_distance", "epe_thin_plate", "epe_edge_aware")
    assert all(metrics[key] == pytest.approx(0, abs=1e-4) for key in keys)
    assert 0 < metrics["epe_fading"] < 0.01  # 20 px away is far in a picture of 3 x 5
    assert "thin-plate" in controls_table(metrics) and "edge-aware" not in controls_table({"epe": 1.0})
    with pytest.raises(ValueError, match="interpolations must be of .* got ..spline"):
        FlowMetric(interpolations=["spline"])
