"""Skip autoencoder: an encoder and decoder with skip connections from stacked frames to the next frame.

Legend: B batch, T frames, H W pixels, w width of a stage. Frames have values -1..1.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from cmp.baselines.frame_prediction import FramePredictor, roll_out
from cmp.baselines.image_encoder import build_image_encoder, describe_image_encoder, normalize_frames


class SkipAutoencoder(FramePredictor):
    """Predicts the next frame with convolutions that halve the map, and as many that double it.

    Each decoder stage also reads the encoder's map of the same size. An image encoder can replace the convolutions: it
    encodes the frames one by one, and the decoder reads its features of all frames, stacked: the top, and the stem at
    half the frames' size.

    Args:
        given, trained, gdl_weight, gdl_exponent: see `FramePredictor`.
        widths: channels of the stages, finest first; with an image encoder, of the decoder's stages.
        residual: predict the change to the last frame, instead of the frame itself through a tanh.
        image_encoder: None, or a dict, see `build_image_encoder`, of an encoder with a stem.

    Raises:
        ValueError: there are too few widths, or the image encoder lacks a stem.

    Source: a project on UCF-101 after Mathieu, Couprie and LeCun, ICLR 2016: four frames, 32 to 512 channels, skips.
    Kernels and normalization are not public: 3 x 3 with batch norm here. The options residual and image_encoder are
    ours.
    """

    def __init__(
        self,
        *,
        given: int = 4,
        trained: int = 1,
        widths: Sequence[int] = (32, 64, 128, 256, 512),
        residual: bool = False,
        image_encoder: dict | None = None,
        gdl_weight: float = 1.0,
        gdl_exponent: float = 1.0,
    ) -> None:
        super().__init__(given, trained, gdl_weight, gdl_exponent)
        self._arguments |= dict(widths=list(widths), residual=residual)
        self.residual = residual
        if image_encoder is not None:
            self._arguments |= describe_image_encoder(image_encoder)
            self.image_encoder = build_image_encoder(image_encoder)
            if "stem" not in self.image_encoder.channels:
                raise ValueError(f"{type(self.image_encoder).__name__} lacks a stem, which the decoder needs")
            ups = self.image_encoder.strides["top"].bit_length() - 1
            channels = [given * self.image_encoder.channels[name] for name in ("stem", "top")]
            self.skips = [given * 3, channels[0]] + [0] * (ups - 2) + [channels[1]]
            self.multiple = self.image_encoder.strides["stage4"] if "stage4" in self.image_encoder.strides else 32
        else:
            ups = len(widths) - 1
            pairs = zip([given * 3, *widths], widths)
            self.encoder = nn.ModuleList(_convolution(a, b, 2 if i else 1) for i, (a, b) in enumerate(pairs))
            self.skips = list(widths)
            self.multiple = 2**ups
        if len(widths) < max(2, ups):
            raise ValueError(f"want a width for each of {ups} decoder stages, got {list(widths)}")
        below = [*widths[1:ups], self.skips[-1]]  # channels from the stage below, finest first
        self.decoder = nn.ModuleList(_convolution(below[i] + self.skips[i], widths[i], 1) for i in reversed(range(ups)))
        self.head = nn.Conv2d(widths[0], 3, 3, padding=1)

    def predict(self, frames: torch.Tensor, count: int) -> torch.Tensor:
        """Predict frames of any size; see `FramePredictor`. Frames are padded to a multiple of the coarsest stride."""
        return roll_out(self.next_frame, frames, count)

    def next_frame(self, frames: torch.Tensor) -> torch.Tensor:
        """Predict the frame (B, 3, H, W) after frames (B, given, 3, H, W); padding repeats their edge pixels."""
        height, width = frames.shape[3:]
        missing = (0, -width % self.multiple, 0, -height % self.multiple)
        padded = F.pad(frames.flatten(1, 2), missing, mode="replicate")
        features = self._features(padded)
        up = features.pop()
        for layer in self.decoder:
            skip = features.pop()
            up = F.interpolate(up, scale_factor=2.0, mode="nearest")
            up = layer(up if skip is None else torch.cat((up, skip), dim=1))
        out = self.head(up)[:, :, :height, :width]
        return (frames[:, -1] + out).clamp(-1, 1) if self.residual else out.tanh()

    def describe(self) -> dict:
        return {"system": "skip autoencoder", **self._arguments}

    def _features(self, stacked: torch.Tensor) -> list[torch.Tensor | None]:
        """Compute the maps of stacked frames (B, given * 3, H, W), finest first; None for sizes without a map."""
        if hasattr(self, "image_encoder"):
            images = stacked.unflatten(1, (self.given, 3)).flatten(0, 1)
            features = self.image_encoder(normalize_frames((images + 1) * 127.5))
            stem, top = (maps.unflatten(0, (-1, self.given)).flatten(1, 2) for maps in (features.stem, features.top))
            return [stacked, stem, *[None] * (len(self.skips) - 3), top]
        maps = [stacked]
        for layer in self.encoder:
            maps.append(layer(maps[-1]))
        return maps[1:]


def _convolution(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )
