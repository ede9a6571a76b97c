"""Visual Dynamics: predicts several possible next frames of one image, by kernels computed from a random vector.

Legend: B batch, H W pixels, C channels of a map. Frames have values -1..1 inside the model, 0..255 in a batch.
"""

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from cmp.baselines.baseline import Baseline
from cmp.baselines.cross_convolution import cross_convolve
from cmp.baselines.drawing.visual_dynamics import draw_futures
from cmp.baselines.frame_prediction import scale_pixels
from cmp.baselines.gaussian_kl import gaussian_kl, gaussian_sample
from cmp.baselines.image_encoder import build_image_encoder, describe_image_encoder, normalize_frames
from cmp.baselines.shape_motion import shape_motions

SCALES = (0.25, 0.5, 1.0, 2.0)  # sizes at which the image is encoded, relative to it
SIZE = 5  # side of every kernel, px
TRIES = 10  # next frames that `measure` samples
PRIORS = ("normal", "empirical")
KINDS = ("probabilistic", "deterministic", "motion_prior")
MOTION_CHANNELS = dict(frames=6, image_and_difference=6, difference=3)  # of what the motion encoder reads
LEARNED_SIDES = (4, 8, 16, 32)  # of the maps that replace the image's, coarsest first


class VisualDynamics(Baseline):
    """A conditional variational autoencoder of the difference between two frames.

    A motion encoder predicts a Gaussian over a latent vector from both frames. A kernel decoder converts the vector to
    kernels; an image encoder converts the first frame to maps at four scales; each map is convolved with its kernel; a
    motion decoder converts the results to the difference. The motion is in the latent vector alone: with a vector from
    a prior instead of the pair's own, the result is one possible next frame.

    There are two priors: "normal", N(0, I); and "empirical", the vectors of the last `stored` training pairs, which are
    saved with the weights.

    With `image_encoder`, that encoder replaces the four small ones; its top is averaged down to four scales.

    Two simpler models, to compare with: the "deterministic" one computes the vector from the image alone, without
    randomness, so an image has one next frame, and only the squared error is minimized. The "motion_prior" is an
    autoencoder of motion alone: learned maps, the same for all images and stretched to their size, replace the image's,
    so its samples are motions that occur somewhere, whatever the image shows.

    Args:
        kind: "probabilistic", "deterministic" or "motion_prior".
        motion_input: what the motion encoder reads: "frames": both frames; "image_and_difference": the first, and the
            difference of both; "difference": only that. None: "frames", or "difference" for the motion prior. The
            deterministic model reads the first frame only.
        latent: size of the latent vector. Published: 3200, the size of the maps that kernels are made of.
        beta: weight of the KL divergence relative to squared errors of values -1..1 summed over a frame: twice the
            variance of a value under the autoencoder's likelihood.
        maps: channels per scale.
        motion_widths, motion_pools: channels of the motion encoder's 5 x 5 convolutions, and the sizes of the
            max-pooling after each.
        image_widths: channels of the image encoder's first three 5 x 5 convolutions; max-pooling follows the first and
            the third.
        kernel_width: number of 5 x 5 maps that kernels are made of.
        decoder_width: channels of the motion decoder.
        stored: number of training pairs whose vectors are kept.
        image_encoder: None, or a dict, see `build_image_encoder`.

    Raises:
        ValueError: motion_widths and motion_pools differ in length, latent or stored is below 1, or kind, motion_input
            and image_encoder do not fit together.

    Source: Xue et al., NIPS 2016; its code samples from 1,000 stored vectors. It introduces the three kinds by a toy
    world of moving shapes. Batch norm in the motion encoder, the learned maps and the option image_encoder are ours.
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
        kind: str = "probabilistic",
        motion_input: str | None = None,
    ) -> None:
        super().__init__()
        self.kind, self.motion_input = kind, _check_kind(kind, motion_input, image_encoder)
        if len(motion_widths) != len(motion_pools):
            raise ValueError(f"want one pooling for each width, got {list(motion_pools)} for {list(motion_widths)}")
        if min(latent, stored) < 1:
            raise ValueError(f"latent and stored must be at least 1, got {latent} and {stored}")
        self._arguments: dict[str, Any] = dict(
            latent=latent, beta=beta, maps=maps, kernel_width=kernel_width, stored=stored
        )
        self._arguments |= dict(motion_widths=list(motion_widths), motion_pools=list(motion_pools))
        self._arguments |= dict(image_widths=list(image_widths), decoder_width=decoder_width)
        self._arguments |= dict(kind=kind, motion_input=self.motion_input)
        self.latent, self.beta, self.maps, self.kernel_width = latent, beta, maps, kernel_width
        self.min_side_px = prod(motion_pools)  # so that at least one cell is left after pooling
        channels = MOTION_CHANNELS[self.motion_input] if self.motion_input else 3
        self.motion_encoder = _motion_encoder(channels, motion_widths, motion_pools)
        self.to_gaussian = nn.Linear(motion_widths[-1], latent if kind == "deterministic" else 2 * latent)
        size = kernel_width * SIZE**2
        self.spread = nn.Identity() if latent == size else nn.Linear(latent, size)
        self.kernel_decoder = nn.Sequential(
            nn.Conv2d(kernel_width, kernel_width, SIZE, padding=SIZE // 2),
            nn.ReLU(inplace=True),
            nn.Conv2d(kernel_width, len(SCALES) * maps, SIZE, padding=SIZE // 2),
        )
        if kind == "motion_prior":
            self.learned_maps = nn.ParameterList(
                nn.Parameter(torch.randn(1, maps, side, side)) for side in LEARNED_SIDES
            )
        elif image_encoder is None:
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
        if self.priors:
            self.register_buffer("stored_z", torch.zeros(stored, latent))
            self.register_buffer("num_seen", torch.zeros((), dtype=torch.long))

    @property
    def priors(self) -> tuple[str, ...]:
        """The priors that next frames can be sampled from; none if the model is deterministic."""
        return () if self.kind == "deterministic" else PRIORS

    @property
    def loss_unit(self) -> str:
        """What the loss is, with its unit."""
        return f"squared error (values -1..1){' + beta KL' if self.priors else ''}, per value"

    def loss(self, frames: torch.Tensor, **_) -> dict[str, torch.Tensor]:
        """Compute squared error plus beta times KL, per value of a frame; both are logged as sums over a frame.

        The deterministic model has no KL.
        """
        image, after = self.first_pair(frames)
        mean, log_variance = self.encode_motion(image, after)
        if not self.priors:
            error = (self.difference(image, mean) - (after - image)).square().flatten(1).sum(1).mean()
            return {"loss": error / image[0].numel(), "squared_error": error}
        z = gaussian_sample(mean, log_variance)
        self._store(z.detach())
        error = (self.difference(image, z) - (after - image)).square().flatten(1).sum(1).mean()
        kl = gaussian_kl(mean, log_variance).mean()
        return {"loss": (error + self.beta * kl) / image[0].numel(), "squared_error": error, "kl": kl}

    def measure(
        self, frames: torch.Tensor, axis_xy: torch.Tensor | None = None, max_shift_px: torch.Tensor | None = None, **_
    ) -> dict[str, torch.Tensor]:
        """Measure mean squared errors of values -1..1, always with the same random vectors.

        error: of the next frame from the mean of the pair's own Gaussian, or of the deterministic model's next frame.
        copy_error: of the image itself. kl: nats. PRIOR_best, PRIOR_mean: of ten next frames sampled from that prior,
        the smallest error, and the mean error. PRIOR_spread: mean squared difference of the ten from their mean. The
        "empirical" measures are NaN before a training pair is stored. The deterministic model has the first two only.

        With axis_xy and max_shift_px, as `cmp.datasets.moving_shapes` gives them, also PRIOR_fits, PRIOR_both_ways and
        PRIOR_nearest_error of the ten, see `shape_motions`; for the deterministic model fits, both_ways and
        nearest_error.
        """
        image, after = self.first_pair(frames)
        maps = self.encode_image(image)
        mean, log_variance = self.encode_motion(image, after)

        def error(difference: torch.Tensor) -> torch.Tensor:
            return (image + difference - after).square().flatten(1).mean(1)

        own = self.difference(image, mean, maps)
        out = {"error": error(own), "copy_error": error(torch.zeros_like(image))}
        if not self.priors:
            if axis_xy is not None and max_shift_px is not None:
                out |= shape_motions(image, (image + own)[None], axis_xy, int(max_shift_px.max()))
            return out
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
            if axis_xy is not None and max_shift_px is not None:
                shapes = shape_motions(image, image + futures, axis_xy, int(max_shift_px.max()))
                unknown = futures.isnan().any()
                out |= {f"{prior}_{name}": v.masked_fill(unknown, torch.nan) for name, v in shapes.items()}
        return out

    def sample(
        self,
        image: torch.Tensor,
        prior: str,
        generator: torch.Generator | None = None,
        maps: Sequence[torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """Sample a possible next frame (B, 3, H, W) for each image (B, 3, H, W), values -1..1.

        Args:
            image: H and W multiples of the coarsest scale's stride, 32 px; with `image_encoder`, of its stride.
            prior: "normal" or "empirical".
            generator: on the image's device.
            maps: `encode_image(image)`, if already computed.

        Raises:
            ValueError: the prior is unknown, or "empirical" before a vector is stored, or the model is deterministic.
        """
        if not self.priors:
            raise ValueError("the deterministic model has one next frame per image and no prior to sample from")
        if prior not in PRIORS:
            raise ValueError(f"prior must be one of {PRIORS}, got {prior!r}")
        if prior == "normal":
            z = torch.randn(len(image), self.latent, generator=generator, device=image.device)
        else:
            known = min(int(self.num_seen), len(self.stored_z))
            if known == 0:
                raise ValueError("no latent vectors of training pairs are stored: train first")
            z = self.stored_z[torch.randint(known, (len(image),), generator=generator, device=image.device)]
        return image + self.difference(image, z, maps)

    def encode_motion(self, image: torch.Tensor, after: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Predict mean and log variance of the latent vector, (B, latent) each, from two frames (B, 3, H, W).

        The deterministic model predicts the vector itself, from the first frame, and returns a log variance of minus
        infinity.

        Raises:
            ValueError: the frames are smaller than the product of motion_pools.
        """
        if min(image.shape[2:]) < self.min_side_px:
            raise ValueError(
                f"sides must be at least {self.min_side_px} px for motion_pools, got {tuple(image.shape[2:])}"
            )
        if self.motion_input is None:
            read: tuple[torch.Tensor, ...] = (image,)
        elif self.motion_input == "frames":
            read = (image, after)
        else:
            read = (image, after - image) if self.motion_input == "image_and_difference" else (after - image,)
        out = self.to_gaussian(self.motion_encoder(torch.cat(read, dim=1)).mean(dim=(2, 3))).float()
        if not self.priors:
            return out, torch.full_like(out, -torch.inf)
        mean, log_variance = out.chunk(2, dim=1)
        return mean, log_variance

    def difference(
        self, image: torch.Tensor, z: torch.Tensor, maps: Sequence[torch.Tensor] | None = None
    ) -> torch.Tensor:
        """Predict the change of images (B, 3, H, W) for latent vectors (B, latent); maps: see `sample`."""
        maps = self.encode_image(image) if maps is None else maps
        kernels = self.kernel_decoder(self.spread(z).unflatten(1, (self.kernel_width, SIZE, SIZE)))
        moved = [cross_convolve(*pair) for pair in zip(maps, kernels.chunk(len(SCALES), dim=1))]
        finest = moved[-1].shape[2:]
        moved = torch.cat([F.interpolate(part, size=finest, mode="nearest") for part in moved], dim=1)
        return F.interpolate(self.motion_decoder(moved).float(), size=image.shape[2:], mode="bilinear")

    def encode_image(self, image: torch.Tensor) -> list[torch.Tensor]:
        """Encode images (B, 3, H, W) to maps (B, maps, h, w), coarsest first, each twice the previous size.

        The motion prior returns its learned maps at these sizes, whatever the images show.
        """
        if self.kind == "motion_prior":
            sizes = [[max(1, round(side * scale) // 4) for side in image.shape[2:]] for scale in SCALES]
            stretched = [F.interpolate(m, size=s, mode="bilinear") for m, s in zip(self.learned_maps, sizes)]
            return [maps.expand(len(image), -1, -1, -1) for maps in stretched]
        if hasattr(self, "image_encoder"):
            top = self.image_encoder(normalize_frames((image + 1) * 127.5)).top
            pooled = [F.avg_pool2d(top, 2**i, ceil_mode=True) for i in reversed(range(len(SCALES)))]
            return [head(maps) for head, maps in zip(self.scale_heads, pooled)]
        sizes = [[round(side * scale) for side in image.shape[2:]] for scale in SCALES]
        scaled = [F.interpolate(image, size=s, mode="bilinear", antialias=True) for s in sizes]
        return [encoder(one) for encoder, one in zip(self.scale_encoders, scaled)]

    def pictures(self, frames: torch.Tensor, **_) -> dict[str, np.ndarray]:
        """Draw several possible next frames of each image; see `draw_futures`."""
        return draw_futures(self, frames)

    def describe(self) -> dict:
        return {"system": "visual dynamics", **self._arguments}

    def first_pair(self, frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the first two frames of clips (B, T, 3, H, W), scaled to -1..1.

        Raises:
            ValueError: another shape, or T is below 2.
        """
        if frames.ndim != 5 or frames.shape[1] < 2 or frames.shape[2] != 3:
            raise ValueError(f"want (B, T, 3, H, W) with T at least 2, got {tuple(frames.shape)}")
        frames = scale_pixels(frames)
        return frames[:, 0], frames[:, 1]

    def _store(self, z: torch.Tensor) -> None:
        """Store latent vectors in place of the oldest ones."""
        places = (self.num_seen + torch.arange(len(z), device=z.device)) % len(self.stored_z)
        self.stored_z[places] = z.to(self.stored_z.dtype)
        self.num_seen += len(z)


def _check_kind(kind: str, motion_input: str | None, image_encoder: dict | None) -> str | None:
    """Return what the motion encoder reads besides the first frame of a deterministic model, see `VisualDynamics`."""
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {KINDS}, got {kind!r}")
    if motion_input is not None and motion_input not in MOTION_CHANNELS:
        raise ValueError(f"motion_input must be one of {tuple(MOTION_CHANNELS)}, got {motion_input!r}")
    if kind == "deterministic":
        if motion_input is not None:
            raise ValueError(
                f"the deterministic model reads the first frame only: leave motion_input={motion_input!r} out"
            )
        return None
    if kind == "motion_prior" and image_encoder is not None:
        raise ValueError("the motion prior does not read the image: leave image_encoder out")
    return motion_input or ("difference" if kind == "motion_prior" else "frames")


def _motion_encoder(in_channels: int, widths: Sequence[int], pools: Sequence[int]) -> nn.Sequential:
    channels, layers = [in_channels, *widths], []
    for a, b, pool in zip(channels, widths, pools):
        layers += [nn.Conv2d(a, b, 5, padding=2, bias=False), nn.BatchNorm2d(b), nn.ReLU(inplace=True)]
        layers.append(nn.MaxPool2d(pool))
    return nn.Sequential(*layers)


def _scale_encoder(widths: Sequence[int], maps: int) -> nn.Sequential:
    """Build the encoder of one scale; its maps have a quarter of its input's size."""
    one, two, three = widths
    convolutions = [nn.Conv2d(a, b, 5, padding=2) for a, b in ((3, one), (one, two), (two, three), (three, maps))]
    return nn.Sequential(
        *(convolutions[0], nn.ReLU(inplace=True), nn.MaxPool2d(2), convolutions[1], nn.ReLU(inplace=True)),
        *(convolutions[2], nn.ReLU(inplace=True), nn.MaxPool2d(2), convolutions[3]),
    )
