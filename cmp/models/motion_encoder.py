"""The motion encoder: sparse guidance in, a feature map at the image encoder's stride out.

Legend: B batch, H W image pixels, h w feature cells.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import nn

from cmp.models.backbones import ImageFeatures
from cmp.models.guidance_attention import GuidanceAttention
from cmp.models.guidance_fill import fill_guidance

STILL_PX = 0.05  # motion that attention does not distinguish from none


class MotionEncoder(nn.Module):
    """Encode guidance by two small convolutions.

    As published (fill=None) the input is (u, v, mask, mask) in full resolution, zero away from the guidance points:
    5x5 convolution of stride 2, max-pool 2, 3x3 convolution, average-pool to the stride.

    With `fill` the points are first spread over the cells of the output. The input of a cell is then (root(u), root(v),
    closeness, occupied): root(u) is sign(u) * sqrt(|u| / flow_scale_px), so that small motion is not lost next to large
    motion, as in quadratic bins; closeness is exp(-distance to the nearest point / (2 * stride)), 0 without points;
    occupied is 1 where the cell contains a point. Two 3x3 convolutions follow, without pooling. With fill="attention"
    the points are spread by image features too, see `GuidanceAttention`, and there is one u, v per head.

    Args:
        stride: output stride, px, a multiple of 4: 8 or 32 as published. `CMP` passes the image encoder's.
        out_channels: channels of the output.
        hidden_channels: channels between the two convolutions.
        fill: None, "nearest" or "inverse_distance" (see `fill_guidance`), or "attention".
        flow_scale_px: motion that becomes 1 in the filled input; not used without fill.
        heads: number of heads of the attention.
        still: the attention can reject all points (see `GuidanceAttention`); the share of the weight that the points
            have is then part of the input too, once per head.
        image_channels: channels of the image encoder's maps by name, for the attention. `CMP` passes them.

    Raises:
        ValueError: stride is not a multiple of 4, fill is unknown, or attention lacks image_channels.

    Source: Zhan et al., CVPR 2019, and their code; `fill` is ours.
    """

    def __init__(
        self,
        stride: int = 8,
        out_channels: int = 16,
        hidden_channels: int = 16,
        fill: str | None = None,
        flow_scale_px: float = 3.0,
        heads: int = 4,
        still: bool = False,
        image_channels: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__()
        if stride < 4 or stride % 4:
            raise ValueError(f"stride must be a positive multiple of 4, got {stride}")
        if fill not in (None, "nearest", "inverse_distance", "attention"):
            raise ValueError(f"fill must be None, 'nearest', 'inverse_distance' or 'attention', got {fill!r}")
        self.stride, self.out_channels = stride, out_channels
        self.fill, self.flow_scale_px = fill, flow_scale_px
        down, attends = fill is None, fill == "attention"
        if still and not attends:
            raise ValueError(f"still needs fill 'attention', got {fill!r}")
        self.attention = None
        if attends:
            if image_channels is None:
                raise ValueError("fill 'attention' needs image_channels")
            self.attention = GuidanceAttention(image_channels["top"], stride, heads, still)
        in_channels = (2 + still) * heads + 2 if attends else 4
        layers = [
            nn.Conv2d(
                in_channels, hidden_channels, 5 if down else 3, stride=2 if down else 1, padding=2 if down else 1
            ),
            nn.BatchNorm2d(hidden_channels),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2) if down else nn.Identity(),
            nn.Conv2d(hidden_channels, out_channels, 3, padding=1),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
            nn.AvgPool2d(stride // 4) if down else nn.Identity(),
        ]
        self.features = nn.Sequential(*layers)

    def forward(self, guidance: torch.Tensor, mask: torch.Tensor, image: ImageFeatures | None = None) -> torch.Tensor:
        """Encode (B, 2, H, W) guidance, px, and its (B, 1, H, W) mask to (B, out_channels, h, w).

        Only attention reads the image features, of B images or of one image.
        """
        if self.fill is None:
            return self.features(torch.cat((guidance, mask, mask), dim=1))
        share = None
        if self.attention is not None:
            if image is None:
                raise ValueError("attention needs the features of the image")
            flow, distance, share = self.attention(guidance, mask, image.top)
            flow = flow.to(guidance.dtype)
            # The root's slope would be infinite at 0, which is the motion of points that do not move.
            root = flow / (self.flow_scale_px * (flow.abs() + STILL_PX)).sqrt()
        else:
            flow, distance = fill_guidance(guidance, mask, method=self.fill, stride_px=self.stride)
            root = flow.sign() * (flow.abs() / self.flow_scale_px).sqrt()
        closeness = torch.exp(-distance / (2 * self.stride)).to(flow.dtype)
        occupied = F.max_pool2d(mask, self.stride)
        shares = () if share is None else (share.to(flow.dtype),)
        return self.features(torch.cat((root, closeness, occupied, *shares), dim=1))
