"""Dense flow fields: files, geometry, colors, compact storage, bins and warping.

The names that need torch are imported on first use, so a data worker that only reads and writes flow uses less memory.
"""

from importlib import import_module

from cmp.flow.codec import CODECS, HalfSizeFlow, decode_flow, encode_flow, open_flow
from cmp.flow.draw import color_wheel_key, draw_arrows, draw_guidance, flow_to_color
from cmp.flow.field import DenseFlow, FlowField, as_flow_field, check_flow, check_flow_batch, known_pixels
from cmp.flow.geometry import flip_flow, resize_flow, scale_flow
from cmp.flow.io import read_flow, write_flow

_NEED_TORCH = {
    "FlowQuantizer": "cmp.flow.quantize",
    "JointFlowQuantizer": "cmp.flow.quantize",
    "PolarFlowQuantizer": "cmp.flow.quantize",
    "warp_backward": "cmp.flow.warp",
}

__all__ = [
    "CODECS",
    "DenseFlow",
    "FlowField",
    "FlowQuantizer",
    "HalfSizeFlow",
    "JointFlowQuantizer",
    "PolarFlowQuantizer",
    "as_flow_field",
    "check_flow",
    "check_flow_batch",
    "color_wheel_key",
    "decode_flow",
    "draw_arrows",
    "draw_guidance",
    "encode_flow",
    "flip_flow",
    "flow_to_color",
    "known_pixels",
    "open_flow",
    "read_flow",
    "resize_flow",
    "scale_flow",
    "warp_backward",
    "write_flow",
]


def __getattr__(name: str):
    if name in _NEED_TORCH:
        return getattr(import_module(_NEED_TORCH[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
