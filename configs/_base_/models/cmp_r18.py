"""CMP for minutes on a CPU: a ResNet-18 with a feature pyramid of stride 4, and guidance spread by attention."""

from cmp.flow import FlowQuantizer
from cmp.models import CMP, DiscreteLoss, MotionEncoder, PropagationDecoder, PyramidResNet

model = dict(
    type=CMP,
    image_encoder=dict(type=PyramidResNet, depth=18, top_stride=4, out_channels=64),
    motion_encoder=dict(type=MotionEncoder, hidden_channels=64, out_channels=64, fill="attention"),
    decoder=dict(type=PropagationDecoder, strides=(1, 2, 4), width=64, shortcut=True),
    quantizer=dict(type=FlowQuantizer, num_bins=41, max_flow_px=50.0, spacing="quadratic"),
    loss=dict(type=DiscreteLoss, ignore_invalid=True),
    init="default",
    guide_reach_px=12.0,
)
