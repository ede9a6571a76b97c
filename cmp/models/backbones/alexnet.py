"""AlexNet with batch normalization as a fully convolutional image encoder.

Legend: B batch, H W image pixels.
"""

import torch
import torch.nn.functional as F
from torch import nn

from cmp.models.backbones.features import ImageFeatures

STRIDES = {32: (4, 2, 2, 2), 8: (2, 2, 2, 1)}  # output stride: strides of conv1 and of the pools after conv 1, 2 and 5


class AlexNetFCN(nn.Module):
    """Five convolutions, fc6 and fc7 as convolutions, and a 1x1 convolution `conv8` on top.

    Args:
        output_stride: stride of `top`, px: 32 or 8, as published. The 8x variant is not dilated.
        out_channels: channels of `top`.
        dropout: probability after fc6 and fc7.

    Attributes:
        channels, strides: channels and stride in px of `top`, the only map in its `ImageFeatures`.
        feature_info: channels (num_chs), stride in px (reduction) and name (module) of the one map that `maps` returns.

    Raises:
        ValueError: output_stride is not offered.

    Source: Krizhevsky et al., NeurIPS 2012; widths, paddings and strides: the code of Zhan et al., CVPR 2019.
    """

    ABOVE = ("conv8.",)  # keys of the layer above the backbone start so: no export has it

    def __init__(self, output_stride: int = 32, out_channels: int = 256, dropout: float = 0.5) -> None:
        super().__init__()
        if output_stride not in STRIDES:
            raise ValueError(f"output_stride must be one of {sorted(STRIDES)}, got {output_stride}")
        conv_stride, *pool_strides = STRIDES[output_stride]
        self.conv1 = _conv_bn_relu(3, 96, 11, stride=conv_stride)
        self.conv2 = _conv_bn_relu(96, 256, 5)
        self.conv3 = _conv_bn_relu(256, 384, 3)
        self.conv4 = _conv_bn_relu(384, 384, 3)
        self.conv5 = _conv_bn_relu(384, 256, 3)
        self.fc6 = _conv_bn_relu(256, 4096, 3)
        self.fc7 = _conv_bn_relu(4096, 4096, 1)
        self.conv8 = nn.Conv2d(4096, out_channels, kernel_size=1)
        self.pool1, self.pool2, self.pool5 = (nn.MaxPool2d(3, stride, padding=1) for stride in pool_strides)
        self.dropout = nn.Dropout(dropout)

        self.name = "alexnet_fcn"
        self.channels = {"top": out_channels}
        self.strides = {"top": output_stride}
        self.feature_info = [dict(num_chs=4096, reduction=output_stride, module="fc7")]

    def forward(self, image: torch.Tensor) -> ImageFeatures:
        """Encode (B, 3, H, W) normalized images."""
        return ImageFeatures(self.conv8(self.features(image)))

    def maps(self, image: torch.Tensor) -> list[torch.Tensor]:
        """`features` of (B, 3, H, W) normalized images, as the only entry of a list."""
        return [self.features(image)]

    def features(self, image: torch.Tensor) -> torch.Tensor:
        """(B, 4096, h, w): what the backbone itself computes, below conv8."""
        x = self.pool1(self.conv1(image))
        x = self.pool2(self.conv2(x))
        x = self.pool5(self.conv5(self.conv4(self.conv3(x))))
        x = self.dropout(self.fc6(x))
        return self.dropout(self.fc7(x))


class _PointwiseConv2d(nn.Conv2d):
    """A 1x1 convolution, trained as the matrix product it is where channels lie last.

    Over few cells and 4096 channels oneDNN's convolution takes longer, above all in the backward pass
    (docs/performance.md has the figures). Outside training it stays a convolution, which exports know.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not (self.training and x.is_contiguous(memory_format=torch.channels_last)):
            return super().forward(x)
        return F.linear(x.permute(0, 2, 3, 1), self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)


def _conv_bn_relu(in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d if kernel > 1 else _PointwiseConv2d
    return nn.Sequential(
        convolution(in_channels, out_channels, kernel, stride, padding=kernel // 2),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )
