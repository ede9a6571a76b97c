"""The networks: image encoders, the motion encoder, propagation decoders, losses, and CMP, which joins them."""

from cmp.models.backbones import AlexNetFCN, ImageFeatures, PyramidResNet, ResNet, TimmEncoder
from cmp.models.cmp import CMP
from cmp.models.device_guidance import DeviceGuidance
from cmp.models.guidance_fill import fill_guidance
from cmp.models.guide_attention import GuideAttention
from cmp.models.initialisation import initialise
from cmp.models.losses import DirectFlow, DiscreteLoss, RegressionLoss
from cmp.models.motion_encoder import MotionEncoder
from cmp.models.propagation_decoder import PropagationDecoder, SkipPropagationDecoder

__all__ = [
    "AlexNetFCN",
    "CMP",
    "DeviceGuidance",
    "DirectFlow",
    "DiscreteLoss",
    "GuideAttention",
    "ImageFeatures",
    "MotionEncoder",
    "PropagationDecoder",
    "PyramidResNet",
    "ResNet",
    "RegressionLoss",
    "SkipPropagationDecoder",
    "TimmEncoder",
    "fill_guidance",
    "initialise",
]
