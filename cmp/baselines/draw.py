"""DRAW: a picture painted in several strokes, each from Gaussian numbers of its own.

Legend: B batch, C channels, H W picture pixels, T strokes.
"""

from math import prod

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.utils import draw_bounding_boxes

from cmp.baselines.baseline import Baseline
from cmp.baselines.gaussian_kl import gaussian_kl, gaussian_sample
from cmp.baselines.glimpse import Window, window_from
from cmp.baselines.sheet import picture_grid

ZOOM = 2  # pictures of strokes are so many times as large, so that a window's outline shows


class DRAW(Baseline):
    """An encoder that looks at what is still wrong with the canvas, and a decoder that adds to it, both LSTMs.

    Args:
        image_shape: (C, H, W) of a picture, values 0..1.
        strokes: T, how often it looks and paints.
        hidden: units of each LSTM.
        latent: numbers to a stroke.
        read_size: filters to a side of the window it looks through; None looks at the whole picture.
        write_size: of the window it paints through; None paints on the whole picture.

    Raises:
        ValueError: strokes, hidden or latent is below 1.

    Source: Gregor et al., "DRAW: A recurrent neural network for image generation", ICML 2015, eqs. 1 to 29. Both
    LSTMs' first states and the first canvas are learned; they start at 0.
    """

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
        self._arguments = dict(image_shape=list(image_shape), strokes=strokes, hidden=hidden, latent=latent)
        self._arguments |= dict(read_size=read_size, write_size=write_size)
        self.image_shape, self.strokes, self.latent = tuple(image_shape), strokes, latent
        self.read_size, self.write_size = read_size, write_size
        channels = self.image_shape[0]
        seen = 2 * (prod(image_shape) if read_size is None else channels * read_size**2)
        painted = prod(image_shape) if write_size is None else channels * write_size**2
        self.encoder = nn.LSTMCell(seen + hidden, hidden)
        self.decoder = nn.LSTMCell(latent, hidden)
        self.posterior = nn.Linear(hidden, 2 * latent)  # mean, and logarithm of the standard deviation
        self.patch = nn.Linear(hidden, painted)
        self.read_window = None if read_size is None else nn.Linear(hidden, 5)
        self.write_window = None if write_size is None else nn.Linear(hidden, 5)
        self.first_states = nn.Parameter(torch.zeros(4, hidden))  # encoder's output and cell, then the decoder's
        self.first_canvas = nn.Parameter(torch.zeros(self.image_shape))

    def loss(self, image: torch.Tensor, **_) -> dict[str, torch.Tensor]:
        """Minus the bound and its two parts, nats, means over the batch."""
        error, kl = self.bound_terms(image)
        kl = kl.sum(dim=1)
        return {"loss": (error + kl).mean(), "reconstruction": error.mean(), "kl": kl.mean()}

    def measure(self, image: torch.Tensor, **_) -> dict[str, torch.Tensor]:
        """`elbo`: the lower bound on log p(image), nats, by one draw; `kl` and `kl_stroke_N`, its parts, from 1 on."""
        error, kl = self.bound_terms(image)
        parts = {f"kl_stroke_{t + 1}": kl[:, t] for t in range(self.strokes)}
        return {"elbo": -(error + kl.sum(dim=1)), "kl": kl.sum(dim=1), **parts}

    def bound_terms(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """-log p(image | z) for one z drawn from q(z | image), (B,), and KL(q || p) of each stroke, (B, T); nats."""
        canvases, divergences = self.reconstruct(image)
        error = F.binary_cross_entropy_with_logits(canvases[-1], image, reduction="none").flatten(1).sum(dim=1)
        return error, divergences

    def reconstruct(
        self, image: torch.Tensor, generator: torch.Generator | None = None
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Canvases (B, C, H, W) after each stroke, logits of pixels, and KL(q || p) of each stroke, (B, T) nats."""
        if tuple(image.shape[1:]) != self.image_shape:
            raise ValueError(f"images must be (B, {', '.join(map(str, self.image_shape))}), got {tuple(image.shape)}")
        looking, painting, canvas = self._start(len(image))
        canvases, divergences = [], []
        for _ in range(self.strokes):
            wrong = image - canvas.sigmoid()
            looking = self.encoder(torch.cat((self._read(image, wrong, painting[0]), painting[0]), dim=1), looking)
            mean, log_deviation = self.posterior(looking[0]).chunk(2, dim=1)
            divergences.append(gaussian_kl(mean, 2 * log_deviation))
            painting = self.decoder(gaussian_sample(mean, 2 * log_deviation, generator), painting)
            canvas = canvas + self._write(painting[0])
            canvases.append(canvas)
        return canvases, torch.stack(divergences, dim=1)

    def sample(self, z: torch.Tensor) -> tuple[list[torch.Tensor], list[Window | None]]:
        """Pictures from numbers (B, T, latent), those of the prior: N(0, 1).

        Returns:
            Canvases (B, C, H, W) after each stroke, logits of pixels; and where each was painted, None for everywhere.
        """
        _, painting, canvas = self._start(len(z))
        canvases, windows = [], []
        for numbers in z.unbind(dim=1):
            painting = self.decoder(numbers, painting)
            canvas = canvas + self._write(painting[0])
            canvases.append(canvas)
            windows.append(self._window(self.write_window, self.write_size, painting[0]))
        return canvases, windows

    def pictures(self, image: torch.Tensor, **_) -> dict[str, np.ndarray]:
        """`reconstructions`: pictures above what became of them; `samples`: made from numbers drawn from the prior;
        `strokes`: a film of how 16 of those came to be, outlined where it paints; the last picture stands a while."""
        generator = torch.Generator(image.device).manual_seed(0)
        back = self.reconstruct(image, generator)[0][-1].sigmoid()
        z = torch.randn((64, self.strokes, self.latent), generator=generator, device=image.device)
        canvases, windows = self.sample(z)
        film = [self._outlined(canvas[:16].sigmoid(), window) for canvas, window in zip(canvases, windows)]
        film += 8 * [self._outlined(canvases[-1][:16].sigmoid(), None)]
        return {
            "reconstructions": picture_grid(torch.cat((image, back)), columns=len(image)),
            "samples": picture_grid(canvases[-1].sigmoid(), columns=8),
            "strokes": np.stack([picture_grid(frame, columns=8) for frame in film]),
        }

    def describe(self) -> dict:
        return {"system": "DRAW", **self._arguments}

    def _start(self, batch: int) -> tuple[tuple, tuple, torch.Tensor]:
        """States of the encoder and the decoder, output and cell each, and the canvas, before the first stroke."""
        states = self.first_states[:, None].expand(4, batch, -1)
        return (states[0], states[1]), (states[2], states[3]), self.first_canvas.expand(batch, *self.image_shape)

    def _window(self, layer: nn.Linear | None, size: int | None, hidden: torch.Tensor) -> Window | None:
        return None if layer is None else window_from(layer(hidden), size, *self.image_shape[1:])

    def _read(self, image: torch.Tensor, wrong: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        both = torch.cat((image, wrong), dim=1)
        window = self._window(self.read_window, self.read_size, hidden)
        return (both if window is None else window.read(both, self.read_size)).flatten(1)

    def _write(self, hidden: torch.Tensor) -> torch.Tensor:
        patch = self.patch(hidden)
        window = self._window(self.write_window, self.write_size, hidden)
        if window is None:
            return patch.unflatten(1, self.image_shape)
        patch = patch.unflatten(1, (self.image_shape[0], self.write_size, self.write_size))
        return window.write(patch, *self.image_shape[1:])

    def _outlined(self, pictures: torch.Tensor, window: Window | None) -> torch.Tensor:
        """Enlarged pictures (B, 3, H', W'), 0..1, a red line around the outermost filters' centres."""
        large = F.interpolate(pictures.expand(-1, 3, -1, -1), scale_factor=ZOOM).cpu()
        if window is None:
            return large
        height, width = self.image_shape[1:]
        reach = (self.write_size - 1) / 2 * window.distance
        sides = [  # px of the enlarged picture, from its first row and column; pixel 1's middle lies half a pixel in
            (ZOOM * (centre + sign * reach - 0.5)).clamp(0, ZOOM * length - 1)[: len(large)]
            for sign in (-1, 1)
            for centre, length in ((window.centre_x, width), (window.centre_y, height))
        ]
        boxes = torch.stack(sides, dim=1).cpu()
        return torch.stack(
            [draw_bounding_boxes(picture, box[None], colors="red") for picture, box in zip(large, boxes)]
        )
