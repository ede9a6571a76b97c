"""The guidance encoder: sparse motion in, a feature map at the image encoder's stride out.

Legend: B batch, H W image pixels, h w feature cells.
"""

import torch
import torch.nn.functional as F
from torch import nn

from cmp.models.guidance_fill import fill_guidance


class MotionEncoder(nn.Module):
    """Two small convolutions over the guidance.

    As published (fill=None) the input is (u, v, mask, mask) in full resolution, zero where no guide is: 5x5 convolution
    of stride 2, max-pool 2, 3x3 convolution, average-pool to the stride. With `fill` the guides are spread over the
    cells of the output first and the input is, per cell, (root(u), root(v), closeness, occupied): root(u) is
    sign(u) * sqrt(|u| / flow_scale_px), so that small motion is not lost beside large, as in quadratic bins; closeness
    is exp(-distance to the nearest guide / (2 * stride)), 0 without guides; occupied is 1 where the cell holds a guide.
    Two 3x3 convolutions follow, without pooling.

    Args:
        stride: output stride, px, a multiple of 4: 8 or 32 as published. `CMP` passes the image encoder's.
        out_channels: channels of the output.
        hidden_channels: channels between the two convolutions.
        fill: None, "nearest" or "inverse_distance" (see `fill_guidance`).
        flow_scale_px: motion that becomes 1 in the filled input; not used without fill.

    Raises:
        ValueError: stride is no multiple of 4, or fill is unknown.

    Source: Zhan et al., CVPR 2019, and the authors' code; `fill` is ours.
    """

    def __init__(
        self,
        stride: int = 8,
        out_channels: int = 16,
        hidden_channels: int = 16,
        fill: str | None = None,
        flow_scale_px: float = 3.0,
    ) -> None:
        super().__init__()
        if stride < 4 or stride % 4:
            raise ValueError(f"stride must be a positive multiple of 4, got {stride}")
        if fill not in (None, "nearest", "inverse_distance"):
            raise ValueError(f"fill must be None, 'nearest' or 'inverse_distance', got {fill!r}")
        self.stride, self.out_channels = stride, out_channels
        self.fill, self.flow_scale_px = fill, flow_scale_px
        down = fill is None
        layers = [
            nn.Conv2d(4, hidden_channels, 5 if down else 3, stride=2 if down else 1, padding=2 if down else 1),
            nn.BatchNorm2d(hidden_channels),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2) if down else nn.Identity(),
            nn.Conv2d(hidden_channels, out_channels, 3, padding=1),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
            nn.AvgPool2d(stride // 4) if down else nn.Identity(),
        ]
        self.features = nn.Sequential(*layers)

    def forward(self, guidance: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Encode (B, 2, H, W) guidance, px, and its (B, 1, H, W) mask to (B, out_channels, h, w)."""
        if self.fill is None:
            return self.features(torch.cat((guidance, mask, mask), dim=1))
        flow, distance = fill_guidance(guidance, mask, method=self.fill, stride_px=self.stride)
        root = flow.sign() * (flow.abs() / self.flow_scale_px).sqrt()
        closeness = torch.exp(-distance / (2 * self.stride)).to(flow.dtype)
        occupied = F.max_pool2d(mask, self.stride)
        return self.features(torch.cat((root, closeness, occupied), dim=1))
