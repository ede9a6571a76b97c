"""Video pixel network: the exact likelihood of every pixel of a film given all before it.

Legend: B batch, T frames, G given frames, C colours, H W pixels.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from cmp.baselines.baseline import Baseline
from cmp.baselines.conv_lstm import ConvLSTMCell
from cmp.baselines.masked_convolution import MaskedConv2d, ResidualMultiplicativeBlock
from cmp.baselines.pixel_decoder import PixelDecoder
from cmp.baselines.sheet import picture_grid


class VideoPixelNetwork(Baseline):
    """An encoder that keeps each frame's size, a convolutional memory over frames, and a decoder over pixels.

    Args:
        colours: C, channels of a frame.
        levels: values of a colour: 2 or 256; frames are rounded to them, but with 2 grey ones stay as they are (see
            `PixelDecoder.nats`).
        given: G, at least 1: the first frames of a film, which are not predicted.
        channels: of multiplicative units; blocks are twice as wide.
        encoder_dilations: one block for each.
        decoder_blocks: how many.
        memory: channels of the memory.
        memory_kernel: side of its convolutions, px.
        sampled: films that `pictures` continues, at least 1; it takes a pass for each pixel.

    Raises:
        ValueError: levels, given or sampled is out of range.

    Source: Kalchbrenner et al., "Video pixel networks", ICML 2017. The encoder's first layer, 3 x 3 to the blocks'
    width, is ours.
    """

    def __init__(
        self,
        *,
        colours: int = 1,
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
        self._arguments = dict(colours=colours, levels=levels, given=given, channels=channels, memory=memory)
        self._arguments |= dict(decoder_blocks=decoder_blocks, memory_kernel=memory_kernel, sampled=sampled)
        self._arguments |= dict(encoder_dilations=list(encoder_dilations))
        self.levels, self.given, self.sampled = levels, given, sampled
        self.encoder = nn.Sequential(
            MaskedConv2d(colours, 2 * channels, 3),
            *(ResidualMultiplicativeBlock(channels, dilation=dilation) for dilation in encoder_dilations),
        )
        self.memory = ConvLSTMCell(2 * channels, memory, kernel=memory_kernel)
        self.decoder = PixelDecoder(colours, levels, memory, channels=channels, blocks=decoder_blocks)

    def loss(self, frames: torch.Tensor, **_) -> dict[str, torch.Tensor]:
        """Nats for a frame: mean of -log p(frame | all before it) over the frames that are not given."""
        return {"loss": self.nats(frames).mean()}

    def measure(self, frames: torch.Tensor, **_) -> dict[str, torch.Tensor]:
        """`nats_per_frame`: -log p of a frame given all before it, mean over a film's frames that are not given."""
        return {"nats_per_frame": self.nats(frames).mean(dim=1)}

    def nats(self, frames: torch.Tensor) -> torch.Tensor:
        """-log p of each frame that is not given, (B, T - G), of films (B, T, C, H, W), 0..1, or uint8."""
        frames = self.as_levels(frames)
        logits = self.logits(frames)
        predicted = frames[:, self.given :]
        return (
            self.decoder.nats(logits.flatten(0, 1), predicted.flatten(0, 1))
            .unflatten(0, predicted.shape[:2])
            .sum(dim=(2, 3, 4))
        )

    def logits(self, frames: torch.Tensor) -> torch.Tensor:
        """Logits (B, T - G, C, 1 or L, H, W) of frames G.. of films (B, T, C, H, W), 0..1."""
        if frames.ndim != 5 or frames.shape[2] != self.decoder.colours or frames.shape[1] <= self.given:
            raise ValueError(
                f"frames must be (B, T, {self.decoder.colours}, H, W) with T above {self.given}, "
                f"got {tuple(frames.shape)}"
            )
        encoded = self.encoder(frames[:, :-1].flatten(0, 1)).unflatten(0, (len(frames), -1))
        state, contexts = None, []
        for features in encoded.unbind(dim=1):
            state = self.memory(features, state)
            contexts.append(state[0])
        context = torch.stack(contexts[self.given - 1 :], dim=1)  # of frame t: what frames up to t - 1 left
        logits = self.decoder(frames[:, self.given :].flatten(0, 1), context.flatten(0, 1))
        return logits.unflatten(0, context.shape[:2])

    @torch.no_grad()
    def sample(
        self, frames: torch.Tensor, count: int, generator: torch.Generator | None = None, *, cached: bool = True
    ) -> torch.Tensor:
        """Films (B, T, C, H, W), 0..1, or uint8, and `count` frames drawn after them: (B, T + count, C, H, W), 0..1.

        Args:
            generator: on the frames' device.
            cached: see `PixelDecoder.sample`.
        """
        film = list(self.as_levels(frames).unbind(dim=1))
        state = None
        for frame in film:
            state = self.memory(self.encoder(frame), state)
        for _ in range(count):
            noise = torch.rand(film[0].shape, generator=generator, dtype=film[0].dtype, device=frames.device)
            film.append(self.decoder.sample(state[0], noise, cached=cached))
            state = self.memory(self.encoder(film[-1]), state)
        return torch.stack(film, dim=1)

    def as_levels(self, frames: torch.Tensor) -> torch.Tensor:
        """Frames as float32 0..1, rounded to the levels that are predicted; uint8 is divided by 255."""
        frames = frames.float() / 255 if frames.dtype == torch.uint8 else frames
        return frames if self.levels == 2 else (frames * (self.levels - 1)).round() / (self.levels - 1)

    def pictures(self, frames: torch.Tensor, **_) -> dict[str, np.ndarray]:
        """`expected`: frames that were to be predicted, a film to a row, and below each the expected value of every
        pixel given all before it; `continued`: a film of true films above what was drawn after their given frames."""
        frames = self.as_levels(frames)
        logits = self.logits(frames)
        values = torch.linspace(0, 1, self.levels, device=logits.device)
        probabilities = logits.softmax(dim=3) if self.levels > 2 else torch.cat((-logits, logits), dim=3).sigmoid()
        expected = torch.einsum("btclhw,l->btchw", probabilities, values)
        rows = torch.stack((frames[:, self.given :], expected), dim=1).flatten(0, 2)
        generator = torch.Generator(frames.device).manual_seed(0)
        some = frames[: self.sampled]
        drawn = self.sample(some[:, : self.given], frames.shape[1] - self.given, generator)
        pairs = torch.cat((some, drawn)).unbind(dim=1)
        return {
            "expected": picture_grid(_enlarged(rows), columns=expected.shape[1]),
            "continued": np.stack([picture_grid(_enlarged(pair), columns=len(some)) for pair in pairs]),
        }

    def describe(self) -> dict:
        return {"system": "video pixel network", **self._arguments}


def _enlarged(frames: torch.Tensor) -> torch.Tensor:
    """Frames (N, C, H, W) whose pixels can be seen: whole times as large as keeps their height within 64 px."""
    return F.interpolate(frames, scale_factor=max(1, 64 // frames.shape[2]))
