"""What all frame predictors share, the recurrent one and the skip autoencoder; test_multi_scale.py has the third."""

import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cmp.baselines.extrapolation import copy_last, extrapolate_flow, moving_pixels
from cmp.baselines.frame_prediction import FramePredictor, frame_loss, roll_out, scale_pixels
from cmp.baselines.gradient_difference import gradient_difference
from cmp.baselines.multi_scale import MultiScalePredictor
from cmp.baselines.prediction_metrics import prediction_metrics
from cmp.baselines.seq2seq import ConvLSTMSeq2Seq
from cmp.baselines.skip_autoencoder import SkipAutoencoder
from cmp.models.backbones import ImageFeatures

ENCODER = dict(type="PyramidResNet", depth=18, top_stride=4, out_channels=8)
NARROW = dict(widths=((6, 6),) * 4, kernels=((3, 3, 3),) * 4)
DISCRIMINATORS = dict(
    discriminator_widths=((4,),) * 4,
    discriminator_kernels=((1,), (3,), (3,), (3,)),
    discriminator_units=((8,),) * 4,
    size_px=32,
)
MAKERS = {
    "seq2seq": lambda: ConvLSTMSeq2Seq(width=6, kernel=3, trained=2),
    "seq2seq with an image encoder": lambda: ConvLSTMSeq2Seq(
        width=6, kernel=3, given=3, trained=1, image_encoder=ENCODER
    ),
    "skip": lambda: SkipAutoencoder(widths=(8, 12, 16)),
    "skip, residual": lambda: SkipAutoencoder(widths=(8, 12, 16), residual=True),
    "skip with an image encoder": lambda: SkipAutoencoder(widths=(8, 12), given=2, image_encoder=ENCODER),
    "multi-scale": lambda: MultiScalePredictor(**NARROW),
    "adversarial": lambda: MultiScalePredictor(adversarial=0.05, **NARROW, **DISCRIMINATORS),
}


class Last(FramePredictor):
    """Predicts the mean of what it sees."""

    def predict(self, frames, count):
        return roll_out(lambda seen: seen.mean(dim=1), frames, count)

    def describe(self):
        return {}


def clips(batch=2, count=6, height=32, width=32, seed=0):
    """Smooth noise that slides, 0..255 uint8."""
    noise = torch.rand(batch, 3, 12, 16, generator=torch.Generator().manual_seed(seed)) * 255
    large = F.interpolate(noise, scale_factor=8.0, mode="bilinear")
    return torch.stack([large[..., 10:, 3 * t :][..., :height, :width] for t in range(count)], dim=1).byte()


def make(name):
    torch.manual_seed(0)
    return MAKERS[name]()


def total(losses):
    return sum(value for name, value in losses.items() if "loss" in name)


def test_in_a_roll_out_a_prediction_comes_in_and_the_oldest_frame_goes():
    frames = torch.tensor([1.0, 2, 4]).view(1, 3, 1, 1, 1)
    rolled = roll_out(lambda seen: seen[:, 0] * 100 + seen[:, 1] * 10 + seen[:, 2], frames, 3)
    assert rolled.flatten().tolist() == [124, 2 * 100 + 4 * 10 + 124, 4 * 100 + 1240 + 364]


def test_the_loss_of_frames_is_l2_and_gdl_per_value():
    predicted, target = torch.rand(2, 2, 3, 3, 4, 5)
    l2, gdl = frame_loss(predicted, target)
    flat = [frames.flatten(0, 1) for frames in (predicted, target)]
    assert l2.item() == pytest.approx(((flat[0] - flat[1]) ** 2).mean().item())
    assert gdl.item() == pytest.approx((gradient_difference(*flat) / (3 * 4 * 5)).mean().item())


def test_what_is_minimized_is_l2_and_gdl_of_the_trained_frames_and_of_none_after():
    model, frames = Last(2, 2), clips(count=6)
    predicted = model.predict(scale_pixels(frames[:, :2]), 2)
    l2, gdl = frame_loss(predicted, scale_pixels(frames[:, 2:4]))
    torch.testing.assert_close(model.parse_losses(model(frames=frames, mode="loss"))[0], l2 + gdl)


