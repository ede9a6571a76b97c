"""Variational autoencoder of video frames: an image encoder of CMP and a convolutional decoder.

Legend: B batch, T frames, H W frame pixels.
"""

from collections.abc import Mapping
from math import log, pi
from typing import Any

import numpy as np
import torch
from torch import nn

from cmp.baselines.baseline import Baseline
from cmp.baselines.drawing.reconstructions import draw_reconstructions
from cmp.baselines.gaussian_kl import gaussian_kl, gaussian_sample
from cmp.baselines.image_encoder import build_image_encoder, describe_image_encoder, normalize_frames

GRID = 4  # cells per side of the map that is encoded, and of the map that the decoder starts with


class FrameVAE(Baseline):
    """Encodes a clip's first frame into a Gaussian latent vector and decodes the vector to a frame.

    The encoder's map is averaged to 4 x 4 cells, from which a linear layer predicts the Gaussian. The decoder starts
    with 4 x 4 cells and doubles them until they are pixels. Colors are Gaussian around the decoder's output, with one
    learned variance.

    Args:
        image_encoder: see `build_image_encoder`.
        size_px: side of the square frames: 4 times a power of two.
        latent: size of the latent vector.
        width: channels of the decoder's first map; each doubling of the sides halves the channels, down to 16.

    Raises:
        ValueError: size_px is not 4 times a power of two, latent or width is below 1, or the image encoder is unknown.

    Source: Kingma and Welling, "Auto-encoding variational Bayes", ICLR 2014. The convolutional encoder and decoder are
    ours, to compare encoders.
    """

    loss_unit = "negative lower bound, nats per frame"

    def __init__(self, image_encoder: Mapping, *, size_px: int = 128, latent: int = 128, width: int = 256) -> None:
        super().__init__()
        doublings = size_px.bit_length() - GRID.bit_length()
        if doublings < 1 or size_px != GRID << doublings:
            raise ValueError(f"size_px must be {GRID} times a power of two, got {size_px}")
        if min(latent, width) < 1:
            raise ValueError(f"latent and width must be at least 1, got {latent} and {width}")
        self._description: dict[str, Any] = dict(size_px=size_px, latent=latent, width=width) | describe_image_encoder(
            image_encoder
        )
        self.size_px, self.latent = size_px, latent
        self.image_encoder = build_image_encoder(image_encoder)
        self.posterior = nn.Linear(self.image_encoder.channels["top"] * GRID**2, 2 * latent)
        layers = [nn.Linear(latent, width * GRID**2), nn.Unflatten(1, (width, GRID, GRID))]
        for _ in range(doublings):
            narrower = max(width // 2, 16)
            layers += [nn.ReLU(), nn.Upsample(scale_factor=2), nn.Conv2d(width, narrower, 3, padding=1, bias=False)]
            layers += [nn.BatchNorm2d(narrower)]
            width = narrower
        self.decoder = nn.Sequential(*layers, nn.ReLU(), nn.Conv2d(width, 3, 3, padding=1))
        self.log_variance = nn.Parameter(torch.tensor(-3.0))  # of colors in 0..1

    def loss(self, frames: torch.Tensor, **_) -> dict[str, torch.Tensor]:
        """Compute the negative lower bound and its two terms, nats per frame, means over the batch."""
        terms = self.bound_terms(frames)
        loss = terms["reconstruction"] + terms["kl"]
        return {"loss": loss.mean(), **{name: values.mean() for name, values in terms.items()}}

    def measure(self, frames: torch.Tensor, **_) -> dict[str, torch.Tensor]:
        """Measure `elbo`: the lower bound on the log density of a frame's colors in 0..1, from one sample, nats.

        Also `kl`, nats; and `psnr`: of the decoder's mean for that sample, dB.
        """
        terms = self.bound_terms(frames)
        return {
            "elbo": -(terms["reconstruction"] + terms["kl"]),
            "kl": terms["kl"],
            "psnr": -10 * terms["squared_error"].log10(),
        }

    def bound_terms(self, frames: torch.Tensor) -> dict[str, torch.Tensor]:
        """Compute the terms of the bound for the first frames of clips (B, T, 3, H, W) RGB, 0..255.

        Returns:
            (B,) each: `reconstruction`: -log p(frame | z) for one z drawn from q(z | frame), nats; `kl`: KL(q || p),
            nats; `squared_error`: mean over color values in 0..1.
        """
        frame = self._first(frames)
        mean, log_variance = self.encode(frame)
        decoded = self.decode(gaussian_sample(mean, log_variance)).float()
        error = (frame.float() / 255 - decoded).square().flatten(1).mean(dim=1)
        spread = log(2 * pi) + self.log_variance
        likelihood = 0.5 * (spread + error / self.log_variance.exp()) * frame[0].numel()
        return {"reconstruction": likelihood, "kl": gaussian_kl(mean, log_variance), "squared_error": error}

    def encode(self, frame: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Predict mean and log variance of q(z | frame), (B, latent) float32 each, from (B, 3, H, W) RGB, 0..255."""
        top = self.image_encoder(normalize_frames(frame)).top
        cells = nn.functional.adaptive_avg_pool2d(top, GRID)
        return self.posterior(cells.flatten(1)).float().chunk(2, dim=1)

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        """Decode latent vectors (B, latent) to mean frames (B, 3, H, W), 0..1."""
        return self.decoder(z).sigmoid()

    def pictures(self, frames: torch.Tensor, **_) -> dict[str, np.ndarray]:
        """Draw reconstructions and 16 samples; see `draw_reconstructions`."""
        frame = self._first(frames)
        return draw_reconstructions(self, frame.float() / 255, frame, num_samples=16)

    def describe(self) -> dict:
        return {"system": "variational autoencoder of frames", **self._description}

    def _first(self, frames: torch.Tensor) -> torch.Tensor:
        if frames.ndim != 5 or tuple(frames.shape[2:]) != (3, self.size_px, self.size_px):
            side = self.size_px
            raise ValueError(f"frames must be (B, T, 3, {side}, {side}), got {tuple(frames.shape)}")
        return frames[:, 0]
