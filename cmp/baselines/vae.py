"""Variational autoencoder: a picture from a few Gaussian numbers, and the numbers from the picture."""

from math import log, pi, prod

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from cmp.baselines.baseline import Baseline
from cmp.baselines.gaussian_kl import gaussian_kl, gaussian_sample
from cmp.baselines.sheet import picture_grid


class VAE(Baseline):
    """One hidden layer of tanh units in the encoder, one in the decoder.

    Args:
        image_shape: (C, H, W) of a picture, values 0..1.
        latent: numbers that a picture is made from.
        hidden: units in each hidden layer.
        likelihood: "bernoulli", or "gaussian": means in 0..1 and one variance for each pixel.
        init_std: standard deviation of the weights at the start.

    Raises:
        ValueError: another likelihood.

    Source: Kingma and Welling, "Auto-encoding variational Bayes", ICLR 2014, appendix C. The weight decay that stands
    for its prior is the optimizer's.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int] = (1, 28, 28),
        *,
        latent: int = 20,
        hidden: int = 500,
        likelihood: str = "bernoulli",
        init_std: float = 0.1,
    ) -> None:
        super().__init__()
        if likelihood not in ("bernoulli", "gaussian"):
            raise ValueError(f"likelihood must be 'bernoulli' or 'gaussian', got {likelihood!r}")
        self._arguments = dict(
            image_shape=list(image_shape), latent=latent, hidden=hidden, likelihood=likelihood, init_std=init_std
        )
        self.image_shape, self.latent, self.likelihood = tuple(image_shape), latent, likelihood
        pixels = prod(image_shape)
        self.encoder = nn.Sequential(nn.Linear(pixels, hidden), nn.Tanh(), nn.Linear(hidden, 2 * latent))
        outputs = pixels if likelihood == "bernoulli" else 2 * pixels
        self.decoder = nn.Sequential(nn.Linear(latent, hidden), nn.Tanh(), nn.Linear(hidden, outputs))
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=init_std)
                nn.init.zeros_(layer.bias)

    def loss(self, image: torch.Tensor, **_) -> dict[str, torch.Tensor]:
        """Minus the bound and its two parts, nats, means over the batch."""
        error, kl = self.bound_terms(image)
        return {"loss": (error + kl).mean(), "reconstruction": error.mean(), "kl": kl.mean()}

    def measure(self, image: torch.Tensor, **_) -> dict[str, torch.Tensor]:
        """`elbo`: the lower bound on log p(image), nats, by one draw."""
        error, kl = self.bound_terms(image)
        return {"elbo": -(error + kl), "kl": kl}

    def bound_terms(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """-log p(image | z) for one z drawn from q(z | image), and KL(q || p), (B,) nats each."""
        mean, log_variance = self.encode(image)
        decoded = self.decoder(gaussian_sample(mean, log_variance))
        return self._reconstruction_error(decoded, image.flatten(1)), gaussian_kl(mean, log_variance)

    def encode(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and log variance of q(z | image), (B, latent) each."""
        if tuple(image.shape[1:]) != self.image_shape:
            raise ValueError(f"images must be (B, {', '.join(map(str, self.image_shape))}), got {tuple(image.shape)}")
        return self.encoder(image.flatten(1)).chunk(2, dim=1)

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        """Mean pictures (B, C, H, W), 0..1, of numbers (B, latent)."""
        decoded = self.decoder(z)
        mean = decoded if self.likelihood == "bernoulli" else decoded.chunk(2, dim=1)[0]
        return mean.sigmoid().unflatten(1, self.image_shape)

    def pictures(self, image: torch.Tensor, **_) -> dict[str, np.ndarray]:
        """`reconstructions`: pictures above what became of them; `samples`: made from numbers drawn from the prior."""
        generator = torch.Generator(image.device).manual_seed(0)
        z = torch.randn((64, self.latent), generator=generator, device=image.device)
        back = self.decode(self.encode(image)[0])
        return {
            "reconstructions": picture_grid(torch.cat((image, back)), columns=len(image)),
            "samples": picture_grid(self.decode(z), columns=8),
        }

    def describe(self) -> dict:
        return {"system": "variational autoencoder", **self._arguments}

    def _reconstruction_error(self, decoded: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
        if self.likelihood == "bernoulli":
            return F.binary_cross_entropy_with_logits(decoded, pixels, reduction="none").sum(dim=1)
        mean, log_variance = decoded.chunk(2, dim=1)
        squares = (pixels - mean.sigmoid()).square()
        return 0.5 * (log(2 * pi) + log_variance + squares / log_variance.exp()).sum(dim=1)
