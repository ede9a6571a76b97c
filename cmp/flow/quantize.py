"""Quantizers: flow vectors to bins (classes), and the bin probabilities of a network back to vectors.

| quantizer | bins (default) | when to use it |
| --- | --- | --- |
| `FlowQuantizer`, spacing "linear" | x and y separately, equal widths (99 + 99) | the paper's choice: the published recipes, and checkpoints of Zhan et al. |
| `FlowQuantizer`, spacing "quadratic" | the same, fine near zero and wide far out | when most motion is small, as in the quick start: fewer bins give the same precision near zero |
| `JointFlowQuantizer` | x and y together, one class per pair of bins (19 x 19 = 361) | when motion is ambiguous: it can give probability to two different vectors without also giving it to their mixtures. It is coarse and needs more memory |
| `PolarFlowQuantizer` | direction and length separately (30 + 20) | when direction matters more than length; the length of fast motion can be clipped without turning it |

All share one interface, so one loss works with all. A pixel's class is `len(groups)` bin numbers, each with a separate
softmax over `groups[i]` logits: (99, 99) for x and y, (361,) for x and y together, (30, 20) for direction and length.
Both spacings are available for the joint bins and for the lengths too.

Legend: B batch, G groups, K bins, H W image pixels, h w feature cells. Flow channel 0 is x (right), 1 is y (down), px.
All computation is in float32, whatever the input and under autocast too: in half precision 49.9999 is 50, a bin too
far.
"""  # noqa: E501 (a table)

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cmp.flow.field import check_flow_batch

SPACINGS = ("linear", "quadratic")


class _Quantizer:
    """The interface of all quantizers; subclasses define how vectors and bins correspond."""

    @property
    def groups(self) -> tuple[int, ...]:
        """The number of logits of each softmax."""
        raise NotImplementedError

    @property
    def num_logits(self) -> int:
        """The number of channels that the network's head must have."""
        return sum(self.groups)

    def quantize(self, flow: Tensor) -> Tensor:
        """Find the bins of flow (B, 2, H, W), px, floating: (B, G, H, W) int64.

        Vectors beyond the range, infinite ones included, get the outermost bins. NaN gives an arbitrary bin in range,
        because a check would make a GPU wait; mask such pixels.
        """
        raise NotImplementedError

    def dequantize(self, bins: Tensor) -> Tensor:
        """Turn integer bins (B, G, H, W) into the flow of their centers: (B, 2, H, W) float32 px."""
        raise NotImplementedError

    def expectation(self, logits: Tensor) -> Tensor:
        """Turn logits (B, num_logits, h, w) into (B, 2, h, w) float32 px: the mean of bin centers under the softmax."""
        raise NotImplementedError

    def share_beyond(self, logits: Tensor, length_px: float) -> Tensor:
        """Turn logits (B, num_logits, h, w) into (B, 1, h, w) float32: the probability that |flow| > length_px.

        A bin counts with its center. x and y, or direction and length, are independent where they have separate bins.
        """
        raise NotImplementedError

    def mode(self, logits: Tensor) -> Tensor:
        """Turn logits (B, num_logits, h, w) into (B, 2, h, w) float32 px: the center of the most likely bin."""
        return self.dequantize(torch.stack([part.argmax(dim=1) for part in self.split_logits(logits)], dim=1))

    def split_logits(self, logits: Tensor) -> tuple[Tensor, ...]:
        """Split logits (B, num_logits, h, w) into one (B, K, h, w) view per group, in the order of `quantize`."""
        if logits.ndim != 4 or logits.shape[1] != self.num_logits:
            raise ValueError(f"logits must be (B, {self.num_logits}, h, w), got {tuple(logits.shape)}")
        return logits.split(self.groups, dim=1)


