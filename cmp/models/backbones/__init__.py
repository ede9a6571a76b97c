"""Image encoders: what is pretrained, and kept."""

from cmp.models.backbones.alexnet import AlexNetFCN
from cmp.models.backbones.bare import BareEncoder, FeatureInfo
from cmp.models.backbones.build import ENCODERS, TIMM, build_encoder, encoder_arguments
from cmp.models.backbones.features import ImageFeatures
from cmp.models.backbones.recognize import recognize_encoder
from cmp.models.backbones.resnet import PyramidResNet, ResNet, resnet_depth
from cmp.models.backbones.timm_encoder import TimmEncoder

__all__ = [
    "ENCODERS",
    "TIMM",
    "AlexNetFCN",
    "BareEncoder",
    "FeatureInfo",
    "ImageFeatures",
    "PyramidResNet",
    "ResNet",
    "TimmEncoder",
    "build_encoder",
    "encoder_arguments",
    "recognize_encoder",
    "resnet_depth",
]
