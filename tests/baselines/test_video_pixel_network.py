from itertools import product

import numpy as np
import pytest
import torch

from cmp.baselines.pixel_decoder import PixelDecoder
from cmp.baselines.video_pixel_network import VideoPixelNetwork

HEIGHT, WIDTH = 3, 4
KINDS = {"binary": dict(colors=1, levels=2), "color": dict(colors=3, levels=5)}


def small(kind, **arguments):
    torch.manual_seed(0)
    sizes = dict(given=2, channels=4, encoder_dilations=(1, 2), decoder_blocks=2, memory=5, sampled=2)
    model = VideoPixelNetwork(**{**KINDS[kind], **sizes, **arguments}).double()
    with torch.no_grad():  # so that everything that may follow from something visibly does
        for p in model.parameters():
            p.mul_(2)
    return model


def clip(kind, batch=2, frames=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    levels = KINDS[kind]["levels"]
    shape = (batch, frames, KINDS[kind]["colors"], HEIGHT, WIDTH)
    return torch.randint(0, levels, shape, generator=generator).double() / (levels - 1)


def decoder(kind):
    torch.manual_seed(0)
    model = PixelDecoder(**KINDS[kind], context_channels=2, channels=6, blocks=2).double()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(3)
    return model


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_color_of_a_pixel_changes_all_that_come_after_it_and_none_before_nor_itself(kind):
    model, colors = decoder(kind), KINDS[kind]["colors"]
    image, context = clip(kind, 1, 1)[:, 0], torch.randn(1, 2, HEIGHT, WIDTH, dtype=torch.float64)
    before = model(image, context)[0]
    order = list(product(range(HEIGHT), range(WIDTH), range(colors)))
    for place, (y, x, color) in enumerate(order):
        changed = image.clone()
        changed[0, color, y, x] += 0.7
        differs = (model(changed, context)[0] != before).any(dim=1)  # (C, H, W)
        found = [bool(differs[c, v, u]) for v, u, c in order]
        assert found == [False] * (place + 1) + [True] * (len(order) - place - 1), (y, x, color)


@torch.no_grad()
def test_the_context_reaches_the_pixel_itself():
    model = decoder("color")
    image, context = clip("color", 1, 1)[:, 0], torch.zeros(1, 2, HEIGHT, WIDTH, dtype=torch.float64)
    before = model(image, context)[0]
    context[0, 1, 1, 2] = 1
    assert (model(image, context)[0] != before).any(dim=1)[:, 1, 2].all()


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_frame_changes_those_after_it_and_none_before(kind):
    model, frames = small(kind), clip(kind, 1, 5)
    before = model.logits(frames)[0]  # of frames 2, 3 and 4
    for t, color, y, x in product(range(5), range(KINDS[kind]["colors"]), range(HEIGHT), range(WIDTH)):
        changed = frames.clone()
        changed[0, t, color, y, x] += 0.7
        differs = (model.logits(changed)[0] != before).flatten(1).any(dim=1).tolist()
        last = (color, y, x) == (KINDS[kind]["colors"] - 1, HEIGHT - 1, WIDTH - 1)
        assert differs == [t < frame or (t == frame and not last) for frame in (2, 3, 4)], (t, color, y, x)


@pytest.mark.parametrize("kind", ["binary", "color"])
@torch.no_grad()
def test_the_probabilities_of_all_images_add_up_to_one(kind):
    """Every image of 2 x 3 binary px, and of 1 x 2 px of three colors of 3 values."""
    colors, levels, height, width = (1, 2, 2, 3) if kind == "binary" else (3, 3, 1, 2)
    torch.manual_seed(0)
    model = PixelDecoder(colors, levels, 2, channels=4, blocks=1).double()
    values = torch.tensor(list(product(range(levels), repeat=colors * height * width)), dtype=torch.float64)
    images = values.unflatten(1, (colors, height, width)) / (levels - 1)
    context = torch.randn(1, 2, height, width, dtype=torch.float64).expand(len(images), -1, -1, -1)
    nats = model.nats(model(images, context), images).flatten(1).sum(dim=1)
    assert (-nats).exp().sum().item() == pytest.approx(1, abs=1e-12)


def test_nats_of_gray_pixels_are_the_cross_entropy_and_not_below_their_entropy():
    model = PixelDecoder(1, 2, 2, channels=4, blocks=1).double()
    gray = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64).view(1, 1, 1, 3)
    best = torch.logit(gray.clamp(1e-9, 1 - 1e-9))[:, :, None]
    entropy = -(0.3 * torch.tensor(0.3).log() + 0.7 * torch.tensor(0.7).log()).item()
    assert model.nats(best, gray).sum().item() == pytest.approx(entropy, abs=1e-6)
    assert model.nats(best + 0.5, gray).sum() > entropy


