"""ConvLSTM sequence to sequence: one memory reads the given frames, another goes on from it with its own predictions.

Legend: B batch, T frames, H W pixels, C channels of the features. Frames have values -1..1.
"""

import torch
from torch import nn

from cmp.baselines.conv_lstm import ConvLSTMCell
from cmp.baselines.frame_prediction import FramePredictor
from cmp.baselines.image_encoder import build_image_encoder, describe_image_encoder, normalise_frames


class ConvLSTMSeq2Seq(FramePredictor):
    """The first memory reads all given frames but the last; the second takes its state over and begins with the last.

    Each frame is brought to a quarter of its size before a memory reads it; transposed convolutions with batch norm
    bring the second memory's hidden state back to a frame. Predictions are fed back in training too: showing it the
    true frames there was tried by the source and dropped.

    Args:
        given, trained: see `FramePredictor`.
        width: channels at half size; the memories have twice as many.
        kernel: side of the memories' kernels, cells.
        image_encoder: None, or the dict of one of `cmp.models`' image encoders, whose top the memories read in place of
            two convolutions.

    Raises:
        ValueError: the image encoder's top has not stride 4.

    Source: Shi et al., NIPS 2015, for the memory; a project on UCF-101 for the rest, whose widths and kernels are not
    public. The image encoder is ours.
    """

    def __init__(
        self,
        *,
        given: int = 4,
        trained: int = 4,
        width: int = 64,
        kernel: int = 5,
        image_encoder: dict | None = None,
    ) -> None:
        super().__init__(given, trained)
        self._arguments = dict(given=given, trained=trained, width=width, kernel=kernel)
        channels = 2 * width
        if image_encoder is None:
            self.encoder = nn.Sequential(
                nn.Conv2d(3, width, 4, stride=2, padding=1),
                nn.ReLU(inplace=True),
                nn.Conv2d(width, channels, 4, stride=2, padding=1),
                nn.ReLU(inplace=True),
            )
        else:
            self._arguments |= describe_image_encoder(image_encoder)
            self.image_encoder = build_image_encoder(image_encoder)
            stride, channels = self.image_encoder.strides["top"], self.image_encoder.channels["top"]
            if stride != 4:
                raise ValueError(f"the image encoder's top must have stride 4, as the decoder has, got {stride}")
        self.reader = ConvLSTMCell(channels, 2 * width, kernel, forget_bias=1.0)
        self.writer = ConvLSTMCell(channels, 2 * width, kernel, forget_bias=1.0)
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(2 * width, width, 4, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.ConvTranspose2d(width, 3, 4, stride=2, padding=1),
        )

    def predict(self, frames: torch.Tensor, count: int) -> torch.Tensor:
        """See `FramePredictor`; sides must be multiples of 4 px.

        Raises:
            ValueError: they are not.
        """
        if frames.shape[3] % 4 or frames.shape[4] % 4:
            raise ValueError(f"sides must be multiples of 4 px, got {tuple(frames.shape[3:])}")
        *read, last = self.encode(frames.flatten(0, 1)).unflatten(0, frames.shape[:2]).unbind(1)
        state = None
        for features in read:
            state = self.reader(features, state)
        state = self.writer(last, state)
        predicted = [self.decoder(state[0]).tanh()]
        while len(predicted) < count:
            state = self.writer(self.encode(predicted[-1]), state)
            predicted.append(self.decoder(state[0]).tanh())
        return torch.stack(predicted, dim=1)

    def encode(self, frames: torch.Tensor) -> torch.Tensor:
        """Features (B, C, H/4, W/4) of frames (B, 3, H, W)."""
        if hasattr(self, "image_encoder"):
            return self.image_encoder(normalise_frames((frames + 1) * 127.5)).top
        return self.encoder(frames)

    def describe(self) -> dict:
        return {"system": "ConvLSTM sequence to sequence", **self._arguments}
