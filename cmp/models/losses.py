"""Training losses: predicted logits (or flow) against the dense target flow.

Legend: B batch, L logits, G softmax groups (x and y), H W target pixels, h w cells.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from cmp.models.upsampled_cross_entropy import banded_cross_entropy, plain_cross_entropy


class DiscreteLoss(nn.Module):
    """Cross-entropy over quantized flow, averaged over pixels in each group (x, y) and summed over groups.

    Logits are upsampled to the target's size first; that commutes with neither softmax nor cross-entropy, so it is part
    of the loss. `banded_cross_entropy` does it without full-size logits.

    Args:
        quantizer: gives the groups and the target bins. `CMP` passes its own.
        ignore_invalid: leave out pixels whose target is not valid (padding, occlusion). The published loss counts them.
        group_weights: a factor for each group, or None for 1 each.
        bin_weights: for each group None or a weight per bin; the mean is then weighted too (as in torch). None: all 1.
        banded: False upsamples all logits at once and keeps them: the same numbers, several times slower and with
            more memory; the banded form is tested and measured against it.

    Raises:
        ValueError: the number or length of the weights does not fit the quantizer's groups.

    Source: Zhan et al., CVPR 2019, and their code; ignore_invalid and banded are ours.
    """

    def __init__(
        self,
        quantizer,
        ignore_invalid: bool = False,
        group_weights: Sequence[float] | None = None,
        bin_weights: Sequence[Sequence[float] | None] | None = None,
        banded: bool = True,
    ) -> None:
        super().__init__()
        groups = tuple(quantizer.groups)
        group_weights = [1.0] * len(groups) if group_weights is None else list(group_weights)
        bin_weights = [None] * len(groups) if bin_weights is None else list(bin_weights)
        if len(group_weights) != len(groups) or len(bin_weights) != len(groups):
            raise ValueError(f"group_weights and bin_weights must have one entry for each of the {len(groups)} groups")
        for size, weights in zip(groups, bin_weights):
            if weights is not None and len(weights) != size:
                raise ValueError(f"bin_weights must have {size} weights for a group of {size} bins, got {len(weights)}")
        self.quantizer, self.ignore_invalid = quantizer, ignore_invalid
        self.group_weights = group_weights
        self.summed = banded_cross_entropy if banded else plain_cross_entropy
        for i, (size, weights) in enumerate(zip(groups, bin_weights)):
            weights = torch.ones(size) if weights is None else torch.as_tensor(weights, dtype=torch.float32)
            self.register_buffer(f"bin_weights_{i}", weights, persistent=False)

    @property
    def unit(self) -> str:
        """The name of the loss, with its unit."""
        return "cross-entropy, nats" + (" (x and y summed)" if len(self.quantizer.groups) == 2 else "")

    def forward(self, logits: torch.Tensor, flow: torch.Tensor, valid: torch.Tensor | None = None) -> torch.Tensor:
        """Compare (B, L, h, w) logits with (B, 2, H, W) flow, px; valid is (B, 1, H, W), above 0 where flow is known.

        Returns:
            A scalar, float32 (float64 for float64 logits); 0 where every pixel is ignored.

        Raises:
            ValueError: shapes do not fit.
        """
        if logits.shape[1] != sum(self.quantizer.groups):
            raise ValueError(f"logits must have {sum(self.quantizer.groups)} channels, got {logits.shape[1]}")
        valid = _check_target(logits, flow, valid if self.ignore_invalid else None)
        bin_weights = [getattr(self, f"bin_weights_{i}") for i in range(len(self.group_weights))]
        entropies, weights = self.summed(
            logits, flow, None if valid is None else valid > 0, self.quantizer, bin_weights
        )
        means = entropies / weights.clamp(min=torch.finfo(weights.dtype).tiny)
        return sum(factor * mean for factor, mean in zip(self.group_weights, means))


class RegressionLoss(nn.Module):
    """Distance between predicted and target flow, px, averaged over pixels and both components.

    Args:
        quantizer: a `DirectFlow`: the network's output is flow. `CMP` passes its own.
        kind: "smooth_l1" (quadratic below 1 px) or "mse".
        ignore_invalid: leave out pixels whose target is not valid.

    Raises:
        ValueError: kind is unknown, or the quantizer makes bins.

    Source: the code of Zhan et al., CVPR 2019; ignore_invalid is ours.
    """

    def __init__(self, quantizer, kind: str = "smooth_l1", ignore_invalid: bool = False) -> None:
        super().__init__()
        if kind not in ("smooth_l1", "mse"):
            raise ValueError(f"kind must be 'smooth_l1' or 'mse', got {kind!r}")
        if not isinstance(quantizer, DirectFlow):
            raise ValueError(f"a regression loss needs quantizer DirectFlow, got {type(quantizer).__name__}")
        self.distance = F.smooth_l1_loss if kind == "smooth_l1" else F.mse_loss
        self.ignore_invalid = ignore_invalid

    @property
    def unit(self) -> str:
        """The name of the loss, with its unit."""
        return "squared error, px²" if self.distance is F.mse_loss else "smooth L1 distance, px"

    def forward(self, logits: torch.Tensor, flow: torch.Tensor, valid: torch.Tensor | None = None) -> torch.Tensor:
        """As `DiscreteLoss.forward`, where logits (B, 2, h, w) are flow, px."""
        if logits.shape[1] != 2:
            raise ValueError(f"predicted flow must have 2 channels, got {logits.shape[1]}")
        valid = _check_target(logits, flow, valid if self.ignore_invalid else None)
        predicted = _upsample(logits.float(), flow.shape[2:])
        if valid is None:
            return self.distance(predicted, flow.float())
        flow = torch.where(valid > 0, flow.float(), 0)
        distances = self.distance(predicted, flow, reduction="none") * (valid > 0)
        return distances.sum() / (2 * (valid > 0).sum()).clamp(min=1)


class DirectFlow:
    """Takes the place of a quantizer where the network's output is flow: 2 channels, px, no bins."""

    num_logits = 2

    def expectation(self, logits: torch.Tensor) -> torch.Tensor:
        """The flow (B, 2, h, w) in px: the network's output as it is."""
        return logits

    def share_beyond(self, logits: torch.Tensor, length_px: float) -> torch.Tensor:
        """(B, 1, h, w) float32: 1 where the flow is longer than length_px, else 0, as there is no distribution."""
        if not 0 <= length_px < math.inf:
            raise ValueError(f"length_px must be at least 0 and finite, got {length_px!r}")
        return (logits.float().norm(dim=1, keepdim=True) > length_px).float()


def _check_target(logits: torch.Tensor, flow: torch.Tensor, valid: torch.Tensor | None) -> torch.Tensor | None:
    if flow.ndim != 4 or flow.shape[:2] != (len(logits), 2):
        raise ValueError(f"flow must be ({len(logits)}, 2, H, W), got {tuple(flow.shape)}")
    if valid is not None and valid.shape != (len(flow), 1, *flow.shape[2:]):
        raise ValueError(f"valid must be {(len(flow), 1, *flow.shape[2:])}, got {tuple(valid.shape)}")
    return valid


def _upsample(x: torch.Tensor, size_hw: Sequence[int]) -> torch.Tensor:
    if x.shape[2:] == tuple(size_hw):
        return x
    return F.interpolate(x, size=tuple(size_hw), mode="bilinear", align_corners=True)
