"""An image set in motion by flow: every pixel is thrown to where it goes, and holes are filled from around them.

Legend: B batch, C channels, H W pixels.
"""

from collections.abc import Iterator
from itertools import chain

import numpy as np
import torch
import torch.nn.functional as F


def splat_forward(
    image: torch.Tensor, flow: torch.Tensor, importance: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Throw every pixel to where its flow points; where several land, a softmax over their importance decides.

    Args:
        image: (B, C, H, W) floating.
        flow: (B, 2, H, W) px from this image to the new one; a pixel shares itself bilinearly among its 4 neighbours.
        importance: (B, 1, H, W): the larger by about 5, the more surely in front. None: the length of the flow, so
            that what moves passes in front of what stands.

    Returns:
        The new image (B, C, H, W), 0 where nothing landed, and how much landed, (B, 1, H, W), in pixels: below 1 at the
        rims of holes, 0 in them. Pixels whose flow is not finite are left out.

    Raises:
        ValueError: shapes do not fit, or image or flow is not floating.

    Source: Niklaus and Liu, "Softmax Splatting for Video Frame Interpolation", CVPR 2020; ours in plain torch.
    """
    if image.ndim != 4 or flow.shape != (len(image), 2, *image.shape[2:]):
        raise ValueError(f"image must be (B, C, H, W) and flow (B, 2, H, W), got {image.shape} and {flow.shape}")
    if not image.is_floating_point() or not flow.is_floating_point():
        raise ValueError(f"image and flow must be floating, got {image.dtype} and {flow.dtype}")
    batch, channels, height, width = image.shape
    image, flow = image.float(), flow.float()
    known = flow.isfinite().all(dim=1, keepdim=True)
    flow = flow.nan_to_num(0, 0, 0)
    if importance is None:
        importance = flow.norm(dim=1, keepdim=True)
    elif importance.shape != (batch, 1, height, width):
        raise ValueError(f"importance must be {(batch, 1, height, width)}, got {tuple(importance.shape)}")
    # A constant does not change a softmax; this one keeps exp in range, and the floor keeps what is behind above 0.
    importance = (importance.float() - importance.amax(dim=(1, 2, 3), keepdim=True).float()).clamp(min=-60)
    weight = importance.exp() * known
    layers = torch.cat((image * weight, weight, known.float()), dim=1).flatten(2)  # (B, C + 2, H * W)

    x = torch.arange(width, device=flow.device) + flow[:, 0]
    y = torch.arange(height, device=flow.device)[:, None] + flow[:, 1]
    total = torch.zeros(batch, channels + 2, height * width, device=image.device)
    left, top = x.floor(), y.floor()
    for dx, dy in ((0, 0), (1, 0), (0, 1), (1, 1)):
        column, row = left + dx, top + dy
        share = (1 - (x - column).abs()) * (1 - (y - row).abs())
        share = share * ((column >= 0) & (column < width) & (row >= 0) & (row < height))
        target = (row.clamp(0, height - 1) * width + column.clamp(0, width - 1)).long().flatten(1)
        total.scatter_add_(2, target[:, None].expand_as(layers), layers * share.flatten(1)[:, None])
    total = total.unflatten(2, (height, width))
    colour, weight, landed = total[:, :channels], total[:, channels:-1], total[:, -1:]
    return torch.where(weight > 0, colour / weight.clamp(min=torch.finfo(weight.dtype).tiny), 0), landed


def fill_holes(image: torch.Tensor, landed: torch.Tensor) -> torch.Tensor:
    """Fill what nothing landed on from coarser and coarser averages of what is around it.

    Args:
        image: (B, C, H, W) floating.
        landed: (B, 1, H, W), above 0; values below 1 mix the pixel with what surrounds it.

    Returns:
        (B, C, H, W); image as it is where landed is 1 or more, 0 where nothing landed anywhere.

    Source: the pull-push scheme of Gortler et al., "The Lumigraph", SIGGRAPH 1996.
    """
    sure = landed.clamp(0, 1)
    if min(image.shape[2:]) == 1 and max(image.shape[2:]) == 1:
        return image
    size = image.shape[2:]
    pool = dict(kernel_size=2, ceil_mode=True, count_include_pad=False)
    total = F.avg_pool2d(sure, **pool)
    coarse = F.avg_pool2d(image * sure, **pool) / total.clamp(min=1e-6)
    coarse = fill_holes(coarse, (total * 4).clamp(max=1) * (total > 1e-6))
    around = F.interpolate(coarse, size=size, mode="bilinear", align_corners=False)
    return sure * image + (1 - sure) * around


def animate(image: np.ndarray, flow: np.ndarray, num_frames: int) -> Iterator[np.ndarray]:
    """Frames in which the image moves along its flow, evenly in time, from where it is to the whole of the flow.

    Args:
        image: (H, W, 3) uint8 RGB.
        flow: (H, W, 2) floating px of the whole motion.
        num_frames: at least 2; the first frame is the image itself.

    Yields:
        (H, W, 3) uint8 RGB.

    Raises:
        ValueError: shapes or dtypes are others, or num_frames is below 2.
    """
    image, flow = np.asarray(image), np.asarray(flow)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"image must be (H, W, 3) uint8, got {image.shape} {image.dtype}")
    if flow.shape != (*image.shape[:2], 2) or flow.dtype.kind != "f":
        raise ValueError(f"flow must be {(*image.shape[:2], 2)} and floating, got {flow.shape} {flow.dtype}")
    if num_frames < 2:
        raise ValueError(f"num_frames must be at least 2, got {num_frames}")
    # The longest way of all lies in front in every frame: one order for the whole film.
    in_front = np.linalg.norm(np.nan_to_num(flow, posinf=0, neginf=0), axis=2)
    return (_move(image, flow * (i / (num_frames - 1)), in_front) for i in range(num_frames))


def animate_flows(image: np.ndarray, flows: np.ndarray) -> Iterator[np.ndarray]:
    """The image, then the image moved along each flow in turn.

    Args:
        image: (H, W, 3) uint8 RGB.
        flows: (T, 2, H, W) floating px from the image to each frame, as the propagator gives them.

    Yields:
        T + 1 frames (H, W, 3) uint8 RGB.

    Raises:
        ValueError: shapes or dtypes are others.
    """
    image, flows = np.asarray(image), np.asarray(flows)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"image must be (H, W, 3) uint8, got {image.shape} {image.dtype}")
    if flows.ndim != 4 or flows.shape[1:] != (2, *image.shape[:2]) or flows.dtype.kind != "f":
        raise ValueError(f"flows must be (T, 2, {image.shape[0]}, {image.shape[1]}) floating, got {flows.shape}")
    return chain([image], (_move(image, flow.transpose(1, 2, 0)) for flow in flows))


def _move(image: np.ndarray, flow: np.ndarray, importance: np.ndarray | None = None) -> np.ndarray:
    source = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float()
    motion = torch.from_numpy(np.array(flow, np.float32)).permute(2, 0, 1)[None]
    if importance is not None:
        importance = torch.from_numpy(importance.astype(np.float32))[None, None]
    frame = fill_holes(*splat_forward(source, motion, importance))[0].permute(1, 2, 0)
    return frame.round().clamp(0, 255).to(torch.uint8).numpy()
