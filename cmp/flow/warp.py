"""Warp a frame by a flow field (torch, any device, differentiable).

Pixel centers are at whole coordinates: pixel (y, x) of the result is read at (y + v, x + u) of the image. Legend: B
batch, C channels, H W pixels; flow channel 0 is u (right), 1 is v (down), in px.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from cmp.flow.field import check_flow_batch


def warp_backward(image: Tensor, flow: Tensor, *, padding: str = "zeros", mode: str = "bilinear") -> Tensor:
    """Rebuild frame 1 from frame 2 and the flow from 1 to 2: result(y, x) = image(y + v, x + u).

    A flow of whole pixels moves the image exactly, bit by bit.

    Args:
        image: (B, C, H, W) floating: the frame the flow points INTO.
        flow: (B, 2, H, W) floating px, on the same device.
        padding: the value outside of the image: "zeros", or "border", the nearest pixel of the edge.
        mode: "bilinear" or "nearest".

    Returns:
        (B, C, H, W) of the image's dtype, computed in float32 or better. It is 0 where the flow is NaN, whatever the
        padding.

    Raises:
        ValueError: shapes do not match or are empty, image or flow is not floating, or another padding or mode.

    Source: our own convention. Zhan et al. scale coordinates by one rule of `grid_sample` and read by the other, which
    moves the image by up to half a pixel.
    """
    if image.ndim != 4 or not image.is_floating_point() or image.numel() == 0:
        raise ValueError(f"image must be floating (B, C, H, W) and not empty, got {image.dtype} {tuple(image.shape)}")
    x, y = _targets(flow)
    batch, _, height, width = image.shape
    if flow.shape != (batch, 2, height, width):
        raise ValueError(f"flow must be {(batch, 2, height, width)} for this image, got {tuple(flow.shape)}")
    if padding not in ("zeros", "border"):
        raise ValueError(f'padding must be "zeros" or "border", got {padding!r}')
    if mode not in ("bilinear", "nearest"):
        raise ValueError(f'mode must be "bilinear" or "nearest", got {mode!r}')
    outer = 0 if padding == "border" else 2
    dtype = torch.promote_types(image.dtype, x.dtype)
    x = x.to(dtype).clamp(-outer, width - 1 + outer).nan_to_num(nan=-2.0)
    y = y.to(dtype).clamp(-outer, height - 1 + outer).nan_to_num(nan=-2.0)
    # grid_sample takes coordinates divided by the size and multiplies them back. Only a power of two does that without
    # rounding; rounding would mix a hundred-thousandth of the neighbor into every pixel. The extra rows and columns are
    # the outside.
    wide, high = 1 << (width - 1).bit_length(), 1 << (height - 1).bit_length()
    source = F.pad(image.to(dtype), (0, wide - width, 0, high - height))
    grid = torch.stack(((2 * x + 1) / wide - 1, (2 * y + 1) / high - 1), dim=-1)
    return F.grid_sample(source, grid, mode=mode, padding_mode="zeros", align_corners=False).to(image.dtype)


def _targets(flow: Tensor) -> tuple[Tensor, Tensor]:
    """The position that each pixel of a flow (B, 2, H, W) moves to: x and y, (B, H, W) each, float32 or better."""
    check_flow_batch(flow)
    # Half precision has no odd numbers above 2048 and bfloat16 none above 256: positions need float32.
    flow = flow.to(torch.promote_types(flow.dtype, torch.float32))
    x = torch.arange(flow.shape[3], device=flow.device, dtype=flow.dtype)
    y = torch.arange(flow.shape[2], device=flow.device, dtype=flow.dtype)[:, None]
    return flow[:, 0] + x, flow[:, 1] + y
