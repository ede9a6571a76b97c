"""Variational autoencoder of images with one hidden layer on each side."""

from math import log, pi, prod
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from cmp.baselines.baseline import Baseline
from cmp.baselines.drawing.reconstructions import draw_reconstructions
from cmp.baselines.gaussian_kl import gaussian_kl, gaussian_sample


class VAE(Baseline):
    """Encodes an image into a Gaussian latent vector and decodes it, with one hidden layer of tanh units on each side.

    Args:
        image_shape: (C, H, W) of an image, values 0..1.
        latent: size of the latent vector.
        hidden: units in each hidden layer.
        likelihood: "bernoulli", or "gaussian" with a mean in 0..1 and a variance for each pixel.
        init_std: standard deviation of the initial weights; biases start at 0.
        gray_levels: number of values that pixels can have, at least 2. Uniform noise of one level is then added before
            the loss and the bounds are computed: without it, the Gaussian density of pixels that never change is
            unbounded. None adds no noise.
        importance_draws: K of `importance_bound`; 0 does not measure it.

    Raises:
        ValueError: the likelihood is unknown, or a number is out of range.

    Source: Kingma and Welling, "Auto-encoding variational Bayes", ICLR 2014, appendix C. The prior on the
    weights is the optimizer's weight decay. The noise is Theis, van den Oord and Bethge's, "A note on the evaluation of
    generative models", ICLR 2016.
    """

    loss_unit = "negative lower bound, nats per image"

    def __init__(
        self,
        image_shape: tuple[int, int, int] = (1, 28, 28),
        *,
        latent: int = 20,
        hidden: int = 500,
        likelihood: str = "bernoulli",
        init_std: float = 0.1,
        gray_levels: int | None = None,
        importance_draws: int = 0,
    ) -> None:
        super().__init__()
        if likelihood not in ("bernoulli", "gaussian"):
            raise ValueError(f"likelihood must be 'bernoulli' or 'gaussian', got {likelihood!r}")
        if min(latent, hidden) < 1:
            raise ValueError(f"latent and hidden must be at least 1, got {latent} and {hidden}")
        if importance_draws < 0 or (gray_levels is not None and gray_levels < 2):
            raise ValueError(
                "importance_draws must be at least 0, gray_levels at least 2 or None, "
                f"got {importance_draws} and {gray_levels}"
            )
        self._arguments: dict[str, Any] = dict(
            image_shape=list(image_shape), latent=latent, hidden=hidden, likelihood=likelihood, init_std=init_std
        )
        self._arguments |= dict(gray_levels=gray_levels, importance_draws=importance_draws)
        self.image_shape, self.latent, self.likelihood = tuple(image_shape), latent, likelihood
        self.gray_levels, self.importance_draws = gray_levels, importance_draws
        pixels = prod(image_shape)
        self.encoder = nn.Sequential(nn.Linear(pixels, hidden), nn.Tanh(), nn.Linear(hidden, 2 * latent))
        outputs = pixels if likelihood == "bernoulli" else 2 * pixels
        self.decoder = nn.Sequential(nn.Linear(latent, hidden), nn.Tanh(), nn.Linear(hidden, outputs))
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=init_std)
                nn.init.zeros_(layer.bias)

    def loss(self, image: torch.Tensor, **_) -> dict[str, torch.Tensor]:
        """Compute the negative lower bound and its two terms, nats, means over the batch."""
        error, kl = self.bound_terms(image)
        return {"loss": (error + kl).mean(), "reconstruction": error.mean(), "kl": kl.mean()}

    def measure(self, image: torch.Tensor, **_) -> dict[str, torch.Tensor]:
        """Measure `elbo`: the lower bound on log p(image) by one sample, nats; `kl`; `importance_bound_K` if K > 0."""
        error, kl = self.bound_terms(image)
        measures = {"elbo": -(error + kl), "kl": kl}
        if self.importance_draws:
            bound = self.importance_bound(image, self.importance_draws)
            measures[f"importance_bound_{self.importance_draws}"] = bound
        return measures

    def bound_terms(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute -log p(image | z) for one z drawn from q(z | image), and KL(q || p); (B,) nats each."""
        image = self._with_noise(image)
        mean, log_variance = self.encode(image)
        decoded = self.decoder(gaussian_sample(mean, log_variance))
        return self._reconstruction_error(decoded, image.flatten(1)), gaussian_kl(mean, log_variance)

    def importance_bound(self, image: torch.Tensor, draws: int) -> torch.Tensor:
        """Estimate the importance-weighted lower bound on log p(image), (B,) nats.

        It is the log of the mean of p(image, z) / q(z | image) over `draws` samples z from q. With one draw its
        expectation is the bound of `bound_terms`; more draws bring it closer to log p(image).

        Source: Burda, Grosse and Salakhutdinov, "Importance weighted autoencoders", ICLR 2016, eq. 8.
        """
        image = self._with_noise(image)
        mean, log_variance = self.encode(image)
        weights = []
        for _ in range(draws):
            z = gaussian_sample(mean, log_variance)
            # log p(z) - log q(z | image): the constants of the two Gaussians are the same.
            ratio = 0.5 * (log_variance + (z - mean).square() / log_variance.exp() - z.square()).sum(dim=1)
            weights.append(ratio - self._reconstruction_error(self.decoder(z), image.flatten(1)))
        return torch.stack(weights).logsumexp(dim=0) - log(draws)

    def encode(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Predict mean and log variance of q(z | image), (B, latent) each, of images (B, C, H, W).

        Raises:
            ValueError: images of another shape than image_shape.
        """
        if tuple(image.shape[1:]) != self.image_shape:
            raise ValueError(f"images must be (B, {', '.join(map(str, self.image_shape))}), got {tuple(image.shape)}")
        return self.encoder(image.flatten(1)).chunk(2, dim=1)

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        """Decode latent vectors (B, latent) to mean images (B, C, H, W), 0..1."""
        decoded = self.decoder(z)
        mean = decoded if self.likelihood == "bernoulli" else decoded.chunk(2, dim=1)[0]
        return mean.sigmoid().unflatten(1, self.image_shape)

    def pictures(self, image: torch.Tensor, **_) -> dict[str, np.ndarray]:
        """Draw reconstructions and 64 samples; see `draw_reconstructions`."""
        return draw_reconstructions(self, image, image, num_samples=64)

    def describe(self) -> dict:
        return {"system": "variational autoencoder", **self._arguments}

    def _with_noise(self, image: torch.Tensor) -> torch.Tensor:
        """Add noise of one gray level, so that the levels cover 0..1 without gaps; unchanged if gray_levels is None."""
        if self.gray_levels is None:
            return image
        return (image * (self.gray_levels - 1) + torch.rand_like(image)) / self.gray_levels

    def _reconstruction_error(self, decoded: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
        if self.likelihood == "bernoulli":
            return F.binary_cross_entropy_with_logits(decoded, pixels, reduction="none").sum(dim=1)
        mean, log_variance = decoded.chunk(2, dim=1)
        squares = (pixels - mean.sigmoid()).square()
        return 0.5 * (log(2 * pi) + log_variance + squares / log_variance.exp()).sum(dim=1)
