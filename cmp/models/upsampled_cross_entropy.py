"""Cross-entropy of bilinearly upsampled logits, without the upsampled logits.

Upsampling commutes with neither softmax nor logarithm, so every pixel needs its own softmax over all bins: at full size
198 numbers per pixel, 446 MiB for 4 crops of 384. But upsampling is linear and separable: two matrices, one along y and
one along x, and their transposes for the gradient. So the image is processed in bands of rows. A band is upsampled by
two matrix products, adds its part of the value and of the gradient, and is dropped.

Legend: B batch, L logits, G softmax groups, K bins of a group, H W target pixels, h w cells, R rows of a band.
"""

import contextlib
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F

from cmp.torch_versions import never_compile

IGNORED = -100  # what torch's cross-entropy skips
# How many upsampled logits are in memory at once: as many as fit into caches; on a GPU enough to keep it busy.
BAND_NUMBERS = {"cpu": 1 << 20, "other": 1 << 24}

Sums = tuple[torch.Tensor, torch.Tensor]


def plain_cross_entropy(
    logits: torch.Tensor,
    flow: torch.Tensor,
    known: torch.Tensor | None,
    quantizer,
    bin_weights: Sequence[torch.Tensor],
) -> Sums:
    """The same as `banded_cross_entropy`, directly: all logits at full size, kept for the backward pass."""
    if known is not None:
        flow = torch.where(known, flow, 0)
    bins = quantizer.quantize(flow)  # (B, G, H, W)
    if known is not None:
        bins = torch.where(known, bins, IGNORED)
    entropies, weights = [], []
    for i, part in enumerate(logits.split(tuple(quantizer.groups), dim=1)):
        upsampled = _at_least_float32(part)
        if upsampled.shape[2:] != flow.shape[2:]:
            upsampled = F.interpolate(upsampled, size=flow.shape[2:], mode="bilinear", align_corners=True)
        bin_weight = bin_weights[i].to(upsampled.dtype)
        entropies.append(F.cross_entropy(upsampled, bins[:, i], bin_weight, ignore_index=IGNORED, reduction="sum"))
        weights.append(torch.where(bins[:, i] == IGNORED, 0, bin_weight[bins[:, i].clamp(min=0)]).sum())
    return torch.stack(entropies), torch.stack(weights)


@never_compile  # a compiler would unroll the loop over bands
def banded_cross_entropy(
    logits: torch.Tensor,
    flow: torch.Tensor,
    known: torch.Tensor | None,
    quantizer,
    bin_weights: Sequence[torch.Tensor],
) -> Sums:
    """Cross-entropy of upsampled logits against quantized flow, summed over pixels, for each group.

    Memory beyond inputs and gradient is one band of rows, for any H. All numbers are float32 (float64 for float64
    logits), whatever autocast and the precision of matrix products are set to. Differentiable once, in the logits.
    A logit of -inf gives NaN, as it does in the plain form, but here also where H x W is h x w.

    Args:
        logits: (B, L, h, w); upsampled to H x W, corners aligned.
        flow: (B, 2, H, W), px.
        known: (B, 1, H, W) bool, pixels that count; None for all.
        quantizer: gives the groups, and bins for flow (`cmp.flow.FlowQuantizer` and similar).
        bin_weights: for each group (K,) weights; a pixel has the weight of its bin.

    Returns:
        (G,) weighted sums of the cross-entropy, and (G,) sums of the weights: their quotient is the mean.

    Source: ours; the value is that of Zhan et al., CVPR 2019.
    """
    return _BandedCrossEntropy.apply(logits, flow, known, quantizer, tuple(bin_weights))


class _BandedCrossEntropy(torch.autograd.Function):
    """Computes the gradient in the forward pass, where the softmax is known; the backward pass only scales it."""

    @staticmethod
    def forward(ctx, logits, flow, known, quantizer, bin_weights):
        with torch.autocast(logits.device.type, enabled=False), _full_precision():
            entropies, weights, gradient = _walk_bands(
                logits, flow, known, quantizer, bin_weights, ctx.needs_input_grad[0]
            )
        ctx.groups = tuple(quantizer.groups)
        ctx.save_for_backward(gradient)
        ctx.mark_non_differentiable(weights)
        return entropies, weights

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_entropies, _):
        (gradient,) = ctx.saved_tensors
        scales = grad_entropies.repeat_interleave(torch.tensor(ctx.groups, device=gradient.device))
        return gradient * scales[:, None, None], None, None, None, None  # autograd rounds it to the logits' type


