"""Spread sparse guidance over the whole image, in torch, for a whole batch.

Legend: B batch, N guidance points of the image that has most, P cells, H W image pixels, h w cells.
"""

import torch

from cmp.torch_versions import is_exporting

CHUNK_ELEMENTS = 1 << 22  # distances in memory at once: 16 MiB in float32


def fill_guidance(
    guidance: torch.Tensor, mask: torch.Tensor, *, method: str, stride_px: int = 1
) -> tuple[torch.Tensor, torch.Tensor]:
    """Give every cell a motion from the guidance points alone, and its distance to the nearest point.

    A cell covers stride_px x stride_px pixels and is evaluated at its center, so the result does not depend on which
    points share a cell. Every point is compared with every cell: exact on any device, for a few hundred points each.

    Args:
        guidance: (B, 2, H, W) motion at the points, px; other pixels are not read.
        mask: (B, 1, H, W), above 0 where guidance is.
        method: "nearest" (the nearest point's motion; of equally near ones the first in row order) or
            "inverse_distance" (the mean of all points, each weighted by 1 / distance^2; at a point its own motion).
        stride_px: side of a cell, px; H and W must be multiples of it.

    Returns:
        flow (B, 2, h, w) in guidance's dtype, px, and distance (B, 1, h, w) float32, px from the cell's center to the
        nearest point. An image without points has zeros and infinite distance. No gradient flows through either.

    Raises:
        ValueError: shapes disagree, method is unknown, or stride_px does not divide H and W.

    Source: ours (Zhan et al. feed guidance as it is); the weights are Shepard's, 1968.
    """
    if guidance.ndim != 4 or guidance.shape[1] != 2 or mask.shape != (guidance.shape[0], 1, *guidance.shape[2:]):
        raise ValueError(
            f"guidance must be (B, 2, H, W) and mask (B, 1, H, W), got {tuple(guidance.shape)} and {tuple(mask.shape)}"
        )
    if method not in ("nearest", "inverse_distance"):
        raise ValueError(f"method must be 'nearest' or 'inverse_distance', got {method!r}")
    batch, _, height, width = guidance.shape
    if stride_px < 1 or height % stride_px or width % stride_px:
        raise ValueError(f"stride_px must divide the image, got {stride_px} for {height}x{width}")
    h, w = height // stride_px, width // stride_px
    guidance = guidance.detach()
    with torch.no_grad():
        points, vectors, is_point = list_points(guidance, mask)
        if is_exporting():
            cells = cell_centers(h, w, stride_px, guidance.device)
            flow, squared = _fill_cells(cells, points, vectors, is_point, method)
            flow = torch.where(squared.isfinite()[..., None], flow, 0)
            flow = flow.transpose(1, 2).reshape(batch, 2, h, w).to(guidance.dtype)
            return flow, squared.sqrt().reshape(batch, 1, h, w)
        flow = torch.zeros(batch, h * w, 2, device=guidance.device)
        squared = torch.full((batch, h * w), float("inf"), device=guidance.device)
        if points.shape[1]:
            cells = cell_centers(h, w, stride_px, guidance.device)
            cells_per_chunk = max(1, CHUNK_ELEMENTS // points[..., 0].numel())
            for first in range(0, h * w, cells_per_chunk):
                part = slice(first, first + cells_per_chunk)
                flow[:, part], squared[:, part] = _fill_cells(cells[part], points, vectors, is_point, method)
        flow = flow.transpose(1, 2).reshape(batch, 2, h, w).to(guidance.dtype)
        return flow, squared.sqrt().reshape(batch, 1, h, w)


def list_points(guidance: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """List the guidance points of a batch, padded to the same number per image.

    Args:
        guidance: (B, 2, H, W) motion at the points, px. mask: (B, 1, H, W), above 0 where guidance is.

    Returns:
        Points (B, N, 2) float32 y, x, their vectors (B, N, 2) float32 px, and (B, N) bool, False in the padding.
        N is the number of the image with most points. In an exported graph, whose sizes must not depend on values in
        loops, N counts the points of all images and one that belongs to no image.
    """
    given, guidance = mask[:, 0] > 0, guidance.detach().float()
    image, y, x = given.nonzero(as_tuple=True)
    if is_exporting():
        nobody = guidance.new_zeros(1, 2)
        points = torch.cat((torch.stack((y, x), dim=1).float(), nobody)).expand(given.shape[0], -1, -1)
        vectors = torch.cat((guidance[image, :, y, x], nobody)).expand(given.shape[0], -1, -1)
        owner = torch.cat((image, image.new_full((1,), -1)))
        return points, vectors, owner == torch.arange(given.shape[0], device=given.device)[:, None]
    counts = given.flatten(1).sum(1)
    most = int(counts.max()) if len(counts) else 0
    slot = torch.arange(len(image), device=given.device) - (counts.cumsum(0) - counts)[image]
    points = torch.zeros(given.shape[0], most, 2, device=given.device)
    points[image, slot] = torch.stack((y, x), dim=1).float()
    vectors = torch.zeros_like(points)
    vectors[image, slot] = guidance[image, :, y, x]
    return points, vectors, torch.arange(most, device=given.device) < counts[:, None]


def cell_centers(h: int, w: int, stride_px: int, device: torch.device) -> torch.Tensor:
    """(P, 2) centers y, x in row order; centers of pixels are whole numbers."""
    y, x = (torch.arange(n, device=device) * stride_px + (stride_px - 1) / 2 for n in (h, w))
    return torch.cartesian_prod(y, x)


def squared_distances(cells: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """(B, P, N) between cells (P, 2) and points (B, N, 2), px squared; a sum over an axis of two would be slow."""
    y, x = ((cells[:, k, None] - points[:, None, :, k]).square() for k in (0, 1))
    return y + x


def _fill_cells(
    cells: torch.Tensor, points: torch.Tensor, vectors: torch.Tensor, is_point: torch.Tensor, method: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Flow (B, P, 2) and squared distance to the nearest point (B, P) of some cells."""
    squared = squared_distances(cells, points)  # (B, P, N)
    squared.masked_fill_(~is_point[:, None], float("inf"))
    nearest_squared, nearest = squared.min(-1)  # (B, P)
    flow = vectors.gather(1, nearest[..., None].expand(-1, -1, 2))
    if method == "inverse_distance":
        # A center is at least half a pixel from any point that it is not on; on a point, the motion is the point's.
        weights = squared.clamp(min=0.25).reciprocal()
        total = weights.sum(-1, keepdim=True).clamp(min=torch.finfo(weights.dtype).tiny)  # 0 in an image without points
        flow = torch.where(nearest_squared[..., None] == 0, flow, weights @ vectors / total)
    return flow, nearest_squared
