from math import exp

import pytest
import torch

from cmp.baselines.glimpse import gaussian_filters, window_from

HEIGHT, WIDTH = 5, 7


def numbers(seed=0, batch=3):
    return 0.5 * torch.randn(batch, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_loop(raw, size, height, width):
    """Filters and intensity of one image, as in the published equations."""
    x, y, log_variance, log_distance, log_intensity = raw.tolist()
    distance = (max(height, width) - 1) / (size - 1) * exp(log_distance)
    banks = []
    for length, center in ((height, (height + 1) / 2 * (y + 1)), (width, (width + 1) / 2 * (x + 1))):
        bank = torch.zeros(size, length, dtype=torch.float64)
        for i in range(1, size + 1):
            mean = center + (i - size / 2 - 0.5) * distance
            for a in range(1, length + 1):
                bank[i - 1, a - 1] = exp(-((a - mean) ** 2) / (2 * exp(log_variance)))
            bank[i - 1] /= max(bank[i - 1].sum().item(), 1e-8)
        banks.append(bank)
    return *banks, exp(log_intensity)


def test_filters_reading_and_writing_equal_loops_over_the_published_equations():
    raw, size = numbers(), 3
    window = window_from(raw, size, HEIGHT, WIDTH)
    image = torch.rand(3, 2, HEIGHT, WIDTH, dtype=torch.float64)
    patch = torch.rand(3, 2, size, size, dtype=torch.float64)
    seen, painted = window.read(image, size), window.write(patch, HEIGHT, WIDTH)
    for b in range(3):
        rows, columns, intensity = by_loop(raw[b], size, HEIGHT, WIDTH)
        for found, expected in zip(window.filters(size, HEIGHT, WIDTH), (rows, columns)):
            torch.testing.assert_close(found[b], expected)
        for c in range(2):
            for i in range(size):
                for j in range(size):
                    weights = rows[i][:, None] * columns[j][None]
                    torch.testing.assert_close(seen[b, c, i, j], intensity * (weights * image[b, c]).sum())
            expected = sum(
                patch[b, c, i, j] * rows[i][:, None] * columns[j][None] for i in range(size) for j in range(size)
            )
            torch.testing.assert_close(painted[b, c], expected / intensity)


def test_zeros_spread_the_filters_from_side_to_side_symmetrically():
    rows, columns = window_from(torch.zeros(1, 5), 3, 7, 7).filters(3, 7, 7)
    assert columns[0].argmax(dim=1).tolist() == [0, 3, 6] == rows[0].argmax(dim=1).tolist()
    torch.testing.assert_close(columns[0], columns[0].flip(0, 1))


@pytest.mark.parametrize("height, width", [(7, 5), (5, 7)])
def test_a_distance_of_1_spreads_the_filters_over_the_longer_side(height, width):
    assert window_from(torch.zeros(1, 5), 3, height, width).distance.item() == 3


def test_x_moves_the_window_along_columns_and_y_along_rows():
    raw = torch.tensor([[0.5, -0.4, -2.0, -2.0, 0.0]])
    rows, columns = window_from(raw, 2, 9, 11).filters(2, 9, 11)
    for filters, middle in ((rows, 3.0), (columns, 9.0)):  # pixels are counted from 1
        pixels = torch.arange(1.0, filters.shape[2] + 1)
        assert (filters[0].mean(dim=0) * pixels).sum().item() == pytest.approx(middle, abs=0.01)


def test_a_window_of_one_filter_sees_the_center_and_its_distance_gets_no_gradient():
    raw = torch.zeros(1, 5, dtype=torch.float64, requires_grad=True)
    window = window_from(raw, 1, HEIGHT, WIDTH)
    image = torch.zeros(1, 1, HEIGHT, WIDTH, dtype=torch.float64)
    image[0, 0, 2, 3] = 1
    seen = window.read(image, 1)
    assert seen.isfinite().all() and seen.item() == pytest.approx(
        1 / (1 + 2 * exp(-0.5) + 2 * exp(-2)) / (1 + 2 * exp(-0.5) + 2 * exp(-2) + 2 * exp(-4.5))
    )
    seen.sum().backward()
    assert raw.grad.isfinite().all() and raw.grad[0, 3] == 0


def test_a_window_far_outside_sees_nothing_and_has_finite_gradients():
    raw = torch.tensor([[50.0, -50.0, -3.0, 0.0, 0.0]], requires_grad=True)
    seen = window_from(raw, 3, HEIGHT, WIDTH).read(torch.ones(1, 1, HEIGHT, WIDTH), 3)
    seen.sum().backward()
    assert (seen == 0).all() and raw.grad.isfinite().all()


def test_a_center_between_pixels_shares_its_weight():
    half = torch.tensor([2.5])
    bank = gaussian_filters(half, torch.tensor([1.0]), torch.tensor([0.25]), 1, 4)
    assert bank[0, 0, 1] == bank[0, 0, 2] > 0.4


def test_a_window_without_filters_is_refused():
    with pytest.raises(ValueError, match="at least 1 filter per side, got 0"):
        window_from(torch.zeros(1, 5), 0, 3, 4)
