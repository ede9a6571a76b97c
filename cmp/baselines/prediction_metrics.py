"""How near predicted frames are to true ones: PSNR, two kinds of sharpness, L2, GDL, everywhere or where it moves.

Legend: B batch, C channels, H W pixels. Frames have values -1..1.
"""

import torch

MOST_DB = 100.0  # stands for a perfect prediction, whose decibels have no number


def prediction_metrics(
    predicted: torch.Tensor, target: torch.Tensor, where: torch.Tensor | None = None
) -> dict[str, torch.Tensor]:
    """Judge predicted frames.

    Args:
        predicted, target: (B, C, H, W) floating, values -1..1; both sides at least 2 px.
        where: (B, 1, H, W) bool, the pixels to judge; None is all.

    Returns:
        (B,) each, NaN where there is no pixel to judge:
        psnr: 10 log10(max^2 / mean squared error), decibels.
        sharpness_summed: 10 log10(max^2 / mean | (|dx Y| + |dy Y|) - (|dx P| + |dy P|) |), decibels: a pixel's two
            gradients are added before target and prediction are compared.
        sharpness_by_axis: the same with mean(| |dx Y| - |dx P| | + | |dy Y| - |dy P| |) below: compared first. Never
            above the other.
        l2: mean squared difference of values -1..1.
        gdl: the gradient difference loss with exponent 1, per value, values -1..1.
        Decibels are of values scaled to 0..1, max = 1 (the scale does not matter to the PSNR, but to sharpness it
        does), and at most 100. Gradients are differences to the pixel above and to the left, where there are both.

    Raises:
        ValueError: shapes do not fit.

    Source: Mathieu, Couprie and LeCun, ICLR 2016, section 4: `sharpness_summed` as in the text, `sharpness_by_axis` as
    the code published with it has it.
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
        sharpness_summed=_decibels(summed / 2),
        sharpness_by_axis=_decibels(by_axis / 2),
        l2=squares,
        gdl=by_axis,
    )


def _gradients(frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """|difference| to the pixel above and to the left, (B, C, H - 1, W - 1) each."""
    return frames.diff(dim=2).abs()[:, :, :, 1:], frames.diff(dim=3).abs()[:, :, 1:]


def _mean_where(values: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    return torch.where(where, values, 0).flatten(1).sum(1) / (where.flatten(1).sum(1) * values.shape[1])


def _decibels(error: torch.Tensor) -> torch.Tensor:
    return -10 * error.clamp(min=10 ** (-MOST_DB / 10)).log10()
