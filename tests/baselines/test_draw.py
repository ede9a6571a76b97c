from math import log

import numpy as np
import pytest
import torch

from cmp.baselines.draw import DRAW
from cmp.baselines.glimpse import window_from

SHAPE = (1, 5, 7)
ATTENTION = {"with": dict(read_size=2, write_size=3), "without": dict(read_size=None, write_size=None)}


def images(batch=4, seed=0):
    return (torch.rand(batch, *SHAPE, generator=torch.Generator().manual_seed(seed)) > 0.5).float()


def small(attention, shape=SHAPE, **arguments):
    torch.manual_seed(0)
    return DRAW(shape, **{"strokes": 3, "hidden": 8, "latent": 2, **ATTENTION[attention], **arguments})


@pytest.mark.parametrize("attention", ATTENTION)
def test_the_strokes_follow_the_published_equations(attention):
    """Equations 3 to 8 and 27 to 29 written out for one image at a time, including windows."""
    model, image = small(attention).double(), images().double()
    with torch.no_grad():
        model.first_states.normal_(), model.first_canvas.normal_()
        canvases, kl = model.reconstruct(image, torch.Generator().manual_seed(3))
        noise = torch.Generator().manual_seed(3)
        draws = [torch.randn(4, 2, generator=noise, dtype=torch.float64) for _ in range(3)]
        for b, x in enumerate(image):
            h_enc, s_enc, h_dec, s_dec = model.first_states[:, None]
            c = model.first_canvas
            for t in range(3):
                error = x - torch.sigmoid(c)
                if attention == "with":
                    window = window_from(model.read_window(h_dec), 2, 5, 7)
                    rows, columns = (bank[0] for bank in window.filters(2, 5, 7))
                    r = torch.cat(
                        [(window.intensity * (rows @ v[0] @ columns.T)).reshape(1, -1) for v in (x, error)], 1
                    )
                else:
                    r = torch.cat([x.reshape(1, -1), error.reshape(1, -1)], dim=1)
                h_enc, s_enc = model.encoder(torch.cat([r, h_dec], dim=1), (h_enc, s_enc))
                mean, log_sigma = model.posterior(h_enc)[:, :2], model.posterior(h_enc)[:, 2:]
                sigma = log_sigma.exp()
                expected = 0.5 * (mean**2 + sigma**2 - (sigma**2).log()).sum() - 2 / 2
                torch.testing.assert_close(kl[b, t], expected)
                h_dec, s_dec = model.decoder(mean + sigma * draws[t][b], (h_dec, s_dec))
                patch = model.patch(h_dec)
                if attention == "with":
                    window = window_from(model.write_window(h_dec), 3, 5, 7)
                    rows, columns = (bank[0] for bank in window.filters(3, 5, 7))
                    patch = rows.T @ patch.reshape(3, 3) @ columns / window.intensity
                c = c + patch.reshape(SHAPE)
                torch.testing.assert_close(canvases[t][b], c)


@pytest.mark.parametrize("attention", ATTENTION)
def test_where_the_encoder_says_nothing_reconstructions_are_samples(attention):
    model = small(attention)
    for p in model.posterior.parameters():
        torch.nn.init.zeros_(p)
    canvases, kl = model.reconstruct(images(), torch.Generator().manual_seed(3))
    noise = torch.Generator().manual_seed(3)
    z = torch.stack([torch.randn(4, 2, generator=noise) for _ in range(3)], dim=1)
    torch.testing.assert_close(torch.stack(model.sample(z)[0]), torch.stack(canvases))
    assert (kl == 0).all()


