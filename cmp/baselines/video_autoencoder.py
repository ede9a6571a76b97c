"""Spatio-temporal video autoencoder: predicts the next frame by moving the last frame's features and decoding them.

Legend: B batch, T frames, C channels, H W pixels, h w cells of the feature map.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from cmp.baselines.baseline import Baseline, scale_to_unit
from cmp.baselines.conv_lstm import ConvLSTMCell
from cmp.baselines.drawing.video_autoencoder import draw_prediction
from cmp.baselines.image_encoder import build_image_encoder, describe_image_encoder, normalize_frames
from cmp.flow.warp import warp_backward

ERRORS = ("gradient", "squared", "bernoulli")
MIN_PROBABILITY = 0.02  # for a copied frame: without a limit, the likelihood of a wrong pixel would be 0


class VideoAutoencoder(Baseline):
    """Predicts the next frames of a clip with a spatial autoencoder and a recurrent network that predicts the flow.

    The given frames are encoded and processed by a convolutional LSTM. Its last hidden state gives a flow, which warps
    the features of the last frame it read; decoded, they are the prediction. The initial flow is zero, so the network
    starts as a plain autoencoder. Further frames are rolled out: a prediction is appended to the given frames, and the
    oldest one is dropped.

    Args:
        image_channels: C; 3 with an image encoder.
        feature_channels: of the spatial encoder; not used by an image encoder.
        hidden_channels: of the LSTM.
        kernel: side of the spatial convolutions, px, and of those of the LSTM, cells; odd.
        flow_kernel: side of the two convolutions before the flow, cells, odd.
        error: "gradient": squared difference between the central differences of prediction and target; "squared":
            between their pixels; "bernoulli": negative log-likelihood of the pixels, nats. Summed over a frame.
        smoothness: weight of the Huber penalty on the flow's change from cell to cell; 0 turns it off.
        smoothness_threshold: change from which on the penalty grows linearly, cells.
        image_encoder: None: one convolution, tanh and max-pooling by 2. Or a dict, see `build_image_encoder`.
        given: number of given frames; None: all but the last `trained`.
        trained: number of frames that are predicted in training, at least 1; the error is their mean.

    Raises:
        ValueError: an argument is out of range.

    Source: Patraucean, Handa and Cipolla, "Spatio-temporal video autoencoder with differentiable memory", ICLR 2016
    workshop, and viorik/ConvLSTM. The penalty is a term of the loss here; in the source it is a layer that
    adds to gradients. For an image encoder with a stride above 2 the decoder has another upsampling and convolution for
    each further factor of 2, with tanh in between.
    """

    def __init__(
        self,
        *,
        image_channels: int = 1,
        feature_channels: int = 32,
        hidden_channels: int = 45,
        kernel: int = 7,
        flow_kernel: int = 15,
        error: str = "gradient",
        smoothness: float = 1e-3,
        smoothness_threshold: float = 1e-3,
        image_encoder: Mapping | None = None,
        given: int | None = None,
        trained: int = 1,
    ) -> None:
        super().__init__()
        if trained < 1 or (given is not None and given < 1):
            raise ValueError(f"given and trained must be at least 1, got {given} and {trained}")
        if min(feature_channels, hidden_channels) < 1 or image_channels not in (1, 3):
            raise ValueError(
                "feature_channels and hidden_channels must be at least 1 and image_channels 1 or 3, "
                f"got {feature_channels}, {hidden_channels}, {image_channels}"
            )
        if kernel % 2 == 0 or flow_kernel % 2 == 0:
            raise ValueError(f"kernel and flow_kernel must be odd, got {kernel} and {flow_kernel}")
        if error not in ERRORS:
            raise ValueError(f"error must be one of {ERRORS}, got {error!r}")
        if not (smoothness >= 0 and smoothness_threshold > 0):
            raise ValueError(
                f"smoothness must be at least 0 and its threshold above 0, got {smoothness}, {smoothness_threshold}"
            )
        if image_encoder is not None and image_channels != 3:
            raise ValueError(f"an image encoder reads 3 channels, got image_channels={image_channels}")
        self._description: dict[str, Any] = dict(image_channels=image_channels, feature_channels=feature_channels)
        self._description |= dict(hidden_channels=hidden_channels, kernel=kernel, flow_kernel=flow_kernel, error=error)
        self._description |= dict(smoothness=smoothness, smoothness_threshold=smoothness_threshold)
        self._description |= dict(given=given, trained=trained)
        self.given, self.trained = given, trained
        self.error, self.smoothness, self.smoothness_threshold = error, smoothness, smoothness_threshold

        self.image_encoder: Any = None
        self.spatial_encoder: nn.Module | None = None
        if image_encoder is None:
            conv = nn.Conv2d(image_channels, feature_channels, kernel, padding=kernel // 2)
            self.spatial_encoder = nn.Sequential(conv, nn.Tanh(), nn.MaxPool2d(2))
            self.stride, channels = 2, feature_channels
        else:
            self._description |= describe_image_encoder(image_encoder)
            self.image_encoder = build_image_encoder(image_encoder)
            self.stride, channels = self.image_encoder.strides["top"], self.image_encoder.channels["top"]
        self.memory = ConvLSTMCell(channels, hidden_channels, kernel)
        for weight in (self.memory.input.weight, self.memory.recurrent.weight):
            nn.init.uniform_(weight, -0.08, 0.08)
        self.flow_head = _flow_head(hidden_channels, flow_kernel)
        self.decoder = _decoder(channels, feature_channels, image_channels, kernel, self.stride)

    @property
    def loss_unit(self) -> str:
        """What the loss is, with its unit."""
        what = "cross-entropy, nats per frame" if self.error == "bernoulli" else "squared error (values 0..1)"
        return f"{what} + roughness penalty"

    def loss(self, frames: torch.Tensor, **_) -> dict[str, torch.Tensor]:
        """Compute the error of the predicted frames plus the weighted penalty, and both terms: means over a batch.

        Args:
            frames: (B, T, C, H, W), uint8 or floats 0..1; H and W multiples of the features' stride. T at least the
                given and trained frames.
        """
        given, target = self.divide(scale_to_unit(frames), self.trained)
        errors, roughs = [], []
        for true in target.unbind(1):
            features, flow = self.remember(given)
            decoded = self.decode(features, flow)
            errors.append(self._error(decoded, true).mean())
            roughs.append(roughness(flow, self.smoothness_threshold).mean())
            given = torch.cat((given[:, 1:], self.to_pixels(decoded)[:, None]), dim=1)
        error, rough = sum(errors) / len(errors), sum(roughs) / len(roughs)
        return {"loss": error + self.smoothness * rough, "prediction_error": error, "roughness": rough}

    def measure(self, frames: torch.Tensor, **_) -> dict[str, torch.Tensor]:
        """Measure the errors of the next frame's prediction and of simpler predictions, and those of a roll-out.

        `mse`: mean squared difference, values 0..1; `mse_unmoved`: the same with a flow of 0; `mse_copy`: the same for
        the previous frame. `mse_still`: the same for the prediction after the last given frame repeated, which shows
        no motion: not larger than `mse` if the network does not use the motion of the given frames. `shift` and
        `shift_still`: mean lengths of both flows, cells. With error="bernoulli" also `nats`: negative log-likelihood
        of the frame; and `nats_copy`: by the previous frame, its values clamped to 0.02..0.98.

        If there are several frames after the given ones: `mse_frame1`, `mse_frame2`, ... of the roll-out, and
        `mse_copy_frame1`, ... of the last given frame.
        """
        given, future = self.divide(scale_to_unit(frames))
        features, flow = self.remember(given)
        target, copy = future[:, 0], given[:, -1]
        still = self.remember(copy[:, None].expand_as(given))
        raw, unmoved = self.decode(features, flow), self.decode(features, torch.zeros_like(flow))
        measures = {
            "mse": (self.to_pixels(raw) - target).square().flatten(1).mean(1),
            "mse_unmoved": (self.to_pixels(unmoved) - target).square().flatten(1).mean(1),
            "mse_copy": (copy - target).square().flatten(1).mean(1),
            "mse_still": (self.to_pixels(self.decode(*still)) - target).square().flatten(1).mean(1),
            "shift": flow.norm(dim=1).flatten(1).mean(1),
            "shift_still": still[1].norm(dim=1).flatten(1).mean(1),
        }
        if self.error == "bernoulli":
            copied = copy.clamp(MIN_PROBABILITY, 1 - MIN_PROBABILITY).logit()
            measures |= {"nats": self._error(raw, target), "nats_copy": self._error(copied, target)}
        if future.shape[1] > 1:
            rolled = self.roll_out(given, future.shape[1])
            for name, predicted in (("mse", rolled), ("mse_copy", copy[:, None])):
                errors = (predicted - future).square().flatten(2).mean(2)
                measures |= {f"{name}_frame{number}": values for number, values in enumerate(errors.unbind(1), 1)}
        return measures

    def divide(self, frames: torch.Tensor, count: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Split frames (B, T, C, H, W) into the given ones and the next count ones; None: all after them.

        Raises:
            ValueError: another number of axes, or there are too few frames.
        """
        least = (self.given or 1) + (count or 1)
        if frames.ndim != 5 or frames.shape[1] < least:
            raise ValueError(f"frames must be (B, T, C, H, W) with T at least {least}, got {tuple(frames.shape)}")
        given = self.given or frames.shape[1] - self.trained
        return frames[:, :given], frames[:, given : None if count is None else given + count]

    def roll_out(self, frames: torch.Tensor, count: int) -> torch.Tensor:
        """Predict the count frames (B, count, C, H, W) after frames (B, T, C, H, W), values 0..1.

        Each prediction is appended to the frames before it, and replaces the oldest one.
        """
        predicted = []
        for _ in range(count):
            predicted.append(self.predict(frames))
            frames = torch.cat((frames[:, 1:], predicted[-1][:, None]), dim=1)
        return torch.stack(predicted, dim=1)

    def remember(self, frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode frames (B, T, C, H, W), values 0..1, and predict the flow.

        Returns:
            Features of the last frame, (B, channels, h, w); and the flow (B, 2, h, w) float32 from the next frame to
            it, cells, clamped to a quarter of the map's width and height.

        Raises:
            ValueError: another number of axes, or a side is not a multiple of the features' stride.
        """
        if frames.ndim != 5 or frames.shape[1] < 1:
            raise ValueError(f"frames must be (B, T, C, H, W) with T at least 2, got {tuple(frames.shape)}")
        if frames.shape[3] % self.stride or frames.shape[4] % self.stride:
            raise ValueError(f"sides must be multiples of {self.stride} px, got {tuple(frames.shape[3:])}")
        images = frames.flatten(0, 1)
        if self.spatial_encoder is not None:
            features = self.spatial_encoder(images)
        else:
            features = self.image_encoder(normalize_frames(255 * images)).top
        features = features.unflatten(0, frames.shape[:2])
        state: Any = None
        for feature in features.unbind(1):
            state = self.memory(feature, state)
        flow = self.flow_head(state[0]).float()
        limits = (flow.shape[3] / 4, flow.shape[2] / 4)
        flow = torch.stack([axis.clamp(-limit, limit) for axis, limit in zip(flow.unbind(1), limits)], dim=1)
        return features[:, -1], flow

    def decode(self, features: torch.Tensor, flow: torch.Tensor) -> torch.Tensor:
        """Warp features by a flow and decode them: (B, C, H, W) pixels, or logits if error is "bernoulli"."""
        return self.decoder(warp_backward(features, flow)).float()

    def predict(self, frames: torch.Tensor) -> torch.Tensor:
        """Predict the frame (B, C, H, W) after frames (B, T, C, H, W), uint8 or floats 0..1."""
        return self.to_pixels(self.decode(*self.remember(scale_to_unit(frames))))

    def pictures(self, frames: torch.Tensor, **_) -> dict[str, np.ndarray]:
        """Draw the prediction, its error and the motion it used; see `draw_prediction`."""
        return draw_prediction(self, scale_to_unit(frames))

    def describe(self) -> dict:
        return {"system": "spatio-temporal video autoencoder", **self._description}

    def to_pixels(self, decoded: torch.Tensor) -> torch.Tensor:
        """Convert the output of `decode` to pixel values."""
        return decoded.sigmoid() if self.error == "bernoulli" else decoded

    def _error(self, decoded: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Compute the error, (B,), of the output of `decode`."""
        if self.error == "bernoulli":
            return F.binary_cross_entropy_with_logits(decoded, target, reduction="none").flatten(1).sum(1)
        difference = decoded - target
        if self.error == "squared":
            return difference.square().flatten(1).sum(1)
        along_x = (difference[..., 2:] - difference[..., :-2]) / 2
        along_y = (difference[..., 2:, :] - difference[..., :-2, :]) / 2
        return along_x.square().flatten(1).sum(1) + along_y.square().flatten(1).sum(1)


def roughness(flow: torch.Tensor, threshold: float) -> torch.Tensor:
    """Sum Huber's function of the change of flow (B, 2, h, w) from each cell to its right and lower neighbors: (B,).

    Source: the paper's smoothness penalty: a^2 / 2 for a change a up to the threshold t, else t (|a| - t / 2).
    """
    total = 0
    for axis in (2, 3):
        change = flow.diff(dim=axis)
        total = total + F.huber_loss(change, torch.zeros_like(change), reduction="none", delta=threshold).flatten(
            1
        ).sum(1)
    return total


def _flow_head(in_channels: int, kernel: int) -> nn.Sequential:
    """Build the layers from the hidden state to the flow; their output is zero at the start."""
    head = nn.Sequential(
        nn.Conv2d(in_channels, 2, kernel, padding=kernel // 2),
        nn.Conv2d(2, 2, kernel, padding=kernel // 2),
        nn.Conv2d(2, 2, 1),
    )
    nn.init.zeros_(head[-1].weight)
    nn.init.zeros_(head[-1].bias)
    return head


def _decoder(channels: int, feature_channels: int, image_channels: int, kernel: int, stride: int) -> nn.Sequential:
    """Build the layers from features of a stride to pixels: an upsampling and a convolution per factor of 2."""
    decoder = nn.Sequential()
    while stride > 1:
        stride //= 2
        outputs = image_channels if stride == 1 else feature_channels
        decoder.extend((nn.Upsample(scale_factor=2), nn.Conv2d(channels, outputs, kernel, padding=kernel // 2)))
        if stride > 1:
            decoder.append(nn.Tanh())
        channels = outputs
    return decoder