@dataclass(frozen=True)
class FlowQuantizer(_Quantizer):
    """Classify x and y separately: the paper's choice.

    Args:
        num_bins: K, bins for each of x and y.
        max_flow_px: the bins span -max_flow_px to max_flow_px.
        spacing: "linear": all bins 2 * max_flow_px / K wide. "quadratic": edges at max_flow_px * s * |s| for s evenly
            spaced in [-1, 1], so bins are fine near zero and wide far out.

    Raises:
        ValueError: num_bins below 1, max_flow_px not positive and finite, or another spacing.

    Source: Zhan et al., CVPR 2019: K = 99, 50 px, linear. The largest flow it can return is 49.49 px.
    """

    num_bins: int = 99
    max_flow_px: float = 50.0
    spacing: str = "linear"

    def __post_init__(self):
        _check_bins("num_bins", self.num_bins)
        _check_range(self.max_flow_px, self.spacing)

    @property
    def groups(self) -> tuple[int, int]:
        return self.num_bins, self.num_bins

    @property
    def edges(self) -> Tensor:
        """(K + 1,) float32 px: bin i is [edges[i], edges[i + 1]), but float rounding decides exactly on an edge."""
        return torch.from_numpy(_edges(self.num_bins, -self.max_flow_px, self.max_flow_px, self.spacing)).float()

    @property
    def centers(self) -> Tensor:
        """(K,) float32 px, halfway between the edges."""
        return _centers(self.num_bins, -self.max_flow_px, self.max_flow_px, self.spacing)

    def quantize(self, flow: Tensor) -> Tensor:
        check_flow_batch(flow)
        return _bins(flow.float(), self.num_bins, -self.max_flow_px, self.max_flow_px, self.spacing)

    def dequantize(self, bins: Tensor) -> Tensor:
        _check_bin_map(bins, 2)
        return self.centers.to(bins.device)[bins.long()]

    def expectation(self, logits: Tensor) -> Tensor:
        x, y = (_softmax(part) for part in self.split_logits(logits))
        return torch.stack((_mean(x, self.centers), _mean(y, self.centers)), dim=1)

    def share_beyond(self, logits: Tensor, length_px: float) -> Tensor:
        x, y = (_softmax(part) for part in self.split_logits(logits))
        squared, limit = self.centers.to(x.device).double().square(), _squared_length(length_px)
        inside = torch.zeros_like(x[:, 0])
        # Bins of x in which short vectors exist, each with the bins of y that complete it; others are not needed.
        for bin_x in torch.nonzero(squared <= limit).flatten().tolist():
            bins_y = torch.nonzero(squared[bin_x] + squared <= limit).flatten()
            inside += x[:, bin_x] * y[:, bins_y].sum(dim=1)
        return (1 - inside).clamp(0, 1).unsqueeze(1)


