"""Visual Dynamics: from one image many possible next ones, each by kernels that a few random numbers stand for.

Legend: B batch, H W pixels, C channels of a map. Frames have values -1..1 inside, 0..255 in a batch.
"""

from collections.abc import Sequence
from math import prod

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from cmp.baselines.baseline import Baseline
from cmp.baselines.cross_convolution import cross_convolve
from cmp.baselines.frame_prediction import scale_pixels
from cmp.baselines.gaussian_kl import gaussian_kl, gaussian_sample
from cmp.baselines.image_encoder import build_image_encoder, describe_image_encoder, normalise_frames
from cmp.baselines.sheet import picture_grid

SCALES = (0.25, 0.5, 1.0, 2.0)  # of the image
SIZE = 5  # side of every kernel, px
TRIES = 10  # futures that `measure` draws
PRIORS = ("normal", "empirical")


class VisualDynamics(Baseline):
    """A conditional variational autoencoder of the difference between two frames.

    A motion encoder turns the pair of frames into a Gaussian over `latent` numbers; a kernel decoder turns numbers into
    kernels, an image encoder the first frame into maps at four scales; each map is convolved with its kernel; a motion
    decoder turns the results into the difference. Only the pair's own numbers tell where things go: drawn from a prior
    instead, they make a possible future.

    Two priors are offered: "normal", N(0, I), and "empirical": numbers of pairs seen in training, of which the newest
    `stored` are kept with the weights.

    With another image encoder in place of the four small ones, its top is averaged down to four scales.

    Args:
        latent: numbers that stand for a motion. Published: 3200, as many as the maps that the kernels are made of.
        beta: weight of the KL divergence in the loss, to squared errors of values -1..1 summed over a picture: twice
            the variance that the autoencoder ascribes to a value.
        maps: channels of each scale.
        motion_widths, motion_pools: channels of the motion encoder's 5 x 5 convolutions, and the max-pooling after
        image_widths: channels of the image encoder's first three 5 x 5 convolutions; max-pooling follows the first and
            the third.
        kernel_width: maps of 5 x 5 that kernels are made of.
        decoder_width: channels of the motion decoder.
        stored: numbers of so many training pairs are kept.
        image_encoder: None, or the dict of one of `cmp.models`' image encoders.

    Raises:
        ValueError: motion_widths and motion_pools differ in length, or latent or stored is below 1.

    Source: Xue et al., NIPS 2016; its code draws from 1,000 stored numbers. Batch norm in the motion encoder, and the
    other image encoder, are ours.
    """

    def __init__(
        self,
        *,
        latent: int = 3200,
        beta: float = 0.001,
        maps: int = 32,
        motion_widths: Sequence[int] = (96, 96, 128, 128, 256, 256),
        motion_pools: Sequence[int] = (4, 2, 2, 2, 2, 2),
        image_widths: Sequence[int] = (64, 64, 64),
        kernel_width: int = 128,
        decoder_width: int = 128,
        stored: int = 1000,
        image_encoder: dict | None = None,
    ) -> None:
        super().__init__()
        if len(motion_widths) != len(motion_pools):
            raise ValueError(f"want a pooling for each width, got {list(motion_pools)} for {list(motion_widths)}")
        if min(latent, stored) < 1:
            raise ValueError(f"latent and stored must be at least 1, got {latent} and {stored}")
        self._arguments = dict(latent=latent, beta=beta, maps=maps, kernel_width=kernel_width, stored=stored)
        self._arguments |= dict(motion_widths=list(motion_widths), motion_pools=list(motion_pools))
        self._arguments |= dict(image_widths=list(image_widths), decoder_width=decoder_width)
        self.latent, self.beta, self.maps, self.kernel_width = latent, beta, maps, kernel_width
        self.least_px = prod(motion_pools)  # what poolings leave one cell of
        self.motion_encoder = _motion_encoder(motion_widths, motion_pools)
        self.to_gaussian = nn.Linear(motion_widths[-1], 2 * latent)
        numbers = kernel_width * SIZE**2
        self.spread = nn.Identity() if latent == numbers else nn.Linear(latent, numbers)
        self.kernel_decoder = nn.Sequential(
            nn.Conv2d(kernel_width, kernel_width, SIZE, padding=SIZE // 2),
            nn.ReLU(inplace=True),
            nn.Conv2d(kernel_width, len(SCALES) * maps, SIZE, padding=SIZE // 2),
        )
        if image_encoder is None:
            self.scale_encoders = nn.ModuleList(_scale_encoder(image_widths, maps) for _ in SCALES)
        else:
            self._arguments |= describe_image_encoder(image_encoder)
            self.image_encoder = build_image_encoder(image_encoder)
            top = self.image_encoder.channels["top"]
            self.scale_heads = nn.ModuleList(nn.Conv2d(top, maps, 1) for _ in SCALES)
        self.motion_decoder = nn.Sequential(
            nn.Conv2d(len(SCALES) * maps, decoder_width, 9, padding=4),
            nn.ReLU(inplace=True),
            nn.Conv2d(decoder_width, decoder_width, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(decoder_width, 3, 1),
        )
        self.register_buffer("stored_z", torch.zeros(stored, latent))
        self.register_buffer("num_seen", torch.zeros((), dtype=torch.long))

    def loss(self, frames: torch.Tensor, **_) -> dict[str, torch.Tensor]:
        """Squared error plus beta KL, per value of a picture; their sums over a picture are logged."""
        image, after = self._pair(frames)
        mean, log_variance = self.encode_motion(image, after)
        z = gaussian_sample(mean, log_variance)
        self._store(z.detach())
        error = (self.difference(image, z) - (after - image)).square().flatten(1).sum(1).mean()
        kl = gaussian_kl(mean, log_variance).mean()
        return {"loss": (error + self.beta * kl) / image[0].numel(), "squared_error": error, "kl": kl}

    def measure(self, frames: torch.Tensor, **_) -> dict[str, torch.Tensor]:
        """Mean squared errors of values -1..1 and more, of futures from the same draws every time.

        error: with the pair's own numbers (their mean). copy_error: of no change at all. kl: nats.
        PRIOR_best, PRIOR_mean: of ten futures drawn from that prior, the nearest to what came, and the mean over them.
        PRIOR_spread: how far the ten are from their mean. Nothing of "empirical" before a pair was seen: NaN.
        """
        image, after = self._pair(frames)
        maps = self.encode_image(image)
        mean, log_variance = self.encode_motion(image, after)

        def error(difference: torch.Tensor) -> torch.Tensor:
            return (image + difference - after).square().flatten(1).mean(1)

        out = {"error": error(self.difference(image, mean, maps)), "copy_error": error(torch.zeros_like(image))}
        out["kl"] = gaussian_kl(mean, log_variance)
        generator = torch.Generator(image.device).manual_seed(0)
        for prior in PRIORS:
            if prior == "empirical" and not self.num_seen:
                futures = torch.full((TRIES, *image.shape), torch.nan, device=image.device)
            else:
                futures = torch.stack([self.sample(image, prior, generator, maps) - image for _ in range(TRIES)])
            errors = torch.stack([error(future) for future in futures])
            out[f"{prior}_best"], out[f"{prior}_mean"] = errors.amin(0), errors.mean(0)
            out[f"{prior}_spread"] = (futures - futures.mean(0)).square().mean((0, 2, 3, 4))
        return out

    def sample(
        self,
        image: torch.Tensor,
        prior: str,
        generator: torch.Generator | None = None,
        maps: Sequence[torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """A possible next frame (B, 3, H, W) for each image (B, 3, H, W), -1..1; another at each call.

        Args:
            image: H and W multiples of the coarsest scale's stride, 32 px (with an image encoder, of its own).
            prior: "normal" or "empirical".
            generator: on the image's device.
            maps: the images' `encode_image`, if it is at hand.

        Raises:
            ValueError: another prior, or no numbers have been stored yet.
        """
        if prior not in PRIORS:
            raise ValueError(f"prior must be one of {PRIORS}, got {prior!r}")
        if prior == "normal":
            z = torch.randn(len(image), self.latent, generator=generator, device=image.device)
        else:
            known = min(int(self.num_seen), len(self.stored_z))
            if known == 0:
                raise ValueError("no numbers of training pairs are stored: train first")
            z = self.stored_z[torch.randint(known, (len(image),), generator=generator, device=image.device)]
        return image + self.difference(image, z, maps)

    def encode_motion(self, image: torch.Tensor, after: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and log variance of the numbers, (B, latent) each, from two frames (B, 3, H, W).

        Raises:
            ValueError: poolings leave nothing of frames so small.
        """
        if min(image.shape[2:]) < self.least_px:
            raise ValueError(
                f"sides must be at least {self.least_px} px for motion_pools, got {tuple(image.shape[2:])}"
            )
        seen = self.motion_encoder(torch.cat((image, after), dim=1)).mean(dim=(2, 3))
        mean, log_variance = self.to_gaussian(seen).float().chunk(2, dim=1)
        return mean, log_variance

    def difference(
        self, image: torch.Tensor, z: torch.Tensor, maps: Sequence[torch.Tensor] | None = None
    ) -> torch.Tensor:
        """What numbers (B, latent) change in images (B, 3, H, W); maps: their `encode_image`, if it is at hand."""
        maps = self.encode_image(image) if maps is None else maps
        kernels = self.kernel_decoder(self.spread(z).unflatten(1, (self.kernel_width, SIZE, SIZE)))
        moved = [cross_convolve(*pair) for pair in zip(maps, kernels.chunk(len(SCALES), dim=1))]
        finest = moved[-1].shape[2:]
        moved = torch.cat([F.interpolate(part, size=finest, mode="nearest") for part in moved], dim=1)
        return F.interpolate(self.motion_decoder(moved).float(), size=image.shape[2:], mode="bilinear")

    def encode_image(self, image: torch.Tensor) -> list[torch.Tensor]:
        """Maps (B, maps, h, w) of images (B, 3, H, W), coarsest first, each twice the size of the one before."""
        if hasattr(self, "image_encoder"):
            top = self.image_encoder(normalise_frames((image + 1) * 127.5)).top
            pooled = [F.avg_pool2d(top, 2**i, ceil_mode=True) for i in reversed(range(len(SCALES)))]
            return [head(maps) for head, maps in zip(self.scale_heads, pooled)]
        sizes = [[round(side * scale) for side in image.shape[2:]] for scale in SCALES]
        scaled = [F.interpolate(image, size=s, mode="bilinear", antialias=True) for s in sizes]
        return [encoder(picture) for encoder, picture in zip(self.scale_encoders, scaled)]

    def pictures(self, frames: torch.Tensor, **_) -> dict[str, np.ndarray]:
        """`futures`: a row a clip: the image, what came, that from its own numbers, three futures from N(0, I) and
        three from stored numbers. `futures_film`: the image and each of these next frames in turn."""
        image, after = self._pair(frames)
        generator = torch.Generator(image.device).manual_seed(0)
        row = [after, image + self.difference(image, self.encode_motion(image, after)[0])]
        for prior in PRIORS:
            if prior == "normal" or self.num_seen:
                row += [self.sample(image, prior, generator) for _ in range(3)]
        row = torch.stack(row, dim=1) / 2 + 0.5
        first = image[:, None] / 2 + 0.5
        films = [first.expand_as(row), row]
        return {
            "futures": picture_grid(torch.cat((first, row), dim=1).flatten(0, 1), columns=1 + row.shape[1]),
            "futures_film": np.stack([picture_grid(film.flatten(0, 1), columns=row.shape[1]) for film in films]),
        }

    def describe(self) -> dict:
        return {"system": "visual dynamics", **self._arguments}

    def _pair(self, frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The first two of (B, T, 3, H, W) frames, in -1..1."""
        if frames.ndim != 5 or frames.shape[1] < 2 or frames.shape[2] != 3:
            raise ValueError(f"want (B, T, 3, H, W) with T at least 2, got {tuple(frames.shape)}")
        frames = scale_pixels(frames)
        return frames[:, 0], frames[:, 1]

    def _store(self, z: torch.Tensor) -> None:
        """Put numbers where the oldest stored ones are."""
        places = (self.num_seen + torch.arange(len(z), device=z.device)) % len(self.stored_z)
        self.stored_z[places] = z.to(self.stored_z.dtype)
        self.num_seen += len(z)


def _motion_encoder(widths: Sequence[int], pools: Sequence[int]) -> nn.Sequential:
    channels, layers = [6, *widths], []
    for a, b, pool in zip(channels, widths, pools):
        layers += [nn.Conv2d(a, b, 5, padding=2, bias=False), nn.BatchNorm2d(b), nn.ReLU(inplace=True)]
        layers.append(nn.MaxPool2d(pool))
    return nn.Sequential(*layers)


def _scale_encoder(widths: Sequence[int], maps: int) -> nn.Sequential:
    """Maps at a quarter of the size."""
    one, two, three = widths
    convolutions = [nn.Conv2d(a, b, 5, padding=2) for a, b in ((3, one), (one, two), (two, three), (three, maps))]
    return nn.Sequential(
        *(convolutions[0], nn.ReLU(inplace=True), nn.MaxPool2d(2), convolutions[1], nn.ReLU(inplace=True)),
        *(convolutions[2], nn.ReLU(inplace=True), nn.MaxPool2d(2), convolutions[3]),
    )
