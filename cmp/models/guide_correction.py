"""Predicted flow moved so that the guides are obeyed: at a guide it says what the guide says.

Legend: B batch, N guides of the image that has most, P pixels, H W image pixels.
"""

import torch

from cmp.models.guidance_fill import CHUNK_ELEMENTS, cell_centres, list_guides

POWER = 3  # of the distance that a guide's weight falls with


def correct_at_guides(
    flow: torch.Tensor, guidance: torch.Tensor, mask: torch.Tensor, *, reach_px: float
) -> torch.Tensor:
    """Add to every pixel what the prediction lacks at the guides around it.

    A guide i at distance d has the weight w_i = (d^2 + 1)^-1.5 and lacks r_i = its motion - the flow predicted there.
    A pixel gets sum(w_i r_i) / (sum(w_i) + w_0), where w_0 is the weight at distance reach_px: a thousandth of r_i is
    left at a guide with a reach of 10 px, one half at reach_px from a lone one, and far from all guides the prediction
    stays.

    Args:
        flow: (B, 2, H, W) predicted, px.
        guidance: (B, 2, H, W) motion at the guides, px; other pixels are not read.
        mask: (B, 1, H, W), above 0 where guidance is.
        reach_px: above 0.

    Returns:
        (B, 2, H, W) float32, px; the flow itself where an image has no guides.

    Source: ours: Shepard's interpolation (1968) of what is left over, as kriging does it after a trend.
    """
    batch, _, height, width = guidance.shape  # not flow's: they are symbols of an exported graph
    flow = flow.float()
    points, vectors, is_guide = list_guides(guidance, mask)  # (B, N, 2), (B, N, 2), (B, N)
    if not torch.compiler.is_exporting() and points.shape[1] == 0:
        return flow
    where = (points[..., 0] * width + points[..., 1]).long()  # (B, N)
    missing = vectors - flow.flatten(2).gather(2, where[:, None].expand(-1, 2, -1)).transpose(1, 2)  # (B, N, 2)
    pixels = cell_centres(height, width, 1, flow.device)  # (P, 2)
    if torch.compiler.is_exporting():
        added = _spread(pixels, points, missing, is_guide, reach_px)
    else:
        at_once = max(1, CHUNK_ELEMENTS // points[..., 0].numel())
        added = torch.cat([_spread(part, points, missing, is_guide, reach_px) for part in pixels.split(at_once)], dim=1)
    return flow + added.transpose(1, 2).reshape(batch, 2, height, width)


def _spread(
    pixels: torch.Tensor, points: torch.Tensor, missing: torch.Tensor, is_guide: torch.Tensor, reach_px: float
) -> torch.Tensor:
    """What some pixels (P, 2) get, (B, P, 2), of what is missing at the guides (B, N, 2)."""
    squared = (pixels[None, :, None] - points[:, None]).square().sum(-1)  # (B, P, N)
    weights = (squared + 1).pow(-POWER / 2) * is_guide[:, None]
    with torch.autocast(weights.device.type, enabled=False):  # which would round motion to three digits
        return weights @ missing / (weights.sum(-1, keepdim=True) + (reach_px**2 + 1) ** (-POWER / 2))
