"""Spatio-temporal video autoencoder: the next frame is the last one's features, moved by a flow and decoded.

Legend: B batch, T frames, C channels, H W pixels, h w cells of the feature map.
"""

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from cmp.baselines.baseline import Baseline, scale_to_unit
from cmp.baselines.conv_lstm import ConvLSTMCell
from cmp.baselines.image_encoder import build_image_encoder, describe_image_encoder, normalise_frames
from cmp.baselines.sheet import picture_grid
from cmp.flow import flow_to_color
from cmp.flow.warp import warp_backward

ERRORS = ("gradient", "squared", "bernoulli")
LEAST_PROBABILITY = 0.02  # of what a copied frame says: it would pay without bound where it errs


class VideoAutoencoder(Baseline):
    """A spatial autoencoder around a memory that tells the flow from what it has seen.

    Every frame but the last of a clip is encoded and read by a convolutional LSTM. From its last hidden state comes a
    flow, by which the features of the last frame read are fetched; decoded, they are the prediction of the clip's last
    frame. At the start the flow is zero, and the network a plain autoencoder.

    Args:
        image_channels: C; 3 with an image encoder.
        feature_channels: of the spatial encoder; an image encoder has its own.
        hidden_channels: of the memory.
        kernel: side of the spatial and the memory's convolutions, px and cells, odd.
        flow_kernel: side of the two convolutions before the flow, cells, odd.
        error: "gradient": squared difference of the central differences of prediction and truth; "squared": of their
            pixels; "bernoulli": the pixels' negative log-likelihood, nats. Summed over a frame.
        smoothness: weight of the Huber penalty on the flow's change from cell to cell; 0 is none.
        smoothness_threshold: from where on the penalty grows linearly, cells.
        image_encoder: None: one convolution, tanh and max-pooling by 2. Or a dict, see `build_image_encoder`.

    Raises:
        ValueError: an argument is out of range.

    Source: Patraucean, Handa and Cipolla, "Spatio-temporal video autoencoder with differentiable memory", ICLR 2016
    workshop, and viorik/ConvLSTM. The penalty is a term of the loss here, not a layer that adds to gradients. With an
    image encoder of a stride above 2 the decoder has one more upsampling and convolution, behind tanh, for each 2.
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
    ) -> None:
        super().__init__()
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
        self._description = dict(image_channels=image_channels, feature_channels=feature_channels)
        self._description |= dict(hidden_channels=hidden_channels, kernel=kernel, flow_kernel=flow_kernel, error=error)
        self._description |= dict(smoothness=smoothness, smoothness_threshold=smoothness_threshold)
        self.error, self.smoothness, self.smoothness_threshold = error, smoothness, smoothness_threshold

        self.image_encoder = self.spatial_encoder = None
        stride, channels = 2, feature_channels
        if image_encoder is None:
            conv = nn.Conv2d(image_channels, channels, kernel, padding=kernel // 2)
            self.spatial_encoder = nn.Sequential(conv, nn.Tanh(), nn.MaxPool2d(2))
        else:
            self._description |= describe_image_encoder(image_encoder)
            self.image_encoder = build_image_encoder(image_encoder)
            stride, channels = self.image_encoder.strides["top"], self.image_encoder.channels["top"]
        self.stride = stride
        self.memory = ConvLSTMCell(channels, hidden_channels, kernel)
        for weight in (self.memory.input.weight, self.memory.recurrent.weight):
            nn.init.uniform_(weight, -0.08, 0.08)
        self.flow_head = nn.Sequential(
            nn.Conv2d(hidden_channels, 2, flow_kernel, padding=flow_kernel // 2),
            nn.Conv2d(2, 2, flow_kernel, padding=flow_kernel // 2),
            nn.Conv2d(2, 2, 1),
        )
        nn.init.zeros_(self.flow_head[-1].weight)
        nn.init.zeros_(self.flow_head[-1].bias)
        self.decoder = nn.Sequential()
        while stride > 1:
            stride //= 2
            outputs = image_channels if stride == 1 else feature_channels
            self.decoder.extend(
                (nn.Upsample(scale_factor=2), nn.Conv2d(channels, outputs, kernel, padding=kernel // 2))
            )
            if stride > 1:
                self.decoder.append(nn.Tanh())
            channels = outputs

    def loss(self, frames: torch.Tensor, **_) -> dict[str, torch.Tensor]:
        """The error of the predicted last frame plus the weighted penalty, and the two apart; means over the batch.

        Args:
            frames: (B, T, C, H, W), uint8 or floats 0..1, T at least 2; H and W multiples of the features' stride.
        """
        frames = scale_to_unit(frames)
        features, flow = self.remember(frames[:, :-1])
        error = self._error(self.decode(features, flow), frames[:, -1]).mean()
        rough = roughness(flow, self.smoothness_threshold).mean()
        return {"loss": error + self.smoothness * rough, "prediction_error": error, "roughness": rough}

    def measure(self, frames: torch.Tensor, **_) -> dict[str, torch.Tensor]:
        """How far the prediction is from the last frame, and simpler ones are.

        `mse`: mean squared difference, values 0..1; `mse_unmoved`: with the flow put to 0; `mse_copy`: of the frame
        before. Under error="bernoulli" also `nats` of the frame, and `nats_copy`: of the frame before, whose values
        are brought into 0.02..0.98. `shift`: mean length of the flow, cells.
        """
        frames = scale_to_unit(frames)
        features, flow = self.remember(frames[:, :-1])
        target, copy = frames[:, -1], frames[:, -2]
        raw, unmoved = self.decode(features, flow), self.decode(features, torch.zeros_like(flow))
        measures = {
            "mse": (self._pixels(raw) - target).square().flatten(1).mean(1),
            "mse_unmoved": (self._pixels(unmoved) - target).square().flatten(1).mean(1),
            "mse_copy": (copy - target).square().flatten(1).mean(1),
            "shift": flow.norm(dim=1).flatten(1).mean(1),
        }
        if self.error == "bernoulli":
            copied = copy.clamp(LEAST_PROBABILITY, 1 - LEAST_PROBABILITY).logit()
            measures |= {"nats": self._error(raw, target), "nats_copy": self._error(copied, target)}
        return measures

    def remember(self, frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Read frames (B, T, C, H, W), 0..1.

        Returns:
            Features of the last, (B, channels, h, w), and the flow (B, 2, h, w) float32 from the next frame into it,
            cells, at most a quarter of the map's width and height.
        """
        if frames.ndim != 5 or frames.shape[1] < 1:
            raise ValueError(f"frames must be (B, T, C, H, W), two of them at least, got {tuple(frames.shape)}")
        if frames.shape[3] % self.stride or frames.shape[4] % self.stride:
            raise ValueError(f"sides must be multiples of {self.stride} px, got {tuple(frames.shape[3:])}")
        seen = frames.flatten(0, 1)
        if self.image_encoder is None:
            features = self.spatial_encoder(seen)
        else:
            features = self.image_encoder(normalise_frames(255 * seen)).top
        features = features.unflatten(0, frames.shape[:2])
        state = None
        for feature in features.unbind(1):
            state = self.memory(feature, state)
        flow = self.flow_head(state[0]).float()
        limits = (flow.shape[3] / 4, flow.shape[2] / 4)
        flow = torch.stack([axis.clamp(-limit, limit) for axis, limit in zip(flow.unbind(1), limits)], dim=1)
        return features[:, -1], flow

    def decode(self, features: torch.Tensor, flow: torch.Tensor) -> torch.Tensor:
        """The frame (B, C, H, W) that moved features show: pixels, or under error="bernoulli" their logits."""
        return self.decoder(warp_backward(features, flow)).float()

    def predict(self, frames: torch.Tensor) -> torch.Tensor:
        """The frame (B, C, H, W) that follows on frames (B, T, C, H, W), uint8 or floats 0..1."""
        return self._pixels(self.decode(*self.remember(scale_to_unit(frames))))

    def pictures(self, frames: torch.Tensor, **_) -> dict[str, np.ndarray]:
        """`prediction`: a row a sample: the last three frames, the prediction of the third, its difference from it
        (grey is none) and the motion it was made with, from the second to the third, on the map's own scale."""
        frames = scale_to_unit(frames)
        features, flow = self.remember(frames[:, :-1])
        predicted = self._pixels(self.decode(features, flow))
        motion = (-flow).detach().permute(0, 2, 3, 1).cpu().numpy()
        longest = max(1.0, float(np.linalg.norm(motion, axis=3).max()))
        painted = torch.from_numpy(np.stack([flow_to_color(one, max_flow_px=longest) for one in motion]))
        painted = F.interpolate(painted.permute(0, 3, 1, 2) / 255, size=frames.shape[3:])
        shown = [*frames[:, -3:].unbind(1), predicted, 0.5 + (predicted - frames[:, -1]) / 2, painted]
        columns = torch.stack([column.detach().cpu().expand(-1, 3, -1, -1) for column in shown], dim=1)
        return {"prediction": picture_grid(columns.flatten(0, 1), columns=len(shown))}

    def describe(self) -> dict:
        return {"system": "spatio-temporal video autoencoder", **self._description}

    def _pixels(self, decoded: torch.Tensor) -> torch.Tensor:
        return decoded.sigmoid() if self.error == "bernoulli" else decoded

    def _error(self, decoded: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """(B,) of `decode`'s output."""
        if self.error == "bernoulli":
            return F.binary_cross_entropy_with_logits(decoded, target, reduction="none").flatten(1).sum(1)
        difference = decoded - target
        if self.error == "squared":
            return difference.square().flatten(1).sum(1)
        along_x = (difference[..., 2:] - difference[..., :-2]) / 2
        along_y = (difference[..., 2:, :] - difference[..., :-2, :]) / 2
        return along_x.square().flatten(1).sum(1) + along_y.square().flatten(1).sum(1)


def roughness(flow: torch.Tensor, threshold: float) -> torch.Tensor:
    """Huber's function of the change of flow (B, 2, h, w) from each cell to the next right and below, summed: (B,).

    Source: the paper's smoothness penalty: a^2 / 2 for a change a up to the threshold t, else t (|a| - t / 2).
    """
    total = 0
    for axis in (2, 3):
        change = flow.diff(dim=axis)
        total = total + F.huber_loss(change, torch.zeros_like(change), reduction="none", delta=threshold).flatten(
            1
        ).sum(1)
    return total
