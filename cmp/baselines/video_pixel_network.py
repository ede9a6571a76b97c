"""Video pixel network: computes the exact likelihood of every pixel of a clip given all pixels before it.

Legend: B batch, T frames, G given frames, C colors, H W pixels.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from cmp.baselines.baseline import Baseline
from cmp.baselines.conv_lstm import ConvLSTMCell
from cmp.baselines.drawing.video_pixel_network import draw_continuations
from cmp.baselines.masked_convolution import MaskedConv2d, ResidualMultiplicativeBlock
from cmp.baselines.pixel_decoder import PixelDecoder


class VideoPixelNetwork(Baseline):
    """Predicts clips pixel by pixel: a frame encoder without downsampling, a convolutional LSTM and a pixel decoder.

    Args:
        colors: C, channels of a frame.
        levels: number of values of a color, at least 2 (256 for uint8). Frames are rounded to these values, except with
            2, where values in between are kept (see `PixelDecoder.nats`).
        given: G, at least 1: number of first frames of a clip, which are not predicted.
        channels: of the multiplicative units; blocks have twice as many.
        encoder_dilations: dilations of the encoder's blocks, one per block, px.
        decoder_blocks: number of blocks of the decoder.
        memory: channels of the LSTM.
        memory_kernel: side of its convolutions, px, odd.
        sampled: number of clips that `pictures` continues, at least 1; sampling is slow.

    Raises:
        ValueError: levels, given or sampled is out of range.

    Source: Kalchbrenner et al., "Video pixel networks", ICML 2017. The encoder's first layer, 3 x 3, is ours.
    """

    loss_unit = "negative log likelihood, nats per frame"

    def __init__(
        self,
        *,
        colors: int = 1,
        levels: int = 2,
        given: int = 10,
        channels: int = 128,
        encoder_dilations: Sequence[int] = (1,) * 8,
        decoder_blocks: int = 12,
        memory: int = 256,
        memory_kernel: int = 3,
        sampled: int = 4,
    ) -> None:
        super().__init__()
        if levels < 2 or given < 1 or sampled < 1:
            raise ValueError(
                f"levels must be at least 2, given and sampled at least 1, got {levels}, {given}, {sampled}"
            )
        self._arguments: dict[str, Any] = dict(
            colors=colors, levels=levels, given=given, channels=channels, memory=memory
        )
        self._arguments |= dict(decoder_blocks=decoder_blocks, memory_kernel=memory_kernel, sampled=sampled)
        self._arguments |= dict(encoder_dilations=list(encoder_dilations))
        self.levels, self.given, self.sampled = levels, given, sampled
        self.encoder = nn.Sequential(
            MaskedConv2d(colors, 2 * channels, 3),
            *(ResidualMultiplicativeBlock(channels, dilation=dilation) for dilation in encoder_dilations),
        )
        self.memory = ConvLSTMCell(2 * channels, memory, kernel=memory_kernel)
        self.decoder = PixelDecoder(colors, levels, memory, channels=channels, blocks=decoder_blocks)

    def loss(self, frames: torch.Tensor, **_) -> dict[str, torch.Tensor]:
        """Compute -log p(frame | all frames before it), nats, mean over the frames that are not given."""
        return {"loss": self.nats(frames).mean()}

    def measure(self, frames: torch.Tensor, **_) -> dict[str, torch.Tensor]:
        """Measure `nats_per_frame`: -log p of a frame given all before it, mean over a clip's predicted frames."""
        return {"nats_per_frame": self.nats(frames).mean(dim=1)}

    def nats(self, frames: torch.Tensor) -> torch.Tensor:
        """Compute -log p, (B, T - G), of the frames that are not given of clips (B, T, C, H, W), 0..1, or uint8."""
        frames = self.as_levels(frames)
        logits = self.logits(frames)
        predicted = frames[:, self.given :]
        return (
            self.decoder.nats(logits.flatten(0, 1), predicted.flatten(0, 1))
            .unflatten(0, predicted.shape[:2])
            .sum(dim=(2, 3, 4))
        )

    def logits(self, frames: torch.Tensor) -> torch.Tensor:
        """Compute logits (B, T - G, C, 1 or L, H, W) of the frames from G on of clips (B, T, C, H, W), 0..1.

        Raises:
            ValueError: another shape, or no frames after the given ones.
        """
        if frames.ndim != 5 or frames.shape[2] != self.decoder.colors or frames.shape[1] <= self.given:
            raise ValueError(
                f"frames must be (B, T, {self.decoder.colors}, H, W) with T above {self.given}, "
                f"got {tuple(frames.shape)}"
            )
        encoded = self.encoder(frames[:, :-1].flatten(0, 1)).unflatten(0, (len(frames), -1))
        state, contexts = None, []
        for features in encoded.unbind(dim=1):
            state = self.memory(features, state)
            contexts.append(state[0])
        context = torch.stack(contexts[self.given - 1 :], dim=1)  # for frame t: the state after frame t - 1
        logits = self.decoder(frames[:, self.given :].flatten(0, 1), context.flatten(0, 1))
        return logits.unflatten(0, context.shape[:2])

    @torch.no_grad()
    def sample(
        self, frames: torch.Tensor, count: int, generator: torch.Generator | None = None, *, cached: bool = True
    ) -> torch.Tensor:
        """Continue clips (B, T, C, H, W), 0..1, or uint8, by `count` sampled frames: (B, T + count, C, H, W), 0..1.

        Args:
            count: number of frames to sample.
            generator: on the frames' device.
            cached: see `PixelDecoder.sample`.
        """
        clip = list(self.as_levels(frames).unbind(dim=1))
        state: Any = None
        for frame in clip:
            state = self.memory(self.encoder(frame), state)
        for _ in range(count):
            noise = torch.rand(clip[0].shape, generator=generator, dtype=clip[0].dtype, device=frames.device)
            clip.append(self.decoder.sample(state[0], noise, cached=cached))
            state = self.memory(self.encoder(clip[-1]), state)
        return torch.stack(clip, dim=1)

    def as_levels(self, frames: torch.Tensor) -> torch.Tensor:
        """Convert frames to float32 in 0..1, rounded to the predicted levels; uint8 is divided by 255."""
        frames = frames.float() / 255 if frames.dtype == torch.uint8 else frames
        return frames if self.levels == 2 else (frames * (self.levels - 1)).round() / (self.levels - 1)

    def pictures(self, frames: torch.Tensor, **_) -> dict[str, np.ndarray]:
        """Draw expected pixel values and sampled continuations; see `draw_continuations`."""
        return draw_continuations(self, frames)

    def describe(self) -> dict:
        return {"system": "video pixel network", **self._arguments}
