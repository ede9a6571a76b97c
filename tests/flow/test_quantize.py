import math

import numpy as np
import pytest
import torch

from cmp.flow import FlowQuantizer, JointFlowQuantizer, PolarFlowQuantizer

ALL = [
    FlowQuantizer(),
    FlowQuantizer(20, 30.0, "quadratic"),
    JointFlowQuantizer(),
    JointFlowQuantizer(7, 30.0, "quadratic"),
    PolarFlowQuantizer(),
    PolarFlowQuantizer(12, 9, 30.0, "quadratic"),
]


def drawn(bound=50.0, size=(2, 2, 5, 7), seed=0):
    return torch.empty(size).uniform_(-bound, bound, generator=torch.Generator().manual_seed(seed))


def as_flow(values):
    """1-D values to (1, 2, 1, N), the same in x and y."""
    return torch.as_tensor(values).view(1, 1, 1, -1).expand(1, 2, 1, -1)


def one_hot(quantizer, bins):
    """Logits that leave no doubt about (B, G, H, W) bins."""
    parts = [torch.nn.functional.one_hot(bins[:, i], size).movedim(-1, 1) for i, size in enumerate(quantizer.groups)]
    return torch.cat(parts, dim=1).float() * 1000


@pytest.fixture(scope="module")
def golden(shared_dir):
    return np.load(shared_dir / "golden/loss.npz")


def test_bins_follow_the_papers_formula():
    quantizer = FlowQuantizer()
    values = drawn(55.0, (400,)).tolist() + [0.0, 0.196, -0.196, 1e9]
    bins = quantizer.quantize(as_flow(values))
    for value, (x, y) in zip(values, bins[0, :, 0].T.tolist()):
        clipped = min(max(value, -50), 50)
        assert x == y == min(math.floor((clipped + 50) / (100 / 99)), 98), value


def test_a_round_trip_through_bins_moves_a_vector_by_at_most_half_a_bin():
    for quantizer in (FlowQuantizer(), FlowQuantizer(40, 50.0, "quadratic")):
        flow = drawn()
        bins = quantizer.quantize(flow)
        half_widths = (quantizer.edges[1:] - quantizer.edges[:-1]) / 2
        assert ((quantizer.dequantize(bins) - flow).abs() <= half_widths[bins] + 1e-4).all()


@pytest.mark.parametrize("quantizer", ALL, ids=repr)
def test_the_center_of_a_bin_falls_in_that_bin(quantizer):
    for group, size in enumerate(quantizer.groups):
        bins = torch.zeros(1, len(quantizer.groups), 1, size, dtype=torch.int64)
        if isinstance(quantizer, PolarFlowQuantizer) and group == 0:
            bins[:, 1] = 3  # some length, so that there is a direction
        bins[:, group] = torch.arange(size)
        np.testing.assert_array_equal(quantizer.quantize(quantizer.dequantize(bins)), bins)


@pytest.mark.parametrize("quantizer", ALL, ids=repr)
def test_logits_without_doubt_decode_to_the_centers(quantizer):
    flow = drawn(60.0)
    bins = quantizer.quantize(flow)
    assert bins.dtype == torch.int64 and bins.shape == (2, len(quantizer.groups), 5, 7)
    logits = one_hot(quantizer, bins)
    assert logits.shape[1] == quantizer.num_logits
    torch.testing.assert_close(quantizer.mode(logits), quantizer.dequantize(bins))
    torch.testing.assert_close(quantizer.expectation(logits), quantizer.dequantize(bins), rtol=1e-5, atol=1e-4)
    for part, group in zip(quantizer.split_logits(logits), range(len(quantizer.groups))):
        np.testing.assert_array_equal(part.argmax(1), bins[:, group])


@pytest.mark.parametrize("quantizer", ALL, ids=repr)
def test_logits_that_know_nothing_decode_to_no_motion(quantizer):
    flow = quantizer.expectation(torch.zeros(1, quantizer.num_logits, 2, 3))
    torch.testing.assert_close(flow, torch.zeros(1, 2, 2, 3), rtol=0, atol=1e-4)


