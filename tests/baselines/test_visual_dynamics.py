import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cmp.baselines.cross_convolution import cross_convolve
from cmp.baselines.frame_prediction import scale_pixels
from cmp.baselines.gaussian_kl import gaussian_kl
from cmp.baselines.visual_dynamics import VisualDynamics

ENCODER = dict(type="PyramidResNet", depth=18, top_stride=4, out_channels=8)
NARROW = dict(latent=4, maps=6, motion_widths=(8, 8), motion_pools=(4, 4), image_widths=(6, 6, 6), kernel_width=6)
NARROW |= dict(decoder_width=12, stored=7)


def make(**more):
    torch.manual_seed(0)
    return VisualDynamics(**{**NARROW, **more})


def pairs(batch=6, height=32, width=48):
    """A bright square on a dark ground, and the same six pixels further right or left."""
    frames = torch.full((batch, 2, 3, height, width), 30, dtype=torch.uint8)
    for i in range(batch):
        for t in range(2):
            x = 18 + (6 if i % 2 else -6) * t
            frames[i, t, :, 10:20, x : x + 10] = 220
    return frames


def test_each_map_is_convolved_with_its_own_kernel():
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(3, 2, 4, 5, generator=generator)
    kernels = torch.rand(3, 2, 3, 3, generator=generator)
    made = cross_convolve(maps, kernels)
    for n in range(3):
        for c in range(2):
            expected = np.zeros((4, 5))
            for y in range(4):
                for x in range(5):
                    for i in range(3):
                        for j in range(3):
                            v, u = y + i - 1, x + j - 1
                            if 0 <= v < 4 and 0 <= u < 5:
                                expected[y, x] += maps[n, c, v, u] * kernels[n, c, i, j]
            np.testing.assert_allclose(made[n, c], expected, rtol=1e-5)


def test_samples_do_not_mix_and_one_hot_kernels_shift():
    maps = torch.rand(2, 3, 6, 7)
    kernels = torch.zeros(2, 3, 5, 5)
    kernels[0, :, 2, 2] = 1  # stays
    kernels[1, :, 1, 4] = 1  # reads one row above, two columns to the right
    made = cross_convolve(maps, kernels)
    assert torch.equal(made[0], maps[0])
    assert torch.equal(made[1, :, 1:, :-2], maps[1, :, :-1, 2:])
    other = maps.clone()
    other[1] = 0
    assert torch.equal(cross_convolve(other, kernels)[0], made[0])
    with pytest.raises(ValueError, match="want kernels"):
        cross_convolve(maps, kernels[:1])
    with pytest.raises(ValueError, match="k odd"):
        cross_convolve(maps, kernels[..., :4, :4])


@pytest.mark.parametrize("more", [{}, dict(image_encoder=ENCODER), dict(latent=6 * 25)])
def test_every_parameter_gets_a_gradient(more):
    model = make(**more)
    model.loss(pairs())["loss"].backward()
    assert [key for key, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()] == []


def test_the_loss_is_the_squared_error_and_beta_times_the_divergence():
    model, frames = make(beta=0.5), pairs()
    image, after = scale_pixels(frames).unbind(1)
    torch.manual_seed(3)
    losses = model.loss(frames)
    torch.manual_seed(3)
    mean, log_variance = model.encode_motion(image, after)
    z = mean + (log_variance / 2).exp() * torch.randn(mean.shape)
    error = ((image + model.difference(image, z) - after) ** 2).sum((1, 2, 3)).mean()
    kl = gaussian_kl(mean, log_variance).mean()
    torch.testing.assert_close(losses["loss"], (error + 0.5 * kl) / (3 * 32 * 48))
    torch.testing.assert_close(losses["squared_error"], error)


def test_the_newest_numbers_of_training_are_stored_and_drawn_from():
    model, frames = make(), pairs(batch=3)
    image = scale_pixels(frames)[:, 0]
    with pytest.raises(ValueError, match="train first"):
        model.sample(image, "empirical")
    assert model.measure(frames)["empirical_best"].isnan().all()
    seen = []
    handle = model.spread.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    for _ in range(3):
        model.loss(frames)
    handle.remove()
    z = torch.cat(seen)  # nine, of which the first two have made room
    assert torch.equal(model.stored_z, torch.cat((z[7:9], z[2:7]))) and int(model.num_seen) == 9
    drawn = []
    model.spread.register_forward_pre_hook(lambda _, inputs: drawn.append(inputs[0]))
    for _ in range(30):
        model.sample(image, "empirical")
    assert {tuple(row.tolist()) for row in torch.cat(drawn)} == {tuple(row.tolist()) for row in model.stored_z}
    with pytest.raises(ValueError, match="prior must be"):
        model.sample(image, "uniform")


