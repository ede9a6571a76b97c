"""Propagation: image features and encoded guidance in, logits of the dense flow out.

Legend: B batch, C channels, K logits, h w cells of the image encoder's top.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import nn

from cmp.models.backbones import ImageFeatures


class PropagationDecoder(nn.Module):
    """Parallel propagation nets at several scales and a 1x1 convolution: logits at the stride of the top.

    Args:
        image_channels: channels of the image encoder's maps by name; this decoder reads "top".
        motion_channels: channels of the encoded guidance.
        num_logits: output channels. `CMP` passes the quantizer's.
        strides: max-pooling of each net, in cells: the further it reaches, the coarser it sees.
        width: channels inside each net.
        shortcut: give the last convolution the encoded guidance too, past the nets: what the guides say outright then
            needs no learning, and training of minutes begins with the rest.

    Raises:
        ValueError: strides is empty, repeats one, or holds one below 1.

    Source: Zhan et al., CVPR 2019, and the authors' code; shortcut is ours.
    """

    def __init__(
        self,
        image_channels: Mapping[str, int],
        motion_channels: int,
        num_logits: int,
        strides: Sequence[int] = (1, 2, 4),
        width: int = 128,
        shortcut: bool = False,
    ) -> None:
        super().__init__()
        self.shortcut = shortcut
        self.propagation = PropagationNets(image_channels["top"] + motion_channels, strides, num_convs=2, width=width)
        self.head = nn.Conv2d(width * len(strides) + shortcut * motion_channels, num_logits, kernel_size=1)

    def prepare(self, image: ImageFeatures) -> ImageFeatures:
        """What `forward` computes from the images alone, here nothing: of their features only what it reads."""
        return ImageFeatures(image.top)

    def forward(self, image: ImageFeatures, motion: torch.Tensor, *, prepared: bool = False) -> torch.Tensor:
        """(B, num_logits, h, w) logits from the features of B images, or of one, and (B, C, h, w) encoded guidance.

        With prepared=True image is what `prepare` returned.
        """
        propagated = self.propagation(torch.cat((_as_many(image.top, motion), motion), dim=1))
        return self.head(torch.cat((propagated, motion), dim=1) if self.shortcut else propagated)


class SkipPropagationDecoder(nn.Module):
    """Propagation nets, then two steps up with the image's own finer features: logits at the stride of the stem.

    Args:
        image_channels: channels of the image encoder's maps by name; this decoder reads "top", "stage1" and "stem".
        motion_channels: channels of the encoded guidance.
        num_logits: output channels. `CMP` passes the quantizer's.
        strides: max-pooling of each net, in cells. The authors' code builds 1, 2, 4, 8 whatever its config says.
        width: channels inside each net; the layers above have 256, 128 and 64.

    Raises:
        ValueError: as `PropagationDecoder`, or the image encoder has no stage1 or stem (AlexNet has none).

    Source: the authors' code of Zhan et al., CVPR 2019 (their demos' network).
    """

    def __init__(
        self,
        image_channels: Mapping[str, int],
        motion_channels: int,
        num_logits: int,
        strides: Sequence[int] = (1, 2, 4, 8),
        width: int = 128,
    ) -> None:
        super().__init__()
        if not {"stage1", "stem"} <= image_channels.keys():
            raise ValueError(f"a skip decoder needs the maps stage1 and stem, got {sorted(image_channels)}")
        self.propagation = PropagationNets(image_channels["top"] + motion_channels, strides, num_convs=3, width=width)
        self.fuse_top = _conv_bn_relu(width * len(strides), 256)
        self.skip_stage1 = _conv_bn_relu(image_channels["stage1"], 128)
        self.fuse_stage1 = _conv_bn_relu(256 + 128, 128)
        self.skip_stem = _conv_bn_relu(image_channels["stem"], 32)
        self.fuse_stem = _conv_bn_relu(128 + 32, 64)
        self.head = nn.Conv2d(64, num_logits, kernel_size=1)

    def prepare(self, image: ImageFeatures) -> ImageFeatures:
        """What `forward` computes from the images alone: one image's serves any number of guidance sets.

        A convolution over x and skip side by side is the sum of one over x and one over skip; the latter is done here.
        """
        stem = _convolve_part(self.fuse_stem, self.skip_stem(image.stem), 128)
        stage1 = _convolve_part(self.fuse_stage1, self.skip_stage1(image.stage1), 256)
        return ImageFeatures(image.top, stem, stage1)

    def forward(self, image: ImageFeatures, motion: torch.Tensor, *, prepared: bool = False) -> torch.Tensor:
        """Logits at the stem's size from the features of B images, or of one, and (B, C, h, w) encoded guidance.

        With prepared=True image is what `prepare` returned.
        """
        if not prepared:
            image = self.prepare(image)
        x = self.fuse_top(self.propagation(torch.cat((_as_many(image.top, motion), motion), dim=1)))
        x = _finish(self.fuse_stage1, _resize(x, image.stage1), image.stage1)
        return self.head(_finish(self.fuse_stem, _resize(x, image.stem), image.stem))


class PropagationNets(nn.Module):
    """For each stride: max-pool, some 3x3 convolutions, back up to the input's size; all side by side."""

    def __init__(self, in_channels: int, strides: Sequence[int], *, num_convs: int, width: int) -> None:
        super().__init__()
        if not strides or len(set(strides)) < len(strides) or min(strides) < 1:
            raise ValueError(f"strides must be different whole numbers of at least 1, got {tuple(strides)}")
        self.strides = tuple(strides)
        self.nets = nn.ModuleDict()
        for stride in self.strides:
            convs = [_conv_bn_relu(in_channels if i == 0 else width, width) for i in range(num_convs)]
            self.nets[str(stride)] = nn.Sequential(*(layer for conv in convs for layer in conv))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, width * number of strides, h, w) from (B, C, h, w)."""
        if min(x.shape[2:]) < max(self.strides):
            raise ValueError(f"{tuple(x.shape[2:])} cells are too few to pool by {max(self.strides)}: larger images")
        outputs = [_resize(self.nets[str(s)](F.max_pool2d(x, s) if s > 1 else x), x) for s in self.strides]
        return torch.cat(outputs, dim=1)


def _conv_bn_relu(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1), nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)
    )


def _convolve_part(layers: nn.Sequential, x: torch.Tensor, first: int) -> torch.Tensor:
    """The convolution of a conv-norm-relu over its input channels from `first` on: the part that x has in its sum."""
    return F.conv2d(x, layers[0].weight[:, first:], padding=layers[0].padding)


def _finish(layers: nn.Sequential, x: torch.Tensor, rest: torch.Tensor) -> torch.Tensor:
    """A conv-norm-relu whose first input channels are x and whose others `_convolve_part` has summed to `rest`."""
    conv, norm, relu = layers
    return relu(norm(F.conv2d(x, conv.weight[:, : x.shape[1]], conv.bias, padding=conv.padding) + rest))


def _as_many(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """The map of one image seen once for each of like's batch; no memory is copied."""
    return x.expand(like.shape[0], -1, -1, -1)  # len() would fix the batch size in an exported graph


def _resize(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    if x.shape[2:] == like.shape[2:]:
        return x
    return F.interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=True)
