"""Convolutions that see only what comes before a pixel in reading order, and the multiplicative units made of them.

Within a pixel, colours come one after another: R, G, B. So channels stand in as many groups as there are colours, in
this order and as equal as they can be.

Legend: B batch, H W pixels.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn


class MaskedConv2d(nn.Conv2d):
    """A convolution that keeps the map's size, masked or not.

    Args:
        in_channels, out_channels: at least one for each colour and gate.
        kernel: side, px, odd.
        mask: "A": a pixel sees the pixels before it, and of itself the colours before its own; "B": its own colour,
            too; None: everything.
        colours: groups of channels, in the input and in each gate.
        gates: equal parts of the output, each of which has all colours.
        dilation: between the kernel's weights, px.

    Raises:
        ValueError: the kernel is even, another mask, or there are too few channels.

    Source: van den Oord et al., "Pixel recurrent neural networks", ICML 2016, section 3.4.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        mask: str | None = None,
        colours: int = 1,
        gates: int = 1,
        dilation: int = 1,
    ) -> None:
        if kernel % 2 == 0:
            raise ValueError(f"kernel must be odd, got {kernel}")
        if mask not in ("A", "B", None):
            raise ValueError(f"mask must be 'A', 'B' or None, got {mask!r}")
        if in_channels < colours or out_channels % gates or out_channels // gates < colours:
            raise ValueError(
                f"{in_channels} to {out_channels} channels do not hold {colours} colours, {gates} times in the output"
            )
        super().__init__(in_channels, out_channels, kernel, padding=dilation * (kernel // 2), dilation=dilation)
        seen = torch.ones(self.weight.shape)
        if mask is not None:
            middle = kernel // 2
            seen[:, :, middle + 1 :] = 0
            seen[:, :, middle, middle + 1 :] = 0
            entering = _colour_of(in_channels, colours)
            leaving = _colour_of(out_channels // gates, colours).repeat(gates)[:, None]
            seen[:, :, middle, middle] = (entering < leaving if mask == "A" else entering <= leaving).float()
        self.register_buffer("seen", seen, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, out_channels, H, W) of (B, in_channels, H, W)."""
        return F.conv2d(x, self.weight * self.seen, self.bias, padding=self.padding, dilation=self.dilation)


def _colour_of(channels: int, colours: int) -> torch.Tensor:
    """Which colour each channel belongs to, (channels,) int64, rising."""
    return torch.arange(channels) * colours // channels


# How a layer is applied: to the whole map, or where a sampler stands on it (`pixel_decoder.PixelCache`).
Convolve = Callable[[MaskedConv2d, torch.Tensor], torch.Tensor]


def whole_map(layer: MaskedConv2d, x: torch.Tensor) -> torch.Tensor:
    """The layer applied to a map as it is."""
    return layer(x)


class MultiplicativeUnit(nn.Module):
    """Three gates and an update, as a long short-term memory has them, from one 3 x 3 convolution.

    Args:
        channels: of input and output.
        mask, colours, dilation: of the convolution.

    Source: Kalchbrenner et al., "Video pixel networks", ICML 2017, eq. 4.
    """

    def __init__(self, channels: int, *, mask: str | None = None, colours: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.gates = MaskedConv2d(
            channels, 4 * channels, 3, mask=mask, colours=colours, gates=4, dilation=dilation
        )  # three gates, then the update

    def forward(self, h: torch.Tensor, convolve: Convolve = whole_map) -> torch.Tensor:
        """(B, channels, H, W) of the same."""
        first, second, third, update = convolve(self.gates, h).chunk(4, dim=1)
        return first.sigmoid() * (second.sigmoid() * h + third.sigmoid() * update.tanh()).tanh()


class ResidualMultiplicativeBlock(nn.Module):
    """Two multiplicative units at half the width, and the input added to what they make.

    Args:
        channels: of the units; the block's input and output have twice as many.
        mask, colours, dilation: of its convolutions.

    Source: the same, figure 3.
    """

    def __init__(self, channels: int, *, mask: str | None = None, colours: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.narrow = MaskedConv2d(2 * channels, channels, 1, mask=mask, colours=colours)
        self.units = nn.ModuleList(
            MultiplicativeUnit(channels, mask=mask, colours=colours, dilation=dilation) for _ in range(2)
        )
        self.widen = MaskedConv2d(channels, 2 * channels, 1, mask=mask, colours=colours)

    def forward(self, x: torch.Tensor, convolve: Convolve = whole_map) -> torch.Tensor:
        """(B, 2 channels, H, W) of the same."""
        h = convolve(self.narrow, x)
        for unit in self.units:
            h = unit(h, convolve)
        return x + convolve(self.widen, h)
