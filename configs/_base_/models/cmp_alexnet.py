"""CMP with an AlexNet-BN of stride 32, as published: 32.50 M parameters."""

from cmp.flow import FlowQuantizer
from cmp.models import CMP, AlexNetFCN, DiscreteLoss, MotionEncoder, PropagationDecoder

model = dict(
    type=CMP,
    image_encoder=dict(type=AlexNetFCN, output_stride=32),
    motion_encoder=dict(type=MotionEncoder),
    decoder=dict(type=PropagationDecoder, strides=(1, 2, 4)),
    quantizer=dict(type=FlowQuantizer, num_bins=99, max_flow_px=50.0),
    loss=dict(type=DiscreteLoss),
    init="published",
)