def test_expectation_is_the_mean_of_the_centers_worked_by_hand():
    quantizer = FlowQuantizer(num_bins=2, max_flow_px=10.0)  # centres -5 and 5
    logits = torch.tensor([0.0, math.log(3), math.log(4), 0.0]).view(1, 4, 1, 1)
    torch.testing.assert_close(quantizer.expectation(logits).flatten(), torch.tensor([2.5, -3.0]))
    joint = JointFlowQuantizer(num_bins=2, max_flow_px=10.0)  # classes (x, y): --, -+, +-, ++
    logits = torch.tensor([0.1, 0.2, 0.3, 0.4]).log().view(1, 4, 1, 1)
    torch.testing.assert_close(
        joint.expectation(logits).flatten(), torch.tensor([5 * 0.7 - 5 * 0.3, 5 * 0.6 - 5 * 0.4])
    )
    assert joint.centers.tolist() == [[-5, -5], [-5, 5], [5, -5], [5, 5]]


def test_polar_bins_go_round_clockwise_from_straight_up():
    quantizer = PolarFlowQuantizer(num_angles=4, num_radii=5, max_flow_px=10.0)
    vectors = torch.tensor(
        [[1.0, -1.0], [3.0, 3.0], [-3.0, 4.0], [-8.0, -0.1], [0.0, 0.0]]
    )  # up right, down right, ...
    bins = quantizer.quantize(vectors.T.reshape(1, 2, 1, 5))
    assert bins[0, 0, 0].tolist() == [0, 1, 2, 3, 1]
    assert bins[0, 1, 0].tolist() == [0, 2, 2, 4, 0]


def test_quadratic_bins_are_fine_near_zero():
    quantizer = FlowQuantizer(4, 16.0, "quadratic")
    assert quantizer.edges.tolist() == [-16, -4, 0, 4, 16]
    assert quantizer.centers.tolist() == [-10, -2, 2, 10]
    assert quantizer.quantize(as_flow([-5.0, -3.0, 3.0, 5.0]))[0, 0, 0].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("quantizer", ALL, ids=repr)
def test_no_precision_ever_yields_a_bin_after_the_last(quantizer, dtype):
    edge = quantizer.max_flow_px
    values = torch.tensor([49.9999, 49.999, edge - 1e-4, edge, edge * 1.5, 65504.0, math.inf], dtype=torch.float64)
    bins = quantizer.quantize(as_flow(torch.cat((values, -values)).to(dtype)))
    for group, size in enumerate(quantizer.groups):
        assert 0 <= bins[:, group].min() and bins[:, group].max() <= size - 1
    assert quantizer.quantize(torch.full((1, 2, 1, 3), math.nan, dtype=dtype)).min() >= 0


def test_infinite_flow_falls_in_the_outermost_bins():
    assert FlowQuantizer().quantize(as_flow([math.inf, -math.inf]))[0, 0, 0].tolist() == [98, 0]


