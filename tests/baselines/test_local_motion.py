import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.dataset import default_collate

from cmp.baselines.local_motion import LocalMotion, UNet, ranked_above, spread
from cmp.datasets.moving_digits import MovingDigits, motion_class, move
from cmp.flow import flow_to_color

ENCODER = dict(type="PyramidResNet", depth=18, top_stride=4, out_channels=8)


def small(**arguments):
    torch.manual_seed(0)
    return LocalMotion(**{"max_shift": 1, "width": 4, "levels": 2, **arguments})


def noise(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def labels(*shape):
    return torch.randint(9, shape, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("max_shift", [1, 2, 3])
def test_shares_of_one_shift_move_an_image_by_that_many_pixels(max_shift):
    image = noise(1, 1, 9, 11)
    for dy in range(-max_shift, max_shift + 1):
        for dx in range(-max_shift, max_shift + 1):
            shares = F.one_hot(torch.full((1, 9, 11), motion_class(dx, dy, max_shift)), (2 * max_shift + 1) ** 2)
            moved = spread(image, shares.permute(0, 3, 1, 2).float(), max_shift)
            assert np.array_equal(moved[0, 0].numpy(), move(image[0, 0].numpy(), dx, dy))


def test_spreading_is_a_loop_over_pixels_and_shifts():
    image, shares = noise(2, 3, 4, 5).double(), noise(2, 25, 4, 5, seed=1).double()
    expected = torch.zeros_like(image)
    for y in range(4):
        for x in range(5):
            for dy in range(-2, 3):
                for dx in range(-2, 3):
                    if 0 <= y + dy < 4 and 0 <= x + dx < 5:
                        expected[:, :, y + dy, x + dx] += (
                            image[:, :, y, x] * shares[:, None, (dy + 2) * 5 + dx + 2, y, x]
                        )
    torch.testing.assert_close(spread(image, shares, 2), expected)


def test_spreading_is_a_convolution_with_one_hot_kernels():
    image, shares = noise(2, 1, 6, 7), noise(2, 9, 6, 7, seed=1)
    kernels = torch.eye(9).view(1, 9, 3, 3).flip(2, 3)
    torch.testing.assert_close(spread(image, shares, 1), F.conv2d(image * shares, kernels, padding=1))


class Known(LocalMotion):
    """Predicts the shares that it is given."""

    def shares(self, frames):
        return self.known


def known(digit, dx, dy):
    """A model that knows the motion of a digit in front of a still background, and the digit's frames."""
    frames = torch.from_numpy(np.stack([move(digit, k * dx, k * dy) for k in (-2, -1, 0, 1, 2)]))
    still = motion_class(0, 0, 2)
    classes = [torch.where(frames[1] > 0, motion_class(dx, dy, 2), still)]
    classes.append(torch.where(frames[3] > 0, motion_class(-dx, -dy, 2), still))
    model = Known(max_shift=2, width=4, levels=2)
    shares = F.one_hot(torch.stack(classes), 25).permute(0, 3, 1, 2).float()[:, None]
    # background that will be covered disappears
    for side in (0, 1):
        shares[side, 0, still, (frames[2] > 0) & (classes[side] == still)] = 0
    model.known = shares
    return model, frames[None, :, None], classes


def test_true_motion_and_disappearance_make_the_frame_between_and_show_the_flow():
    digit = np.zeros((12, 14), np.float32)
    digit[4:8, 5:9] = np.random.default_rng(0).uniform(0.5, 1, (4, 4))
    model, frames, classes = known(digit, 2, -1)
    made = model.rebuild(frames)
    for side in ("forward", "backward", "blend"):
        torch.testing.assert_close(made[side], frames[:, 2])
    assert made["flow"].shape == (2, 1, 2, 12, 14)
    for side, (u, v) in enumerate(((2, -1), (-2, 1))):
        moving = classes[side] != 12
        assert moving.sum() == 16
        assert (made["flow"][side, 0, :, moving].T == torch.tensor([u, v])).all()
        assert (made["flow"][side, 0, :, ~moving] == 0).all()
        covered = (frames[0, 2, 0] > 0) & ~moving
        assert torch.equal(made["disappear"][side, 0, 0] == 1, covered)
    measures = model.measure(frames, *[c[None] for c in classes])
    # At covered pixels the shares are all 0, and the first class, which is wrong, is taken.
    assert measures["accuracy_moving"].item() == 1
    assert measures["accuracy_still"].item() == pytest.approx(1 - 16 / 168)
    assert measures["accuracy"].item() == pytest.approx(1 - 10 / 168)
    assert model.measure(frames)["error"].item() < 1e-6 and model.measure(frames)["error_copy"].item() > 0.03
    assert model.measure(frames)["shift"].item() == pytest.approx(16 * 5**0.5 / 168)


def test_pictures_color_labels_and_expected_flow_by_the_direction_of_motion():
    digit = np.zeros((12, 14), np.float32)
    digit[4:8, 5:9] = np.random.default_rng(0).uniform(0.5, 1, (4, 4))
    model, frames, classes = known(digit, 2, -1)
    sheet = model.pictures(frames, *[c[None] for c in classes])["motion"]  # pixels four times as large
    columns = [sheet[2:50:4, 2 + 58 * k : 58 + 58 * k : 4] for k in range(12)]
    for k, side, way in ((3, 0, (2, -1)), (4, 0, (2, -1)), (6, 1, (-2, 1))):
        moving = (classes[side] != 12).numpy()
        color = flow_to_color(np.array([[way]], np.float32), max_flow_px=2 * 2**0.5)[0, 0]
        assert (columns[k][moving] == color).all() and (columns[k][~moving] == 255).all()
    for k, image in ((0, 0), (1, 1), (2, 2), (8, 2), (9, 2), (10, 2)):
        np.testing.assert_allclose(columns[k], 255 * frames[0, image, 0, :, :, None].expand(-1, -1, 3), atol=0.51)
    for k, side in ((5, 0), (7, 1)):
        covered = (frames[0, 2, 0] > 0) & (classes[side] == 12)
        np.testing.assert_array_equal(columns[k][..., 0], 255 * covered.numpy())


def test_the_side_from_which_more_arrives_can_be_preferred():
    model = small()
    with torch.no_grad():
        model.blend.weight.copy_(torch.tensor([100.0, -100.0]).view(1, 2, 1, 1))
        model.blend.bias.zero_()
    made = model.rebuild(noise(2, 5, 1, 8, 12))
    forward = made["attention"] > 0.999
    backward = made["attention"] < 0.001
    assert forward.any() and backward.any()
    torch.testing.assert_close(made["blend"][forward], made["forward"][forward], atol=2e-3, rtol=0)
    torch.testing.assert_close(made["blend"][backward], made["backward"][backward], atol=2e-3, rtol=0)


@pytest.mark.parametrize("disappear", ["none", "map", "class"])
def test_shares_are_a_softmax_of_which_the_disappearing_part_is_taken(disappear):
    model, frames = small(disappear=disappear).eval(), noise(2, 5, 1, 8, 12)
    logits, gone = model.logits(frames)
    shares = model.shares(frames)
    assert shares.shape == (2, 2, 9, 8, 12)
    if disappear == "class":
        assert logits.shape[2] == 10
        torch.testing.assert_close(1 - shares.sum(2), logits.softmax(2)[:, :, 9])
    else:
        expected = torch.zeros(2, 2, 8, 12) if disappear == "none" else gone.sigmoid()[:, :, 0]
        torch.testing.assert_close(1 - shares.sum(2), expected)
    torch.testing.assert_close(shares / shares.sum(2, keepdim=True), logits[:, :, :9].softmax(2))


def test_the_other_side_is_the_same_network_on_the_frames_read_backwards():
    model, frames = small().eval(), noise(3, 5, 1, 8, 12)
    first, second = model.shares(frames)
    second_of_mirror, first_of_mirror = model.shares(frames.flip(1))
    torch.testing.assert_close(first, first_of_mirror)
    torch.testing.assert_close(second, second_of_mirror)
    one_sided = small(two_sided=False).eval()
    torch.testing.assert_close(one_sided.shares(frames)[0], first)


def test_the_frame_to_be_made_is_not_seen():
    model, frames = small().eval(), noise(2, 5, 1, 8, 12)
    changed = frames.clone()
    changed[:, 2] = 0
    assert torch.equal(model.shares(frames), model.shares(changed))
    for index in (0, 1, 3, 4):
        changed = frames.clone()
        changed[:, index] = 0
        assert not torch.equal(model.shares(frames), model.shares(changed))


def test_losses_are_summed_errors_of_the_frames_made_or_cross_entropies():
    frames = noise(2, 5, 1, 8, 12)
    model = small().eval()
    made, losses = model.rebuild(frames), model.loss(frames)
    parts = [(made[name] - frames[:, 2]).abs().sum() / 2 for name in ("blend", "forward", "backward")]
    torch.testing.assert_close(losses["loss"], sum(parts))
    assert sorted(losses) == ["backward_error", "blend_error", "forward_error", "loss"]
    model = small(supervised=True, disappear="none").eval()
    p = model.shares(frames)
    forward, backward = labels(2, 8, 12), labels(2, 8, 12).flip(1)
    expected = -sum(side.gather(1, label[:, None]).log().mean() for side, label in zip(p, (forward, backward)))
    torch.testing.assert_close(model.loss(frames, forward, backward)["loss"], expected)


def test_accuracy_is_counted_over_all_and_over_moving_pixels_and_nan_where_none_moves():
    model, frames = small(supervised=True, disappear="none", two_sided=False).eval(), noise(2, 3, 1, 8, 12)
    forward = labels(2, 8, 12)
    forward[1] = 4
    measures = model.measure(frames, forward)
    guess = model.shares(frames)[0].argmax(1)
    right = guess == forward
    torch.testing.assert_close(measures["accuracy"], right.float().mean((1, 2)))
    assert measures["accuracy_moving"][0].item() == pytest.approx(right[0][forward[0] != 4].float().mean().item())
    assert measures["accuracy_moving"][1].isnan()
    torch.testing.assert_close(measures["accuracy_still"], (forward == 4).float().mean((1, 2)))


SETTINGS = [
    dict(disappear="map"),
    dict(disappear="class", two_sided=False),
    dict(disappear="none"),
    dict(disappear="none", supervised=True),
    dict(disappear="map", image_channels=3, image_encoder=ENCODER, levels=3),
]


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_every_parameter_gets_a_gradient(setting):
    model = small(**setting)
    if setting.get("image_encoder"):
        frames = (255 * noise(2, 5, 3, 32, 48)).byte()
    else:
        frames = noise(2, 5, 1, 8, 12)
    model(frames=frames, forward=labels(2, 8, 12), backward=labels(2, 8, 12), mode="loss")["loss"].backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("setting", SETTINGS[:4], ids=str)
def test_one_batch_is_learned_by_heart(setting):
    digit = np.zeros((16, 20), np.float32)
    digit[6:10, 8:12] = np.random.default_rng(0).uniform(0.5, 1, (4, 4))
    background = np.random.default_rng(1).uniform(0, 0.5, digit.shape).astype(np.float32)
    samples = []
    for dx, dy in ((1, 0), (-1, 1)):
        moved = np.stack([move(digit, k * dx, k * dy) for k in (-2, -1, 0, 1, 2)])
        classes = (np.where(moved[k] > 0, motion_class(s * dx, s * dy, 1), 4) for k, s in ((1, 1), (3, -1)))
        samples.append((np.where(moved > 0, moved, background)[:, None], *classes))
    frames, forward, backward = (torch.from_numpy(np.stack(values)) for values in zip(*samples))
    model = small(width=16, **setting)
    batch = (frames, forward, backward) if model.supervised else (frames,)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.005)
    start = model.loss(*batch)["loss"].item()
    for _ in range(150):
        optimizer.zero_grad()
        loss = model.loss(*batch)["loss"]
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.025 * start


def test_an_image_encoder_sees_normalized_frames_and_its_cells_are_moved():
    model = small(image_channels=3, image_encoder=ENCODER, levels=2).eval()
    frames = (255 * noise(2, 5, 3, 32, 48)).byte()
    seen = []
    model.image_encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    made = model.rebuild(frames / 255)
    mean, std = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])
    expected = (frames[:, [0, 1, 4, 3]].transpose(0, 1).flatten(0, 1).permute(0, 2, 3, 1) - mean) / std
    torch.testing.assert_close(seen[0], expected.permute(0, 3, 1, 2), atol=1e-4, rtol=1e-4)
    assert made["blend"].shape == (2, 3, 8, 12)
    measures = model.measure(frames)
    cells = (frames / 255).unfold(3, 4, 4).unfold(4, 4, 4).mean((5, 6))  # (2, 5, 3, 8, 12)
    torch.testing.assert_close(measures["error_copy"], (cells[:, 1] - cells[:, 2]).abs().mean((1, 2, 3)))
    described = model.describe()
    assert described["image_encoder"] == {**ENCODER} and described["mean"] == [123.675, 116.28, 103.53]


