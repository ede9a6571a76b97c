"""Guidance spread over the image by what looks alike: each cell asks the guides, and believes those near and like it.

Legend: B batch, N guides, P cells, A heads, D numbers a head, h w cells of the image features.
"""

import math

import torch
from torch import nn

from cmp.models.guidance_fill import cell_centres, list_guides

HEAD_CHANNELS = 16
SOFT_DISTANCE_PX = 2.0  # below it all guides are equally near


class GuideAttention(nn.Module):
    """Give every cell a mean of the guides' motion, weighted by nearness and by likeness of learned image features.

    The weight of a guide is its share of exp(e_cell . e_guide / sqrt(D)) / (distance^2 + 4 px^2)^power, for each head
    with an embedding e (a linear map of the image features) and a learned power of its own. With e = 0 it is
    inverse-distance interpolation, which training thus begins near: what the image adds is all that is left to learn,
    and the only way to it leads through features that are alike where things move alike.

    Args:
        image_channels: channels of the image features.
        stride: side of a cell, px.
        heads: A, how many means are taken.

    Raises:
        ValueError: heads is below 1.

    Source: ours. Dot-product attention: Vaswani et al., 2017; weights by distance: Shepard, 1968.
    """

    def __init__(self, image_channels: int, stride: int, heads: int = 4) -> None:
        super().__init__()
        if heads < 1:
            raise ValueError(f"heads must be at least 1, got {heads}")
        self.stride, self.heads = stride, heads
        self.embed = nn.Conv2d(image_channels, heads * HEAD_CHANNELS, kernel_size=1)
        self.power = nn.Parameter(torch.linspace(1.0, 2.0, heads))

    def forward(
        self, guidance: torch.Tensor, mask: torch.Tensor, image: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Spread the guides of B sets over the features of B images, or of one.

        Args:
            guidance: (B, 2, H, W) motion at the guides, px. mask: (B, 1, H, W), above 0 where guidance is.
            image: (B or 1, C, h, w) features of cells of stride x stride px.

        Returns:
            flow (B, 2A, h, w) float32, px: x and y of each head, and distance (B, 1, h, w) float32, px from the cell's
            centre to the nearest guide. Without guides: zeros and infinite distance.
        """
        batch, (h, w) = guidance.shape[0], image.shape[2:]  # len() would fix the batch size in an exported graph
        points, vectors, is_guide = list_guides(guidance, mask)  # (B, N, 2), (B, N, 2), (B, N)
        embedded = self.embed(image).float().view(image.shape[0], self.heads, HEAD_CHANNELS, h * w)
        if not torch.compiler.is_exporting() and points.shape[1] == 0:
            # Zeros that hang on the weights: every parameter has a gradient in every step.
            nothing = 0 * (embedded.sum() + self.power.sum())
            flow = nothing.expand(batch, 2 * self.heads, h, w)
            return flow, torch.full((batch, 1, h, w), float("inf"), device=image.device)
        embedded = embedded.expand(batch, -1, -1, -1)  # (B, A, D, P)
        cells = cell_centres(h, w, self.stride, image.device)  # (P, 2)
        squared = (cells[None, :, None] - points[:, None]).square().sum(-1)  # (B, P, N)
        row, column = (points / self.stride).long().unbind(-1)
        holds_guide = (row * w + column)[:, None, None].expand(-1, self.heads, HEAD_CHANNELS, -1)
        at_guides = embedded.gather(3, holds_guide)  # (B, A, D, N)

        with torch.autocast(image.device.type, enabled=False):  # which would round motion to three digits
            scores = embedded.transpose(2, 3) @ at_guides / math.sqrt(HEAD_CHANNELS)  # (B, A, P, N)
            scores = scores - self.power[:, None, None] * (squared + SOFT_DISTANCE_PX**2).log()[:, None]
            scores = scores.masked_fill(~is_guide[:, None, None], torch.finfo(scores.dtype).min)
            weights = scores.softmax(-1) * is_guide.any(1)[:, None, None, None]  # all 0 in an image without guides
            flow = (weights @ vectors[:, None]).transpose(2, 3).reshape(batch, 2 * self.heads, h, w)
        distance = squared.masked_fill(~is_guide[:, None], float("inf")).amin(-1).sqrt()
        return flow, distance.view(batch, 1, h, w)
