"""Guidance spread over the image: each cell averages the guidance points, weighted by distance and feature similarity.

Legend: B batch, N guidance points, P cells, A heads, D channels per head, h w cells of the image features.
"""

import math

import torch
from torch import nn

from cmp.models.guidance_fill import cell_centers, list_points, squared_distances
from cmp.torch_versions import is_exporting

HEAD_CHANNELS = 16
SOFT_DISTANCE_PX = 2.0  # points closer than this all count as equally near
STILL_REACH_PX = 20.0  # initial distance at which a lone point and "still" weigh the same


class GuidanceAttention(nn.Module):
    """Give every cell a mean of the points' motion, weighted by distance and by similarity of learned image features.

    The weight of a point is its share of exp(e_cell . e_point / sqrt(D)) / (distance^2 + 4 px^2)^power. Each head has
    an embedding e (a linear map of the image features) and a learned power. With e = 0 this is inverse-distance
    interpolation, and training begins near it. So only the image's contribution is left to learn, and it needs features
    that are similar where things move in the same way.

    With `still`, each cell also has a motion of zero to choose: its weight is that of a motionless point 20 px away,
    times exp(a learned linear map of the cell's features, zero at first). A cell can then reject all points, even a
    single one; without it the weights of the points always sum to 1, so one point moves the whole image. With e = 0
    this is the inverse-distance interpolation that fades out.

    Args:
        image_channels: channels of the image features.
        stride: side of a cell, px.
        heads: A, the number of means.
        still: add the motion of zero, and return the share of the weight that the points have.

    Raises:
        ValueError: heads is below 1.

    Source: ours. Dot-product attention: Vaswani et al., 2017; weights by distance: Shepard, 1968.
    """

    def __init__(self, image_channels: int, stride: int, heads: int = 4, still: bool = False) -> None:
        super().__init__()
        if heads < 1:
            raise ValueError(f"heads must be at least 1, got {heads}")
        self.stride, self.heads = stride, heads
        self.embed = nn.Conv2d(image_channels, heads * HEAD_CHANNELS, kernel_size=1)
        self.power = nn.Parameter(torch.linspace(1.0, 2.0, heads))
        self.still = nn.Conv2d(image_channels, heads, kernel_size=1) if still else None
        if self.still is not None:
            nn.init.zeros_(self.still.weight)
            nn.init.zeros_(self.still.bias)

    def forward(
        self, guidance: torch.Tensor, mask: torch.Tensor, image: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Spread B sets of guidance over the features of B images, or of one image.

        Args:
            guidance: (B, 2, H, W) motion at the points, px. mask: (B, 1, H, W), above 0 where guidance is.
            image: (B or 1, C, h, w) features of cells of stride x stride px.

        Returns:
            flow (B, 2A, h, w) float32, px: x and y of each head; distance (B, 1, h, w) float32, px from the center of
            the cell to the nearest point; and with `still` (B, A, h, w) float32 in 0..1, the share of the weight that
            the points have (None without). Without points: zeros, infinite distance, and zeros.
        """
        batch, (h, w) = guidance.shape[0], image.shape[2:]  # len() would fix the batch size in an exported graph
        points, vectors, is_point = list_points(guidance, mask)  # (B, N, 2), (B, N, 2), (B, N)
        embedded = self.embed(image).float().view(image.shape[0], self.heads, HEAD_CHANNELS, h * w)
        if self.still is not None:
            still = self.still(image).float().view(image.shape[0], self.heads, h * w, 1)
        if not is_exporting() and points.shape[1] == 0:
            # Zeros that depend on the weights, so that every parameter has a gradient in every step.
            nothing = 0 * (embedded.sum() + self.power.sum())
            if self.still is not None:
                nothing = nothing + 0 * still.sum()
            flow, share = (nothing.expand(batch, channels, h, w) for channels in (2 * self.heads, self.heads))
            distance = torch.full((batch, 1, h, w), float("inf"), device=image.device)
            return flow, distance, None if self.still is None else share
        embedded = embedded.expand(batch, -1, -1, -1)  # (B, A, D, P)
        cells = cell_centers(h, w, self.stride, image.device)  # (P, 2)
        squared = squared_distances(cells, points)  # (B, P, N)
        row, column = (points / self.stride).long().unbind(-1)
        cell_of_point = (row * w + column)[:, None, None].expand(-1, self.heads, HEAD_CHANNELS, -1)
        at_points = embedded.gather(3, cell_of_point)  # (B, A, D, N)

        with torch.autocast(image.device.type, enabled=False):  # it would round motion to three digits
            scores = embedded.transpose(2, 3) @ at_points / math.sqrt(HEAD_CHANNELS)  # (B, A, P, N)
            scores = scores - self.power[:, None, None] * (squared + SOFT_DISTANCE_PX**2).log()[:, None]
            scores = scores.masked_fill(~is_point[:, None, None], torch.finfo(scores.dtype).min)
            share = None
            if self.still is not None:
                still = still - self.power[:, None, None] * math.log(STILL_REACH_PX**2 + SOFT_DISTANCE_PX**2)
                scores = torch.cat((scores, still.expand(batch, -1, -1, -1)), dim=-1)
            weights = scores.softmax(-1)[..., : points.shape[1]]
            weights = weights * is_point.any(1)[:, None, None, None]  # all 0 in an image without points
            if self.still is not None:
                share = weights.sum(-1).view(batch, self.heads, h, w)
            flow = (weights @ vectors[:, None]).transpose(2, 3).reshape(batch, 2 * self.heads, h, w)
        distance = squared.masked_fill(~is_point[:, None], float("inf")).amin(-1).sqrt()
        return flow, distance.view(batch, 1, h, w), share
