"""DRAW: generates an image in several strokes, each from a separate Gaussian latent vector.

Legend: B batch, C channels, H W image pixels, T strokes.
"""

from math import prod
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from cmp.baselines.baseline import Baseline
from cmp.baselines.drawing.draw import draw_strokes
from cmp.baselines.gaussian_kl import gaussian_kl, gaussian_sample
from cmp.baselines.glimpse import Window, window_from


class DRAW(Baseline):
    """Recurrent variational autoencoder: an LSTM encodes the canvas's error, another LSTM adds a stroke to the canvas.

    Args:
        image_shape: (C, H, W) of an image, values 0..1.
        strokes: T, the number of read and write steps.
        hidden: units of each LSTM.
        latent: size of the latent vector of each stroke.
        read_size: filters per side of the window that the encoder reads through; None reads the whole image.
        write_size: filters per side of the window that the decoder paints through; None paints the whole image.

    Raises:
        ValueError: strokes, hidden or latent is below 1.

    Source: Gregor et al., "DRAW: A recurrent neural network for image generation", ICML 2015, eqs. 1 to 29. The
    initial states of both LSTMs and the initial canvas are learned; they start at 0.
    """

    loss_unit = "negative lower bound, nats per image"

    def __init__(
        self,
        image_shape: tuple[int, int, int] = (1, 28, 28),
        *,
        strokes: int = 64,
        hidden: int = 256,
        latent: int = 100,
        read_size: int | None = 2,
        write_size: int | None = 5,
    ) -> None:
        super().__init__()
        if min(strokes, hidden, latent) < 1:
            raise ValueError(f"strokes, hidden and latent must be at least 1, got {strokes}, {hidden} and {latent}")
        self._arguments: dict[str, Any] = dict(
            image_shape=list(image_shape), strokes=strokes, hidden=hidden, latent=latent
        )
        self._arguments |= dict(read_size=read_size, write_size=write_size)
        self.image_shape, self.strokes, self.latent = tuple(image_shape), strokes, latent
        self.read_size, self.write_size = read_size, write_size
        channels = self.image_shape[0]
        read = 2 * (prod(image_shape) if read_size is None else channels * read_size**2)
        painted = prod(image_shape) if write_size is None else channels * write_size**2
        self.encoder = nn.LSTMCell(read + hidden, hidden)
        self.decoder = nn.LSTMCell(latent, hidden)
        self.posterior = nn.Linear(hidden, 2 * latent)  # mean, and logarithm of the standard deviation
        self.patch = nn.Linear(hidden, painted)
        self.read_window = None if read_size is None else nn.Linear(hidden, 5)
        self.write_window = None if write_size is None else nn.Linear(hidden, 5)
        self.first_states = nn.Parameter(torch.zeros(4, hidden))  # encoder's output and cell, then the decoder's
        self.first_canvas = nn.Parameter(torch.zeros(self.image_shape))

    def loss(self, image: torch.Tensor, **_) -> dict[str, torch.Tensor]:
        """Compute the negative lower bound and its two terms, nats, means over the batch."""
        error, kl = self.bound_terms(image)
        kl = kl.sum(dim=1)
        return {"loss": (error + kl).mean(), "reconstruction": error.mean(), "kl": kl.mean()}

    def measure(self, image: torch.Tensor, **_) -> dict[str, torch.Tensor]:
        """Measure `elbo`: the lower bound on log p(image) from one sample, nats; `kl`; `kl_stroke_N`, N from 1."""
        error, kl = self.bound_terms(image)
        parts = {f"kl_stroke_{t + 1}": kl[:, t] for t in range(self.strokes)}
        return {"elbo": -(error + kl.sum(dim=1)), "kl": kl.sum(dim=1), **parts}

    def bound_terms(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute the terms of the bound, nats.

        Returns:
            -log p(image | z) for one z drawn from q(z | image), (B,); and KL(q || p) of each stroke, (B, T).
        """
        canvases, divergences = self.reconstruct(image)
        error = F.binary_cross_entropy_with_logits(canvases[-1], image, reduction="none").flatten(1).sum(dim=1)
        return error, divergences

    def reconstruct(
        self, image: torch.Tensor, generator: torch.Generator | None = None
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Encode images (B, C, H, W), values 0..1, and paint them again, stroke by stroke.

        Returns:
            The canvases (B, C, H, W) after each stroke, logits of pixels; and KL(q || p) of each stroke, (B, T) nats.

        Raises:
            ValueError: images of another shape than image_shape.
        """
        if tuple(image.shape[1:]) != self.image_shape:
            raise ValueError(f"images must be (B, {', '.join(map(str, self.image_shape))}), got {tuple(image.shape)}")
        encoder, decoder, canvas = self._start(len(image))
        canvases, divergences = [], []
        for _ in range(self.strokes):
            error = image - canvas.sigmoid()
            read = self._read(image, error, decoder[0])
            encoder = self.encoder(torch.cat((read, decoder[0]), dim=1), encoder)
            mean, log_deviation = self.posterior(encoder[0]).chunk(2, dim=1)
            divergences.append(gaussian_kl(mean, 2 * log_deviation))
            decoder = self.decoder(gaussian_sample(mean, 2 * log_deviation, generator), decoder)
            canvas = canvas + self._write(decoder[0])
            canvases.append(canvas)
        return canvases, torch.stack(divergences, dim=1)

    def sample(self, z: torch.Tensor) -> tuple[list[torch.Tensor], list[Window | None]]:
        """Generate images from latent vectors (B, T, latent); the prior is N(0, I).

        Returns:
            The canvases (B, C, H, W) after each stroke, logits of pixels; and the window of each stroke, None where the
            whole image is painted.
        """
        _, decoder, canvas = self._start(len(z))
        canvases, windows = [], []
        for stroke in z.unbind(dim=1):
            decoder = self.decoder(stroke, decoder)
            canvas = canvas + self._write(decoder[0])
            canvases.append(canvas)
            windows.append(self._window(self.write_window, self.write_size, decoder[0]))
        return canvases, windows

    def pictures(self, image: torch.Tensor, **_) -> dict[str, np.ndarray]:
        """Draw reconstructions, samples and strokes; see `draw_strokes`."""
        return draw_strokes(self, image)

    def describe(self) -> dict:
        return {"system": "DRAW", **self._arguments}

    def _start(self, batch: int) -> tuple[tuple, tuple, torch.Tensor]:
        """Return the states of encoder and decoder, (output, cell) each, and the canvas, before the first stroke."""
        states = self.first_states[:, None].expand(4, batch, -1)
        return (states[0], states[1]), (states[2], states[3]), self.first_canvas.expand(batch, *self.image_shape)

    def _window(self, layer: nn.Linear | None, size: int | None, hidden: torch.Tensor) -> Window | None:
        return None if layer is None or size is None else window_from(layer(hidden), size, *self.image_shape[1:])

    def _read(self, image: torch.Tensor, error: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        both = torch.cat((image, error), dim=1)
        window, size = self._window(self.read_window, self.read_size, hidden), self.read_size
        return (both if window is None or size is None else window.read(both, size)).flatten(1)

    def _write(self, hidden: torch.Tensor) -> torch.Tensor:
        patch = self.patch(hidden)
        window = self._window(self.write_window, self.write_size, hidden)
        if window is None:
            return patch.unflatten(1, self.image_shape)
        patch = patch.unflatten(1, (self.image_shape[0], self.write_size, self.write_size))
        return window.write(patch, *self.image_shape[1:])
