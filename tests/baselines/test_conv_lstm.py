import pytest
import torch
import torch.nn.functional as F

from cmp.baselines.conv_lstm import ConvLSTMCell


def transcribed(cell, x, hidden, memory):
    """The published equations with each gate's own weights, written out."""
    wx, bx, wh = cell.input.weight.chunk(4), cell.input.bias.chunk(4), cell.recurrent.weight.chunk(4)

    def gate(k):
        return F.conv2d(x, wx[k], bx[k], padding=1) + F.conv2d(hidden, wh[k], padding=2)

    i, f, o = (torch.sigmoid(gate(k)) for k in range(3))
    memory = f * memory + i * torch.tanh(gate(3))
    return o * torch.tanh(memory), memory


def test_two_steps_equal_the_published_equations():
    torch.manual_seed(0)
    cell = ConvLSTMCell(3, 4, kernel=3, recurrent_kernel=5, forget_bias=1.0).double()
    state = expected = None
    for _ in range(2):
        x = torch.randn(2, 3, 5, 7, dtype=torch.float64)
        zero = torch.zeros(2, 4, 5, 7, dtype=torch.float64)
        expected = transcribed(cell, x, *(expected or (zero, zero)))
        state = cell(x, state)
        for value, target in zip(state, expected):
            torch.testing.assert_close(value, target)


def test_only_the_forget_gates_bias_starts_at_its_value():
    bias = ConvLSTMCell(3, 4, forget_bias=1.5).input.bias
    assert bias.tolist() == [0.0] * 4 + [1.5] * 4 + [0.0] * 8


def test_every_parameter_gets_a_gradient():
    cell = ConvLSTMCell(2, 3, kernel=3)
    state = None
    for _ in range(2):
        state = cell(torch.randn(1, 2, 4, 6), state)
    state[0].square().sum().backward()
    assert all(p.grad.any() for p in cell.parameters())


def test_an_even_kernel_is_refused():
    with pytest.raises(ValueError, match="kernels must be odd.*4"):
        ConvLSTMCell(2, 3, kernel=3, recurrent_kernel=4)