@pytest.mark.parametrize("attention", ATTENTION)
def test_the_bound_is_below_the_likelihood_that_numbers_drawn_from_the_prior_give(attention):
    model, image = small(attention, strokes=2, latent=1).double(), images(2).double()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(2)
        z = torch.randn(50_000, 2, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        p = model.sample(z)[0][-1].sigmoid().flatten(1)
        log_p = [(x * p.log() + (1 - x) * (1 - p).log()).sum(1).logsumexp(0) for x in image.flatten(1)]
        truth = torch.stack(log_p) - torch.tensor(50_000.0).log()
        torch.manual_seed(0)
        many = model.measure(image.repeat_interleave(2000, dim=0))["elbo"].unflatten(0, (2, 2000)).mean(1)
        assert (many < truth + 0.05).all() and (many > truth - 10).all()


@pytest.mark.parametrize("attention", ATTENTION)
def test_every_parameter_gets_a_gradient(attention):
    model = small(attention)
    model(image=images(), mode="loss")["loss"].backward()
    assert [name for name, p in model.named_parameters() if not p.grad.any()] == []


@pytest.mark.parametrize("attention", ATTENTION)
def test_one_batch_is_learned_by_heart(attention):
    model, image = small(attention, hidden=32, write_size=5 if attention == "with" else None), images()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(300):
        optimizer.zero_grad()
        error = model.bound_terms(image)[0].mean()
        if error < 0.5:
            break
        error.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
    assert error < 0.5  # 35 pixels by chance: 24


def test_the_parts_of_the_bound_add_up_to_it_and_the_loss_is_its_mean():
    model, image = small("with"), images()
    torch.manual_seed(1)
    measures = model(image=image, mode="predict")
    torch.manual_seed(1)
    error, kl = model.bound_terms(image)
    torch.testing.assert_close(measures["elbo"], -(error + kl.sum(1)))
    torch.testing.assert_close(sum(measures[f"kl_stroke_{t}"] for t in (1, 2, 3)), measures["kl"])
    torch.manual_seed(1)
    losses = model(image=image, mode="loss")
    torch.testing.assert_close(losses["loss"], -measures["elbo"].mean())
    torch.testing.assert_close(losses["reconstruction"], error.mean())
    torch.testing.assert_close(losses["kl"], measures["kl"].mean())


def test_color_images_are_read_and_painted():
    model = small("with", (3, 5, 7))
    canvases, windows = model.sample(torch.zeros(2, 3, 2))
    assert canvases[-1].shape == (2, 3, 5, 7) and len(windows) == 3
    assert model.loss(torch.rand(2, 3, 5, 7))["loss"] > 0


def test_pictures_are_the_same_each_time_and_the_animation_outlines_where_it_paints():
    first, second = (small("with").pictures(images()) for _ in range(2))
    assert all((first[name] == second[name]).all() for name in first)
    animation = first["strokes"]
    assert animation.shape == (3 + 8, 2 * (2 * 5 + 2) + 2, 8 * (2 * 7 + 2) + 2, 3)
    red = (animation == (255, 0, 0)).all(axis=-1).any(axis=(1, 2))
    assert red.tolist() == [True] * 3 + [False] * 8
    assert not (small("without").pictures(images())["strokes"] == (255, 0, 0)).all(axis=-1).any()


def test_the_outline_goes_around_the_outermost_filters_and_the_last_image_stays():
    model = small("with")
    with torch.no_grad():  # center in column 5.1 and row 2.1, filters 1 px apart
        model.write_window.weight.zero_()
        model.write_window.bias.copy_(torch.tensor([5.1 / 4 - 1, 2.1 / 3 - 1, 0, -log(3), 0]))
    pictures = model.pictures(images())
    animation = pictures["strokes"][:, 2:, 2:].reshape(11, 2, 12, 8, 16, 3)[:, :, :10, :, :14].swapaxes(2, 3)
    ring = np.zeros((10, 14), bool)
    ring[1:6, 7:12], ring[2:5, 8:11] = True, False  # twice as large: columns 4.1 to 6.1 and rows 1.1 to 3.1
    for stroke in range(3):
        assert ((animation[stroke] == (255, 0, 0)).all(axis=-1) == ring).all()
    samples = pictures["samples"][2:, 2:].reshape(8, 7, 8, 9, 3)[:2, :5, :, :7].swapaxes(1, 2)
    large = samples.repeat(2, axis=2).repeat(2, axis=3)
    assert (animation[3:] == large).all()
    change = [np.abs(frame.astype(int) - large)[:, :, ~ring].max() for frame in animation[:3]]
    assert change[2] <= 1 < change[0]


def test_what_does_not_fit_is_refused():
    for name in ("strokes", "hidden", "latent"):
        with pytest.raises(ValueError, match="strokes, hidden and latent must be at least 1, got .*0"):
            DRAW(**{name: 0})
    with pytest.raises(ValueError, match=r"images must be \(B, 1, 5, 7\), got \(2, 1, 7, 5\)"):
        small("with").loss(torch.zeros(2, 1, 7, 5))
