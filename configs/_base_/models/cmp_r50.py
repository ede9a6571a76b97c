"""CMP with a ResNet-50 of stride 8, as published: 25.50 M parameters."""

from cmp.flow import FlowQuantizer
from cmp.models import CMP, DiscreteLoss, MotionEncoder, PropagationDecoder, ResNet

model = dict(
    type=CMP,
    image_encoder=dict(type=ResNet, depth=50, output_stride=8),
    motion_encoder=dict(type=MotionEncoder),
    decoder=dict(type=PropagationDecoder, strides=(1, 2, 4)),
    quantizer=dict(type=FlowQuantizer, num_bins=99, max_flow_px=50.0),
    loss=dict(type=DiscreteLoss),
    init="published",
)
