"""Propagation: image features and encoded guidance in, logits of the dense flow out.

Legend: B batch, C channels, K logits, h w cells of the image encoder's top.
"""

from collections.abc import Iterable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import nn

from cmp.models.backbones import ImageFeatures


class PropagationDecoder(nn.Module):
    """Propagate by parallel nets at several scales, classify by a 1x1 convolution: logits at the stride of the top.

    Args:
        image_channels: channels of the image encoder's maps by name; this decoder reads "top".
        motion_channels: channels of the encoded guidance.
        num_logits: output channels. `CMP` passes the quantizer's.
        strides: max-pooling of each net, in cells: a larger one reaches further and is coarser.
        width: channels inside each net.
        shortcut: pass the encoded guidance to the last convolution too. The motion at the points then does not have to
            be learned, which helps where training takes minutes.

    Raises:
        ValueError: strides is empty, repeats a number, or has one below 1.

    Source: Zhan et al., CVPR 2019, and their code; shortcut is ours.
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
        """The part of `propagate` that needs the images alone: for one image it serves any number of guidance sets."""
        return ImageFeatures(image.top, nets=self.propagation.prepare(image.top))

    def forward(self, image: ImageFeatures, motion: torch.Tensor, *, prepared: bool = False) -> torch.Tensor:
        """(B, num_logits, h, w) logits: `propagate`, then `classify`."""
        return self.classify(self.propagate(image, motion, prepared=prepared))

    def propagate(self, image: ImageFeatures, motion: torch.Tensor, *, prepared: bool = False) -> torch.Tensor:
        """Spread (B, C, h, w) encoded guidance over the features of B images, or of one image.

        Args:
            image: the image encoder's features; with prepared=True what `prepare` returned.
            motion: the encoded guidance.

        Returns:
            (B, C', h, w), which `classify` reads.
        """
        maps = self.propagation.spread(image, motion)
        return torch.cat([*maps, motion] if self.shortcut else maps, dim=1)

    def classify(self, propagated: torch.Tensor) -> torch.Tensor:
        """(B, num_logits, h, w) logits from what `propagate` returned."""
        return self.head(propagated)


class SkipPropagationDecoder(nn.Module):
    """Propagation nets, then two steps up with the image's own finer features: logits at the stride of the stem.

    Args:
        image_channels: channels of the image encoder's maps by name; this decoder reads "top", "stage1" and "stem".
        motion_channels: channels of the encoded guidance.
        num_logits: output channels. `CMP` passes the quantizer's.
        strides: max-pooling of each net, in cells. The code of Zhan et al. builds 1, 2, 4, 8 whatever its config says.
        width: channels inside each net; the layers above have 256, 128 and 64.

    Raises:
        ValueError: as `PropagationDecoder`, or the image encoder has no stage1 or stem (AlexNet has none).

    Source: the code of Zhan et al., CVPR 2019 (the network of their demos).
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
        """The part of `propagate` that needs the images alone: for one image it serves any number of guidance sets.

        A convolution over x and skip joined by channels is the sum of one over x and one over skip; the latter is
        computed here. So is the image's part of the first convolutions of the propagation nets.
        """
        return self._skips(image)._replace(nets=self.propagation.prepare(image.top))

    def _skips(self, image: ImageFeatures) -> ImageFeatures:
        stem = _convolve_part(self.fuse_stem, self.skip_stem(image.stem), slice(128, None))
        stage1 = _convolve_part(self.fuse_stage1, self.skip_stage1(image.stage1), slice(256, None))
        return ImageFeatures(image.top, stem, stage1)

    def forward(self, image: ImageFeatures, motion: torch.Tensor, *, prepared: bool = False) -> torch.Tensor:
        """(B, num_logits, h, w) logits at the stem's size: `propagate`, then `classify`."""
        return self.classify(self.propagate(image, motion, prepared=prepared))

    def propagate(self, image: ImageFeatures, motion: torch.Tensor, *, prepared: bool = False) -> torch.Tensor:
        """Spread (B, C, h, w) encoded guidance over the features of B images, or of one image.

        Args:
            image: the image encoder's features; with prepared=True what `prepare` returned.
            motion: the encoded guidance, of the size of the features' top.

        Returns:
            (B, 64, h, w) at the stem's size, which `classify` reads.
        """
        if not prepared:
            image = self._skips(image)
        x = self.fuse_top(torch.cat(self.propagation.spread(image, motion), dim=1))
        x = _finish(self.fuse_stage1, _resize(x, image.stage1), image.stage1, slice(256))
        return _finish(self.fuse_stem, _resize(x, image.stem), image.stem, slice(128))

    def classify(self, propagated: torch.Tensor) -> torch.Tensor:
        """(B, num_logits, h, w) logits from what `propagate` returned."""
        return self.head(propagated)


class PropagationNets(nn.Module):
    """For each stride: max-pool, some 3x3 convolutions, back up to the input's size; all joined by channels."""

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
        return torch.cat(self._maps(x), dim=1)

    def prepare(self, top: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The contribution of images to each net's first convolution, whose first input channels are theirs.

        Pooling looks at each channel alone, so images and motion can be pooled and convolved separately.
        """
        channels = slice(0, top.shape[1])
        return tuple(_convolve_part(self.nets[str(s)], self._pool(top, s), channels) for s in self.strides)

    def spread(self, image: ImageFeatures, motion: torch.Tensor) -> list[torch.Tensor]:
        """(B, width, h, w) of each net from image.top and motion; what `prepare` returned is used if it is there."""
        if image.nets is None:
            return self._maps(torch.cat((_as_many(image.top, motion), motion), dim=1))
        maps = []
        for stride, rest in zip(self.strides, image.nets, strict=True):
            conv, norm, relu, *others = self.nets[str(stride)]
            x = _finish((conv, norm, relu), self._pool(motion, stride), rest, slice(image.top.shape[1], None))
            for layer in others:
                x = layer(x)
            maps.append(_resize(x, motion))
        return maps

    def _maps(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [_resize(self.nets[str(s)](self._pool(x, s)), x) for s in self.strides]

    def _pool(self, x: torch.Tensor, stride: int) -> torch.Tensor:
        if min(x.shape[2:]) < max(self.strides):
            raise ValueError(f"{tuple(x.shape[2:])} cells are too few to pool by {max(self.strides)}: larger images")
        return F.max_pool2d(x, stride) if stride > 1 else x


def _conv_bn_relu(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1), nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)
    )


def _convolve_part(layers: Iterable[nn.Module], x: torch.Tensor, channels: slice) -> torch.Tensor:
    """The contribution of x, these of the input channels, to the convolution of a conv-norm-relu."""
    conv, *_ = layers
    return F.conv2d(x, conv.weight[:, channels], padding=conv.padding)


def _finish(layers: Iterable[nn.Module], x: torch.Tensor, rest: torch.Tensor, channels: slice) -> torch.Tensor:
    """A conv-norm-relu of which x is these input channels, and `rest` what `_convolve_part` made of the others."""
    conv, norm, relu = layers
    return relu(norm(F.conv2d(x, conv.weight[:, channels], conv.bias, padding=conv.padding) + rest))


def _as_many(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """The map of one image repeated for each item of like's batch, without copying memory."""
    return x.expand(like.shape[0], -1, -1, -1)  # len() would fix the batch size in an exported graph


def _resize(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    if x.shape[2:] == like.shape[2:]:
        return x
    return F.interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=True)
