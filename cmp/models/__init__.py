"""The networks: image encoders, the motion encoder, propagation decoders, losses, and CMP, which joins them."""

from cmp.models.backbones import (
    AlexNetFCN,
    BareEncoder,
    ImageFeatures,
    PyramidResNet,
    ResNet,
    TimmEncoder,
    build_encoder,
)
from cmp.models.cmp import CMP
from cmp.models.device_guidance import DeviceGuidance
from cmp.models.guidance_attention import GuidanceAttention
from cmp.models.guidance_fill import fill_guidance
from cmp.models.initialization import initialize
from cmp.models.losses import DirectFlow, DiscreteLoss, RegressionLoss
from cmp.models.motion_encoder import MotionEncoder
from cmp.models.propagation_decoder import PropagationDecoder, SkipPropagationDecoder

__all__ = [
    "AlexNetFCN",
    "BareEncoder",
    "CMP",
    "DeviceGuidance",
    "DirectFlow",
    "DiscreteLoss",
    "GuidanceAttention",
    "ImageFeatures",
    "MotionEncoder",
    "PropagationDecoder",
    "PyramidResNet",
    "ResNet",
    "RegressionLoss",
    "SkipPropagationDecoder",
    "TimmEncoder",
    "build_encoder",
    "fill_guidance",
    "initialize",
]