def test_the_stored_numbers_are_part_of_a_checkpoint():
    model, again = make(), make()
    model.loss(pairs())
    again.load_state_dict(model.state_dict())
    generators = [torch.Generator().manual_seed(5) for _ in range(2)]
    image = scale_pixels(pairs())[:, 0]
    one, two = (m.eval().sample(image, "empirical", g) for m, g in zip((model, again), generators))
    assert torch.equal(one, two)


def test_it_learns_two_futures_of_one_image_and_draws_both():
    model, frames = make(beta=0.002, stored=64), pairs()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(100):
        optimizer.zero_grad()
        model.loss(frames)["loss"].backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        measures = model.measure(frames)
        # The mean of both futures, half a square on 20 columns, has 5/12 of the error of no change, 12 columns.
        assert (measures["error"] < 0.2 * measures["copy_error"]).all()
        assert (measures["empirical_best"] < 0.2 * measures["copy_error"]).all()
        image, after = scale_pixels(frames).unbind(1)
        left, right = after[0], after[1]
        futures = torch.cat([model.sample(image[:1], "empirical") for _ in range(20)])
        nearer_left = ((futures - left) ** 2).mean((1, 2, 3)) < ((futures - right) ** 2).mean((1, 2, 3))
        assert 2 < nearer_left.sum() < 18


def test_measures_are_those_of_ten_draws_and_the_same_every_time():
    model, frames = make().eval(), pairs()
    torch.nn.init.normal_(model.spread.weight), torch.nn.init.normal_(model.motion_decoder[-1].weight, std=10)
    model.loss(frames)
    with torch.no_grad():
        measures, again = model.measure(frames), model.measure(frames)
        image, after = scale_pixels(frames).unbind(1)
        generator = torch.Generator().manual_seed(0)
        futures = torch.stack([model.sample(image, "normal", generator) for _ in range(10)])
        errors = (futures - after).square().mean((2, 3, 4))
        mean, log_variance = model.encode_motion(image, after)
    assert all(torch.equal(values, again[name]) and values.shape == (6,) for name, values in measures.items())
    torch.testing.assert_close(measures["normal_best"], errors.amin(0))
    torch.testing.assert_close(measures["normal_mean"], errors.mean(0))
    assert measures["normal_spread"].min() > 1e-3
    torch.testing.assert_close(measures["normal_spread"], futures.var(0, correction=0).mean((1, 2, 3)))
    torch.testing.assert_close(measures["copy_error"], (image - after).square().mean((1, 2, 3)))
    own = image + model.difference(image, mean)
    torch.testing.assert_close(measures["error"], (own - after).square().mean((1, 2, 3)))
    torch.testing.assert_close(measures["kl"], 0.5 * (mean**2 + log_variance.exp() - log_variance - 1).sum(1))


def test_pictures_show_the_image_the_true_next_frame_and_several_futures():
    model, frames = make().eval(), pairs(batch=2)
    model.loss(frames)
    with torch.no_grad():
        pictures = model.pictures(frames)
    assert pictures["futures"].shape == (2 * 34 + 2, 9 * 50 + 2, 3)
    assert np.array_equal(pictures["futures"][2:34, 2:50], frames[0, 0].permute(1, 2, 0))
    assert np.array_equal(pictures["futures"][2:34, 52:100], frames[0, 1].permute(1, 2, 0))
    assert pictures["futures_animation"].shape == (2, 2 * 34 + 2, 8 * 50 + 2, 3)


def test_the_last_three_futures_are_made_of_stored_numbers_and_those_before_of_drawn_ones():
    model, frames = make().eval(), pairs(batch=1)
    model.stored_z.fill_(2.0), model.num_seen.fill_(7)
    image = scale_pixels(frames)[:, 0]
    with torch.no_grad():
        sheet = model.pictures(frames)["futures"]
        stored = ((image + model.difference(image, torch.full((1, 4), 2.0)))[0] + 1) * 127.5
    futures = [sheet[2:34, 2 + 50 * k : 50 + 50 * k].astype(float) for k in range(3, 9)]
    near = [np.abs(future - stored.clamp(0, 255).permute(1, 2, 0).numpy()).max() < 0.51 for future in futures]
    assert near == [False] * 3 + [True] * 3
    assert all(not np.array_equal(a, b) for a, b in zip(futures[:2], futures[1:3]))


