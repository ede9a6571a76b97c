"""Image encoders: what is pretrained, and kept."""

from cmp.models.backbones.alexnet import AlexNetFCN
from cmp.models.backbones.features import ImageFeatures
from cmp.models.backbones.recognise import recognise_encoder
from cmp.models.backbones.resnet import PyramidResNet, ResNet

__all__ = ["AlexNetFCN", "ImageFeatures", "PyramidResNet", "ResNet", "recognise_encoder"]
