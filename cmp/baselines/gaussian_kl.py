"""KL divergence of a diagonal Gaussian from the standard normal, and samples that pass gradients."""

import torch


def gaussian_kl(mean: torch.Tensor, log_variance: torch.Tensor) -> torch.Tensor:
    """Compute KL(N(mean, exp(log_variance)) || N(0, I)) in nats, summed over all axes but the batch.

    Args:
        mean, log_variance: (B, ...), both of the same shape.

    Returns:
        (B,), at least 0.

    Source: Kingma and Welling, "Auto-encoding variational Bayes", ICLR 2014, appendix B.
    """
    return 0.5 * (mean.square() + log_variance.exp() - log_variance - 1).flatten(1).sum(dim=1)


def gaussian_sample(
    mean: torch.Tensor, log_variance: torch.Tensor, generator: torch.Generator | None = None
) -> torch.Tensor:
    """Sample from N(mean, exp(log_variance)) so that gradients reach both arguments (reparametrization).

    Args:
        mean, log_variance: both of the same shape.
        generator: on mean's device; None takes torch's global generator.

    Returns:
        One sample of mean's shape.

    Source: Kingma and Welling, ICLR 2014, section 2.4.
    """
    noise = torch.randn(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype)
    return mean + (0.5 * log_variance).exp() * noise