def test_every_frame_read_hands_a_gradient_on_to_the_image_encoder():
    model, tops = small(image_channels=3, image_encoder=ENCODER, levels=2), []
    model.image_encoder.register_forward_hook(lambda _, __, features: tops.append(features.top) or features)
    loss = model.loss((255 * noise(2, 5, 3, 32, 48)).byte())["loss"]
    reached = torch.autograd.grad(loss, tops[0])[0]
    assert len(reached) == 4 * 2 and reached.flatten(1).any(dim=1).all()


def test_the_unet_is_the_published_one():
    torch.manual_seed(0)
    unet, x = UNet(2, 3, 2), noise(2, 2, 8, 12)

    def convolved(layers, x, *, relu=True):
        convolution, norm = layers
        x = F.conv2d(x, convolution.weight, convolution.bias, padding=1)
        mean, variance = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), keepdim=True, correction=0)
        x = (x - mean) / (variance + norm.eps).sqrt()
        return x.clamp(min=0) if relu else x

    def halved(x):
        return x.unfold(2, 2, 2).unfold(3, 2, 2).amax(dim=(4, 5))

    def doubled(x):
        return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)

    full = convolved(unet.start[2:4], convolved(unet.start[:2], x, relu=False))
    half = convolved(unet.down[0][:2], halved(full))
    quarter = convolved(unet.down[1][:2], halved(half))
    up = convolved(unet.up[0][:2], torch.cat((doubled(quarter), half), dim=1))
    torch.testing.assert_close(unet(x), torch.cat((doubled(up), full), dim=1), atol=1e-5, rtol=1e-5)