def test_maps_come_at_four_scales_each_twice_the_one_before():
    image = torch.zeros(1, 3, 64, 96)
    for model in (make(), make(image_encoder=ENCODER)):
        sizes = [tuple(maps.shape[1:]) for maps in model.eval().encode_image(image)]
        finest = 32 if not hasattr(model, "image_encoder") else 16
        assert sizes == [(6, finest // f, finest * 3 // 2 // f) for f in (8, 4, 2, 1)]


@torch.no_grad()
def test_scales_are_of_the_image_between_its_pixels_and_kernels_go_to_the_scales_in_turn():
    model, seen = make().eval(), []
    for encoder in model.scale_encoders:
        encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    image = (torch.arange(96.0) / 96 + torch.arange(64.0)[:, None] / 32).expand(1, 3, 64, 96)
    maps = model.encode_image(image)
    for scale, scaled in zip((0.25, 0.5, 1, 2), seen):
        y, x = ((torch.arange(size) + 0.5) / scale - 0.5 for size in scaled.shape[2:])
        inside = (0, 0, slice(3, -3), slice(3, -3))
        torch.testing.assert_close(scaled[inside], (x / 96 + y[:, None] / 32)[3:-3, 3:-3])
    z = torch.randn(1, 4, generator=torch.Generator().manual_seed(0))
    kernels = model.kernel_decoder(model.spread(z).view(1, 6, 5, 5)).view(1, 4, 6, 5, 5)
    moved = [cross_convolve(part, kernels[:, i]) for i, part in enumerate(maps)]
    grown = [part.repeat_interleave(f, 2).repeat_interleave(f, 3) for part, f in zip(moved, (8, 4, 2, 1))]
    made = model.motion_decoder(torch.cat(grown, dim=1))
    expected = F.interpolate(made, size=(64, 96), mode="bilinear", align_corners=False)
    torch.testing.assert_close(model.difference(image, z), expected)


def test_each_scales_maps_hand_a_gradient_on_to_the_image_encoder():
    model, tops = make(image_encoder=ENCODER), []
    model.image_encoder.register_forward_hook(lambda _, __, features: tops.append(features.top))
    maps = model.encode_image(scale_pixels(pairs(height=64, width=96))[:, 0])
    for scale in maps:
        reached = torch.autograd.grad(scale.square().sum(), tops[0], retain_graph=True)[0]
        assert reached.flatten(1).any(dim=1).all()


def test_the_published_size_has_3200_numbers_that_are_the_maps_kernels_are_made_of():
    model = VisualDynamics()
    assert isinstance(model.spread, torch.nn.Identity) and model.latent == 128 * 25
    kernels = model.kernel_decoder(torch.zeros(1, 128, 5, 5))
    assert kernels.shape == (1, 4 * 32, 5, 5) and kernels.numel() == 3200


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="one pooling for each width"):
        make(motion_pools=(2,))
    for name in ("latent", "stored"):
        with pytest.raises(ValueError, match="latent and stored must be at least 1, got .*0"):
            make(**{name: 0})
    with pytest.raises(ValueError, match=r"at least 16 px for motion_pools, got \(32, 15\)"):
        make().loss(pairs()[..., :15])
    with pytest.raises(ValueError, match="T at least 2"):
        make().loss(pairs()[:, :1])


def make_kind(kind, **arguments):
    torch.manual_seed(0)
    small = dict(latent=6, maps=4, motion_widths=(8, 8), motion_pools=(4, 4), image_widths=(4, 4, 4))
    return VisualDynamics(kind=kind, kernel_width=4, decoder_width=8, stored=7, **{**small, **arguments})


def two_frames(batch=3, height=32, width=48, seed=0):
    return (torch.rand(batch, 2, 3, height, width, generator=torch.Generator().manual_seed(seed)) * 255).byte()


def test_the_deterministic_model_sees_the_first_frame_only_and_minimizes_the_squared_error():
    model, frames = make_kind("deterministic").eval(), two_frames()
    losses = model.loss(frames)
    image, after = model.first_pair(frames)
    vector = model.to_gaussian(model.motion_encoder(image).mean((2, 3)))
    torch.testing.assert_close(model.encode_motion(image, after)[0], vector)
    predicted = model.difference(image, vector)
    squares = (image + predicted - after).square().flatten(1).sum(1).mean()
    torch.testing.assert_close(losses["loss"], squares / (3 * 32 * 48))
    assert set(losses) == {"loss", "squared_error"}
    other = frames.clone()
    other[:, 1] = 255 - other[:, 1]
    torch.testing.assert_close(model.difference(image, model.encode_motion(*model.first_pair(other))[0]), predicted)
    measures = model.measure(frames)
    assert set(measures) == {"error", "copy_error"}
    torch.testing.assert_close(measures["error"], (image + predicted - after).square().flatten(1).mean(1))
    with pytest.raises(ValueError, match="one next frame per image and no prior"):
        model.sample(image, "normal")
    assert set(model.pictures(frames)) == {"futures", "futures_animation"}
    assert "KL" not in model.loss_unit


def test_the_motion_prior_gives_the_same_motions_whatever_the_image_shows():
    model, frames = make_kind("motion_prior").eval(), two_frames()
    image, _ = model.first_pair(frames)
    z = torch.randn(3, 6)
    same = model.difference(image, z)
    torch.testing.assert_close(model.difference(-image, z), same)
    assert same.shape == image.shape and not torch.allclose(model.difference(image, z.flip(0)), same)
    whole = model.first_pair(two_frames(seed=1))
    moved = (whole[0].flip(0), whole[0].flip(0) + whole[1] - whole[0])  # another image, the same difference
    torch.testing.assert_close(model.encode_motion(*moved), model.encode_motion(*whole), atol=1e-5, rtol=1e-4)
    assert [tuple(maps.shape[1:]) for maps in model.encode_image(image)] == [
        (4, 2, 3),
        (4, 4, 6),
        (4, 8, 12),
        (4, 16, 24),
    ]


@pytest.mark.parametrize("motion_input", ["frames", "image_and_difference", "difference"])
def test_the_motion_encoder_reads_what_the_option_names(motion_input):
    model, frames = make_kind("probabilistic", motion_input=motion_input).eval(), two_frames()
    image, after = model.first_pair(frames)
    read = []
    model.motion_encoder.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
    model.loss(frames)
    difference = after - image
    expected = dict(frames=(image, after), image_and_difference=(image, difference), difference=(difference,))
    assert torch.equal(read[0], torch.cat(expected[motion_input], dim=1))
    assert model.describe()["motion_input"] == motion_input and model.describe()["kind"] == "probabilistic"


@pytest.mark.parametrize("kind", ["probabilistic", "deterministic", "motion_prior"])
def test_every_weight_of_each_kind_learns_and_its_description_builds_it_again(kind):
    model, frames = make_kind(kind), two_frames(batch=4)
    model.loss(frames)["loss"].backward()
    assert [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()] == []
    described = model.describe()
    assert described.pop("system") == "visual dynamics"
    again = VisualDynamics(**described)
    again.load_state_dict(model.state_dict())
    image = model.eval().first_pair(frames)[0]
    z = torch.randn(4, 6)
    assert torch.equal(again.eval().difference(image, z), model.difference(image, z))


def test_shapes_are_measured_by_prior_and_for_the_deterministic_model_alone():
    axis = torch.tensor([(1, 0), (0, 1), (1, 1)])
    assert {"fits", "both_ways", "nearest_error"} <= set(
        make_kind("deterministic").measure(two_frames(), axis, torch.ones(3))
    )
    model = make_kind("probabilistic")
    measures = model.measure(two_frames(), axis, torch.ones(3))
    assert measures["empirical_fits"].isnan().all() and not measures["normal_fits"].isnan().any()
    model.loss(two_frames())
    assert not model.measure(two_frames(), axis, torch.ones(3))["empirical_nearest_error"].isnan().any()


def test_kinds_and_inputs_that_do_not_fit_together_are_refused():
    for arguments, message in (
        (dict(kind="random"), "kind must be one of"),
        (dict(kind="probabilistic", motion_input="flow"), "motion_input must be one of"),
        (dict(kind="deterministic", motion_input="frames"), "reads the first frame only"),
        (dict(kind="motion_prior", image_encoder=dict(type="PyramidResNet")), "does not read the image"),
    ):
        with pytest.raises(ValueError, match=message):
            make_kind(**arguments)
