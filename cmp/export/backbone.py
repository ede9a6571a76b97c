"""The image encoder out of a checkpoint, and what its user must know.

Its weights stand under torchvision's own keys, without prefix, projection (`conv5`), decoder or optimizer; timm's
ResNets have the same keys, and a `TimmEncoder` has timm's. Dilation leaves no trace in weights: they are the ordinary
network's, and features are compared with it at stride 32.
"""

import hashlib
import json
from collections.abc import Mapping
from os import PathLike
from typing import NamedTuple

import torch

from cmp.engine.checkpoint import load_strictly, read_checkpoint
from cmp.engine.peer_checkpoint import is_peer_state_dict, read_peer_checkpoint
from cmp.models import AlexNetFCN, ResNet, TimmEncoder
from cmp.models.backbones import recognise_encoder
from cmp.models.cmp import PUBLISHED_MEAN, PUBLISHED_STD
from cmp.version import __version__

PREFIX = "image_encoder."
UNKNOWN = "unknown"


class Backbone(NamedTuple):
    """An image encoder with weights, and what its user must know."""

    name: str  # resnet18 ... resnet152, alexnet_fcn, or a model of timm
    encoder: torch.nn.Module  # eval mode; a ResNet has output stride 32, as other libraries build it
    metadata: dict[str, str]

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        """State dict without the projection, float32."""
        if isinstance(self.encoder, TimmEncoder):
            return {key: value.contiguous() for key, value in self.encoder.timm_state_dict()[0].items()}
        weights = self.encoder.state_dict()
        return {k: v.contiguous() for k, v in weights.items() if not k.startswith(self.encoder.ABOVE)}


class BackboneFeatures(torch.nn.Module):
    """What a backbone computes, without the projection that CMP puts on top: the outputs of an exported graph.

    Attributes:
        names: of the outputs of `forward`, finest first: stage1 ... stage4 of a ResNet (strides 4, 8, 16, 32), stage4
            of a network of timm, fc7 of the AlexNet (stride 32).
    """

    def __init__(self, encoder: torch.nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.names = ("stage1", "stage2", "stage3", "stage4") if isinstance(encoder, ResNet) else ("stage4",)
        if isinstance(encoder, AlexNetFCN):
            self.names = ("fc7",)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Features of (B, 3, H, W) normalised images."""
        if self.names == ("fc7",):
            return (self.encoder.features(image),)
        features = self.encoder(image)
        return tuple(getattr(features, name) for name in self.names)


def read_backbone(path: str | PathLike, *, ema: bool = False) -> Backbone:
    """Take the image encoder out of a checkpoint, ours or the authors'.

    Args:
        path: any file that `read_checkpoint` reads, with keys under `image_encoder.`.
        ema: take the moving average of the weights.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is broken, holds no image encoder or an unknown or incomplete one, or weights that are not
            finite.
    """
    checkpoint = read_checkpoint(path, ema=ema)
    weights = {k.removeprefix(PREFIX): v for k, v in checkpoint.state_dict.items() if k.startswith(PREFIX)}
    if not weights:
        raise ValueError(f"{path} holds no image encoder: no key starts with {PREFIX!r}")
    try:
        name, encoder = _build_encoder(weights, _described_encoder(checkpoint.meta))
    except (ValueError, TypeError, KeyError) as error:  # the last two: arguments that this version does not have
        raise ValueError(f"{path}: {error}") from error
    if not isinstance(encoder, TimmEncoder):
        weights = {k: v for k, v in weights.items() if not k.startswith("laterals.")}  # of a PyramidResNet
    load_strictly(encoder, weights, source=f"{path} ({name})")
    broken = [key for key, value in encoder.state_dict().items() if not value.isfinite().all()]
    if broken:
        raise ValueError(f"{path} has weights that are not finite: {broken}")

    meta = checkpoint.meta
    if is_peer_state_dict(checkpoint.state_dict) and not meta:
        published = {"mean": PUBLISHED_MEAN, "std": PUBLISHED_STD}
        meta = {"iter": read_peer_checkpoint(path).step, "cmp": published}
    metadata = _metadata(name, meta)
    if isinstance(encoder, TimmEncoder):
        metadata["pretraining_stride"] = str(encoder.strides["stage4"])
        metadata["not_pretrained"] = json.dumps(encoder.timm_state_dict()[1])
    if ema:
        metadata["weights"] = "exponential moving average"
    return Backbone(name, encoder.eval(), metadata)


def _build_encoder(weights: Mapping[str, torch.Tensor], described: Mapping) -> tuple[str, torch.nn.Module]:
    """The encoder for these weights, with fresh ones: timm's as it is described, others as their keys say."""
    if described.get("type") == "TimmEncoder":
        arguments = {key: value for key, value in described.items() if key not in ("type", "pretrained")}
        return arguments["name"], TimmEncoder(**arguments)
    name = recognise_encoder(weights)
    if name == "alexnet_fcn":
        return name, AlexNetFCN(out_channels=_out_channels(weights, AlexNetFCN))
    depth = int(name.removeprefix("resnet"))
    return name, ResNet(depth, output_stride=32, out_channels=_out_channels(weights, ResNet))


def _out_channels(weights: Mapping[str, torch.Tensor], encoder: type) -> int:
    projection = weights.get(f"{encoder.ABOVE[0]}weight")
    return 256 if projection is None else len(projection)  # one that is missing is reported with all that is missing


def _described_encoder(meta: Mapping) -> Mapping:
    """What a checkpoint says of its image encoder; empty where it says nothing."""
    network = meta.get("cmp")
    encoder = network.get("image_encoder") if isinstance(network, Mapping) else None
    return encoder if isinstance(encoder, Mapping) else {}


def _metadata(name: str, meta: Mapping) -> dict[str, str]:
    """What the user of the weights must know, as strings; "unknown" where the checkpoint does not say."""
    network = meta.get("cmp") if isinstance(meta.get("cmp"), Mapping) else {}
    config = meta.get("cfg") or (json.dumps(network, sort_keys=True) if "image_encoder" in network else None)
    known = "mean" in network and "std" in network
    encoder = _described_encoder(meta)
    # Of the exported layers, not of the pyramid above them.
    stride = 32 if encoder.get("type") == "PyramidResNet" else encoder.get("output_stride")
    metadata = {
        "format": "pt",
        "encoder": name,
        "input": "RGB, values 0..255, normalised as (x - mean) / std" if known else UNKNOWN,
        "mean": json.dumps(list(network["mean"])) if known else UNKNOWN,
        "std": json.dumps(list(network["std"])) if known else UNKNOWN,
        "pretrained_with": network.get("system", "conditional motion propagation"),
        "pretraining_stride": stride,
        "steps": meta.get("iter"),
        "config": meta.get("experiment_name"),
        "config_sha256": hashlib.sha256(config.encode()).hexdigest() if isinstance(config, str) else None,
        "written_by": f"cmp-motion {__version__}",
    }
    return {key: UNKNOWN if value is None else str(value) for key, value in metadata.items()}
