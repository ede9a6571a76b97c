"""Correct predicted flow so that at each guidance point it has the motion of the point.

Legend: B batch, N guidance points of the image that has most, P pixels, H W image pixels.
"""

import torch

from cmp.models.guidance_fill import CHUNK_ELEMENTS, cell_centers, list_points, squared_distances
from cmp.torch_versions import is_exporting

POWER = 3  # the weight of a point falls with this power of the distance


def correct_at_points(
    flow: torch.Tensor, guidance: torch.Tensor, mask: torch.Tensor, *, reach_px: float
) -> torch.Tensor:
    """Add to every pixel the errors that the prediction has at the points around it.

    A point i at distance d has the weight w_i = (d^2 + 1)^-1.5 and the error r_i = its motion - the flow predicted
    there. A pixel gets sum(w_i r_i) / (sum(w_i) + w_0), where w_0 is the weight at distance reach_px. With a reach of
    10 px a thousandth of r_i is left at a point; at reach_px from a single point half of r_i is added; far from all
    points the prediction does not change.

    Args:
        flow: (B, 2, H, W) predicted, px.
        guidance: (B, 2, H, W) motion at the points, px; other pixels are not read.
        mask: (B, 1, H, W), above 0 where guidance is.
        reach_px: above 0.

    Returns:
        (B, 2, H, W) float32, px; the flow itself where an image has no points.

    Source: ours: Shepard's interpolation (1968) of the residuals, as kriging does after a trend.
    """
    batch, _, height, width = guidance.shape  # not flow's: they are symbols of an exported graph
    flow = flow.float()
    points, vectors, is_point = list_points(guidance, mask)  # (B, N, 2), (B, N, 2), (B, N)
    if not is_exporting() and points.shape[1] == 0:
        return flow
    where = (points[..., 0] * width + points[..., 1]).long()  # (B, N)
    errors = vectors - flow.flatten(2).gather(2, where[:, None].expand(-1, 2, -1)).transpose(1, 2)  # (B, N, 2)
    pixels = cell_centers(height, width, 1, flow.device)  # (P, 2)
    if is_exporting():
        added = _spread(pixels, points, errors, is_point, reach_px)
    else:
        at_once = max(1, CHUNK_ELEMENTS // points[..., 0].numel())
        added = torch.cat([_spread(part, points, errors, is_point, reach_px) for part in pixels.split(at_once)], dim=1)
    return flow + added.transpose(1, 2).reshape(batch, 2, height, width)


def _spread(
    pixels: torch.Tensor, points: torch.Tensor, errors: torch.Tensor, is_point: torch.Tensor, reach_px: float
) -> torch.Tensor:
    """The correction (B, P, 2) of some pixels (P, 2) from the errors (B, N, 2) at the points."""
    squared = squared_distances(pixels, points)  # (B, P, N)
    weights = (squared + 1).pow(-POWER / 2) * is_point[:, None]
    with torch.autocast(weights.device.type, enabled=False):  # it would round motion to three digits
        return weights @ errors / (weights.sum(-1, keepdim=True) + (reach_px**2 + 1) ** (-POWER / 2))