def _walk_bands(
    logits: torch.Tensor,
    flow: torch.Tensor,
    known: torch.Tensor | None,
    quantizer,
    bin_weights: Sequence[torch.Tensor],
    with_gradient: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Sums of the cross-entropy and of the weights (G,), and the former's gradient (B, L, h, w)."""
    logits = _at_least_float32(logits)
    (batch, channels, h, w), (height, width) = logits.shape, flow.shape[2:]
    along_y, along_x = _upsampling(h, height, logits), _upsampling(w, width, logits)  # (H, h), (W, w)
    cells = logits.transpose(1, 2).contiguous()  # (B, h, L, w): rows of cells lie together
    gradient = torch.zeros_like(cells) if with_gradient else None
    bin_weights = [weights.to(logits.dtype) for weights in bin_weights]
    entropies, weights = logits.new_zeros(2, len(bin_weights))

    numbers = BAND_NUMBERS["cpu" if logits.device.type == "cpu" else "other"]
    rows = max(1, numbers // max(batch * channels * width, 1))
    for top in range(0, height, rows):
        band = slice(top, min(top + rows, height))
        near = _cells_of_rows(band, h, height)
        matrix = along_y[band, near]  # (R, n)
        upsampled = matrix @ cells[:, near].flatten(2)  # (B, R, L * w)
        upsampled = (upsampled.view(-1, w) @ along_x.T).view(-1, channels, width)  # (B * R, L, W)

        bins = quantizer.quantize(flow[:, :, band]).transpose(1, 2).flatten(0, 1)  # (B * R, G, W)
        counts = None if known is None else known[:, :, band].transpose(1, 2).flatten(0, 1)  # (B * R, 1, W)
        for i, part in enumerate(upsampled.split(tuple(quantizer.groups), dim=1)):  # (B * R, K, W)
            target = bins[:, i : i + 1]
            weight = bin_weights[i][target]
            if counts is not None:
                weight = weight * counts
            # -log softmax at the target, and in place of the logits its gradient, (softmax - one-hot) * weight
            part -= part.amax(dim=1, keepdim=True)
            at_target = part.gather(1, target)
            total = part.exp_().sum(dim=1, keepdim=True)
            entropies[i] += ((total.log() - at_target) * weight).sum()
            weights[i] += weight.sum()
            if with_gradient:
                part *= weight / total
                part.scatter_add_(1, target, -weight)

        if gradient is not None:
            back = (upsampled.view(-1, width) @ along_x).view(batch, len(matrix), channels * w)
            gradient[:, near] += (matrix.T @ back).view_as(gradient[:, near])
    return entropies, weights, None if gradient is None else gradient.transpose(1, 2)


def _upsampling(cells: int, pixels: int, like: torch.Tensor) -> torch.Tensor:
    """The (pixels, cells) matrix of linear upsampling with aligned corners, as torch rounds it: what it does to 1s."""
    ones = torch.eye(cells, dtype=like.dtype, device=like.device)
    return F.interpolate(ones[None], size=pixels, mode="linear", align_corners=True)[0].T.contiguous()


def _cells_of_rows(band: slice, cells: int, pixels: int) -> slice:
    """The cells that a band of rows is interpolated from, and one more at each end, since torch rounds positions."""
    first, last = (row * (cells - 1) // max(pixels - 1, 1) for row in (band.start, band.stop - 1))
    return slice(max(first - 1, 0), min(last + 3, cells))


def _at_least_float32(logits: torch.Tensor) -> torch.Tensor:
    # A sum over pixels would leave the range of half precision.
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


@contextlib.contextmanager
def _full_precision() -> Iterator[None]:
    """Matrix products of float32 in float32: TF32 and bfloat16 would round the logits to 10 or 7 bits."""
    settings = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)
    before = [setting.fp32_precision for setting in settings]
    try:
        for setting in settings:
            setting.fp32_precision = "ieee"
        yield
    finally:
        for setting, precision in zip(settings, before):
            setting.fp32_precision = precision