def test_a_side_of_the_unets_map_may_be_odd():
    assert UNet(3, 4, 2)(noise(1, 3, 7, 10)).shape == (1, 8, 7, 10)


def test_pictures_are_the_same_each_time_and_as_wide_as_their_columns():
    model, frames = small().eval(), noise(2, 5, 1, 8, 12)
    first, second = (model.pictures(frames, labels(2, 8, 12))["motion"] for _ in range(2))
    assert np.array_equal(first, second)
    # three frames, labels, two sides of flow and disappearance, four of frames made; shown five times as large
    assert first.shape == (2 * (40 + 2) + 2, 12 * (60 + 2) + 2, 3)
    assert small(supervised=True, disappear="none").pictures(frames)["motion"].shape[1] == 5 * 62 + 2


def test_labels_of_another_range_of_shifts_are_refused_as_the_digits_say_it(digits_folder):
    batch = default_collate([MovingDigits([str(digits_folder)], max_shift_px=2)[i] for i in range(2)])
    model = LocalMotion(max_shift=3, width=2, two_sided=False)
    for call in (model.loss, model.measure):
        with pytest.raises(ValueError, match=r"max_shift is 3, but the labels express shifts up to \[2\] px"):
            call(**batch)
    LocalMotion(max_shift=2, width=2, two_sided=False).loss(**batch)


