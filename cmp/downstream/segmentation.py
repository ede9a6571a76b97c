"""Segmentation with a fully convolutional network on a backbone.

Legend: B batch, C channels, K classes, H W image pixels, h w feature cells.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.model import BaseModel
from torch import nn

from cmp.downstream.backbone import RANDOM, BareEncoder
from cmp.downstream.segmentation_data import IGNORED, SegmentationDataset

# By name: mmengine writes it into the config's text, where a class would not parse.
DATASET = f"{SegmentationDataset.__module__}.{SegmentationDataset.__name__}"


class SegmentationNet(BaseModel):
    """An encoder, a head that scores each cell, and bilinear upsampling of the scores to the image.

    With `alexnet_fcn` at stride 32 and no hidden layer this is FCN-32s; with a ResNet at stride 8 a dilated FCN.

    Args:
        encoder, output_stride: see `BareEncoder`.
        num_classes: K.
        hidden_channels: of a 3x3 convolution (batch norm, ReLU, dropout 0.1) before the last 1x1; 0 leaves it out.
        frozen: keep the encoder as it is, batch norm statistics too, and train a linear head alone: 1x1 on features
            that a batch norm without weights brings to one scale, so that encoders of any scale get the same chance.
        backbone: file of the encoder's weights, or "random".

    Raises:
        ValueError: arguments that are not offered, a hidden layer on a frozen encoder, or a file that does not fit.
        FileNotFoundError: there is no such file.

    Source: Long et al., "Fully Convolutional Networks for Semantic Segmentation", CVPR 2015 (its stride-32 variant);
    dilation as in Yu and Koltun, ICLR 2016; the hidden layer is ours.
    """

    def __init__(
        self,
        encoder: str = "resnet50",
        output_stride: int = 8,
        num_classes: int = 21,
        hidden_channels: int = 0,
        frozen: bool = False,
        backbone: str = RANDOM,
    ) -> None:
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"num_classes must be at least 2, got {num_classes}")
        if frozen and hidden_channels:
            raise ValueError("a frozen encoder is judged by a linear head: hidden_channels must be 0")
        self.encoder = BareEncoder(encoder, output_stride)
        self.frozen, self.num_classes, width = frozen, num_classes, self.encoder.channels
        layers: list[nn.Module] = [nn.BatchNorm2d(width, affine=False)] if frozen else []
        if hidden_channels:
            layers += [nn.Conv2d(width, hidden_channels, 3, padding=1, bias=False), nn.BatchNorm2d(hidden_channels)]
            layers += [nn.ReLU(inplace=True), nn.Dropout2d(0.1)]
            width = hidden_channels
        self.head = nn.Sequential(*layers, nn.Conv2d(width, num_classes, 1))
        mean, std = self.encoder.load(backbone)
        for name, value in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(value).reshape(3, 1, 1))
        self._description = dict(
            task="segmentation", encoder=encoder, output_stride=output_stride, backbone=str(backbone)
        )
        self._description |= dict(num_classes=num_classes, hidden_channels=hidden_channels, frozen=frozen)
        self.encoder.requires_grad_(not frozen)

    def train(self, mode: bool = True) -> "SegmentationNet":
        """As ever, but a frozen encoder stays in eval mode."""
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self

    def forward(self, image: torch.Tensor, label: torch.Tensor | None = None, mode: str = "tensor"):
        """Scores (B, K, H, W) of (B, 3, H, W) RGB images 0..255; with mode "loss" the mean cross-entropy in a dict."""
        image = (image.float() - self.mean) / self.std
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            features = self.encoder(image)  # (B, C, h, w)
        scores = self.head(features)  # (B, K, h, w)
        scores = F.interpolate(scores.float(), size=image.shape[2:], mode="bilinear", align_corners=False)
        if mode != "loss":
            return scores
        label = label.long()
        counted = (label != IGNORED).sum().clamp(min=1)  # a crop may be ignored altogether
        return {"loss": F.cross_entropy(scores, label, ignore_index=IGNORED, reduction="sum") / counted}

    @torch.no_grad()
    def predict(self, image: torch.Tensor, *, scales: Sequence[float] = (1.0,), flip: bool = False) -> torch.Tensor:
        """Classes (B, H, W) of (B, 3, H, W) images: the largest of the mean probabilities over scales and mirrorings.

        Args:
            scales: factors on the image's size; the answer always has the image's own.
            flip: add the mirrored image at each scale.

        Raises:
            ValueError: there is no scale, or one that is not positive.
        """
        if not scales or min(scales) <= 0:
            raise ValueError(f"scales must be positive, got {scales}")
        size_hw, total = image.shape[2:], 0
        for scale in scales:
            scaled = image.float()
            if scale != 1:
                wanted = [max(1, round(side * scale)) for side in size_hw]
                scaled = F.interpolate(scaled, size=wanted, mode="bilinear", antialias=True, align_corners=False)
            for mirrored in (False, True) if flip else (False,):
                scores = self(scaled.flip(3) if mirrored else scaled)
                scores = scores.flip(3) if mirrored else scores
                total = total + F.interpolate(scores, size=size_hw, mode="bilinear", align_corners=False).softmax(1)
        return total.argmax(1)

    def describe(self) -> dict:
        """What a checkpoint says of this network: its arguments, and what images are normalised by."""
        return self._description | {name: getattr(self, name).flatten().tolist() for name in ("mean", "std")}


def prepare_config(config: Config, *, data_dir: str, backbone: str, frozen: bool) -> None:
    """Fill in a segmentation config, in place, what follows from the call and from its description of the data.

    Raises:
        FileNotFoundError, ValueError: as `SegmentationDataset`, for either part.
    """
    parts = dict(train=dict(part=config.parts[0], seed=config.randomness.seed, **config.augmentation))
    parts["val"] = dict(part=config.parts[1])
    for name, arguments in parts.items():
        dataset = dict(root=data_dir, **arguments, **config.data)
        SegmentationDataset(**dataset)  # a missing file is better answered now than after the log's first lines
        config[f"{name}_dataloader"].dataset = dict(type=DATASET, **dataset)
    names = [name for name, _ in config.data.classes]
    config.model.update(num_classes=len(names), backbone=backbone, frozen=frozen)
    if frozen:
        config.model.hidden_channels = 0
    config.optim_wrapper.optimizer.lr = config.lr["frozen" if frozen else "fine_tuned"]
    config.val_evaluator.names = names
