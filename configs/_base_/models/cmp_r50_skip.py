"""CMP with a ResNet-50 and skip layers, as in Zhan et al.'s demos: 28.52 M parameters, logits at stride 2."""

from cmp.flow import FlowQuantizer
from cmp.models import CMP, DiscreteLoss, MotionEncoder, ResNet, SkipPropagationDecoder

model = dict(
    type=CMP,
    image_encoder=dict(type=ResNet, depth=50, output_stride=8),
    motion_encoder=dict(type=MotionEncoder),
    decoder=dict(type=SkipPropagationDecoder, strides=(1, 2, 4, 8)),
    quantizer=dict(type=FlowQuantizer, num_bins=99, max_flow_px=50.0),
    loss=dict(type=DiscreteLoss),
    init="published",
)