def test_what_does_not_fit_is_refused():
    for arguments, message in (
        (dict(max_shift=0), "max_shift, width and levels"),
        (dict(image_channels=2), "image_channels 1 or 3, got 1, 4, 2, 2"),
        (dict(disappear="maybe"), "disappear must be"),
        (dict(supervised=True), "supervised needs disappear='none'"),
        (dict(image_encoder=ENCODER), "an image encoder reads 3 channels"),
        (dict(image_encoder=dict(type="Linear"), image_channels=3), "image_encoder needs a 'type' of"),
    ):
        with pytest.raises(ValueError, match=message):
            small(**arguments)
    with pytest.raises(ValueError, match=r"at least 5, C, H, W\), got \(2, 3, 1, 8, 8\)"):
        small().loss(noise(2, 3, 1, 8, 8))
    with pytest.raises(ValueError, match="2 levels needs sides of at least 4"):
        small().loss(noise(2, 5, 1, 8, 3))
    with pytest.raises(ValueError, match="needs the labels"):
        small(supervised=True, disappear="none").loss(noise(2, 5, 1, 8, 8), labels(2, 8, 8))
    with pytest.raises(ValueError, match="shares must be"):
        spread(noise(1, 1, 4, 4), noise(1, 9, 4, 4), 2)


