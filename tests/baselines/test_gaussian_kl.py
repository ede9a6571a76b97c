import pytest
import torch

from cmp.baselines.gaussian_kl import gaussian_kl, gaussian_sample

MEAN = torch.tensor([[0.3, -1.2, 0.0], [2.0, 0.0, 0.5]], dtype=torch.float64)
LOG_VARIANCE = torch.tensor([[0.5, -1.0, 0.0], [-2.0, 1.0, 0.2]], dtype=torch.float64)


def test_the_closed_form_equals_torchs_own_and_is_zero_for_the_standard_one():
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(normal(MEAN, (0.5 * LOG_VARIANCE).exp()), normal(0.0, 1.0)).sum(1)
    torch.testing.assert_close(gaussian_kl(MEAN, LOG_VARIANCE), expected)
    assert gaussian_kl(torch.zeros(2, 3, 4), torch.zeros(2, 3, 4)).tolist() == [0, 0]


def test_the_closed_form_equals_the_mean_over_draws():
    draws = 200_000
    mean, log_variance = MEAN.expand(draws, 2, 3), LOG_VARIANCE.expand(draws, 2, 3)
    z = gaussian_sample(mean, log_variance, torch.Generator().manual_seed(0))
    standard, normal = (
        torch.distributions.Normal(0.0, 1.0),
        torch.distributions.Normal(mean, (0.5 * log_variance).exp()),
    )
    ratios = (normal.log_prob(z) - standard.log_prob(z)).sum(2)
    error = 5 * ratios.std(0) / draws**0.5
    assert ((ratios.mean(0) - gaussian_kl(MEAN, LOG_VARIANCE)).abs() < error).all() and (error < 0.05).all()


def test_draws_have_the_asked_mean_and_variance_and_pass_gradients_to_both():
    mean, log_variance = torch.tensor([1.5], requires_grad=True), torch.tensor([-1.0], requires_grad=True)
    z = gaussian_sample(mean.expand(100_000), log_variance.expand(100_000), torch.Generator().manual_seed(0))
    assert z.mean().item() == pytest.approx(1.5, abs=0.01) and z.var().item() == pytest.approx(0.3679, abs=0.01)
    z.square().mean().backward()  # of mean^2 + variance
    assert mean.grad.item() == pytest.approx(3.0, abs=0.02) and log_variance.grad.item() == pytest.approx(
        0.3679, abs=0.02
    )
