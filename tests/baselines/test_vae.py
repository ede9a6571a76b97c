from math import log, pi

import pytest
import torch
from torch.distributions import Bernoulli, Normal, kl_divergence

from cmp.baselines.drawing.grid import image_grid
from cmp.baselines.vae import VAE

SHAPE = (1, 3, 4)


def images(seed=0):
    return (torch.rand(5, *SHAPE, generator=torch.Generator().manual_seed(seed)) > 0.5).float()


def small(**arguments):
    torch.manual_seed(0)
    return VAE(SHAPE, **{"latent": 2, "hidden": 8, "init_std": 0.5, **arguments})


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_the_bound_is_below_the_likelihood_that_numbers_drawn_from_the_prior_give(likelihood):
    model, image = small(likelihood=likelihood).double(), images().double()
    with torch.no_grad():
        z = torch.randn(100_000, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        decoded = model.decoder(z)
        if likelihood == "bernoulli":
            p = decoded.sigmoid()
            log_p = [(x * p.log() + (1 - x) * (1 - p).log()).sum(1) for x in image.flatten(1)]
        else:
            mean, variance = decoded[:, :12].sigmoid(), decoded[:, 12:].exp()
            log_p = [(-0.5 * ((x - mean) ** 2 / variance + (2 * pi * variance).log())).sum(1) for x in image.flatten(1)]
        truth = torch.stack(log_p).logsumexp(1) - log(len(z))
        torch.manual_seed(0)
        bound = torch.stack([model.measure(image)["elbo"] for _ in range(3000)]).mean(0)
        assert (bound < truth + 0.05).all() and (bound > truth - 8).all()


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_the_importance_bound_rises_with_its_draws_from_the_other_bound_to_the_likelihood(likelihood):
    model, image = small(likelihood=likelihood).double(), images().double()
    with torch.no_grad():
        z = torch.randn(100_000, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        decoded = model.decoder(z)
        log_p = [-model._reconstruction_error(decoded, x.expand(len(z), 12)) for x in image.flatten(1)]
        truth = torch.stack(log_p).logsumexp(1) - log(len(z))
        torch.manual_seed(0)
        many = image.repeat_interleave(1500, dim=0)
        one, ten = (model.importance_bound(many, draws).unflatten(0, (5, 1500)).mean(1) for draws in (1, 10))
        bound = model.measure(many)["elbo"].unflatten(0, (5, 1500)).mean(1)
        torch.testing.assert_close(one, bound, atol=0.2, rtol=0)
        assert (ten > one + 0.1).all() and (ten < truth + 0.02).all()
        torch.testing.assert_close(model.importance_bound(image, 8_000), truth, atol=0.1, rtol=0)


def test_the_importance_bound_is_measured_where_it_is_asked_for_and_named_with_its_draws():
    assert set(small().measure(images())) == {"elbo", "kl"}
    assert set(small(importance_draws=3).measure(images())) == {"elbo", "kl", "importance_bound_3"}


def test_noise_of_one_level_spreads_gray_levels_over_0_to_1_without_gaps():
    levels = torch.tensor([0.0, 0.5, 1.0]).view(1, 1, 3, 1).expand(2000, 1, 3, 4)
    noisy = small(gray_levels=3)._with_noise(levels)
    for row, (least, most) in enumerate(((0, 1 / 3), (1 / 3, 2 / 3), (2 / 3, 1))):
        values = noisy[:, 0, row]
        assert values.min().item() == pytest.approx(least, abs=0.001)
        assert values.max().item() == pytest.approx(most, abs=0.001)
    assert torch.equal(small()._with_noise(levels), levels)


def test_the_reconstruction_term_is_minus_the_log_of_the_pixels_probability():
    model, image = small(), images()
    decoded = torch.randn(5, 12)
    p = decoded.sigmoid()
    expected = -torch.where(image.flatten(1) > 0, p, 1 - p).log().sum(1)
    torch.testing.assert_close(model._reconstruction_error(decoded, image.flatten(1)), expected)


@pytest.mark.parametrize("likelihood, gray_levels", [("bernoulli", None), ("gaussian", 4)])
def test_loss_and_measures_are_of_the_image_with_its_noise_under_the_same_draws(likelihood, gray_levels):
    model, image = small(likelihood=likelihood, gray_levels=gray_levels, importance_draws=1), images()

    def from_seed(function):
        torch.manual_seed(1)
        return function()

    def transcription():
        seen = image if gray_levels is None else (3 * image + torch.rand(image.shape)) / 4
        mean, log_variance = model.encoder(seen.flatten(1)).chunk(2, dim=1)
        posterior, prior = Normal(mean, (log_variance / 2).exp()), Normal(0.0, 1.0)
        z = mean + (log_variance / 2).exp() * torch.randn(5, 2)
        out = model.decoder(z)
        pixels = (
            Bernoulli(logits=out)
            if likelihood == "bernoulli"
            else Normal(out[:, :12].sigmoid(), (out[:, 12:] / 2).exp())
        )
        log_p = pixels.log_prob(seen.flatten(1)).sum(1)
        weight = (prior.log_prob(z) - posterior.log_prob(z)).sum(1)
        return log_p, kl_divergence(posterior, prior).sum(1), weight, pixels.mean, z

    log_p, kl, weight, mean, z = from_seed(transcription)
    losses, measures = from_seed(lambda: model(image=image, mode="loss")), from_seed(lambda: model.measure(image))
    torch.testing.assert_close(losses["loss"], (kl - log_p).mean())
    torch.testing.assert_close(losses["reconstruction"], -log_p.mean())
    torch.testing.assert_close(losses["kl"], kl.mean())
    torch.testing.assert_close(measures["elbo"], log_p - kl)
    torch.testing.assert_close(from_seed(lambda: model.importance_bound(image, 1)), log_p + weight)
    torch.testing.assert_close(model.decode(z), mean.view(5, *SHAPE))


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_every_parameter_gets_a_gradient(likelihood):
    model = small(likelihood=likelihood)
    model(image=images(), mode="loss")["loss"].backward()
    assert [name for name, p in model.named_parameters() if not p.grad.any()] == []


def test_one_batch_is_learned_by_heart():
    model, image = small(hidden=64), images()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(400):
        optimizer.zero_grad()
        model.bound_terms(image)[0].mean().backward()
        optimizer.step()
    assert model.loss(image)["reconstruction"] < 0.3  # 12 pixels by chance: 8.3


def test_pictures_are_the_same_each_time_as_wide_as_the_batch_and_samples_of_the_prior():
    first, second = (small().pictures(images()) for _ in range(2))
    assert all((first[name] == second[name]).all() for name in first)
    assert first["reconstructions"].shape == (2 * (3 + 2) + 2, 5 * (4 + 2) + 2, 3)
    samples = small().decode(torch.randn((64, 2), generator=torch.Generator().manual_seed(0)))
    assert (first["samples"] == image_grid(samples, columns=8)).all() and samples.std(dim=0).min() > 0.01


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="likelihood must be"):
        VAE(likelihood="poisson")
    for name in ("latent", "hidden"):
        with pytest.raises(ValueError, match="latent and hidden must be at least 1, got .*0"):
            VAE(**{name: 0})
    for arguments in (dict(importance_draws=-1), dict(gray_levels=1)):
        with pytest.raises(ValueError, match="importance_draws must be at least 0, gray_levels at least 2"):
            VAE(**arguments)
    with pytest.raises(ValueError, match=r"images must be \(B, 1, 28, 28\), got \(2, 1, 3, 4\)"):
        VAE().loss(torch.zeros(2, 1, 3, 4))
    with pytest.raises(ValueError, match="mode must be"):
        small()(image=images(), mode="tensor")
