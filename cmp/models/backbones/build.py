"""Image encoders by name."""

from torch import nn

from cmp.models.backbones.alexnet import AlexNetFCN
from cmp.models.backbones.resnet import LAYOUTS, ResNet, resnet_depth
from cmp.models.backbones.timm_encoder import TimmEncoder

TIMM = "timm:"  # before the name of a network in the package timm
ENCODERS = (*(f"resnet{depth}" for depth in LAYOUTS), "alexnet_fcn")


def build_encoder(name: str, *, output_stride: int | None = None, out_channels: int = 256) -> nn.Module:
    """Build an image encoder with fresh weights.

    Args:
        name, output_stride: see `encoder_arguments`.
        out_channels: channels of its projection.

    Raises:
        ValueError, ModuleNotFoundError: as `encoder_arguments` and the encoder's class.
    """
    arguments = encoder_arguments(name, output_stride=output_stride)
    encoder = arguments.pop("type")(**arguments, out_channels=out_channels)
    if isinstance(encoder, TimmEncoder) and output_stride not in (None, encoder.strides["stage4"]):
        raise ValueError(
            f"{name} has stride {encoder.strides['stage4']} and is not dilated: output_stride cannot be {output_stride}"
        )
    return encoder


def encoder_arguments(name: str, *, output_stride: int | None = None) -> dict:
    """An image encoder as `CMP` takes it: its class under "type", and the arguments that follow from the name.

    Args:
        name: resnet18, resnet34, resnet50, resnet101, resnet152, alexnet_fcn, or timm:NAME for a network of timm.
        output_stride: of the coarsest map, px: 8, 16 or 32 for a ResNet (dilated by the rule it was pretrained with),
            32 or 8 for the AlexNet. None: 32. A network of timm has one fixed stride, which `build_encoder` compares.

    Raises:
        ValueError: the name is not that of an encoder.
    """
    stride_px = 32 if output_stride is None else output_stride
    if name.startswith(TIMM):
        return dict(type=TimmEncoder, name=name.removeprefix(TIMM), top_stride=16)
    if name == "alexnet_fcn":
        return dict(type=AlexNetFCN, output_stride=stride_px)
    if name in ENCODERS:
        return dict(type=ResNet, depth=resnet_depth(name), output_stride=stride_px)
    raise ValueError(f"encoder must be resnet18, 34, 50, 101, 152, alexnet_fcn or timm:NAME, got {name!r}")
