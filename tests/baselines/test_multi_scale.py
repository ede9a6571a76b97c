"""The multi-scale predictor: from coarse to fine, and the contest with its discriminators."""

import pytest
import torch
import torch.nn.functional as F
from mmengine.optim import build_optim_wrapper

from cmp.baselines.frame_prediction import frame_loss, scale_pixels
from cmp.baselines.multi_scale import MultiScalePredictor

DISCRIMINATORS = dict(
    discriminator_widths=((4,),) * 4,
    discriminator_kernels=((1,), (3,), (3,), (3,)),
    discriminator_units=((8,),) * 4,
    size_px=32,
)


def small(**arguments):
    torch.manual_seed(0)
    return MultiScalePredictor(widths=((6, 6),) * 4, kernels=((3, 3, 3),) * 4, **arguments)


def adversarial(**arguments):
    return small(**{"adversarial": 0.05, **DISCRIMINATORS, **arguments})


def clips(count=6, height=32):
    """Smooth noise that slides, two clips of 32 px width, 0..255 uint8."""
    noise = torch.rand(2, 3, 12, 16, generator=torch.Generator().manual_seed(0)) * 255
    large = F.interpolate(noise, scale_factor=8.0, mode="bilinear")
    return torch.stack([large[..., :height, 3 * t : 3 * t + 32] for t in range(count)], dim=1).byte()


def test_either_side_of_the_contest_wins_while_the_other_does_not_learn():
    model, frames = adversarial(), clips(count=5)
    for side, name, share, accuracy in (
        (model.discriminators, "loss_discriminator", 0.6, 1.0),
        (model.generators, "loss_adversarial", 0.3, 0.5),
    ):
        optimizer, seen = torch.optim.Adam(side.parameters(), lr=3e-3), []
        for _ in range(21):
            losses = model.loss(frames)
            seen.append(losses[name].item())
            optimizer.zero_grad()
            losses[name].backward()
            optimizer.step()
        assert seen[-1] < share * seen[0] and losses["discriminator_accuracy"].item() == accuracy


def test_a_generator_that_adds_nothing_hands_on_the_coarser_guess():
    model, frames = small(), scale_pixels(clips())
    for generator in model.generators[1:]:
        torch.nn.init.zeros_(generator[-1].weight)
        torch.nn.init.zeros_(generator[-1].bias)
    made = model.pyramid(frames[:, :4])
    assert [list(image.shape[2:]) for image in made] == [[2, 2], [8, 8], [16, 16], [32, 32]]
    for coarse, fine in zip(made, made[1:]):
        guess = F.interpolate(coarse, size=fine.shape[2:], mode="bilinear", align_corners=False)
        torch.testing.assert_close(fine, guess.tanh())


@pytest.mark.parametrize("trained", [1, 2])
def test_the_loss_of_all_sizes_is_added_up_and_its_mean_taken_over_frames_each_made_from_those_before(trained):
    model, frames = small(), clips(count=7)
    model.trained = trained
    scaled, expected = scale_pixels(frames), 0
    seen = scaled[:, :4]
    for t in range(trained):
        made, target = model.pyramid(seen), scaled[:, 4 + t]
        for image in made:
            size = target.shape[-1] // image.shape[-1]
            true = target.unflatten(3, (-1, size)).unflatten(2, (-1, size)).mean(dim=(3, 5))
            expected = expected + torch.stack(frame_loss(image, true)).sum() / trained
        seen = torch.stack((*seen.unbind(1)[1:], made[-1]), dim=1)
    found = model.parse_losses(model.loss(frames))[0]
    torch.testing.assert_close(found, expected)
    weight = model.generators[0][0].weight
    gradients = [torch.autograd.grad(loss, weight)[0] for loss in (found, expected)]
    torch.testing.assert_close(*gradients)


def test_each_side_of_the_contest_moves_only_its_own_weights():
    model, frames = adversarial(), clips(count=5)
    losses = model.loss(frames)
    generators, discriminators = list(model.generators.parameters()), list(model.discriminators.parameters())
    of_fooling = torch.autograd.grad(
        losses["loss_adversarial"], generators + discriminators, retain_graph=True, allow_unused=True
    )
    of_classifying = torch.autograd.grad(losses["loss_discriminator"], generators + discriminators, allow_unused=True)
    assert all(g is not None and g.any() for g in of_fooling[: len(generators)])
    assert all(g is None for g in of_fooling[len(generators) :])
    assert all(g is None for g in of_classifying[: len(generators)])
    assert all(g is not None and g.any() for g in of_classifying[len(generators) :])


