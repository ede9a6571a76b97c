import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cmp.baselines.image_encoder import normalize_frames
from cmp.baselines.video_autoencoder import ERRORS, VideoAutoencoder, roughness
from cmp.flow import flow_to_color

ENCODER = dict(type="PyramidResNet", depth=18, top_stride=4, out_channels=6)


def small(**arguments):
    torch.manual_seed(0)
    defaults = dict(feature_channels=4, hidden_channels=3, kernel=3, flow_kernel=3)
    return VideoAutoencoder(**{**defaults, **arguments})


def noise(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def moving_bars():
    """Two clips of a bar that moves 2 px per frame, right or down: (2, 5, 1, 16, 20)."""
    clips = torch.zeros(2, 5, 1, 16, 20)
    for t in range(5):
        clips[0, t, :, 4:12, 3 + 2 * t : 6 + 2 * t] = 1
        clips[1, t, :, 2 + 2 * t : 5 + 2 * t, 5:15] = 1
    return clips


def tell_flow(model, u, v):
    with torch.no_grad():
        model.flow_head[-1].bias.copy_(torch.tensor([float(u), float(v)]))


def test_before_training_the_flow_is_zero_and_the_prediction_a_plain_autoencoders():
    model, frames = small(), noise(2, 4, 1, 12, 16)
    features, flow = model.remember(frames)
    assert flow.shape == (2, 2, 6, 8) and not flow.any()
    torch.testing.assert_close(model.predict(frames), model.decoder(model.spatial_encoder(frames[:, -1])))


def test_features_are_fetched_from_where_the_flow_points():
    model, frames = small(), noise(1, 3, 1, 12, 16)
    tell_flow(model, 2, -1)
    still = model.spatial_encoder(frames[:, -1])
    moved = torch.zeros_like(still)
    moved[..., 1:, :6] = still[..., :5, 2:]
    torch.testing.assert_close(model.predict(frames), model.decoder(moved))


def test_the_flow_ends_at_a_quarter_of_the_map():
    model = small()
    tell_flow(model, 9, -9)
    flow = model.remember(noise(1, 2, 1, 12, 16))[1]
    assert (flow[:, 0] == 2.0).all() and (flow[:, 1] == -1.5).all()


def with_flow(**arguments):
    """A model whose flow depends on what it has seen."""
    model = small(**arguments)
    torch.nn.init.normal_(model.flow_head[-1].weight, std=3.0)
    return model


def test_every_frame_read_matters_and_the_one_to_be_predicted_does_not():
    model, frames = with_flow().eval(), noise(2, 4, 1, 12, 16)
    predicted = model.predict(frames[:, :-1])
    measured = model.measure(frames)
    torch.testing.assert_close(measured["mse"], (predicted - frames[:, -1]).square().mean((1, 2, 3)))
    for index in range(3):
        changed = frames.clone()
        changed[:, index] = 1 - changed[:, index]
        assert not torch.equal(model.predict(changed[:, :-1]), predicted)
    changed = frames.clone()
    changed[:, -1] = 0
    torch.testing.assert_close(model.measure(changed)["mse"], predicted.square().mean((1, 2, 3)))


def test_a_sample_does_not_see_its_neighbors_in_the_batch():
    model, frames = with_flow().eval(), noise(3, 4, 1, 12, 16)
    alone = torch.cat([model.predict(one) for one in frames.split(1)])
    torch.testing.assert_close(model.predict(frames), alone, atol=1e-5, rtol=1e-5)


def test_roughness_is_hubers_function_of_the_change_between_neighbors():
    flow = torch.zeros(2, 2, 3, 4)
    flow[0, 0, 1, 2] = 0.5  # four neighbors, each 0.5 away: beyond 0.2
    flow[1, 1, 0, 0] = 0.1  # two neighbors, within
    torch.testing.assert_close(roughness(flow, 0.2), torch.tensor([4 * 0.2 * (0.5 - 0.1), 2 * 0.1**2 / 2]))


def test_each_error_is_its_formula():
    frames = noise(2, 3, 1, 8, 10)
    target = frames[:, -1]
    for error in ERRORS:
        model = with_flow(error=error, smoothness=0.25)
        features, flow = model.remember(frames[:, :-1])
        raw = model.decode(features, flow)
        if error == "squared":
            expected = ((raw - target) ** 2).sum((1, 2, 3))
        elif error == "bernoulli":
            p = raw.sigmoid()
            expected = -(target * p.log() + (1 - target) * (1 - p).log()).sum((1, 2, 3))
            measures = model.measure(frames)
            torch.testing.assert_close(measures["nats"], expected)
            copy = frames[:, 1].clamp(0.02, 0.98)
            copied = -(target * copy.log() + (1 - target) * (1 - copy).log()).sum((1, 2, 3))
            torch.testing.assert_close(measures["nats_copy"], copied)
        else:
            expected = torch.zeros(2)
            for y in range(8):
                for x in range(10):
                    for dy, dx in ((0, 1), (1, 0)):
                        if dy <= y < 8 - dy and dx <= x < 10 - dx:
                            both = [(a[:, 0, y + dy, x + dx] - a[:, 0, y - dy, x - dx]) / 2 for a in (raw, target)]
                            expected = expected + (both[0] - both[1]) ** 2
        losses = model.loss(frames)
        torch.testing.assert_close(losses["prediction_error"], expected.mean())
        rough = roughness(flow, 1e-3).mean()
        assert rough > 0
        torch.testing.assert_close(losses["loss"], expected.mean() + 0.25 * rough)


def test_a_copied_and_an_unmoved_frame_are_measured_like_the_prediction():
    model, frames = with_flow(error="squared"), noise(2, 3, 1, 8, 10)
    measures = model.measure(frames)
    torch.testing.assert_close(measures["mse_copy"], (frames[:, 1] - frames[:, 2]).square().mean((1, 2, 3)))
    unmoved = model.decoder(model.spatial_encoder(frames[:, 1]))
    torch.testing.assert_close(measures["mse_unmoved"], (unmoved - frames[:, 2]).square().mean((1, 2, 3)))
    flow = model.remember(frames[:, :-1])[1]
    torch.testing.assert_close(measures["shift"], (flow**2).sum(1).sqrt().mean((1, 2)))


@pytest.mark.parametrize("setting", [{}, dict(image_channels=3, image_encoder=ENCODER)], ids=["own", "resnet"])
def test_every_parameter_gets_a_gradient_once_the_flow_has_left_zero(setting):
    frames = noise(2, 3, 1, 12, 16) if not setting else (255 * noise(2, 3, 3, 64, 96)).byte()
    model = small(**setting)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    without = []
    for _ in range(2):
        optimizer.zero_grad()
        model(frames=frames, mode="loss")["loss"].backward()
        without.append({name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()})
        optimizer.step()
    assert without[1] == set()
    # The last layer of the flow, which starts at zero, lets nothing through yet.
    assert without[0] == {
        n for n, _ in model.named_parameters() if n.startswith(("memory", "flow_head.0", "flow_head.1"))
    }


def test_one_batch_is_learned_by_heart_by_moving_what_was_seen():
    model, frames = (
        small(error="squared", feature_channels=8, hidden_channels=8, kernel=5, flow_kernel=7),
        moving_bars(),
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    start = model.loss(frames)["loss"].item()
    for _ in range(300):
        optimizer.zero_grad()
        loss = model.loss(frames)["loss"]
        loss.backward()
        optimizer.step()
    measures = model.measure(frames)
    assert loss.item() < 0.025 * start
    assert (measures["mse"] < 0.2 * measures["mse_unmoved"]).all()


def test_an_image_encoder_replaces_the_spatial_one_and_the_decoder_restores_full_size():
    for top_stride, layers in ((4, 5), (8, 8)):
        model = small(image_channels=3, image_encoder={**ENCODER, "top_stride": top_stride}).eval()
        assert len(model.decoder) == layers and model.spatial_encoder is None
        frames = (255 * noise(2, 3, 3, 64, 96)).byte()
        assert model.predict(frames).shape == (2, 3, 64, 96)
        seen = []
        model.image_encoder.register_forward_pre_hook(lambda _, inputs, seen=seen: seen.append(inputs[0]))
        assert model.remember(frames / 255)[1].shape == (2, 2, 64 // top_stride, 96 // top_stride)
        torch.testing.assert_close(seen[0], normalize_frames(frames.flatten(0, 1)), atol=1e-4, rtol=1e-4)
    assert model.describe()["image_encoder"] == {**ENCODER, "top_stride": 8}


@pytest.mark.parametrize("maker, frames_reached", [(small, [False, False, True]), (with_flow, [True] * 3)])
def test_the_last_frame_hands_a_gradient_to_the_image_encoder_by_what_it_shows_and_all_by_the_flow(
    maker, frames_reached
):
    model, tops = maker(image_channels=3, image_encoder=ENCODER), []
    model.image_encoder.register_forward_hook(lambda _, __, features: tops.append(features.top) or features)
    loss = model.loss((255 * noise(2, 4, 3, 64, 96)).byte())["loss"]
    reached = torch.autograd.grad(loss, tops[0])[0].unflatten(0, (2, 3))
    assert reached.flatten(2).any(dim=2).tolist() == [frames_reached] * 2


def test_a_frame_is_encoded_by_tanh_and_the_largest_of_four_and_decoded_by_repeating_and_tanh():
    model, frame = small(), noise(2, 1, 12, 16)
    layer = model.spatial_encoder[0]
    bent = F.conv2d(frame, layer.weight, layer.bias, padding=1).tanh()
    torch.testing.assert_close(model.spatial_encoder(frame), bent.unfold(2, 2, 2).unfold(3, 2, 2).amax(dim=(4, 5)))
    model, x = small(image_channels=3, image_encoder=ENCODER), 3 * noise(2, 6, 3, 4)
    first, second = (layer for layer in model.decoder if isinstance(layer, torch.nn.Conv2d))
    grown = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    grown = F.conv2d(grown, first.weight, first.bias, padding=1).tanh().repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(model.decoder(x), F.conv2d(grown, second.weight, second.bias, padding=1))


def test_the_published_network_has_the_published_size():
    model = VideoAutoencoder()
    count = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    assert count["spatial_encoder"] == 49 * 32 + 32 and count["decoder"] == 49 * 32 + 1
    assert count["memory"] == 49 * (32 + 45) * 4 * 45 + 4 * 45
    assert count["flow_head"] == 225 * 90 + 2 + 225 * 4 + 2 + 4 + 2
    weights = model.memory.input.weight.detach()
    assert weights.abs().max() <= 0.08 and weights.std().item() == pytest.approx(0.08 / 3**0.5, rel=0.02)
    assert not model.memory.input.bias.any()


def test_pictures_are_the_same_each_time_and_show_each_sample_in_a_row():
    model, frames = with_flow(), noise(2, 4, 1, 12, 16)
    first, second = (model.pictures(frames)["prediction"] for _ in range(2))
    assert np.array_equal(first, second) and first.shape == (2 * (12 + 2) + 2, 6 * (16 + 2) + 2, 3)


def test_pictures_show_three_frames_the_prediction_its_error_and_the_motion():
    model, frames = small(error="squared"), noise(1, 4, 1, 12, 16)
    tell_flow(model, 2, -1)  # from the next frame back into the last
    sheet = model.pictures(frames)["prediction"]
    columns = [sheet[2:14, 2 + 18 * k : 18 + 18 * k] for k in range(6)]
    predicted = model.predict(frames[:, :-1])[0, 0].detach()
    shown = [*frames[0, 1:, 0], predicted, 0.5 + (predicted - frames[0, 3, 0]) / 2]
    for column, image in zip(columns, shown):
        expected = 255 * image.clamp(0, 1)[:, :, None].expand(-1, -1, 3)
        np.testing.assert_allclose(column, expected, atol=0.51)
    assert (columns[5] == flow_to_color(np.array([[[-2, 1]]], np.float32))).all()


def test_what_does_not_fit_is_refused():
    for arguments, message in (
        (dict(hidden_channels=0), "at least 1"),
        (dict(kernel=4), "must be odd, got 4 and 3"),
        (dict(flow_kernel=2), "must be odd, got 3 and 2"),
        (dict(error="hinge"), "error must be one of"),
        (dict(smoothness=-1.0), "smoothness must be"),
        (dict(smoothness_threshold=0.0), "threshold above 0"),
        (dict(image_encoder=ENCODER), "an image encoder reads 3 channels"),
    ):
        with pytest.raises(ValueError, match=message):
            small(**arguments)
    with pytest.raises(ValueError, match="T at least 2"):
        small().loss(noise(2, 1, 1, 8, 8))
    with pytest.raises(ValueError, match=r"multiples of 2 px, got \(8, 9\)"):
        small().loss(noise(2, 3, 1, 8, 9))


def test_a_roll_out_feeds_its_predictions_back_and_drops_the_oldest_frame():
    model, frames = with_flow(error="squared").eval(), noise(2, 3, 1, 12, 16)
    first = model.predict(frames)
    second = model.predict(torch.cat((frames[:, 1:], first[:, None]), dim=1))
    third = model.predict(torch.stack((frames[:, 2], first, second), dim=1))
    torch.testing.assert_close(model.roll_out(frames, 3), torch.stack((first, second, third), dim=1))


@pytest.mark.parametrize("error", ERRORS)
def test_several_frames_can_be_trained_and_their_errors_are_averaged(error):
    model, frames = with_flow(error=error, given=2, trained=3, smoothness=0.5), noise(2, 6, 1, 12, 16)
    losses = model.loss(frames)
    given, errors, roughs = frames[:, :2], [], []
    for t in range(3):
        features, flow = model.remember(given)
        decoded = model.decode(features, flow)
        errors.append(model._error(decoded, frames[:, 2 + t]).mean())
        roughs.append(roughness(flow, model.smoothness_threshold).mean())
        given = torch.stack((given[:, 1], decoded.sigmoid() if error == "bernoulli" else decoded), dim=1)
    torch.testing.assert_close(losses["prediction_error"], sum(errors) / 3)
    torch.testing.assert_close(losses["loss"], sum(errors) / 3 + 0.5 * sum(roughs) / 3)
    first = torch.autograd.grad(errors[2], model.decoder.parameters(), retain_graph=True)
    assert all(gradient.any() for gradient in first)


def test_by_default_all_frames_but_the_last_are_given_and_the_loss_is_that_of_one_frame():
    frames = noise(2, 5, 1, 12, 16)
    default, stated = with_flow(), with_flow(given=4, trained=1)
    assert torch.equal(default.loss(frames)["loss"], stated.loss(frames)["loss"])
    assert default.describe()["given"] is None and default.describe()["trained"] == 1
    assert not any("frame1" in name for name in default.measure(frames))


def test_the_errors_of_a_roll_out_are_measured_frame_by_frame_beside_a_copy():
    model, frames = with_flow(error="squared", given=3).eval(), noise(2, 6, 1, 12, 16)
    measures, rolled = model.measure(frames), model.roll_out(frames[:, :3], 3)
    for t in range(3):
        expected = (rolled[:, t] - frames[:, 3 + t]).square().mean((1, 2, 3))
        torch.testing.assert_close(measures[f"mse_frame{t + 1}"], expected)
        copied = (frames[:, 2] - frames[:, 3 + t]).square().mean((1, 2, 3))
        torch.testing.assert_close(measures[f"mse_copy_frame{t + 1}"], copied)
    torch.testing.assert_close(measures["mse"], measures["mse_frame1"])
    torch.testing.assert_close(measures["mse_copy"], measures["mse_copy_frame1"])
    pictures = model.pictures(frames)
    assert pictures["roll_out"].shape == (4 * 14 + 2, 6 * 18 + 2, 3)
    shown = pictures["roll_out"][2 + 14 : 14 + 14, 2 + 4 * 18 : 18 + 4 * 18, 0]
    np.testing.assert_allclose(shown, 255 * rolled[0, 1, 0].clamp(0, 1).detach(), atol=0.51)


def test_the_prediction_after_a_repeated_frame_shows_whether_motion_is_used():
    model, frames = with_flow(error="squared").eval(), noise(2, 4, 1, 12, 16)
    repeated = frames[:, 2:3].expand(-1, 3, -1, -1, -1)
    measures = model.measure(frames)
    expected = (model.predict(repeated) - frames[:, 3]).square().mean((1, 2, 3))
    torch.testing.assert_close(measures["mse_still"], expected)
    length = model.remember(repeated)[1].norm(dim=1).mean((1, 2))
    torch.testing.assert_close(measures["shift_still"], length)
    assert not torch.allclose(measures["shift_still"], measures["shift"])


def test_too_few_frames_for_a_roll_out_are_refused():
    for arguments in (dict(given=0), dict(trained=0)):
        with pytest.raises(ValueError, match="given and trained must be at least 1"):
            small(**arguments)
    with pytest.raises(ValueError, match=r"T at least 5, got \(1, 4, 1, 8, 8\)"):
        small(given=3, trained=2).loss(noise(1, 4, 1, 8, 8))
