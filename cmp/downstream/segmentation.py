"""Segmentation with a fully convolutional network on a backbone.

Legend: B batch, C channels, K classes, H W image pixels, h w feature cells.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.registry import DATASETS
from torch import nn

from cmp.downstream.backbone import RANDOM, load_encoder
from cmp.downstream.run import set_given
from cmp.downstream.segmentation_data import IGNORED


class SegmentationNet(BaseModel):
    """An encoder, a head that scores each cell, and bilinear upsampling of the scores to the image.

    With `alexnet_fcn` at stride 32 and no hidden layer this is FCN-32s; with a ResNet at stride 8 a dilated FCN.

    Args:
        encoder, output_stride: see `build_encoder`.
        num_classes: K.
        hidden_channels: of a 3x3 convolution (batch norm, ReLU, dropout 0.1) before the last 1x1; 0 leaves it out.
        frozen: keep the encoder as it is, batch norm statistics too, and train only a linear head: a 1x1 convolution
            of features that a batch norm without weights normalizes, so that the scale of an encoder does not matter.
        backbone: file of the encoder's weights, or "random".

    Raises:
        ValueError: arguments that are not offered, a hidden layer on a frozen encoder, or a file that does not fit.
        FileNotFoundError: the file does not exist.

    Source: Long et al., "Fully Convolutional Networks for Semantic Segmentation", CVPR 2015 (its stride-32 variant);
    dilation as in Yu and Koltun, ICLR 2016; the hidden layer is ours.
    """

    loss_unit = "cross-entropy, nats"

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
            raise ValueError("a frozen encoder is evaluated by a linear head: hidden_channels must be 0")
        self.encoder, mean, std = load_encoder(backbone, encoder, output_stride)
        self.frozen, self.num_classes, width = frozen, num_classes, self.encoder.feature_info.channels()[-1]
        layers: list[nn.Module] = [nn.BatchNorm2d(width, affine=False)] if frozen else []
        if hidden_channels:
            layers += [nn.Conv2d(width, hidden_channels, 3, padding=1, bias=False), nn.BatchNorm2d(hidden_channels)]
            layers += [nn.ReLU(inplace=True), nn.Dropout2d(0.1)]
            width = hidden_channels
        self.head = nn.Sequential(*layers, nn.Conv2d(width, num_classes, 1))
        for name, value in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(value).reshape(3, 1, 1))
        self._description = dict(
            task="segmentation", encoder=encoder, output_stride=output_stride, backbone=str(backbone)
        )
        self._description |= dict(num_classes=num_classes, hidden_channels=hidden_channels, frozen=frozen)
        self.encoder.requires_grad_(not frozen)

    def train(self, mode: bool = True) -> "SegmentationNet":
        """Set the mode of the network; a frozen encoder stays in eval mode."""
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self

    def forward(self, image: torch.Tensor, label: torch.Tensor | None = None, mode: str = "tensor"):
        """Scores (B, K, H, W) of (B, 3, H, W) RGB images 0..255; with mode "loss" the mean cross-entropy in a dict."""
        image = (image.float() - self.mean) / self.std
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            features = self.encoder(image)[-1]  # (B, C, h, w)
        scores = self.head(features)  # (B, K, h, w)
        scores = F.interpolate(scores.float(), size=image.shape[2:], mode="bilinear", align_corners=False)
        if mode != "loss":
            return scores
        if label is None:
            raise ValueError("mode 'loss' needs the label")
        label = label.long()
        counted = (label != IGNORED).sum().clamp(min=1)  # all pixels of a crop may be ignored
        return {"loss": F.cross_entropy(scores, label, ignore_index=IGNORED, reduction="sum") / counted}

    @torch.no_grad()
    def predict(self, image: torch.Tensor, *, scales: Sequence[float] = (1.0,), flip: bool = False) -> torch.Tensor:
        """Classes (B, H, W) of (B, 3, H, W) images: the largest mean probability over scales and mirrorings.

        Args:
            scales: factors on the image's size; the result always has the image's size.
            flip: add the mirrored image at each scale.

        Raises:
            ValueError: there is no scale, or one that is not positive.
        """
        if not scales or min(scales) <= 0:
            raise ValueError(f"scales must be positive, got {scales}")
        size_hw, total = image.shape[2:], image.new_zeros(())
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
        """What a checkpoint states about this network: its arguments, and the mean and std of its input."""
        return self._description | {name: getattr(self, name).flatten().tolist() for name in ("mean", "std")}


def prepare_config(config: Config, *, data_dir: str, backbone: str) -> None:
    """Set the values of a segmentation config that the command line must give, in place; nothing is read."""
    set_given(config, data_dir=data_dir, backbone=backbone)


def check_data(config: Config) -> None:
    """Open both parts of the data: a missing file is better reported now than after the log's first lines.

    Raises:
        FileNotFoundError, ValueError: as `SegmentationDataset`, for either part; or the number of classes or their
            names are not those that the config gives the network and the metric.
    """
    for loader in ("train_dataloader", "val_dataloader"):
        names = DATASETS.build(config[loader].dataset).names
        if config.model.num_classes != len(names) or list(config.val_evaluator.names) != list(names):
            raise ValueError(
                f"{loader}.dataset.classes has {len(names)} classes, which must be as many as model.num_classes "
                f"(got {config.model.num_classes}) and have the names of val_evaluator.names"
            )
