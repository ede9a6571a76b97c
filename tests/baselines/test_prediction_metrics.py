import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio

from cmp.baselines.gradient_difference import gradient_difference
from cmp.baselines.prediction_metrics import prediction_metrics


def pair(batch=3, height=5, width=7):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(2, batch, 3, height, width, generator=generator) * 2 - 1


def slow(predicted, target, where):
    """Both sums of the sharpness measures and their count, pixel by pixel, values scaled to 0..1."""
    summed = by_axis = count = 0
    predicted, target = ((frame.double().numpy() + 1) / 2 for frame in (predicted, target))
    for y in range(1, target.shape[1]):
        for x in range(1, target.shape[2]):
            if not where[y, x]:
                continue
            for p, t in zip(predicted, target):
                true = abs(t[y, x] - t[y - 1, x]), abs(t[y, x] - t[y, x - 1])
                made = abs(p[y, x] - p[y - 1, x]), abs(p[y, x] - p[y, x - 1])
                summed += abs(sum(true) - sum(made))
                by_axis += abs(true[0] - made[0]) + abs(true[1] - made[1])
                count += 1
    return summed / count, by_axis / count


def test_psnr_is_scikit_images():
    predicted, target = pair()
    expected = [peak_signal_noise_ratio(t.numpy(), p.numpy(), data_range=2) for p, t in zip(predicted, target)]
    np.testing.assert_allclose(prediction_metrics(predicted, target)["psnr"], expected, rtol=1e-5)


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_both_sharpness_measures_and_gdl_are_their_formulas_in_loops(share):
    predicted, target = pair()
    where = torch.rand(3, 1, 5, 7, generator=torch.Generator().manual_seed(1)) < share
    metrics = prediction_metrics(predicted, target, where)
    for i in range(3):
        summed, by_axis = slow(predicted[i], target[i], where[i, 0])
        assert metrics["sharpness_summed"][i] == pytest.approx(-10 * np.log10(summed), rel=1e-5)
        assert metrics["sharpness_by_axis"][i] == pytest.approx(-10 * np.log10(by_axis), rel=1e-5)
        assert metrics["gdl"][i] == pytest.approx(2 * by_axis, rel=1e-5)
    assert (metrics["sharpness_by_axis"] < metrics["sharpness_summed"]).all()


def test_gdl_is_the_loss_but_for_the_pixels_at_two_edges():
    predicted, target = pair()
    lost = (target.diff(dim=2).abs() - predicted.diff(dim=2).abs()).abs()[..., :1].sum((1, 2, 3))
    lost += (target.diff(dim=3).abs() - predicted.diff(dim=3).abs()).abs()[:, :, :1].sum((1, 2, 3))
    expected = (gradient_difference(predicted, target) - lost) / (3 * 4 * 6)
    torch.testing.assert_close(prediction_metrics(predicted, target)["gdl"], expected)


def test_a_step_of_three_pixels_worked_out_by_hand():
    target = torch.tensor([[0.0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 1, 1]]).expand(1, 3, 3, 4)
    metrics = prediction_metrics(torch.zeros_like(target), target)
    assert metrics["l2"].item() == pytest.approx(6 / 12)
    assert metrics["psnr"].item() == pytest.approx(10 * np.log10(4 / 0.5), rel=1e-5)
    assert metrics["gdl"].item() == pytest.approx(2 / 6)  # one of three columns, in the two rows that have one above
    assert metrics["sharpness_summed"].item() == pytest.approx(10 * np.log10(6), rel=1e-5)


def slow_ssim(predicted, target):
    """Structural similarity of each pixel whose window of 11 x 11 px is inside, by its formula, (C, H - 10, W - 10)."""
    offsets = np.arange(-5, 6)
    weights = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * 1.5**2))
    weights /= weights.sum()
    c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2
    channels, height, width = target.shape
    out = np.zeros((channels, height - 10, width - 10))
    for c, y, x in np.ndindex(*out.shape):
        p, t = (frame[c, y : y + 11, x : x + 11].double().numpy() for frame in (predicted, target))
        mp, mt = (weights * p).sum(), (weights * t).sum()
        vp, vt = (weights * (p - mp) ** 2).sum(), (weights * (t - mt) ** 2).sum()
        cov = (weights * (p - mp) * (t - mt)).sum()
        out[c, y, x] = (2 * mp * mt + c1) * (2 * cov + c2) / ((mp**2 + mt**2 + c1) * (vp + vt + c2))
    return out


def test_ssim_is_the_formula_of_wang_et_al_over_the_pixels_asked_for():
    predicted, target = pair(batch=2, height=13, width=16)
    predicted = 0.7 * target + 0.3 * predicted
    where = torch.rand(2, 1, 13, 16, generator=torch.Generator().manual_seed(1)) < 0.5
    for mask in (None, where):
        values = prediction_metrics(predicted, target, mask)["ssim"]
        for i in range(2):
            slow_map = slow_ssim(predicted[i], target[i])
            inside = np.ones((3, 6), bool) if mask is None else mask[i, 0, 5:-5, 5:-5].numpy()
            assert values[i].item() == pytest.approx(slow_map[:, inside].mean(), abs=1e-4)
    assert prediction_metrics(target, target)["ssim"].tolist() == pytest.approx([1, 1])
    assert prediction_metrics(predicted[..., :10, :], target[..., :10, :])["ssim"].isnan().all()


def test_the_total_is_l2_and_gdl():
    metrics = prediction_metrics(*pair())
    assert torch.equal(metrics["total"], metrics["l2"] + metrics["gdl"])


def test_only_the_pixels_asked_for_count():
    predicted, target = pair()
    where = torch.zeros(3, 1, 5, 7, dtype=torch.bool)
    where[0, :, 2:4, 3:5] = where[1, :, 1, 1] = True
    before = prediction_metrics(predicted, target, where)
    outside = predicted.clone()
    outside[0, :, 4:] = 0  # no pixel asked for has these above it or to its left
    outside[2] = 0
    after = prediction_metrics(outside, target, where)
    for name, values in before.items():
        assert values[2].isnan() and after[name][2].isnan()
        if name == "ssim":  # needs larger frames
            continue
        assert torch.equal(values[:2], after[name][:2]) and values[:2].isfinite().all()


def test_a_perfect_prediction_has_a_hundred_decibels():
    frame = pair()[0]
    metrics = prediction_metrics(frame, frame)
    for name in ("psnr", "sharpness_summed", "sharpness_by_axis"):
        assert torch.allclose(metrics[name], torch.tensor(100.0))
    assert not metrics["l2"].any() and not metrics["gdl"].any()


def test_shapes_that_do_not_fit_are_refused():
    predicted, target = pair()
    with pytest.raises(ValueError, match="at least 2 x 2 px"):
        prediction_metrics(predicted[:, :, :1], target[:, :, :1])
    with pytest.raises(ValueError, match="where must be bool"):
        prediction_metrics(predicted, target, torch.ones(3, 5, 7, dtype=torch.bool))
