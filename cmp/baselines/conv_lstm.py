"""Convolutional LSTM cell: its states are feature maps and its matrix products are convolutions."""

import torch
from torch import nn


class ConvLSTMCell(nn.Module):
    """Computes one step of a convolutional LSTM without peepholes; the map keeps its size.

    Args:
        in_channels, hidden_channels: channels of the input and of the states.
        kernel: side of the convolution over the input, px, odd.
        recurrent_kernel: side of the convolution over the hidden state, px, odd; None takes `kernel`.
        forget_bias: initial bias of the forget gate.

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
        # The order of the gates is input, forget, output, candidate.
        self.input = nn.Conv2d(in_channels, 4 * hidden_channels, kernel, padding=kernel // 2)
        self.recurrent = nn.Conv2d(
            hidden_channels, 4 * hidden_channels, recurrent_kernel, padding=recurrent_kernel // 2, bias=False
        )
        nn.init.zeros_(self.input.bias)
        nn.init.constant_(self.input.bias[hidden_channels : 2 * hidden_channels], forget_bias)

    def forward(
        self, x: torch.Tensor, state: tuple[torch.Tensor, torch.Tensor] | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Process one input map.

        Args:
            x: (B, in_channels, H, W).
            state: hidden and cell state after the previous step, (B, hidden_channels, H, W) each; None means zeros.

        Returns:
            The new hidden and cell state, (B, hidden_channels, H, W) each.
        """
        gates = self.input(x)
        if state is not None:
            gates = gates + self.recurrent(state[0])
        enter, forget, leave, candidate = gates.chunk(4, dim=1)
        cell = enter.sigmoid() * candidate.tanh()
        if state is not None:
            cell = cell + forget.sigmoid() * state[1]
        return leave.sigmoid() * cell.tanh(), cell