def test_every_value_of_256_is_its_own_class():
    model = PixelDecoder(1, 256, 2, channels=4, blocks=1)
    image = torch.arange(256).view(1, 1, 1, 256) / 255
    sure = 50 * torch.eye(256).view(1, 1, 256, 1, 256)
    assert model.nats(sure, image).max() < 1e-3
    assert model.nats(sure, image - 0.3 / 255).max() < 1e-3  # the nearest


@pytest.mark.parametrize("dilations, reach", [((1, 1), 1 + 2 + 2), ((1, 2), 1 + 2 + 4), ((4,), 1 + 8)])
def test_the_encoder_sees_as_far_as_its_first_layer_and_two_layers_of_each_dilation(dilations, reach):
    frame = torch.rand(1, 1, 21, 25, dtype=torch.float64, requires_grad=True)
    small("binary", encoder_dilations=dilations).encoder(frame)[0, :, 10, 12].square().sum().backward()
    for axis, middle in ((3, 10), (2, 12)):
        seen = frame.grad.abs().sum(axis)[0, 0].nonzero().flatten()
        assert (seen.min(), seen.max()) == (middle - reach, middle + reach)


@pytest.mark.parametrize("kind", KINDS)
def test_cached_sampling_draws_what_sampling_by_whole_passes_draws(kind):
    model, frames = small(kind), clip(kind)
    drawn = [
        model.sample(frames[:, :2], 2, torch.Generator().manual_seed(1), cached=cached) for cached in (True, False)
    ]
    assert torch.equal(*drawn) and torch.equal(drawn[0][:, :2], frames[:, :2])
    other = model.sample(frames[:, :2], 2, torch.Generator().manual_seed(2))
    assert not torch.equal(other, drawn[0]) and set(other.unique().tolist()) <= {
        v / (KINDS[kind]["levels"] - 1) for v in range(KINDS[kind]["levels"])
    }


@torch.no_grad()
def test_a_sampled_clip_follows_from_its_noise_and_the_logits_of_the_whole_clip():
    model, frames = small("binary"), clip("binary")
    drawn = model.sample(frames[:, :2], 2, torch.Generator().manual_seed(1))
    noise = torch.Generator().manual_seed(1)
    noise = torch.stack([torch.rand(frames[:, 0].shape, generator=noise, dtype=torch.float64) for _ in range(2)], dim=1)
    zero = 1 - model.logits(drawn)[:, :, :, 0].sigmoid()
    assert torch.equal(drawn[:, 2:], (noise > zero).double())