def test_being_ranked_above_is_counted_over_all_pairs_of_a_marked_and_another_cell():
    values = torch.tensor([[[0.1, 0.5, 0.5], [0.9, 0.2, 0.0]], [[0.0] * 3] * 2, [[1.0] * 3] * 2])
    marked = torch.tensor([[[False, True, False], [True, False, False]], [[True] * 3, [False] * 3], [[False] * 3] * 2])
    # 0.5 is above 0.1, 0.2 and 0.0 and equal to 0.5; 0.9 is above all four
    found = ranked_above(values, marked)
    assert found[:2].tolist() == [7.5 / 8, 0.5] and found[2].isnan()


def occluded():
    """A model that knows a digit's motion, its frames, and what the digit covers; the blend prefers what arrives."""
    digit = np.zeros((12, 14), np.float32)
    digit[4:8, 5:9] = np.random.default_rng(0).uniform(0.5, 1, (4, 4))
    model, frames, classes = known(digit, 2, -1)
    with torch.no_grad():
        model.blend.weight.copy_(torch.tensor([20.0, -20.0]).view(1, 2, 1, 1))
        model.blend.bias.zero_()
    before, middle, after = (frames[0, k, 0] > 0 for k in (1, 2, 3))
    covered = torch.stack((middle & ~before, middle & ~after))[None]
    side = (~middle & ~before & after).to(torch.int8) - (~middle & before & ~after).to(torch.int8)
    return model, frames, [c[None] for c in classes], covered, side[None]


def test_disappearance_and_attention_are_measured_where_something_is_covered_or_one_sided():
    model, frames, classes, covered, side = occluded()
    measures = model.measure(frames, *classes, covered=covered, visible_side=side)
    assert measures["disappear_auc"].item() == 1 and measures["attention_right"].item() == 1
    swapped = model.measure(frames, *classes, covered=~covered, visible_side=-side)
    assert swapped["disappear_auc"].item() == 0 and swapped["attention_right"].item() == 0
    nothing = model.measure(frames, *classes, covered=covered & False, visible_side=0 * side)
    assert nothing["disappear_auc"].isnan() and nothing["attention_right"].isnan()
    assert set(model.measure(frames, *classes)) == {"accuracy", "accuracy_moving", "accuracy_still"}
    for setting in (dict(disappear="none"), dict(disappear="none", supervised=True)):
        measured = small(**setting).measure(noise(1, 5, 1, 8, 12), labels(1, 8, 12), labels(1, 8, 12), covered=covered)
        assert "disappear_auc" not in measured


def test_disappearance_and_attention_are_drawn_next_to_the_truth():
    model, frames, _, covered, side = occluded()
    pictures = model.pictures(frames, covered=covered, visible_side=side)
    cells = {
        name: [pictures[name][2:50:4, 2 + 58 * k : 58 + 58 * k : 4, 0] for k in range(count)]
        for name, count in (("disappear", 6), ("attention", 3))
    }
    for k in (0, 1):
        np.testing.assert_allclose(cells["disappear"][3 * k], 255 * frames[0, 1 + 2 * k, 0], atol=0.51)
        assert np.array_equal(cells["disappear"][3 * k + 1], 255 * covered[0, k].numpy())  # it knows
        assert np.array_equal(cells["disappear"][3 * k + 2], 255 * covered[0, k].numpy())
    shown, truth = cells["attention"][1:]
    assert (shown[side[0] == 1] == 255).all() and (shown[side[0] == -1] == 0).all()
    assert (truth[side[0] == 1] == 255).all() and (truth[side[0] == -1] == 0).all()
    assert (np.abs(truth[side[0] == 0].astype(int) - 127) <= 1).all()
    assert set(small(two_sided=False, disappear="none").pictures(noise(1, 3, 1, 8, 12))) == {"motion"}
