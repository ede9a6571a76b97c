"""How predicted frames of a moving shape compare with the motions that the shape can have.

Legend: B batch, H W pixels, N predictions, m the largest shift in px.
"""

import torch


def shape_motions(
    image: torch.Tensor, predicted: torch.Tensor, axis_xy: torch.Tensor, max_shift_px: int
) -> dict[str, torch.Tensor]:
    """Measure predicted next frames of the pairs of `cmp.datasets.moving_shapes`.

    Each prediction is compared with the image moved by all (2 m + 1)^2 shifts; its motion is the shift of the most
    similar one.

    Args:
        image: (B, 3, H, W), the first frame: one shape, at least m px from the edge, in front of a plain background.
        predicted: (N, B, 3, H, W), the predictions, values as in `image`.
        axis_xy: (B, 2), the direction in which the shape can move, forward and back.
        max_shift_px: m.

    Returns:
        (B,) each: `fits`: the share of the predictions that move along the axis; `both_ways`: 1 if some of them move
        in one direction of the axis and some in the other, else 0; `nearest_error`: mean squared difference from the
        most similar of the moved images that the shape can reach, averaged over the predictions.
    """
    steps = range(-max_shift_px, max_shift_px + 1)
    shifts = torch.tensor([(dx, dy) for dy in steps for dx in steps], device=image.device)  # (K, 2)
    moved = torch.stack([torch.roll(image, (dy, dx), (2, 3)) for dx, dy in shifts.tolist()])  # (K, B, 3, H, W)
    errors = torch.stack([(one - moved).square().flatten(2).mean(2) for one in predicted])  # (N, K, B)
    along = (shifts[:, None] * axis_xy).sum(2)  # (K, B); zero for the shift of nothing
    across = shifts[:, None, 0] * axis_xy[:, 1] - shifts[:, None, 1] * axis_xy[:, 0]
    possible = (across == 0) & (along != 0)
    best = errors.argmin(1)  # (N, B)
    fits = possible.gather(0, best)
    way = along.gather(0, best).sign() * fits
    return {
        "fits": fits.float().mean(0),
        "both_ways": ((way > 0).any(0) & (way < 0).any(0)).float(),
        "nearest_error": errors.masked_fill(~possible, torch.inf).amin(1).mean(0),
    }
