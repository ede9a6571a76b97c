import math

import numpy as np
import pytest
import torch

from cmp.flow import FlowQuantizer, JointFlowQuantizer, PolarFlowQuantizer
from cmp.models import DirectFlow, DiscreteLoss, RegressionLoss


@pytest.fixture(scope="module")
def golden(shared_dir):
    stored = np.load(shared_dir / "golden/loss.npz")
    return {key: torch.from_numpy(stored[key]) for key in stored.files}


def small(seed=0, num_logits=22, height=5, width=7):
    """Logits at 3x4 cells and flow at height x width, both drawn."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, num_logits, 3, 4, generator=generator)
    return logits, torch.randn(3, 2, height, width, generator=generator) * 20


def upsampled(logits, height, width):
    """Bilinear upsampling that keeps the corners, pixel by pixel."""
    h, w = logits.shape[2:]
    out = torch.zeros(*logits.shape[:2], height, width)
    for i in range(height):
        for j in range(width):
            y, x = i * (h - 1) / (height - 1), j * (w - 1) / (width - 1)
            top, left = min(int(y), h - 2), min(int(x), w - 2)
            dy, dx = y - top, x - left
            upper = (1 - dx) * logits[:, :, top, left] + dx * logits[:, :, top, left + 1]
            lower = (1 - dx) * logits[:, :, top + 1, left] + dx * logits[:, :, top + 1, left + 1]
            out[:, :, i, j] = (1 - dy) * upper + dy * lower
    return out


def loop_loss(logits, bins, groups, valid=None, group_weights=None, bin_weights=None):
    """The definition: for each group the (weighted) mean of -log softmax at the target bin; summed over groups."""
    total, first = 0.0, 0
    for g, size in enumerate(groups):
        entropy, weight_sum = 0.0, 0.0
        for b, i, j in np.ndindex(bins.shape[0], *bins.shape[2:]):
            if valid is not None and not valid[b, 0, i, j]:
                continue
            target = int(bins[b, g, i, j])
            weight = bin_weights[g][target] if bin_weights and bin_weights[g] else 1.0
            scores = logits[b, first : first + size, i, j].double()
            entropy += weight * (torch.logsumexp(scores, 0) - scores[target]).item()
            weight_sum += weight
        total += (group_weights[g] if group_weights else 1.0) * entropy / weight_sum
        first += size
    return total


QUANTIZERS = (
    FlowQuantizer(11, 50.0),
    FlowQuantizer(11, 50.0, "quadratic"),
    JointFlowQuantizer(5, 50.0),
    PolarFlowQuantizer(6, 4, 50.0),
)


@pytest.mark.parametrize("quantizer", QUANTIZERS)
@pytest.mark.parametrize("banded", (True, False))
def test_the_loss_is_its_definition_on_upsampled_logits(quantizer, banded):
    logits, flow = small(num_logits=quantizer.num_logits)
    loss = DiscreteLoss(quantizer, banded=banded)(logits, flow)
    expected = loop_loss(upsampled(logits, 5, 7), quantizer.quantize(flow), quantizer.groups)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_group_and_bin_weights_act_as_weighted_means():
    quantizer = FlowQuantizer(11, 50.0)
    logits, flow = small()
    weights = dict(group_weights=(2.0, 0.5), bin_weights=(None, [0.1] * 5 + [3.0] + [1.0] * 5))
    loss = DiscreteLoss(quantizer, **weights)(logits, flow)
    expected = loop_loss(upsampled(logits, 5, 7), quantizer.quantize(flow), quantizer.groups, **weights)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_invalid_pixels_count_in_the_published_loss_and_not_when_ignored():
    quantizer = FlowQuantizer(11, 50.0)
    logits, flow = small()
    valid = torch.rand(3, 1, 5, 7, generator=torch.Generator().manual_seed(1)) < 0.6
    full, bins = upsampled(logits, 5, 7), quantizer.quantize(flow)
    published = DiscreteLoss(quantizer)(logits, flow, valid)
    assert published.item() == pytest.approx(loop_loss(full, bins, quantizer.groups), rel=1e-5)
    flow = torch.where(valid, flow, torch.nan)
    ignoring = DiscreteLoss(quantizer, ignore_invalid=True)(logits, flow, valid)
    assert ignoring.item() == pytest.approx(loop_loss(full, bins, quantizer.groups, valid), rel=1e-5)


def test_with_no_valid_pixel_loss_and_gradient_are_zero():
    for quantizer, loss in ((FlowQuantizer(11, 50.0), DiscreteLoss), (DirectFlow(), RegressionLoss)):
        logits, flow = small(num_logits=quantizer.num_logits)
        logits.requires_grad_()
        value = loss(quantizer, ignore_invalid=True)(logits, flow, torch.zeros(3, 1, 5, 7))
        value.backward()
        assert value.item() == 0 and (logits.grad == 0).all()


def test_equal_logits_cost_the_logarithm_of_the_number_of_bins_in_each_group():
    loss = DiscreteLoss(FlowQuantizer())(torch.zeros(1, 198, 2, 3), torch.full((1, 2, 8, 12), 7.0))
    assert loss.item() == pytest.approx(2 * math.log(99), rel=1e-6)


@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16))
def test_half_precision_logits_are_counted_in_float32(dtype):
    quantizer = FlowQuantizer()
    logits, flow = torch.zeros(2, 198, 8, 12, dtype=dtype), torch.full((2, 2, 64, 96), 49.9999, dtype=dtype)
    loss = DiscreteLoss(quantizer)(logits, flow)
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(2 * math.log(99), rel=1e-5)


def test_regression_is_the_mean_over_pixels_and_components():
    flow = torch.zeros(1, 2, 2, 3)
    predicted = torch.zeros(1, 2, 2, 3)
    predicted[0, 0, 0, 0], predicted[0, 1, 1, 2] = 0.5, -3.0
    valid = torch.ones(1, 1, 2, 3)
    valid[0, 0, 1, 2] = 0
    # Smooth L1: 0.5 * 0.5**2 below 1 px, |d| - 0.5 above; of 12 values, or of 10 with a pixel ignored.
    assert RegressionLoss(DirectFlow())(predicted, flow).item() == pytest.approx((0.125 + 2.5) / 12)
    assert RegressionLoss(DirectFlow(), kind="mse")(predicted, flow).item() == pytest.approx((0.25 + 9) / 12)
    ignoring = RegressionLoss(DirectFlow(), ignore_invalid=True)(predicted, flow, valid)
    assert ignoring.item() == pytest.approx(0.125 / 10)


def test_predicted_flow_is_upsampled_with_its_corners_kept():
    predicted = torch.tensor([[[[0.0, 3.0]], [[0.0, 0.0]]]]).expand(1, 2, 2, 2)  # x from 0 to 3 along a row
    ramp = torch.tensor([0.0, 1.0, 2.0, 3.0]).expand(1, 1, 5, 4)
    assert RegressionLoss(DirectFlow(), kind="mse")(predicted, torch.cat((ramp, ramp * 0), 1)).item() < 1e-12


def test_wrong_arguments_and_shapes_are_refused():
    quantizer = FlowQuantizer(11, 50.0)
    logits, flow = small()
    for arguments, message in (
        (dict(group_weights=(1,)), "one entry for each of the 2 groups"),
        (dict(bin_weights=([1.0], None)), "11 weights"),
    ):
        with pytest.raises(ValueError, match=message):
            DiscreteLoss(quantizer, **arguments)
    with pytest.raises(ValueError, match="22 channels, got 20"):
        DiscreteLoss(quantizer)(logits[:, :20], flow)
    with pytest.raises(ValueError, match="flow must be"):
        DiscreteLoss(quantizer)(logits, flow[:, :1])
    with pytest.raises(ValueError, match="valid must be"):
        DiscreteLoss(quantizer, ignore_invalid=True)(logits, flow, torch.ones(3, 5, 7))
    with pytest.raises(ValueError, match="DirectFlow"):
        RegressionLoss(quantizer)
    with pytest.raises(ValueError, match="kind"):
        RegressionLoss(DirectFlow(), kind="l1")


@pytest.mark.parametrize("target, name", (("target_same", "loss_same_size"), ("target_up", "loss_upsampled")))
@pytest.mark.parametrize("banded", (True, False))
def test_loss_and_gradient_equal_the_authors(golden, target, name, banded):
    logits = golden["logits"].clone().requires_grad_()
    loss = DiscreteLoss(FlowQuantizer(), banded=banded)(logits, golden[target])
    loss.backward()
    assert loss.item() == pytest.approx(golden[name].item(), abs=2e-6)
    torch.testing.assert_close(logits.grad, golden[f"{name}_grad"], rtol=1e-5, atol=1e-8)


def test_variants_of_the_loss_equal_the_authors(golden):
    logits, same, target = golden["logits"], golden["target_same"], golden["target_up"]
    linear, quadratic = FlowQuantizer(), FlowQuantizer(spacing="quadratic")
    close = lambda loss, name: loss.item() == pytest.approx(golden[name].item(), abs=3e-6)  # noqa: E731
    assert close(DiscreteLoss(linear)(logits, target), "multi_loss_linear")
    assert close(DiscreteLoss(quadratic)(logits, target), "multi_loss_quadratic")
    assert close(DiscreteLoss(quadratic, group_weights=(2, 0.5))(logits, target), "multi_loss_quadratic_w")
    scales = [DiscreteLoss(linear)(scale, target) for scale in (logits, logits[:, :, ::2, ::2])]
    assert close(sum(scales) / 2, "multi_loss_list")
    assert close(DiscreteLoss(JointFlowQuantizer())(golden["joint_logits"].float(), same), "joint_loss")
    assert close(DiscreteLoss(PolarFlowQuantizer())(golden["polar_logits"], same), "polar_loss")
    central = [1.0] * 49 + [0.01] + [1.0] * 49  # the authors weigh the still bin of y down, and x not at all
    assert close(DiscreteLoss(linear, bin_weights=(None, central))(logits, same), "weighted_loss")
