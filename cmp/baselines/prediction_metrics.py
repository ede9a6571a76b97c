"""Metrics of predicted frames: PSNR, SSIM, two definitions of sharpness, L2, GDL and their sum; over a mask or all.

Legend: B batch, C channels, H W pixels. Frames have values -1..1.
"""

import numpy as np
import torch
from skimage.metrics import structural_similarity

MAX_DB = 100.0  # of a perfect prediction, which would be infinite
SSIM_RADIUS_PX = 5  # of the Gaussian window, sigma 1.5 px, that scikit-image cuts off at 3.5 sigma


def prediction_metrics(
    predicted: torch.Tensor, target: torch.Tensor, where: torch.Tensor | None = None
) -> dict[str, torch.Tensor]:
    """Compute all metrics of predicted frames.

    Args:
        predicted, target: (B, C, H, W) floating point, values -1..1; H and W at least 2.
        where: (B, 1, H, W) bool, the pixels that count; None takes all.

    Returns:
        (B,) each, NaN for samples without a pixel that counts:
        psnr: 10 log10(max^2 / mean squared error), decibels.
        ssim: structural similarity, at most 1: the mean over pixels whose window lies inside the frame; NaN for frames
            with a side below 11 px.
        sharpness_summed: 10 log10(max^2 / mean | (|dx Y| + |dy Y|) - (|dx P| + |dy P|) |), decibels: a pixel's two
            gradients are added before target and prediction are compared.
        sharpness_by_axis: the same with mean(| |dx Y| - |dx P| | + | |dy Y| - |dy P| |) as divisor: each gradient is
            compared separately. Never greater than sharpness_summed.
        l2: mean squared difference of values -1..1.
        gdl: the gradient difference loss with exponent 1, per value, values -1..1.
        total: l2 + gdl.
        Decibels are computed on values scaled to 0..1, max = 1 (the scale changes sharpness, but not the PSNR), and are
        at most 100. Gradients are differences to the pixel above and to the left, at pixels that have both.

    Raises:
        ValueError: shapes do not fit, or `where` is not bool.

    Source: Mathieu, Couprie and LeCun, ICLR 2016, section 4: `sharpness_summed` follows the text, `sharpness_by_axis`
    the published code. `ssim`: Wang et al., "Image quality assessment", TIP 2004, by scikit-image with that paper's
    window and constants, per channel, averaged over channels.
    """
    if predicted.shape != target.shape or predicted.ndim != 4 or min(predicted.shape[2:]) < 2:
        raise ValueError(
            f"want two (B, C, H, W) of at least 2 x 2 px, got {tuple(predicted.shape)}, {tuple(target.shape)}"
        )
    if where is None:
        where = torch.ones_like(target[:, :1], dtype=torch.bool)
    if where.shape != (len(target), 1, *target.shape[2:]) or where.dtype != torch.bool:
        raise ValueError(f"where must be bool (B, 1, H, W), got {where.dtype} {tuple(where.shape)}")
    squares = _mean_where((predicted - target).square(), where)
    (true_y, true_x), (made_y, made_x) = _gradients(target), _gradients(predicted)
    inside = where[:, :, 1:, 1:]
    summed = _mean_where(((true_y + true_x) - (made_y + made_x)).abs(), inside)
    by_axis = _mean_where((true_y - made_y).abs() + (true_x - made_x).abs(), inside)
    return dict(
        psnr=_decibels(squares / 4),
        ssim=_structural_similarity(predicted, target, where),
        sharpness_summed=_decibels(summed / 2),
        sharpness_by_axis=_decibels(by_axis / 2),
        l2=squares,
        gdl=by_axis,
        total=squares + by_axis,
    )


def _structural_similarity(predicted: torch.Tensor, target: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    if min(target.shape[2:]) < 2 * SSIM_RADIUS_PX + 1:
        return torch.full((len(target),), torch.nan, device=target.device)
    arrays = [frames.detach().float().cpu().numpy() for frames in (predicted, target)]
    inside = where.cpu()[:, :, SSIM_RADIUS_PX:-SSIM_RADIUS_PX, SSIM_RADIUS_PX:-SSIM_RADIUS_PX]
    wang = dict(gaussian_weights=True, sigma=1.5, use_sample_covariance=False)
    maps = [structural_similarity(*pair, channel_axis=0, data_range=2.0, full=True, **wang)[1] for pair in zip(*arrays)]
    maps = torch.from_numpy(np.stack(maps))[..., SSIM_RADIUS_PX:-SSIM_RADIUS_PX, SSIM_RADIUS_PX:-SSIM_RADIUS_PX]
    return _mean_where(maps, inside).to(target.device)


def _gradients(frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute |difference| to the pixel above and to the left, (B, C, H - 1, W - 1) each."""
    return frames.diff(dim=2).abs()[:, :, :, 1:], frames.diff(dim=3).abs()[:, :, 1:]


def _mean_where(values: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    return torch.where(where, values, 0).flatten(1).sum(1) / (where.flatten(1).sum(1) * values.shape[1])


def _decibels(error: torch.Tensor) -> torch.Tensor:
    return -10 * error.clamp(min=10 ** (-MAX_DB / 10)).log10()
