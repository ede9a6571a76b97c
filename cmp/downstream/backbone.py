"""A backbone for a task: the encoder without what pretraining put on top, and weights for it from any of our files.

Legend: B batch, C channels, H W image pixels.
"""

import json
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from cmp.engine.checkpoint import load_strictly, read_checkpoint
from cmp.models import AlexNetFCN, PyramidResNet, ResNet, TimmEncoder
from cmp.models.backbones import recognise_encoder
from cmp.models.cmp import PUBLISHED_MEAN, PUBLISHED_STD

RANDOM = "random"
TIMM = "timm:"  # before a name of a network in the package timm
NAMES = (*(f"resnet{depth}" for depth in (18, 34, 50, 101, 152)), "alexnet_fcn")
PREFIXES = ("image_encoder.", "backbone.")  # of our checkpoints and the authors'; of the exports for OpenMMLab


class BackboneWeights(NamedTuple):
    """What a file holds."""

    name: str  # resnet18 ... resnet152, alexnet_fcn, timm:NAME
    weights: dict[str, torch.Tensor]  # keys of the bare encoder, of timm's own network for timm:NAME
    mean: tuple[float, ...]  # images are fed as (RGB 0..255 - mean) / std
    std: tuple[float, ...]


class BareEncoder(nn.Module):
    """An image encoder without its projection: (B, 3, H, W) normalised images to one map of features.

    Args:
        name: resnet18, resnet34, resnet50, resnet101, resnet152, alexnet_fcn, or timm:NAME for a network of timm.
        output_stride: of the map, px: 8, 16 or 32 for a ResNet (dilated by the rule it was pretrained with), 32 or 8
            for the AlexNet, its own for a network of timm. None: 32, or timm's own.

    Attributes:
        name, channels: the name, and channels of the map: stage 4 of a ResNet, fc7 of the AlexNet, the last of timm's.

    Raises:
        ValueError: there is no such encoder, or it is not offered with this stride.
        ModuleNotFoundError: it is timm's, which is not installed.
    """

    def __init__(self, name: str, output_stride: int | None = None) -> None:
        super().__init__()
        stride_px = 32 if output_stride is None else output_stride
        if name.startswith(TIMM):
            self.net = TimmEncoder(name.removeprefix(TIMM), top_stride=16, out_channels=1)
            self.channels, stride = self.net.channels["stage4"], self.net.strides["stage4"]
            if output_stride not in (None, stride):
                raise ValueError(
                    f"{name} has stride {stride} and is not dilated: output_stride cannot be {output_stride}"
                )
            self.net.laterals = self.net.rise = nn.Identity()
        elif name == "alexnet_fcn":
            self.net, self.channels = AlexNetFCN(stride_px), 4096
            self.net.conv8 = nn.Identity()
        elif name in NAMES:
            self.net = ResNet(int(name.removeprefix("resnet")), stride_px)
            self.channels = self.net.channels["stage4"]
            self.net.conv5 = nn.Identity()
        else:
            raise ValueError(f"encoder must be resnet18, 34, 50, 101, 152, alexnet_fcn or timm:NAME, got {name!r}")
        self.name = name

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(B, C, H / stride, W / stride) features."""
        return self.net.maps(image)[-1] if isinstance(self.net, TimmEncoder) else self.net(image).top

    def load(self, path: str | PathLike) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Take the weights of a file, or with "random" keep those drawn; returns mean and std for its images.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is broken, or of another encoder.
        """
        if str(path) == RANDOM:
            return PUBLISHED_MEAN, PUBLISHED_STD
        found = read_backbone_weights(path)
        if found.name != self.name:
            raise ValueError(f"{path} holds a {found.name}, but the encoder asked for is a {self.name}")
        if isinstance(self.net, TimmEncoder):
            self.net.load_timm_state_dict(found.weights, source=str(path))
        else:
            load_strictly(self.net, found.weights, source=str(path))
        return found.mean, found.std


def read_backbone_weights(path: str | PathLike) -> BackboneWeights:
    """Read an export (torchvision, timm, mmlab or safetensors format) or a whole checkpoint, ours or the authors'.

    Mean and std are those in the file, or beside it in PATH.json; where neither says, ImageNet's, which the published
    recipes use.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is broken or holds no encoder that tasks are built on here.
    """
    checkpoint = read_checkpoint(path)
    weights = checkpoint.state_dict
    for prefix in PREFIXES:
        if any(key.startswith(prefix) for key in weights):
            weights = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
            break
    about = checkpoint.meta.get("cmp", checkpoint.meta)
    beside = Path(f"{path}.json")
    if "mean" not in about and beside.is_file():
        about = _read_json(beside)
    try:
        name = recognise_encoder(weights)
    except ValueError as error:
        # Keys alone do not tell timm's networks apart: what was written with them does.
        stated = about.get("encoder") if isinstance(about, Mapping) else None
        if not isinstance(stated, str) or stated in NAMES:
            raise ValueError(f"{path}: {error}") from error
        name = TIMM + stated
    # What pretraining puts on top, and a classifier; conv5 is such a layer in a ResNet, but not in the AlexNet.
    above = AlexNetFCN.ABOVE if name == "alexnet_fcn" else ("fc.", *PyramidResNet.ABOVE)
    if name.startswith(TIMM):
        above = TimmEncoder.ABOVE
    weights = {key.removeprefix("net.model."): v for key, v in weights.items() if not key.startswith(above)}
    return BackboneWeights(
        name,
        weights,
        _three_numbers(path, about, "mean", PUBLISHED_MEAN),
        _three_numbers(path, about, "std", PUBLISHED_STD),
    )


def _read_json(path: Path) -> Mapping:
    try:
        about = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    return about if isinstance(about, Mapping) else {}


def _three_numbers(path: str | PathLike, about: Mapping, key: str, default: tuple[float, ...]) -> tuple[float, ...]:
    value = about.get(key, "unknown") if isinstance(about, Mapping) else "unknown"
    if value == "unknown":
        return default
    try:
        numbers = tuple(map(float, json.loads(value) if isinstance(value, str) else value))
    except (TypeError, ValueError):
        numbers = ()
    if len(numbers) != 3:
        raise ValueError(f"{path} states {key} {value!r}: expected three numbers")
    return numbers
