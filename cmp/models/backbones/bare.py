"""An image encoder without its projection: what exports contain, and what tasks are trained on.

Legend: B batch, C channels, H W image pixels.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import nn

from cmp.models.backbones.build import TIMM, build_encoder
from cmp.models.backbones.timm_encoder import TimmEncoder
from cmp.weights import load_strictly


class FeatureInfo(NamedTuple):
    """What is known of the maps that an encoder returns, finest first, with the methods of timm's `FeatureInfo`."""

    entries: tuple[dict, ...]  # num_chs, reduction and module of each map

    def channels(self) -> list[int]:
        """Channels of each map."""
        return [entry["num_chs"] for entry in self.entries]

    def reduction(self) -> list[int]:
        """Stride of each map, px."""
        return [entry["reduction"] for entry in self.entries]

    def module_name(self) -> list[str]:
        """Name of each map: stage1 ... stage4 of a ResNet, fc7 of the AlexNet, timm's own for a network of timm."""
        return [entry["module"] for entry in self.entries]


class BareEncoder(nn.Module):
    """An image encoder without its projection, with the interface of timm's `features_only` networks.

    `encoder(image)` returns a list of maps, finest first; `encoder.feature_info` describes them.

    Args:
        name, output_stride: as `build_encoder`.

    Attributes:
        name: as given.
        feature_info: channels and stride of every map: the four stages of a ResNet, fc7 of the AlexNet, the maps of a
            network of timm from stride 16 on.
        net: the encoder's own module, with the projection replaced by the identity.

    Raises:
        ValueError: the name is not that of an encoder, or the encoder is not offered with this stride.
        ModuleNotFoundError: it is timm's, which is not installed.
    """

    def __init__(self, name: str, output_stride: int | None = None) -> None:
        super().__init__()
        out_channels = 1 if name.startswith(TIMM) else 256  # of the projection, which is dropped
        self.net = build_encoder(name, output_stride=output_stride, out_channels=out_channels)
        for key in self.net.ABOVE:
            setattr(self.net, key.removesuffix("."), nn.Identity())
        self.name = name
        self.feature_info = FeatureInfo(tuple(self.net.feature_info))

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        """Maps (B, C, H / stride, W / stride) of (B, 3, H, W) normalized images, finest first."""
        return self.net.maps(image)

    def library_weights(self) -> dict[str, torch.Tensor]:
        """The state dict under the keys of the library that has this network: torchvision's, timm's, or our AlexNet's.

        For a network of timm it also has the layers above the last feature map (see `TimmEncoder.timm_state_dict`).
        """
        own = self.net.timm_state_dict()[0] if isinstance(self.net, TimmEncoder) else self.net.state_dict()
        return {key: value.contiguous() for key, value in own.items()}

    def load_library_weights(self, weights: Mapping[str, torch.Tensor], *, source: str) -> None:
        """Load weights under the keys of `library_weights`, in place.

        Args:
            weights: without the projection; for a network of timm with or without layers above the last feature map.
            source: the file's name, for errors.

        Raises:
            ValueError: keys are missing (but for `num_batches_tracked`), left over or misshapen, or values are not
                finite.
        """
        if isinstance(self.net, TimmEncoder):
            self.net.load_timm_state_dict(weights, source=source)
        else:
            load_strictly(self.net, weights, source=source)
