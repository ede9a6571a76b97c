"""A long short-term memory whose state is a map and whose products are convolutions."""

import torch
from torch import nn


class ConvLSTMCell(nn.Module):
    """One step of a convolutional LSTM, without peepholes; the map keeps its size.

    Args:
        in_channels, hidden_channels: of what it reads, and of its state.
        kernel: side of the convolution over the input, px, odd.
        recurrent_kernel: of the one over the hidden state; None is the same.
        forget_bias: start of the forget gate's bias.

    Raises:
        ValueError: a kernel is even.

    Source: Shi et al., "Convolutional LSTM Network", NIPS 2015, eq. 3, without its peephole terms.
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        kernel: int = 5,
        recurrent_kernel: int | None = None,
        forget_bias: float = 0.0,
    ) -> None:
        super().__init__()
        recurrent_kernel = recurrent_kernel or kernel
        if kernel % 2 == 0 or recurrent_kernel % 2 == 0:
            raise ValueError(f"kernels must be odd to keep the map's size, got {kernel} and {recurrent_kernel}")
        self.hidden_channels = hidden_channels
        # Gates stand in the order input, forget, output, candidate.
        self.input = nn.Conv2d(in_channels, 4 * hidden_channels, kernel, padding=kernel // 2)
        self.recurrent = nn.Conv2d(
            hidden_channels, 4 * hidden_channels, recurrent_kernel, padding=recurrent_kernel // 2, bias=False
        )
        nn.init.zeros_(self.input.bias)
        nn.init.constant_(self.input.bias[hidden_channels : 2 * hidden_channels], forget_bias)

    def forward(
        self, x: torch.Tensor, state: tuple[torch.Tensor, torch.Tensor] | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Read one map.

        Args:
            x: (B, in_channels, H, W).
            state: hidden and cell state of the step before, (B, hidden_channels, H, W) each; None is zero.

        Returns:
            The new hidden and cell state.
        """
        gates = self.input(x)
        if state is not None:
            gates = gates + self.recurrent(state[0])
        enter, forget, leave, candidate = gates.chunk(4, dim=1)
        cell = enter.sigmoid() * candidate.tanh()
        if state is not None:
            cell = cell + forget.sigmoid() * state[1]
        return leave.sigmoid() * cell.tanh(), cell
