"""Image encoders: what is pretrained, and kept."""

from cmp.models.backbones.alexnet import AlexNetFCN
from cmp.models.backbones.features import ImageFeatures
from cmp.models.backbones.recognise import recognise_encoder
from cmp.models.backbones.resnet import PyramidResNet, ResNet
from cmp.models.backbones.timm_encoder import TimmEncoder

__all__ = ["AlexNetFCN", "ImageFeatures", "PyramidResNet", "ResNet", "TimmEncoder", "recognise_encoder"]
