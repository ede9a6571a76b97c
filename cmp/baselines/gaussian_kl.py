"""How far a diagonal Gaussian is from the standard one, and a draw from it that gradients pass through."""

import torch


def gaussian_kl(mean: torch.Tensor, log_variance: torch.Tensor) -> torch.Tensor:
    """KL(N(mean, exp(log_variance)) || N(0, I)) in nats, summed over everything but the batch.

    Args:
        mean, log_variance: (B, ...) of one shape.

    Returns:
        (B,), at least 0.

    Source: Kingma and Welling, "Auto-encoding variational Bayes", ICLR 2014, appendix B.
    """
    return 0.5 * (mean.square() + log_variance.exp() - log_variance - 1).flatten(1).sum(dim=1)


def gaussian_sample(
    mean: torch.Tensor, log_variance: torch.Tensor, generator: torch.Generator | None = None
) -> torch.Tensor:
    """A draw from N(mean, exp(log_variance)) that both get their gradients through; of mean's shape.

    Source: the same, section 2.4.
    """
    noise = torch.randn(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype)
    return mean + (0.5 * log_variance).exp() * noise
