"""ConvLSTM sequence to sequence: one cell reads the given frames, another continues with its own predictions.

Legend: B batch, T frames, H W pixels, C feature channels. Frames have values -1..1.
"""

from collections.abc import Sequence

import torch
from torch import nn

from cmp.baselines.conv_lstm import ConvLSTMCell
from cmp.baselines.frame_prediction import FramePredictor
from cmp.baselines.image_encoder import build_image_encoder, describe_image_encoder, normalize_frames


class ConvLSTMSeq2Seq(FramePredictor):
    """Predicts frames with two convolutional LSTM cells, a reader and a writer.

    The reader processes all given frames but the last; the writer takes over its state and begins with the last one.
    Each frame is encoded at a quarter of its size; transposed convolutions with batch norm decode the writer's hidden
    state to a frame. Predictions are fed back, by default in training, too.

    Args:
        given, trained, gdl_weight, gdl_exponent: see `FramePredictor`.
        width: channels at half size; both cells have twice as many.
        kernel: side of the kernels of both cells, feature cells, odd.
        image_encoder: None for convolutions. Or a dict, see `build_image_encoder`: its top replaces them.
        teacher_forcing: share of the frames fed back in training that are the true ones instead of predictions; drawn
            for each sample and step. 0: always predictions; 1: always true frames. Evaluation never uses true frames.
        encoder_depth: number of convolutions that encode a frame, at least 2: the first two halve its size, the others
            keep it.
        encoder_batch_norm: whether batch norm follows each of these convolutions.
        cell_depth: number of cells in the reader, and in the writer; each above the first reads the hidden state of the
            one below it, and the top one's is decoded.

    Raises:
        ValueError: an argument is out of range; or the image encoder's top has another stride than 4, or is combined
            with encoder_depth or encoder_batch_norm, which belong to the convolutions that it replaces.

    Source: Shi et al., NIPS 2015, for the cells; a project on UCF-101 for the rest, whose widths and kernels are not
    public. It tried teacher forcing and dropped it. The option image_encoder is ours.
    """

    def __init__(
        self,
        *,
        given: int = 4,
        trained: int = 4,
        width: int = 64,
        kernel: int = 5,
        image_encoder: dict | None = None,
        teacher_forcing: float = 0.0,
        encoder_depth: int = 2,
        encoder_batch_norm: bool = False,
        cell_depth: int = 1,
        gdl_weight: float = 1.0,
        gdl_exponent: float = 1.0,
    ) -> None:
        super().__init__(given, trained, gdl_weight, gdl_exponent)
        if not 0 <= teacher_forcing <= 1:
            raise ValueError(f"teacher_forcing must be a share from 0 to 1, got {teacher_forcing}")
        if encoder_depth < 2 or cell_depth < 1:
            raise ValueError(
                f"encoder_depth must be at least 2 and cell_depth at least 1, got {encoder_depth} and {cell_depth}"
            )
        self._arguments |= dict(width=width, kernel=kernel, teacher_forcing=teacher_forcing, cell_depth=cell_depth)
        self.teacher_forcing, channels = teacher_forcing, 2 * width
        if image_encoder is None:
            self._arguments |= dict(encoder_depth=encoder_depth, encoder_batch_norm=encoder_batch_norm)
            self.encoder = _frame_encoder(width, encoder_depth, encoder_batch_norm)
        elif encoder_depth != 2 or encoder_batch_norm:
            raise ValueError(
                "encoder_depth and encoder_batch_norm belong to the encoder that image_encoder replaces; "
                f"leave them out (got {encoder_depth} and {encoder_batch_norm})"
            )
        else:
            self._arguments |= describe_image_encoder(image_encoder)
            self.image_encoder = build_image_encoder(image_encoder)
            stride, channels = self.image_encoder.strides["top"], self.image_encoder.channels["top"]
            if stride != 4:
                raise ValueError(f"the image encoder's top must have stride 4, as the decoder has, got {stride}")
        self.reader = ConvLSTMCell(channels, 2 * width, kernel, forget_bias=1.0)
        self.writer = ConvLSTMCell(channels, 2 * width, kernel, forget_bias=1.0)
        # The lists are separate, so that networks with one cell keep the names of their weights.
        self.readers_above, self.writers_above = (
            nn.ModuleList(ConvLSTMCell(2 * width, 2 * width, kernel, forget_bias=1.0) for _ in range(cell_depth - 1))
            for _ in range(2)
        )
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(2 * width, width, 4, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.ConvTranspose2d(width, 3, 4, stride=2, padding=1),
        )

    def predict(self, frames: torch.Tensor, count: int) -> torch.Tensor:
        """Predict frames; see `FramePredictor`. H and W must be multiples of 4 px.

        Raises:
            ValueError: a side is not a multiple of 4 px.
        """
        return self._predict(frames, count, None, 0.0)

    def predict_in_training(self, given: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Predict as many frames as target has; some of the frames fed back are the true ones, see teacher_forcing."""
        return self._predict(given, target.shape[1], target, self.teacher_forcing)

    def other_predictions(self, given: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor]:
        """Predict with the true frame fed back at each step ("forced"): one frame ahead at a time."""
        return {"forced": self._predict(given, target.shape[1], target, 1.0)}

    def _predict(self, frames: torch.Tensor, count: int, truth: torch.Tensor | None, true_share: float) -> torch.Tensor:
        """Predict frames; true_share of those fed back come from truth (B, count, 3, H, W)."""
        if frames.shape[3] % 4 or frames.shape[4] % 4:
            raise ValueError(f"sides must be multiples of 4 px, got {tuple(frames.shape[3:])}")
        *read, last = self.encode(frames.flatten(0, 1)).unflatten(0, frames.shape[:2]).unbind(1)
        states: list = [None] * (1 + len(self.readers_above))
        for features in read:
            states = _step((self.reader, *self.readers_above), features, states)
        states = _step((self.writer, *self.writers_above), last, states)
        predicted = [self.decoder(states[-1][0]).tanh()]
        while len(predicted) < count:
            fed = predicted[-1]
            if true_share > 0 and truth is not None:
                true = torch.rand(len(fed), 1, 1, 1, device=fed.device) < true_share
                fed = torch.where(true, truth[:, len(predicted) - 1].to(fed.dtype), fed)
            states = _step((self.writer, *self.writers_above), self.encode(fed), states)
            predicted.append(self.decoder(states[-1][0]).tanh())
        return torch.stack(predicted, dim=1)

    def encode(self, frames: torch.Tensor) -> torch.Tensor:
        """Encode frames (B, 3, H, W) to features (B, C, H/4, W/4)."""
        if hasattr(self, "image_encoder"):
            return self.image_encoder(normalize_frames((frames + 1) * 127.5)).top
        return self.encoder(frames)

    def describe(self) -> dict:
        return {"system": "ConvLSTM sequence to sequence", **self._arguments}


def _step(cells: Sequence[ConvLSTMCell], features: torch.Tensor, states: Sequence) -> list:
    """Let stacked cells process one input map; return their new states, lowest cell first."""
    new = []
    for cell, state in zip(cells, states):
        new.append(cell(features, state))
        features = new[-1][0]
    return new


def _frame_encoder(width: int, depth: int, batch_norm: bool) -> nn.Sequential:
    """Build the convolutions from a frame to 2 width channels at a quarter of its size."""
    layers, channels = [], [3, width, *[2 * width] * (depth - 1)]
    for number, (a, b) in enumerate(zip(channels, channels[1:])):
        kernel, stride = (4, 2) if number < 2 else (3, 1)
        layers.append(nn.Conv2d(a, b, kernel, stride, padding=1, bias=not batch_norm))
        layers += [nn.BatchNorm2d(b)] if batch_norm else []
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)
