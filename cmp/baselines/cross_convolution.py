"""Convolution of each sample's maps with kernels predicted for that sample."""

import torch
import torch.nn.functional as F


def cross_convolve(maps: torch.Tensor, kernels: torch.Tensor) -> torch.Tensor:
    """Convolve channel c of sample n with kernel c of sample n, in one grouped convolution.

    Args:
        maps: (B, C, H, W).
        kernels: (B, C, k, k), k odd.

    Returns:
        (B, C, H, W): correlations, as in all convolution layers, with zeros outside the map. Samples and channels do
        not mix.

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