def test_in_a_roll_out_a_loss_reaches_back_through_the_predictions_before():
    weight = torch.tensor(3.0, requires_grad=True)
    rolled = roll_out(lambda seen: weight * seen[:, -1], torch.full((1, 2, 1, 1, 1), 5.0), 2)
    rolled[:, 1].sum().backward()  # 5 weight^2
    assert weight.grad.item() == 2 * 3 * 5


def stopping_clips():
    """Four frames; the third does not move on the right, the fourth not on the left."""
    frames = clips(count=4)
    frames[:, 2, ..., 16:], frames[:, 3, ..., :16] = frames[:, 1, ..., 16:], frames[:, 2, ..., :16]
    return frames


def test_metrics_are_of_the_frames_after_the_given_ones_by_each_method_everywhere_and_where_they_move():
    model, frames = Last(2, 1), stopping_clips()
    table = model.all_metrics(frames)
    scaled = scale_pixels(frames)
    assert scaled.min() >= -1 and scaled.max() <= 1 and scale_pixels(torch.tensor([0, 255])).tolist() == [-1, 1]
    given, moving = scaled[:, :2], moving_pixels(scaled, 2)
    assert moving[:, 0, ..., :16].float().mean() > 0.5 > 0.2 > moving[:, 0, ..., 16:].float().mean()
    assert moving[:, 1, ..., 16:].float().mean() > 0.5 > 0.2 > moving[:, 1, ..., :16].float().mean()
    for method, made in (
        ("model", model.predict(given, 2)),
        ("copy", copy_last(given, 2)),
        ("flow", extrapolate_flow(given, 2)),
    ):
        for region, where in (("", torch.ones_like(moving)), ("_moving", moving)):
            measured_frames = [prediction_metrics(made[:, t], scaled[:, 2 + t], where[:, t]) for t in range(2)]
            for metric, first in measured_frames[0].items():
                torch.testing.assert_close(table[f"{method}_{metric}{region}_first"], first)
                mean = (first + measured_frames[1][metric]) / 2
                torch.testing.assert_close(table[f"{method}_{metric}{region}_all"], mean)
    assert len(table) == 3 * 7 * 2 * 2 and all(values.shape == (2,) for values in table.values())
    measured = model.measure(frames)
    assert all(torch.equal(values, table[name]) for name, values in measured.items())
    assert {"model_psnr_all", "copy_psnr_first", "flow_psnr_moving_all", "model_gdl_all"} <= set(measured)
    assert {"model_ssim_all", "model_total_all"} <= set(measured)


def test_metrics_per_frame_are_those_of_each_predicted_frame_in_order():
    model, frames = Last(2, 1), clips(count=5, width=40)
    given, target = model.divide(frames)
    predicted, table = model.predict(given, 3), model.metrics_per_frame(frames)
    for t in range(3):
        for metric, values in prediction_metrics(predicted[:, t], target[:, t]).items():
            torch.testing.assert_close(table[f"model_{metric}"][:, t], values)
    assert table["model_l2"][:, 0].mean() < table["model_l2"][:, 2].mean()  # frames far ahead are harder


