"""Convolution of each sample's maps with kernels that were predicted for that sample."""

import torch
import torch.nn.functional as F


def cross_convolve(maps: torch.Tensor, kernels: torch.Tensor) -> torch.Tensor:
    """Channel c of sample n by kernel c of sample n, for all at once; samples and channels do not mix.

    Args:
        maps: (B, C, H, W).
        kernels: (B, C, k, k), k odd.

    Returns:
        (B, C, H, W): correlations, as all convolutions of networks are, with zeros beyond the edge.

    Raises:
        ValueError: shapes do not fit, or k is even.

    Source: Xue et al., "Visual Dynamics", NIPS 2016, section 3.3.
    """
    batch, channels, height, width = maps.shape
    size = kernels.shape[-1]
    if kernels.shape != (batch, channels, size, size) or size % 2 == 0:
        raise ValueError(f"want kernels ({batch}, {channels}, k, k) with k odd, got {tuple(kernels.shape)}")
    groups = batch * channels
    out = F.conv2d(
        maps.reshape(1, groups, height, width), kernels.reshape(groups, 1, size, size), None, 1, size // 2, 1, groups
    )
    return out.view(batch, channels, height, width)
