"""Convolutions whose output at a pixel depends only on earlier pixels in reading order, and units made of them.

Within a pixel the colors have an order, too: R, G, B. Channels are therefore divided into as many groups as there are
colors, in this order, with sizes as equal as possible.

Legend: B batch, H W pixels.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn


class MaskedConv2d(nn.Conv2d):
    """Convolution that keeps the map's size, masked or not.

    Args:
        in_channels, out_channels: at least one per color, and in the output per color and gate.
        kernel: side, px, odd.
        mask: "A": the output depends on the pixels before, and on the earlier colors of the same pixel; "B": also on
            the same color of the same pixel; None: on everything.
        colors: number of channel groups, in the input and in each gate.
        gates: number of equal parts of the output, each of which has all colors.
        dilation: distance between the kernel's weights, px.

    Raises:
        ValueError: the kernel is even, the mask is unknown, or there are too few channels.

    Source: van den Oord et al., "Pixel recurrent neural networks", ICML 2016, section 3.4.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        mask: str | None = None,
        colors: int = 1,
        gates: int = 1,
        dilation: int = 1,
    ) -> None:
        if kernel % 2 == 0:
            raise ValueError(f"kernel must be odd, got {kernel}")
        if mask not in ("A", "B", None):
            raise ValueError(f"mask must be 'A', 'B' or None, got {mask!r}")
        if in_channels < colors or out_channels % gates or out_channels // gates < colors:
            raise ValueError(
                f"want at least a channel per color and gate, got {in_channels} to {out_channels} channels "
                f"for {colors} colors, {gates} gates in the output"
            )
        super().__init__(in_channels, out_channels, kernel, padding=dilation * (kernel // 2), dilation=dilation)
        weight_mask = torch.ones(self.weight.shape)
        if mask is not None:
            middle = kernel // 2
            weight_mask[:, :, middle + 1 :] = 0
            weight_mask[:, :, middle, middle + 1 :] = 0
            entering = _color_of(in_channels, colors)
            leaving = _color_of(out_channels // gates, colors).repeat(gates)[:, None]
            weight_mask[:, :, middle, middle] = (entering < leaving if mask == "A" else entering <= leaving).float()
        self.register_buffer("weight_mask", weight_mask, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute (B, out_channels, H, W) from (B, in_channels, H, W)."""
        return F.conv2d(x, self.weight * self.weight_mask, self.bias, padding=self.padding, dilation=self.dilation)


def _color_of(channels: int, colors: int) -> torch.Tensor:
    """Return the color that each channel belongs to, (channels,) int64, ascending."""
    return torch.arange(channels) * colors // channels


# How a layer is applied: to the whole map, or at one pixel during sampling (`pixel_decoder.PixelCache`).
Convolve = Callable[[MaskedConv2d, torch.Tensor], torch.Tensor]


def whole_map(layer: MaskedConv2d, x: torch.Tensor) -> torch.Tensor:
    """Apply the layer to the whole map."""
    return layer(x)


class MultiplicativeUnit(nn.Module):
    """Three gates and an update, as in an LSTM, computed by one 3 x 3 convolution.

    Args:
        channels: of input and output.
        mask, colors, dilation: of the convolution.

    Source: Kalchbrenner et al., "Video pixel networks", ICML 2017, eq. 4.
    """

    def __init__(self, channels: int, *, mask: str | None = None, colors: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.gates = MaskedConv2d(
            channels, 4 * channels, 3, mask=mask, colors=colors, gates=4, dilation=dilation
        )  # three gates, then the update

    def forward(self, h: torch.Tensor, convolve: Convolve = whole_map) -> torch.Tensor:
        """Compute (B, channels, H, W) from h (B, channels, H, W)."""
        first, second, third, update = convolve(self.gates, h).chunk(4, dim=1)
        return first.sigmoid() * (second.sigmoid() * h + third.sigmoid() * update.tanh()).tanh()


class ResidualMultiplicativeBlock(nn.Module):
    """Two multiplicative units at half the width, with a residual connection around them.

    Args:
        channels: of the units; the block's input and output have twice as many.
        mask, colors, dilation: of its convolutions.

    Source: Kalchbrenner et al., ICML 2017, figure 3.
    """

    def __init__(self, channels: int, *, mask: str | None = None, colors: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.narrow = MaskedConv2d(2 * channels, channels, 1, mask=mask, colors=colors)
        self.units = nn.ModuleList(
            MultiplicativeUnit(channels, mask=mask, colors=colors, dilation=dilation) for _ in range(2)
        )
        self.widen = MaskedConv2d(channels, 2 * channels, 1, mask=mask, colors=colors)

    def forward(self, x: torch.Tensor, convolve: Convolve = whole_map) -> torch.Tensor:
        """Compute (B, 2 channels, H, W) from x (B, 2 channels, H, W)."""
        h = convolve(self.narrow, x)
        for unit in self.units:
            h = unit(h, convolve)
        return x + convolve(self.widen, h)