@dataclass(frozen=True)
class JointFlowQuantizer(_Quantizer):
    """Classify x and y together: num_bins**2 classes, class = bin of x * num_bins + bin of y.

    Args:
        num_bins: bins along each axis.
        max_flow_px, spacing: as for `FlowQuantizer`.

    Source: the joint criterion in Zhan et al.'s code, with its defaults.
    """

    num_bins: int = 19
    max_flow_px: float = 47.5
    spacing: str = "linear"

    def __post_init__(self):
        self._axis  # noqa: B018  the checks of FlowQuantizer

    @property
    def _axis(self) -> FlowQuantizer:
        return FlowQuantizer(self.num_bins, self.max_flow_px, self.spacing)

    @property
    def groups(self) -> tuple[int]:
        return (self.num_bins**2,)

    @property
    def centers(self) -> Tensor:
        """(num_bins**2, 2) float32 px (x, y)."""
        return torch.cartesian_prod(self._axis.centers, self._axis.centers)

    def quantize(self, flow: Tensor) -> Tensor:
        x, y = self._axis.quantize(flow).split(1, dim=1)
        return x * self.num_bins + y

    def dequantize(self, bins: Tensor) -> Tensor:
        _check_bin_map(bins, 1)
        bins = bins.long()
        return self._axis.dequantize(torch.cat((bins // self.num_bins, bins % self.num_bins), dim=1))

    def expectation(self, logits: Tensor) -> Tensor:
        both = _softmax(*self.split_logits(logits)).unflatten(1, (self.num_bins, self.num_bins))  # (B, x, y, h, w)
        centers = self._axis.centers
        return torch.stack((_mean(both.sum(dim=2), centers), _mean(both.sum(dim=1), centers)), dim=1)

    def share_beyond(self, logits: Tensor, length_px: float) -> Tensor:
        beyond = self.centers.double().square().sum(dim=1) > _squared_length(length_px)
        return _mean(_softmax(*self.split_logits(logits)), beyond.float()).unsqueeze(1)


@dataclass(frozen=True)
class PolarFlowQuantizer(_Quantizer):
    """Classify direction and length separately.

    Bins of direction start at straight up and go clockwise as seen. A pixel that does not move counts as pointing
    right.

    Args:
        num_angles: bins of direction, each 360 / num_angles degrees.
        num_radii: bins of length from 0 to max_flow_px.
        max_flow_px: longer vectors get the last bin.
        spacing: of the lengths: "linear", or "quadratic": edges at max_flow_px * (i / num_radii)**2.

    Raises:
        ValueError: a count below 1, max_flow_px not positive and finite, or another spacing.

    Source: the polar criterion in Zhan et al.'s code, with its defaults. Decoding is ours: the mean length times the
    mean unit vector.
    """

    num_angles: int = 30
    num_radii: int = 20
    max_flow_px: float = 50.0
    spacing: str = "linear"

    def __post_init__(self):
        _check_bins("num_angles", self.num_angles)
        _check_bins("num_radii", self.num_radii)
        _check_range(self.max_flow_px, self.spacing)

    @property
    def groups(self) -> tuple[int, int]:
        return self.num_angles, self.num_radii

    @property
    def centers(self) -> tuple[Tensor, Tensor]:
        """(num_angles,) float32 radians, clockwise as seen from straight up, and (num_radii,) float32 px."""
        angles = _centers(self.num_angles, 0.0, 2 * math.pi, "linear")
        return angles, _centers(self.num_radii, 0.0, self.max_flow_px, self.spacing)

    def quantize(self, flow: Tensor) -> Tensor:
        check_flow_batch(flow)
        x, y = flow.float().unbind(dim=1)
        # Zhan et al. add 1e-8 against 0 / 0; it makes a pixel that does not move point right.
        angle = torch.atan2(x + 1e-8, -y)
        angle = torch.where(angle < 0, angle + 2 * math.pi, angle)
        angles = _bins(angle, self.num_angles, 0.0, 2 * math.pi, "linear")
        radii = _bins(torch.hypot(x, y), self.num_radii, 0.0, self.max_flow_px, self.spacing)
        return torch.stack((angles, radii), dim=1)

    def dequantize(self, bins: Tensor) -> Tensor:
        _check_bin_map(bins, 2)
        angles, radii = (centers.to(bins.device) for centers in self.centers)
        angle, radius = angles[bins[:, 0].long()], radii[bins[:, 1].long()]
        return torch.stack((radius * angle.sin(), -radius * angle.cos()), dim=1)

    def expectation(self, logits: Tensor) -> Tensor:
        angle, radius = (_softmax(part) for part in self.split_logits(logits))
        angles, radii = self.centers
        direction = torch.stack((_mean(angle, angles.sin()), -_mean(angle, angles.cos())), dim=1)
        return direction * _mean(radius, radii).unsqueeze(1)

    def share_beyond(self, logits: Tensor, length_px: float) -> Tensor:
        _, radius = self.split_logits(logits)
        beyond = self.centers[1].double().square() > _squared_length(length_px)
        return _mean(_softmax(radius), beyond.float()).unsqueeze(1)


def _bins(values: Tensor, num_bins: int, low: float, high: float, spacing: str) -> Tensor:
    """Find the int64 bins of float32 values, by equal steps of the value or of its signed root; the same shape."""
    values = values.clamp(low, high)
    if spacing == "quadratic":
        values = values.sign() * (values.abs() * high).sqrt()
    # A tensor on purpose: CUDA multiplies by the reciprocal of a plain number, which would move edges between devices.
    width = torch.full((), (high - low) / num_bins, dtype=values.dtype, device=values.device)
    return (
        ((values - low) / width).floor().long().clamp(0, num_bins - 1)
    )  # the INTEGER is clamped: the top edge belongs to a bin that does not exist


def _edges(num_bins: int, low: float, high: float, spacing: str) -> np.ndarray:
    steps = np.linspace(low, high, num_bins + 1)
    return steps * np.abs(steps) / high if spacing == "quadratic" else steps


def _centers(num_bins: int, low: float, high: float, spacing: str) -> Tensor:
    edges = _edges(num_bins, low, high, spacing)
    return torch.from_numpy((edges[1:] + edges[:-1]) / 2).float()


def _softmax(logits: Tensor) -> Tensor:
    return logits.float().softmax(dim=1)


def _mean(probabilities: Tensor, centers: Tensor) -> Tensor:
    """The mean of centers (K,) under probabilities (B, K, h, w): (B, h, w).

    It is not a matrix product, because autocast and TF32 would round the centers.
    """
    return (probabilities * centers.to(probabilities.device)[:, None, None]).sum(dim=1)


def _squared_length(length_px: float) -> float:
    if not (math.isfinite(length_px) and length_px >= 0):
        raise ValueError(f"length_px must be at least 0 and finite, got {length_px!r}")
    return length_px**2


def _check_bin_map(bins: Tensor, channels: int) -> None:
    if bins.ndim != 4 or bins.shape[1] != channels or bins.is_floating_point():
        raise ValueError(f"bins must be (B, {channels}, H, W) integers, got {bins.dtype} {tuple(bins.shape)}")


def _check_bins(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")


def _check_range(max_flow_px: float, spacing: str) -> None:
    if not (math.isfinite(max_flow_px) and max_flow_px > 0):
        raise ValueError(f"max_flow_px must be positive and finite, got {max_flow_px!r}")
    if spacing not in SPACINGS:
        raise ValueError(f"spacing must be one of {SPACINGS}, got {spacing!r}")