@torch.no_grad()
def test_samples_have_the_frequencies_that_the_likelihood_says():
    torch.manual_seed(0)
    for colors, levels in ((1, 2), (3, 3)):
        model = PixelDecoder(colors, levels, 2, channels=4, blocks=1).double()
        for p in model.parameters():
            p.mul_(2)
        width = 3 if colors == 1 else 1
        count = levels ** (colors * width)
        images = torch.tensor(list(product(range(levels), repeat=colors * width)), dtype=torch.float64)
        images = images.unflatten(1, (colors, 1, width)) / (levels - 1)
        context = torch.randn(1, 2, 1, width, dtype=torch.float64)
        logits = model(images, context.expand(count, -1, -1, -1))
        p = (-model.nats(logits, images).flatten(1).sum(1)).exp()
        draws = 20_000
        drawn = model.sample(
            context.expand(draws, -1, -1, -1), torch.rand(draws, colors, 1, width, dtype=torch.float64)
        )
        found = (drawn[:, None] == images[None]).flatten(2).all(dim=2).double().mean(dim=0)
        assert ((found - p).abs() < 5 * (p * (1 - p) / draws).sqrt() + 1e-3).all()


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_gets_a_gradient(kind):
    model = small(kind)
    model(mode="loss", frames=clip(kind), label=None)["loss"].backward()
    assert [name for name, p in model.named_parameters() if not p.grad.any()] == []


def test_the_loss_is_the_mean_over_frames_and_the_measure_over_each_clips_own():
    model, frames = small("color"), clip("color")
    nats = model.nats(frames)
    assert nats.shape == (2, 2)
    assert model.loss(frames)["loss"].item() == pytest.approx(nats.mean().item())
    assert model(mode="predict", frames=frames)["nats_per_frame"].tolist() == pytest.approx(nats.mean(1).tolist())


def test_bytes_are_read_as_colors():
    model = small("color", levels=256).float()
    frames = torch.randint(0, 256, (1, 3, 3, HEIGHT, WIDTH), dtype=torch.uint8)
    assert torch.equal((model.as_levels(frames) * 255).round().to(torch.uint8), frames)
    torch.testing.assert_close(model.nats(frames), model.nats(frames.float() / 255))


def test_one_batch_is_learned_by_heart():
    model, frames = small("binary", channels=8).float(), clip("binary").float()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(150):
        optimizer.zero_grad()
        loss = model.loss(frames)["loss"]
        loss.backward()
        optimizer.step()
    assert loss < 0.3  # 12 pixels by chance: 8.3


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_are_the_same_each_time_and_have_two_rows_per_clip(kind):
    first, second = (small(kind).float().pictures(clip(kind, 3).float()) for _ in range(2))
    assert all((first[name] == second[name]).all() for name in first)
    height, width = 21 * HEIGHT + 2, 21 * WIDTH + 2
    frames, model = clip(kind, 3).float(), small(kind).float()
    levels = KINDS[kind]["levels"]
    logits = model.logits(frames)[0, 1]  # (C, 1 or L, H, W) of the last frame of the first clip
    logits = torch.cat((torch.zeros_like(logits), logits), dim=1) if levels == 2 else logits
    values = torch.arange(levels).view(1, -1, 1, 1) / (levels - 1)
    for row, shown in enumerate((frames[0, 3], (values * logits.softmax(dim=1)).sum(dim=1))):
        found = first["expected"][2 + row * height + 10 :: 21, 2 + width + 10 :: 21][:HEIGHT, :WIDTH]
        np.testing.assert_allclose(found, 255 * shown.detach().expand(3, -1, -1).permute(1, 2, 0), atol=0.51)
    assert first["expected"].shape == (3 * 2 * height + 2, 2 * width + 2, 3)
    assert first["continued"].shape == (4, 2 * height + 2, 2 * width + 2, 3)


def test_what_does_not_fit_is_refused():
    for name in ("levels", "given", "sampled"):
        with pytest.raises(ValueError, match="levels must be at least 2, given and sampled at least 1"):
            VideoPixelNetwork(**{name: 0})
    with pytest.raises(ValueError, match=r"\(B, T, 1, H, W\) with T above 2, got \(1, 2, 1, 3, 4\)"):
        small("binary").loss(torch.zeros(1, 2, 1, 3, 4))
