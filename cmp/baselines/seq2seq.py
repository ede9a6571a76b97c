"""ConvLSTM sequence to sequence: one memory reads the given frames, another goes on from it with its own predictions.

Legend: B batch, T frames, H W pixels. Frames have values -1..1.
"""

import torch
from torch import nn

from cmp.baselines.conv_lstm import ConvLSTMCell
from cmp.baselines.frame_prediction import FramePredictor


class ConvLSTMSeq2Seq(FramePredictor):
    """The first memory reads all given frames but the last; the second takes its state over and begins with the last.

    Each frame is brought to a quarter of its size before a memory reads it; transposed convolutions with batch norm
    bring the second memory's hidden state back to a frame. Predictions are fed back in training too: showing it the
    true frames there was tried by the source and dropped.

    Args:
        given, trained: see `FramePredictor`.
        width: channels at half size; the memories have twice as many.
        kernel: side of the memories' kernels, px.

    Source: Shi et al., NIPS 2015, for the memory; a project on UCF-101 for the rest, whose widths and kernels are not
    public.
    """

    def __init__(self, *, given: int = 4, trained: int = 4, width: int = 64, kernel: int = 5) -> None:
        super().__init__(given, trained)
        self._arguments = dict(given=given, trained=trained, width=width, kernel=kernel)
        self.encoder = nn.Sequential(
            nn.Conv2d(3, width, 4, stride=2, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, 2 * width, 4, stride=2, padding=1),
            nn.ReLU(inplace=True),
        )
        self.reader = ConvLSTMCell(2 * width, 2 * width, kernel, forget_bias=1.0)
        self.writer = ConvLSTMCell(2 * width, 2 * width, kernel, forget_bias=1.0)
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
        state = None
        for t in range(frames.shape[1] - 1):
            state = self.reader(self.encoder(frames[:, t]), state)
        frame, predicted = frames[:, -1], []
        for _ in range(count):
            state = self.writer(self.encoder(frame), state)
            frame = self.decoder(state[0]).tanh()
            predicted.append(frame)
        return torch.stack(predicted, dim=1)

    def describe(self) -> dict:
        return {"system": "ConvLSTM sequence to sequence", **self._arguments}