def test_pictures_show_the_true_frames_above_the_predicted_ones():
    model, frames = Last(2, 1), clips(count=4)
    pictures = model.pictures(frames)
    sheet = pictures["prediction"]
    assert sheet.shape == (6 * 34 + 2, 4 * 34 + 2, 3) and sheet.dtype == np.uint8
    assert np.array_equal(sheet[2:34, 2 + 3 * 34 : 34 + 3 * 34], frames[0, 3].permute(1, 2, 0))
    third = model.predict(scale_pixels(frames[:, :2]), 2)[0, 1]
    shown = sheet[36:68, 2 + 3 * 34 : 34 + 3 * 34].astype(float)
    np.testing.assert_allclose(shown, (third.permute(1, 2, 0) + 1) * 127.5, atol=0.6)
    moved = extrapolate_flow(scale_pixels(frames[:, :2]), 2)[0, 1]
    shown = sheet[70:102, 2 + 3 * 34 : 34 + 3 * 34].astype(float)
    np.testing.assert_allclose(shown, (moved.permute(1, 2, 0) + 1) * 127.5, atol=0.6)
    animation = pictures["prediction_animation"]
    assert animation.shape == (4, 2 * 34 + 2, 3 * 34 + 2, 3)
    for t in range(4):  # column t of the image; its rows of a clip are next to each other
        column = sheet[2:, 2 + t * 34 : 34 + t * 34].reshape(2, 3, 34, 32, 3)[:, :, :32]
        assert np.array_equal(animation[t, 2:, 2:].reshape(2, 34, 3, 34, 3)[:, :32, :, :32].swapaxes(1, 2), column)


