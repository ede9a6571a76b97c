"""The gradient difference loss (GDL): compares how strong the edges of two images are."""

import torch


def gradient_difference(predicted: torch.Tensor, target: torch.Tensor, alpha: float = 1.0) -> torch.Tensor:
    """Sum | |change of target| - |change of prediction| |^alpha over neighboring pixels in rows and in columns.

    Args:
        predicted, target: (B, C, H, W), both of the same shape; H and W at least 2.
        alpha: the exponent, above 0.

    Returns:
        (B,): summed over channels and pixels.

    Raises:
        ValueError: shapes differ or are too small, or alpha is not above 0.

    Source: Mathieu, Couprie and LeCun, "Deep multi-scale video prediction beyond mean square error", ICLR 2016, eq. 6.
    """
    if predicted.shape != target.shape or predicted.ndim != 4 or min(predicted.shape[2:]) < 2:
        raise ValueError(
            f"want two (B, C, H, W) of at least 2 x 2 px, got {tuple(predicted.shape)}, {tuple(target.shape)}"
        )
    if not alpha > 0:
        raise ValueError(f"alpha must be above 0, got {alpha}")
    total = 0
    for axis in (2, 3):
        difference = target.diff(dim=axis).abs() - predicted.diff(dim=axis).abs()
        total = total + difference.abs().pow(alpha).flatten(1).sum(dim=1)
    return total