def test_half_precision_logits_are_decoded_in_float32():
    quantizer = FlowQuantizer()
    logits = torch.randn(2, 198, 3, 4, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        flow = quantizer.expectation(logits)
    assert flow.dtype == torch.float32
    torch.testing.assert_close(flow, quantizer.expectation(logits.float()))


def test_expectation_passes_gradients():
    logits = torch.randn(1, 198, 2, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    FlowQuantizer().expectation(logits).sum().backward()
    assert logits.grad.abs().sum() > 0


def test_what_makes_no_sense_is_refused():
    refused = [
        lambda: FlowQuantizer(0),
        lambda: FlowQuantizer(9.5),
        lambda: FlowQuantizer(max_flow_px=0.0),
        lambda: FlowQuantizer(max_flow_px=math.inf),
        lambda: FlowQuantizer(spacing="cubic"),
        lambda: JointFlowQuantizer(-1),
        lambda: JointFlowQuantizer(spacing="log"),
        lambda: PolarFlowQuantizer(num_radii=0),
        lambda: FlowQuantizer().quantize(torch.zeros(2, 5, 7)),
        lambda: FlowQuantizer().dequantize(torch.zeros(1, 2, 5, 7)),
        lambda: FlowQuantizer().expectation(torch.zeros(1, 197, 5, 7)),
        lambda: JointFlowQuantizer().dequantize(torch.zeros(1, 2, 5, 7, dtype=torch.int64)),
        lambda: PolarFlowQuantizer().mode(torch.zeros(1, 49, 5, 7)),
    ]
    for call in refused:
        with pytest.raises(ValueError, match="must be"):
            call()


def test_bins_of_separate_axes_equal_zhan_et_als_to_the_last_value(golden):
    flow = as_flow(golden["tobin_values"])
    cases = {
        "tobin_bins_99_50": FlowQuantizer(),
        "multi_linear_19_47p5": FlowQuantizer(19, 47.5),
        "multi_quadratic_19_47p5": FlowQuantizer(19, 47.5, "quadratic"),
        "multi_quadratic_99_50": FlowQuantizer(99, 50.0, "quadratic"),
    }
    for key, quantizer in cases.items():
        np.testing.assert_array_equal(quantizer.quantize(flow)[0, 0, 0], golden[key], err_msg=key)


def test_joint_and_polar_bins_equal_zhan_et_als(golden):
    flow = torch.from_numpy(golden["pair_values"]).T.reshape(1, 2, 1, -1)
    for spacing in ("linear", "quadratic"):
        joint = JointFlowQuantizer(spacing=spacing).quantize(flow)[0, 0, 0]
        np.testing.assert_array_equal(joint, golden[f"joint_{spacing}_19_47p5"])
        angle, radius = PolarFlowQuantizer(spacing=spacing).quantize(flow)[0, :, 0]
        straight_down = (golden["pair_values"] * (1, -1) <= (0, -0.5)).all(axis=1) & (golden["pair_values"][:, 0] == 0)
        assert straight_down.sum() == 2  # exactly on an edge: float rounding takes them to the bin after
        np.testing.assert_array_equal(angle.numpy() - straight_down, golden[f"polar_{spacing}_angle"])
        np.testing.assert_array_equal(radius, golden[f"polar_{spacing}_radius"])


def test_decoded_flow_and_centers_equal_zhan_et_als(golden):
    quantizer = FlowQuantizer()
    np.testing.assert_allclose(quantizer.centers, golden["fuser_mesh"], atol=1e-5)
    np.testing.assert_allclose(
        quantizer.expectation(torch.from_numpy(golden["logits"])), golden["fuser_flow"], atol=3e-5
    )
    up = torch.arange(99)
    every_bin = quantizer.dequantize(torch.stack((up, up.flip(0))).view(1, 2, 1, 99))
    np.testing.assert_allclose(every_bin, golden["fuser_onehot_flow"], atol=1e-5)


def test_one_cross_entropy_over_the_groups_gives_zhan_et_als_losses(golden):
    """The interface is enough for every criterion: sum over groups of the mean cross-entropy."""
    target = torch.from_numpy(golden["target_same"])
    cases = {
        "loss_same_size": (FlowQuantizer(), "logits"),
        "joint_loss": (JointFlowQuantizer(), "joint_logits"),
        "polar_loss": (PolarFlowQuantizer(), "polar_logits"),
    }
    for key, (quantizer, logits) in cases.items():
        parts = quantizer.split_logits(torch.from_numpy(golden[logits].astype(np.float32)))
        bins = quantizer.quantize(target)
        loss = sum(torch.nn.functional.cross_entropy(part, bins[:, i]) for i, part in enumerate(parts))
        assert loss.item() == pytest.approx(float(golden[key]), rel=1e-5), key


def test_the_share_beyond_a_length_is_the_sum_over_the_bins_whose_centers_are_longer():
    generator = torch.Generator().manual_seed(1)
    for quantizer in ALL:
        logits = torch.randn((2, quantizer.num_logits, 3, 4), generator=generator)
        probabilities = [part.softmax(dim=1) for part in quantizer.split_logits(logits)]
        for length_px in (0.0, 3.0, 21.5):
            expected = torch.zeros(2, 3, 4)
            for bins in torch.cartesian_prod(*map(torch.arange, quantizer.groups)).reshape(-1, len(quantizer.groups)):
                # Direction does not matter, and the mean direction of the polar bins would shorten the vector.
                vector = quantizer.dequantize(bins.view(1, -1, 1, 1))
                if math.hypot(*vector[0, :, 0, 0].double().tolist()) > length_px + 1e-4:
                    share = torch.ones(2, 3, 4)
                    for part, index in zip(probabilities, bins.tolist()):
                        share = share * part[:, index]
                    expected += share
            found = quantizer.share_beyond(logits, length_px)
            assert found.shape == (2, 1, 3, 4)
            torch.testing.assert_close(found[:, 0], expected, atol=1e-4, rtol=0)
        with pytest.raises(ValueError, match="length_px must be at least 0 and finite, got -1"):
            quantizer.share_beyond(logits, -1)