@pytest.mark.parametrize("name", MAKERS)
def test_every_parameter_gets_a_gradient(name):
    model = make(name)
    total(model.loss(clips(batch=4, count=8))).backward()
    idle = [key for key, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert idle == []


@pytest.mark.parametrize(
    "name, maps", [("seq2seq with an image encoder", {"top"}), ("skip with an image encoder", {"stem", "top"})]
)
def test_each_map_that_is_used_hands_each_frames_gradient_on_to_the_image_encoder(name, maps):
    model, leaves = make(name), []

    def cut(_, __, features):
        leaves.append(ImageFeatures(*(None if each is None else each.detach().requires_grad_() for each in features)))
        return leaves[-1]

    model.image_encoder.register_forward_hook(cut)
    total(model.loss(clips(count=model.given + model.trained))).backward()
    for features in leaves:
        reached = {key for key, leaf in features._asdict().items() if leaf is not None and leaf.grad is not None}
        assert reached == maps and all(getattr(features, key).grad.flatten(1).any(dim=1).all() for key in maps)


@pytest.mark.parametrize("name", ["seq2seq", "seq2seq with an image encoder"])
def test_a_loss_of_the_second_predicted_frame_reaches_what_made_the_first(name):
    model, made = make(name), []
    model.decoder.register_forward_hook(lambda _, __, out: made.append(out))
    second = model.predict(scale_pixels(clips())[:, : model.given], 2)[:, 1]
    assert torch.autograd.grad(second.square().sum(), made[0])[0].flatten(1).any(dim=1).all()


@pytest.mark.parametrize(
    "build, steps",
    [
        (lambda: ConvLSTMSeq2Seq(width=16, kernel=3, trained=1), 280),
        (MAKERS["skip"], 100),
        (lambda: SkipAutoencoder(widths=(12, 16, 16), residual=True), 120),
        (lambda: MultiScalePredictor(widths=((16, 16),) * 4, kernels=((3, 3, 3),) * 4), 120),
    ],
    ids=["seq2seq", "skip", "skip, residual", "multi-scale"],
)
def test_one_batch_can_be_learned_by_heart(build, steps):
    torch.manual_seed(0)
    model, frames = build(), clips(count=5)
    given, target = model.divide(frames)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    errors = []
    for step in range(steps + 1):
        if step in (0, steps):
            errors.append((model.predict(given, 1) - target).square().mean().item())
        optimizer.zero_grad()
        total(model.loss(frames)).backward()
        optimizer.step()
    assert errors[1] < 0.025 * errors[0] and errors[1] < 0.1 * (given[:, -1:] - target).square().mean()


class TwoLayers(torch.nn.Module):
    """A small image encoder that learns quickly."""

    channels, strides = dict(stem=16, top=32), dict(stem=2, top=4)

    def __init__(self):
        super().__init__()
        self.stem, self.top = torch.nn.Conv2d(3, 16, 3, 2, 1), torch.nn.Conv2d(16, 32, 3, 2, 1)

    def forward(self, image):
        stem = self.stem(image).relu()
        return ImageFeatures(self.top(stem).relu(), stem=stem)


@pytest.mark.parametrize(
    "kind, arguments, steps, most",
    [
        (SkipAutoencoder, dict(widths=(8, 12)), 100, 0.1),
        (ConvLSTMSeq2Seq, dict(width=16, kernel=3, trained=1), 140, 0.7),
    ],
    ids=["skip", "seq2seq"],
)
def test_one_batch_can_be_learned_by_heart_from_an_image_encoders_maps(kind, arguments, steps, most, monkeypatch):
    monkeypatch.setattr(sys.modules[kind.__module__], "build_image_encoder", lambda _: TwoLayers())
    torch.manual_seed(0)
    model, frames = kind(given=2, image_encoder=ENCODER, **arguments), clips(count=3)
    given, target = model.divide(frames)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        total(model.loss(frames)).backward()
        optimizer.step()
    # The mean of all frames, which sees nothing, has more than twice the error of the last one again.
    assert (model.predict(given, 1) - target).square().mean() < most * (given[:, -1:] - target).square().mean()


@pytest.mark.parametrize("name", MAKERS)
def test_a_prediction_does_not_hang_on_how_many_are_asked_for_and_follows_the_frames_given(name):
    model, frames = make(name).eval(), scale_pixels(clips(count=6))
    given = frames[:, : model.given]
    with torch.no_grad():
        three, one = model.predict(given, 3), model.predict(given, 1)
        assert three.shape == (2, 3, 3, 32, 32) and three.abs().max() <= 1
        torch.testing.assert_close(three[:, :1], one)
        for t in range(model.given):
            changed = given.clone()
            changed[0, t] = 0
            other = model.predict(changed, 1)
            assert not torch.equal(other[0], one[0]) and torch.equal(other[1], one[1])


@pytest.mark.parametrize("name", ["skip", "skip with an image encoder", "multi-scale"])
def test_frames_of_any_size_are_predicted(name):
    model, frames = make(name).eval(), scale_pixels(clips(height=37, width=51))
    with torch.no_grad():
        assert model.predict(frames[:, : model.given], 2).shape == (2, 2, 3, 37, 51)


def test_the_second_memory_goes_on_from_the_first_and_feeds_its_predictions_back():
    model, frames = make("seq2seq").eval(), scale_pixels(clips())
    with torch.no_grad():
        state = None
        for t in range(3):
            state = model.reader(model.encoder(frames[:, t]), state)
        state = model.writer(model.encoder(frames[:, 3]), state)
        first = model.decoder(state[0]).tanh()
        second = model.decoder(model.writer(model.encoder(first), state)[0]).tanh()
        torch.testing.assert_close(model.predict(frames[:, :4], 2), torch.stack((first, second), dim=1))


@pytest.mark.parametrize("name", ["seq2seq", "skip", "multi-scale"])
def test_gdl_has_a_weight_and_an_exponent_and_without_weight_only_l2_is_minimized(name):
    model, frames = make(name), clips(count=8)
    given, target = model.divide(frames, model.trained)
    model.eval()
    terms = {}
    for weight, exponent in ((1.0, 1.0), (0.25, 1.0), (2.0, 2.0), (0.0, 1.0)):
        model.gdl_weight, model.gdl_exponent = weight, exponent
        terms[weight, exponent] = model.loss(frames)
    plain = terms[1.0, 1.0]
    assert set(plain) == {"loss_l2", "loss_gdl"} and set(terms[0.0, 1.0]) == {"loss_l2"}
    assert all(torch.equal(losses["loss_l2"], plain["loss_l2"]) for losses in terms.values())
    torch.testing.assert_close(terms[0.25, 1.0]["loss_gdl"], 0.25 * plain["loss_gdl"])
    if name != "multi-scale":  # which sums over its sizes
        predicted = model.predict(given, model.trained)
        squares = [
            (predicted.diff(dim=axis).abs() - target.diff(dim=axis).abs()).square().sum() / predicted.numel()
            for axis in (-2, -1)
        ]
        torch.testing.assert_close(terms[2.0, 2.0]["loss_gdl"], 2 * sum(squares))


@pytest.mark.parametrize(
    "maker",
    [
        lambda **gdl: ConvLSTMSeq2Seq(width=6, kernel=3, **gdl),
        lambda **gdl: SkipAutoencoder(widths=(8, 12), **gdl),
        lambda **gdl: MultiScalePredictor(**NARROW, **gdl),
    ],
    ids=["seq2seq", "skip", "multi-scale"],
)
def test_the_weights_of_gdl_are_arguments_that_checkpoints_store_and_curves_name(maker):
    model = maker(gdl_weight=0.5, gdl_exponent=2)
    assert model.describe()["gdl_weight"] == 0.5 and model.describe()["gdl_exponent"] == 2
    assert "L2 + 0.5 GDL of exponent 2 (values -1..1)" in model.loss_unit
    assert "L2 (values -1..1)" in maker(gdl_weight=0).loss_unit and "L2 + GDL (values -1..1)" in maker().loss_unit
    for arguments in (dict(gdl_weight=-0.1), dict(gdl_exponent=0.5), dict(gdl_weight=float("nan"))):
        with pytest.raises(ValueError, match="gdl_weight must be at least 0 and gdl_exponent at least 1"):
            maker(**arguments)


def test_with_teacher_forcing_the_true_frames_are_fed_back_in_training_only():
    model, frames = make("seq2seq").eval(), clips(count=8)
    given, target = model.divide(frames)
    model.trained = 4
    with torch.no_grad():
        own = model.predict(given, 4)
        state = None
        for t in range(3):
            state = model.reader(model.encoder(given[:, t]), state)
        forced = []
        for fed in (given[:, 3], target[:, 0], target[:, 1], target[:, 2]):
            state = model.writer(model.encoder(fed), state)
            forced.append(model.decoder(state[0]).tanh())
        forced = torch.stack(forced, dim=1)
        assert torch.equal(model.predict_in_training(given, target), own)
        model.teacher_forcing = 1.0
        torch.testing.assert_close(model.predict_in_training(given, target), forced)
        assert torch.equal(model.predict(given, 4), own) and torch.equal(own[:, 0], forced[:, 0])
        torch.testing.assert_close(model.loss(frames)["loss_l2"], (forced - target).square().mean())
        torch.testing.assert_close(model.other_predictions(given, target)["forced"], forced)
        squares = (forced - target).square().mean(dim=(2, 3, 4))
        torch.testing.assert_close(model.metrics_per_frame(frames)["forced_l2"], squares)


def test_a_share_of_teacher_forcing_is_drawn_for_each_sample_and_step():
    model = make("seq2seq").eval()
    model.teacher_forcing, fed = 0.3, []
    model.encoder.register_forward_pre_hook(lambda _, inputs: fed.append(inputs[0]))
    given, target = torch.zeros(50, 4, 3, 8, 12), torch.full((50, 6, 3, 8, 12), 0.5)
    torch.manual_seed(1)
    with torch.no_grad():
        model.predict_in_training(given, target)
    true = torch.stack([(frames == 0.5).all(dim=3).all(dim=2).all(dim=1) for frames in fed[1:]])  # (5 steps, 50)
    assert len(fed) == 6 and 0.2 < true.float().mean() < 0.4
    assert len({tuple(column) for column in true.T.tolist()}) > 5 and (true.float().mean(dim=1) < 0.6).all()


def test_cells_on_top_of_each_other_read_the_hidden_state_below_and_the_top_one_is_decoded():
    torch.manual_seed(0)
    model = ConvLSTMSeq2Seq(width=4, kernel=3, given=2, trained=2, cell_depth=2).eval()
    frames = scale_pixels(clips(width=40))[:, :2]
    with torch.no_grad():
        low = model.reader(model.encoder(frames[:, 0]), None)
        high = model.readers_above[0](low[0], None)
        low = model.writer(model.encoder(frames[:, 1]), low)
        high = model.writers_above[0](low[0], high)
        first = model.decoder(high[0]).tanh()
        low = model.writer(model.encoder(first), low)
        high = model.writers_above[0](low[0], high)
        second = model.decoder(high[0]).tanh()
        torch.testing.assert_close(model.predict(frames, 2), torch.stack((first, second), dim=1))
    model.given = 3  # with two, no cell of the reader has a state before
    total(model.train().loss(clips())).backward()
    assert all(weight.grad.any() for weight in model.parameters())


def test_the_frame_encoder_may_be_deeper_and_normalized_and_is_as_before_by_default():
    names = {name for name, _ in ConvLSTMSeq2Seq(width=4).named_parameters()}
    assert {"encoder.0.weight", "encoder.0.bias", "encoder.2.weight", "reader.input.weight"} <= names
    assert not any("above" in name or name.startswith(("encoder.1", "encoder.3", "encoder.4")) for name in names)
    torch.manual_seed(0)
    model = ConvLSTMSeq2Seq(width=4, encoder_depth=4, encoder_batch_norm=True)
    x = features = torch.rand(5, 3, 16, 24)
    for number, stride in enumerate((2, 2, 1, 1)):
        features = F.conv2d(features, model.encoder[3 * number].weight, None, stride, 1)
        mean, variance = features.mean((0, 2, 3), keepdim=True), features.var((0, 2, 3), keepdim=True, correction=0)
        features = ((features - mean) / (variance + 1e-5).sqrt()).clamp(min=0)
    assert features.shape == (5, 8, 4, 6)
    torch.testing.assert_close(model.encode(x), features, atol=1e-5, rtol=1e-4)


def test_frames_need_not_be_square():
    for name in ("seq2seq", "skip", "multi-scale"):
        model = make(name)
        losses = model.loss(clips(count=8, height=32, width=44))
        assert model.predict(torch.zeros(1, 4, 3, 32, 44), 2).shape == (1, 2, 3, 32, 44)
        total(losses).backward()


def test_a_residual_of_nothing_is_the_last_frame_again():
    model, frames = make("skip, residual").eval(), scale_pixels(clips())
    torch.nn.init.zeros_(model.head.weight)
    torch.nn.init.zeros_(model.head.bias)
    assert torch.equal(model.predict(frames[:, :4], 2), copy_last(frames[:, :4], 2))


def test_what_makes_no_sense_is_refused():
    for build, message in (
        (lambda: SkipAutoencoder(given=1), "given must be at least 2"),
        (lambda: SkipAutoencoder(trained=0), "trained at least 1"),
        (lambda: SkipAutoencoder(widths=(8,)), "want a width for each"),
        (lambda: SkipAutoencoder(widths=(8,), image_encoder=ENCODER), "want a width for each"),
        (lambda: SkipAutoencoder(image_encoder=dict(type="AlexNetFCN")), "AlexNetFCN lacks a stem"),
        (lambda: ConvLSTMSeq2Seq(image_encoder=dict(type="AlexNetFCN")), "stride 4, as the decoder has, got "),
        (lambda: ConvLSTMSeq2Seq(teacher_forcing=1.5), "teacher_forcing must be a share from 0 to 1, got 1.5"),
        (lambda: ConvLSTMSeq2Seq(teacher_forcing=float("nan")), "teacher_forcing must be a share from 0 to 1"),
        (lambda: ConvLSTMSeq2Seq(encoder_depth=1), "encoder_depth must be at least 2 and cell_depth at least 1"),
        (lambda: ConvLSTMSeq2Seq(cell_depth=0), "encoder_depth must be at least 2 and cell_depth at least 1"),
        (lambda: ConvLSTMSeq2Seq(encoder_depth=3, image_encoder=ENCODER), "the encoder that image_encoder replaces"),
        (lambda: make("seq2seq").predict(torch.zeros(1, 4, 3, 30, 32), 1), "multiples of 4"),
        (lambda: make("skip").loss(clips(count=4)), "T at least 5, 4 given and the rest predicted"),
        (lambda: make("seq2seq").loss(clips(count=5)), "T at least 6, 4 given"),
    ):
        with pytest.raises(ValueError, match=message):
            build()
