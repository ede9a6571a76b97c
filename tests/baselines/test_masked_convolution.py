import pytest
import torch

from cmp.baselines.masked_convolution import MaskedConv2d, MultiplicativeUnit, ResidualMultiplicativeBlock


def by_loop(layer, x, mask, colors, gates):
    """A masked convolution, weight by weight."""
    kernel, dilation = layer.kernel_size[0], layer.dilation[0]
    batch, entering, height, width = x.shape
    leaving = layer.out_channels
    out = layer.bias[None, :, None, None].expand(batch, leaving, height, width).clone()
    for o in range(leaving):
        part = leaving // gates
        color = (o % part) * colors // part
        for i in range(entering):
            for dy in range(-(kernel // 2), kernel // 2 + 1):
                for dx in range(-(kernel // 2), kernel // 2 + 1):
                    other = i * colors // entering
                    before = dy < 0 or (dy == 0 and dx < 0)
                    own = (dy, dx) == (0, 0) and (other < color if mask == "A" else other <= color)
                    if mask is not None and not (before or own):
                        continue
                    weight = layer.weight[o, i, dy + kernel // 2, dx + kernel // 2]
                    for y in range(height):
                        for x_ in range(width):
                            v, u = y + dilation * dy, x_ + dilation * dx
                            if 0 <= v < height and 0 <= u < width:
                                out[:, o, y, x_] += weight * x[:, i, v, u]
    return out


@pytest.mark.parametrize("mask", ["A", "B", None])
@pytest.mark.parametrize(
    "entering, leaving, kernel, colors, gates, dilation",
    [(1, 2, 3, 1, 1, 1), (3, 8, 3, 3, 2, 1), (4, 4, 1, 3, 1, 1), (2, 4, 3, 2, 2, 2)],
)
def test_it_equals_a_loop_over_weights(mask, entering, leaving, kernel, colors, gates, dilation):
    torch.manual_seed(0)
    layer = MaskedConv2d(entering, leaving, kernel, mask=mask, colors=colors, gates=gates, dilation=dilation).double()
    with torch.no_grad():
        x = torch.randn(2, entering, 3, 4, dtype=torch.float64)
        torch.testing.assert_close(layer(x), by_loop(layer, x, mask, colors, gates))


def test_a_multiplicative_unit_equals_the_published_equations():
    torch.manual_seed(0)
    unit = MultiplicativeUnit(2)
    h = torch.randn(1, 2, 3, 4)
    w, b = unit.gates.weight.chunk(4), unit.gates.bias.chunk(4)
    first, second, third, update = (torch.conv2d(h, w[k], b[k], padding=1) for k in range(4))
    expected = torch.sigmoid(first) * torch.tanh(torch.sigmoid(second) * h + torch.sigmoid(third) * torch.tanh(update))
    torch.testing.assert_close(unit(h), expected)


def test_a_block_adds_its_input_and_every_parameter_gets_a_gradient():
    torch.manual_seed(0)
    block = ResidualMultiplicativeBlock(3, mask="B", colors=3)
    x = torch.randn(1, 6, 3, 4)
    block(x).square().sum().backward()
    assert all(p.grad.any() for p in block.parameters())
    with torch.no_grad():
        block.widen.weight.zero_(), block.widen.bias.zero_()
        assert torch.equal(block(x), x)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(in_channels=1, out_channels=1, kernel=2), "kernel must be odd, got 2"),
        (dict(in_channels=1, out_channels=1, kernel=3, mask="C"), "'A', 'B' or None, got 'C'"),
        (dict(in_channels=2, out_channels=3, kernel=3, colors=3), "got 2 to 3 channels for 3 colors"),
        (dict(in_channels=3, out_channels=5, kernel=3, colors=3, gates=2), "got 3 to 5 channels for 3 colors, 2 gates"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        MaskedConv2d(**arguments)
