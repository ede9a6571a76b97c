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
        grey_levels: pictures hold only so many values: the loss and the bounds then see them with uniform noise of one
            level. Without it a Gaussian's density of pixels that never change has no limit. None adds nothing.
        importance_draws: K of `importance_bound`; with 0 it is not measured.

    Raises:
        ValueError: another likelihood, or a number is out of range.

    Source: Kingma and Welling, "Auto-encoding variational Bayes", ICLR 2014, appendix C. The weight decay that stands
    for its prior is the optimizer's. The noise is Theis, van den Oord and Bethge's, "A note on the evaluation of
    generative models", ICLR 2016.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int] = (1, 28, 28),
        *,
        latent: int = 20,
        hidden: int = 500,
        likelihood: str = "bernoulli",
        init_std: float = 0.1,
        grey_levels: int | None = None,
        importance_draws: int = 0,
    ) -> None:
        super().__init__()
        if likelihood not in ("bernoulli", "gaussian"):
            raise ValueError(f"likelihood must be 'bernoulli' or 'gaussian', got {likelihood!r}")
        if min(latent, hidden) < 1:
            raise ValueError(f"latent and hidden must be at least 1, got {latent} and {hidden}")
        if importance_draws < 0 or (grey_levels is not None and grey_levels < 2):
            raise ValueError(
                "importance_draws must be at least 0, grey_levels at least 2 or None, "
                f"got {importance_draws} and {grey_levels}"
            )
        self._arguments = dict(
            image_shape=list(image_shape), latent=latent, hidden=hidden, likelihood=likelihood, init_std=init_std
        )
        self._arguments |= dict(grey_levels=grey_levels, importance_draws=importance_draws)
        self.image_shape, self.latent, self.likelihood = tuple(image_shape), latent, likelihood
        self.grey_levels, self.importance_draws = grey_levels, importance_draws
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
        """`elbo`: the lower bound on log p(image), nats, by one draw; `kl`; and `importance_bound_K` if asked for."""
        error, kl = self.bound_terms(image)
        measures = {"elbo": -(error + kl), "kl": kl}
        if self.importance_draws:
            bound = self.importance_bound(image, self.importance_draws)
            measures[f"importance_bound_{self.importance_draws}"] = bound
        return measures

    def bound_terms(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """-log p(image | z) for one z drawn from q(z | image), and KL(q || p), (B,) nats each."""
        image = self._with_noise(image)
        mean, log_variance = self.encode(image)
        decoded = self.decoder(gaussian_sample(mean, log_variance))
        return self._reconstruction_error(decoded, image.flatten(1)), gaussian_kl(mean, log_variance)

    def importance_bound(self, image: torch.Tensor, draws: int) -> torch.Tensor:
        """Lower bound on log p(image), (B,) nats: log of the mean of p(image, z) / q(z | image) over draws from q.

        With one draw it is the other bound, in the mean; each more brings it nearer to the truth.

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

    def _with_noise(self, image: torch.Tensor) -> torch.Tensor:
        """The image with its levels spread over 0..1 without gaps, if it holds levels."""
        if self.grey_levels is None:
            return image
        return (image * (self.grey_levels - 1) + torch.rand_like(image)) / self.grey_levels

    def _reconstruction_error(self, decoded: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
        if self.likelihood == "bernoulli":
            return F.binary_cross_entropy_with_logits(decoded, pixels, reduction="none").sum(dim=1)
        mean, log_variance = decoded.chunk(2, dim=1)
        squares = (pixels - mean.sigmoid()).square()
        return 0.5 * (log(2 * pi) + log_variance + squares / log_variance.exp()).sum(dim=1)