def test_the_adversarial_terms_are_cross_entropies_with_the_names_of_the_frames():
    model, frames = adversarial(), clips(count=5)
    losses = model.loss(frames)
    scaled = scale_pixels(frames)
    fooling = classifying = 0
    with torch.no_grad():
        for fraction, discriminator, fake in zip((16, 4, 2, 1), model.discriminators, model.pyramid(scaled[:, :4])):
            seen = F.adaptive_avg_pool2d(scaled.flatten(1, 2), 32 // fraction)
            of_real, of_fake = discriminator(seen), discriminator(torch.cat((seen[:, :12], fake), dim=1))
            assert of_real.shape == (2, 1)
            one, zero = torch.ones(2, 1), torch.zeros(2, 1)
            fooling += F.binary_cross_entropy_with_logits(of_fake, one)
            classifying += F.binary_cross_entropy_with_logits(torch.cat((of_real, of_fake)), torch.cat((one, zero)))
    torch.testing.assert_close(losses["loss_adversarial"], 0.05 * fooling)
    torch.testing.assert_close(losses["loss_discriminator"], classifying)


def test_the_accuracy_is_the_share_that_the_finest_discriminator_names_rightly():
    model, frames = adversarial(), clips(count=5)
    frames[:, 4, 2, -1, -1] = torch.tensor([255, 0])
    by_last_value = torch.nn.Linear(15 * 32 * 32, 1)  # "true" if it is white: one of two true ones, no made one is
    with torch.no_grad():
        by_last_value.weight.zero_()[0, -1] = 1
        by_last_value.bias.fill_(-0.99)
    model.discriminators[-1] = torch.nn.Sequential(torch.nn.Flatten(), by_last_value)
    assert model.loss(frames)["discriminator_accuracy"].item() == 0.75


def test_discriminators_get_a_learning_rate_of_their_own():
    model = adversarial()
    config = dict(
        type="OptimWrapper",
        optimizer=dict(type="SGD", lr=0.04),
        paramwise_cfg=dict(custom_keys={"discriminators": dict(lr_mult=0.5)}),
    )
    groups = build_optim_wrapper(model, config).optimizer.param_groups
    rates = {id(weight): group["lr"] for group in groups for weight in group["params"]}
    assert all(rates[id(w)] == (0.02 if name.startswith("disc") else 0.04) for name, w in model.named_parameters())


def test_published_sizes_can_be_built_and_classify_64_px():
    model = MultiScalePredictor(adversarial=0.05)
    assert [sum(1 for layer in g if hasattr(layer, "kernel_size")) for g in model.generators] == [4, 4, 6, 6]
    seen = torch.zeros(1, 15, 64, 64)
    for fraction, discriminator in zip((16, 4, 2, 1), model.discriminators):
        pools = [layer.kernel_size for layer in discriminator if isinstance(layer, torch.nn.MaxPool2d)]
        assert pools == ([2] if fraction <= 2 else [])
        assert discriminator(F.avg_pool2d(seen, fraction)).shape == (1, 1)


def test_frames_and_discriminators_need_not_be_square_nor_multiples_of_sixteen():
    model, wide = adversarial(size_px=(32, 42)), torch.rand(2, 5, 3, 32, 42) * 255
    losses = model.loss(wide)
    sum(value for name, value in losses.items() if "loss" in name).backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in model.parameters())
    sizes = [list(made.shape[2:]) for made in model.pyramid(scale_pixels(wide)[:, :4])]
    assert sizes == [[2, 2], [8, 10], [16, 21], [32, 42]]
    # kernels of 1 and 3 px, max-pooling at half and full size, 4 channels
    assert [layers[-3].in_features for layers in model.discriminators] == [4 * 4, 4 * 6 * 8, 4 * 7 * 9, 4 * 15 * 20]
    assert model.describe()["size_px"] == [32, 42]
    with pytest.raises(ValueError, match=r"size_px = \[32, 42\], got \(32, 32\)"):
        model.loss(clips())


def test_what_does_not_fit_is_refused():
    for build, message in (
        (lambda: adversarial(size_px=(32, 32, 3)), "size_px must be one side or a height and a width"),
        (lambda: adversarial(size_px=8), "size_px must be one side or a height and a width, at least 16 px"),
        (lambda: MultiScalePredictor(widths=((4,),) * 3), "want 4 entries"),
        (lambda: MultiScalePredictor(widths=((4,),) * 4), "one more kernel"),
        (lambda: adversarial(discriminator_kernels=((3,),) * 4), "no pixels remain"),
        (lambda: adversarial().loss(clips(height=48)), r"size_px = 32, got \(48, 32\)"),
    ):
        with pytest.raises(ValueError, match=message):
            build()
