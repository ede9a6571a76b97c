"""Variational autoencoder of video frames: the image encoder in front, a convolutional decoder behind.

Legend: B batch, T frames, H W frame pixels.
"""

from collections.abc import Mapping
from math import log, pi

import numpy as np
import torch
from torch import nn

from cmp.baselines.baseline import Baseline
from cmp.baselines.gaussian_kl import gaussian_kl, gaussian_sample
from cmp.baselines.image_encoder import build_image_encoder, describe_image_encoder, normalise_frames
from cmp.baselines.sheet import picture_grid

GRID = 4  # cells to a side from which the numbers are read, and which the decoder starts with


class FrameVAE(Baseline):
    """An image encoder, its map averaged in 4 x 4 cells, Gaussian numbers, and a decoder that doubles 4 x 4 cells.

    It sees the first frame of a clip. Colours are Gaussian around the decoder's, with one variance, which is learned.

    Args:
        image_encoder: see `build_image_encoder`.
        size_px: side of the square frames: 4 times a power of two.
        latent: numbers that a frame is made from.
        width: channels of the decoder's first map; each doubling of the sides halves them, down to 16.

    Raises:
        ValueError: size_px does not fit, a number is below 1, or another encoder.

    Source: Kingma and Welling, "Auto-encoding variational Bayes", ICLR 2014, with a convolutional encoder and decoder
    for their layers: ours, to compare encoders.
    """

    def __init__(self, image_encoder: Mapping, *, size_px: int = 128, latent: int = 128, width: int = 256) -> None:
        super().__init__()
        doublings = size_px.bit_length() - GRID.bit_length()
        if doublings < 1 or size_px != GRID << doublings:
            raise ValueError(f"size_px must be {GRID} times a power of two, got {size_px}")
        if min(latent, width) < 1:
            raise ValueError(f"latent and width must be at least 1, got {latent} and {width}")
        self._description = dict(size_px=size_px, latent=latent, width=width) | describe_image_encoder(image_encoder)
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
        self.log_variance = nn.Parameter(torch.tensor(-3.0))  # of colours in 0..1

    def loss(self, frames: torch.Tensor, **_) -> dict[str, torch.Tensor]:
        """Minus the bound and its two parts, nats for a frame, means over the batch."""
        terms = self.bound_terms(frames)
        loss = terms["reconstruction"] + terms["kl"]
        return {"loss": loss.mean(), **{name: values.mean() for name, values in terms.items()}}

    def measure(self, frames: torch.Tensor, **_) -> dict[str, torch.Tensor]:
        """`elbo`: the lower bound on the log density of a frame's colours in 0..1, nats, by one draw; `kl`; `psnr`: of
        the decoder's mean for that draw, dB."""
        terms = self.bound_terms(frames)
        return {
            "elbo": -(terms["reconstruction"] + terms["kl"]),
            "kl": terms["kl"],
            "psnr": -10 * terms["squared_error"].log10(),
        }

    def bound_terms(self, frames: torch.Tensor) -> dict[str, torch.Tensor]:
        """Of clips (B, T, 3, H, W) RGB, 0..255: `reconstruction`: -log p(frame | z) for one z drawn from
        q(z | frame), and `kl`: KL(q || p), nats; `squared_error`: mean over colours in 0..1. (B,) each."""
        frame = self._first(frames)
        mean, log_variance = self.encode(frame)
        decoded = self.decode(gaussian_sample(mean, log_variance)).float()
        error = (frame.float() / 255 - decoded).square().flatten(1).mean(dim=1)
        spread = log(2 * pi) + self.log_variance
        likelihood = 0.5 * (spread + error / self.log_variance.exp()) * frame[0].numel()
        return {"reconstruction": likelihood, "kl": gaussian_kl(mean, log_variance), "squared_error": error}

    def encode(self, frame: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and log variance of q(z | frame), (B, latent) float32 each, of (B, 3, H, W) RGB, 0..255."""
        top = self.image_encoder(normalise_frames(frame)).top
        cells = nn.functional.adaptive_avg_pool2d(top, GRID)
        return self.posterior(cells.flatten(1)).float().chunk(2, dim=1)

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        """Mean frames (B, 3, H, W), 0..1, of numbers (B, latent)."""
        return self.decoder(z).sigmoid()

    def pictures(self, frames: torch.Tensor, **_) -> dict[str, np.ndarray]:
        """`reconstructions`: frames above what became of them; `samples`: made from numbers drawn from the prior."""
        frame = self._first(frames)
        generator = torch.Generator(frame.device).manual_seed(0)
        z = torch.randn((16, self.latent), generator=generator, device=frame.device)
        back = self.decode(self.encode(frame)[0])
        return {
            "reconstructions": picture_grid(torch.cat((frame.float() / 255, back)), columns=len(frame)),
            "samples": picture_grid(self.decode(z), columns=8),
        }

    def describe(self) -> dict:
        return {"system": "variational autoencoder of frames", **self._description}

    def _first(self, frames: torch.Tensor) -> torch.Tensor:
        if frames.ndim != 5 or tuple(frames.shape[2:]) != (3, self.size_px, self.size_px):
            side = self.size_px
            raise ValueError(f"frames must be (B, T, 3, {side}, {side}), got {tuple(frames.shape)}")
        return frames[:, 0]
