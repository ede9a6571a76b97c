"""Dense flow fields: files, geometry, colours, compact storage, bins and warping.

The names that need torch are looked up on first use, so a data worker that only reads and writes flow stays small.
"""

from importlib import import_module

from cmp.flow.codec import CODECS, HalfSizeFlow, decode_flow, encode_flow, open_flow
from cmp.flow.draw import color_wheel_key, draw_guidance, flow_to_color
from cmp.flow.field import check_flow, known_pixels
from cmp.flow.geometry import crop_flow, flip_flow, resize_flow, rotate_flow, rotate_image, scale_flow
from cmp.flow.io import read_flow, write_flow

_NEED_TORCH = {
    "FlowQuantizer": "cmp.flow.quantize",
    "JointFlowQuantizer": "cmp.flow.quantize",
    "PolarFlowQuantizer": "cmp.flow.quantize",
    "inside_mask": "cmp.flow.warp",
    "warp_backward": "cmp.flow.warp",
}

__all__ = [
    "CODECS",
    "FlowQuantizer",
    "HalfSizeFlow",
    "JointFlowQuantizer",
    "PolarFlowQuantizer",
    "check_flow",
    "color_wheel_key",
    "crop_flow",
    "decode_flow",
    "draw_guidance",
    "encode_flow",
    "flip_flow",
    "flow_to_color",
    "inside_mask",
    "known_pixels",
    "open_flow",
    "read_flow",
    "resize_flow",
    "rotate_flow",
    "rotate_image",
    "scale_flow",
    "warp_backward",
    "write_flow",
]


def __getattr__(name: str):
    if name in _NEED_TORCH:
        return getattr(import_module(_NEED_TORCH[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
