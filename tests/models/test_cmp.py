import math

import pytest
import torch
import torchvision

from cmp.flow import FlowQuantizer
from cmp.models import (
    CMP,
    AlexNetFCN,
    DirectFlow,
    DiscreteLoss,
    MotionEncoder,
    PropagationDecoder,
    PyramidResNet,
    RegressionLoss,
    ResNet,
    SkipPropagationDecoder,
)
from cmp.models.guidance_correction import correct_at_points


def build(image_encoder=None, motion_encoder=None, decoder=None, quantizer=None, loss=None, seed=0, **arguments):
    torch.manual_seed(seed)
    return CMP(
        image_encoder=dict(type=ResNet, depth=18) | (image_encoder or {}),
        motion_encoder=dict(type=MotionEncoder) | (motion_encoder or {}),
        decoder=dict(type=PropagationDecoder) | (decoder or {}),
        quantizer=dict(type=FlowQuantizer) | (quantizer or {}),
        loss=dict(type=DiscreteLoss) | (loss or {}),
        **arguments,
    )


def batch(height=64, width=96, size=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mask = (torch.rand(size, 1, height, width, generator=generator) < 0.005).float()
    flow = torch.randn(size, 2, height, width, generator=generator) * 10
    image = torch.randint(0, 256, (size, 3, height, width), generator=generator, dtype=torch.uint8)
    return dict(image=image, guidance=flow * mask, mask=mask, flow=flow)


SKIP = dict(type=SkipPropagationDecoder, strides=(1, 2, 4, 8))
ALEXNET = dict(type=AlexNetFCN)
NETWORKS = {
    "resnet18": {},
    "resnet34_stride16": dict(image_encoder=dict(depth=34, output_stride=16)),
    "resnet50": dict(image_encoder=dict(depth=50)),
    "resnet50_skips": dict(image_encoder=dict(depth=50), decoder=SKIP),
    "resnet18_skips": dict(decoder=SKIP),
    "resnet18_filled": dict(motion_encoder=dict(fill="nearest")),
    "resnet18_regression": dict(quantizer=dict(type=DirectFlow), loss=dict(type=RegressionLoss)),
    "pyramid_filled_shortcut": dict(
        image_encoder=dict(type=PyramidResNet, top_stride=4),
        motion_encoder=dict(fill="nearest"),
        decoder=dict(shortcut=True),
    ),
    "pyramid_attention": dict(
        image_encoder=dict(type=PyramidResNet, top_stride=4),
        motion_encoder=dict(fill="attention"),
        decoder=dict(shortcut=True),
    ),
    "pyramid_attention_still": dict(
        image_encoder=dict(type=PyramidResNet, top_stride=4),
        motion_encoder=dict(fill="attention", still=True),
        decoder=dict(shortcut=True),
    ),
    "quadratic_bins": dict(quantizer=dict(num_bins=41, spacing="quadratic")),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_parameter_gets_a_gradient(name):
    model = build(**NETWORKS[name])
    model(**batch(), mode="loss")["loss"].backward()
    without = [key for key, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    zero = [key for key, p in model.named_parameters() if not key.endswith("bias") and not p.grad.any()]
    assert without == [] and zero == []


@pytest.mark.parametrize("name", ("resnet18_skips", "pyramid_attention_still"))
def test_several_sets_of_points_per_image_are_the_sets_one_by_one_with_one_encoding(name):
    model = build(**NETWORKS[name]).eval()
    data, other = batch(), batch(seed=1)
    sets = {key: torch.stack((data[key], other[key]), dim=1) for key in ("guidance", "mask")}
    sets["guidance"][:, 1] = data["flow"] * sets["mask"][:, 1]
    encoded = []
    model.image_encoder.register_forward_hook(lambda *call: encoded.append(len(call[1][0])))
    with torch.no_grad():
        logits = model(**data | sets)
        loss = model(**data | sets, mode="loss")["loss"]
        assert encoded == [2, 2]
        one_by_one = [data | {key: part[:, i] for key, part in sets.items()} for i in range(2)]
        torch.testing.assert_close(logits[0::2], model(**one_by_one[0]))
        torch.testing.assert_close(logits[1::2], model(**one_by_one[1]))
        losses = [model(**one, mode="loss")["loss"] for one in one_by_one]
    torch.testing.assert_close(loss, sum(losses) / 2)


def test_every_parameter_of_the_alexnet_network_gets_a_gradient():
    torch.manual_seed(0)
    model = CMP(
        dict(type=AlexNetFCN),
        dict(type=MotionEncoder),
        dict(type=PropagationDecoder),
        dict(type=FlowQuantizer),
        dict(type=DiscreteLoss),
    )
    model(**batch(128, 160), mode="loss")["loss"].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert all(p.grad.any() for key, p in model.named_parameters() if not key.endswith("bias"))


def parameters_in_millions(**parts):
    with torch.device("meta"):
        model = CMP(
            **dict(
                motion_encoder=dict(type=MotionEncoder),
                decoder=dict(type=PropagationDecoder),
                quantizer=dict(type=FlowQuantizer),
                loss=dict(type=DiscreteLoss),
            )
            | parts
        )
    return sum(p.numel() for p in model.parameters()) / 1e6


def test_the_published_networks_have_the_published_sizes():
    assert parameters_in_millions(image_encoder=dict(type=AlexNetFCN)) == pytest.approx(32.50, abs=0.005)
    assert parameters_in_millions(image_encoder=dict(type=ResNet)) == pytest.approx(25.49751, abs=1e-5)
    assert parameters_in_millions(image_encoder=dict(type=ResNet), decoder=SKIP) == pytest.approx(28.52, abs=0.005)


def test_at_the_published_start_the_loss_is_twice_the_logarithm_of_99():
    model = build()
    assert model(**batch(), mode="loss")["loss"].item() == pytest.approx(2 * math.log(99), abs=2e-3)


@pytest.mark.parametrize("fill", (None, "nearest", "attention"))
def test_the_network_learns_from_guidance_what_the_image_cannot_tell(fill):
    """One image, two opposite motions: without guidance the best loss is that of a coin, ln 2 a component."""
    model = build(motion_encoder=dict(fill=fill), quantizer=dict(num_bins=5), init="default")
    data = batch()
    data["image"][1] = data["image"][0]
    data["flow"] = torch.tensor([30.0, -30.0]).view(2, 1, 1, 1).expand(2, 2, 64, 96)
    data["mask"] = torch.zeros(2, 1, 64, 96)
    data["mask"][:, :, 4::8, 4::8] = 1
    data["guidance"] = data["flow"] * data["mask"]
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(12):
        optimizer.zero_grad()
        loss = model(**data, mode="loss")["loss"]
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.5 * 2 * math.log(2)


def test_guidance_and_image_both_change_the_prediction():
    model = build(init="default").eval()
    data = batch()
    with torch.no_grad():
        usual = model(**data)
        unguided = model(**data | dict(guidance=data["guidance"] * 0))
        unmasked = model(**data | dict(mask=data["mask"] * 0))
        swapped = model(**data | dict(image=data["image"].flip(0)))
    for other in (unguided, unmasked, swapped):
        assert (other - usual).abs().max() > 1e-4  # equal inputs give equal outputs to the last bit


def test_the_network_input_is_u_v_and_the_mask_twice():
    model = build()
    seen = []
    model.motion_encoder.features.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    data = batch()
    model(**data)
    assert torch.equal(seen[0], torch.cat((data["guidance"], data["mask"], data["mask"]), dim=1))


def test_images_are_normalised_by_mean_and_deviation():
    model = build(mean=(100.0, 110.0, 120.0), std=(50.0, 60.0, 70.0))
    seen = []
    model.image_encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    image = batch()["image"]
    model.encode_image(image)
    model.encode_image(image.double())
    expected = (image[:, 1].float() - 110) / 60
    torch.testing.assert_close(seen[0][:, 1], expected)
    assert torch.equal(seen[1], seen[0])


@pytest.mark.parametrize("name", ("resnet18", "resnet18_skips", "resnet34_stride16"))
def test_prediction_is_the_decoded_logits_upsampled_to_the_image(name):
    model = build(**NETWORKS[name], init="default").eval()
    data = batch()
    with torch.no_grad():
        logits, flow = model(**data), model(**data, mode="predict")
    stride = {"resnet18": 8, "resnet18_skips": 2, "resnet34_stride16": 16}[name]
    assert logits.shape == (2, 198, 64 // stride, 96 // stride) and flow.shape == (2, 2, 64, 96)
    coarse = model.quantizer.expectation(logits)
    torch.testing.assert_close(flow[:, :, ::63, ::95], coarse[:, :, :: coarse.shape[2] - 1, :: coarse.shape[3] - 1])


def test_decoding_stretches_the_corner_cells_to_the_corner_pixels():
    """Worked out by hand: of w cells over W pixels, pixel x lies at cell x * (w - 1) / (W - 1)."""
    model = build(quantizer=dict(type=DirectFlow), loss=dict(type=RegressionLoss)).eval()
    h, w, height, width = 3, 5, 17, 41
    x, y = torch.arange(w).float(), torch.arange(h).float()
    ramp = torch.stack((x.expand(h, w), y[:, None].expand(h, w)))[None]  # a plane, so bilinear sampling is exact
    nothing = torch.zeros(1, 2, height, width), torch.zeros(1, 1, height, width)
    flow = model.decode(ramp, *nothing)
    for column, row, expected in ((0, 0, (0, 0)), (1, 1, (0.1, 0.125)), (5, 4, (0.5, 0.5)), (40, 16, (4, 2))):
        assert flow[0, :, row, column].tolist() == pytest.approx(expected, abs=1e-5)
    torch.testing.assert_close(flow[0, 0, 7], torch.arange(width) * (w - 1) / (width - 1))


def test_with_a_reach_predictions_obey_their_guides_and_logits_and_loss_stay():
    plain, obedient = (build(init="default", guide_reach_px=reach).eval() for reach in (None, 12.0))
    data = batch()
    with torch.no_grad():
        assert torch.equal(plain(**data), obedient(**data))
        assert torch.equal(plain(**data, mode="loss")["loss"], obedient(**data, mode="loss")["loss"])
        before, after = plain(**data, mode="predict"), obedient(**data, mode="predict")
    torch.testing.assert_close(after, correct_at_points(before, data["guidance"], data["mask"], reach_px=12.0))
    at_guides = data["mask"].expand(-1, 2, -1, -1) > 0
    assert (after - data["flow"])[at_guides].abs().mean() < 0.1 * (before - data["flow"])[at_guides].abs().mean()
    assert CMP.from_description(obedient.describe()).guide_reach_px == 12.0
    with pytest.raises(ValueError, match="guide_reach_px must be above 0"):
        build(guide_reach_px=0)


def test_one_encoded_image_serves_many_guidance_sets():
    model = build(init="default").eval()
    data = batch(size=3)
    with torch.no_grad():
        features = model.encode_image(data["image"][:1])
        together = model.propagate(features, data["guidance"], data["mask"])
        for i in range(3):
            alone = model(data["image"][:1], data["guidance"][i : i + 1], data["mask"][i : i + 1])
            torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="features of 2 images"):
        model.propagate(model.encode_image(data["image"][:2]), data["guidance"], data["mask"])


def test_what_else_a_sample_carries_does_not_matter():
    model, data = build().eval(), batch()
    with torch.no_grad():
        assert torch.equal(model(**data), model(**data, index=torch.tensor([3, 4]), video=["a", "b"]))


def test_a_pretrained_encoder_survives_the_published_initialisation(tmp_path):
    weights = torchvision.models.resnet18(weights=None).state_dict()
    torch.save(weights, tmp_path / "resnet18.pth")
    model = build(image_encoder=dict(pretrained=str(tmp_path / "resnet18.pth")), init="published")
    own = model.image_encoder.state_dict()
    assert all(torch.equal(own[k], v) for k, v in weights.items() if not k.startswith("fc."))
    assert model.image_encoder.conv5.weight.std() < 1e-2 and model.decoder.head.weight.std() < 1e-2


def test_a_network_is_rebuilt_from_its_description():
    model = build(motion_encoder=dict(fill="nearest", flow_scale_px=5.0), decoder=SKIP, std=(1.0, 2.0, 3.0))
    description = model.describe()
    assert description["encoder"] == "resnet18" and description["image_encoder"] == {"type": "ResNet", "depth": 18}
    again = CMP.from_description(description)
    again.load_state_dict(model.state_dict())
    data = batch()
    with torch.no_grad():
        assert torch.equal(again.eval()(**data, mode="predict"), model.eval()(**data, mode="predict"))


def test_a_description_builds_only_classes_of_this_project():
    description = build().describe()
    for part in ({"type": "OrderedDict"}, {"type": "ResNet", "given_as_module": True}, None, {"type": "MotionEncoder"}):
        with pytest.raises(ValueError, match="cannot rebuild image_encoder"):
            CMP.from_description(description | {"image_encoder": part})
    with pytest.raises(ValueError, match="cannot rebuild the network"):
        CMP.from_description(description | {"image_encoder": {"type": "ResNet", "width": 3}})


def test_parts_may_be_modules():
    model = CMP(
        image_encoder=dict(type=ResNet, depth=18),
        motion_encoder=MotionEncoder(8),
        decoder=dict(type=PropagationDecoder, strides=(1, 2)),
        quantizer=FlowQuantizer(9, 20.0),
        loss=dict(type=DiscreteLoss),
    )
    assert model(**batch()).shape == (2, 18, 8, 12)
    assert model.describe()["motion_encoder"] == {"type": "MotionEncoder", "given_as_module": True}


def test_no_buffer_of_its_own_is_in_the_state_dict():
    parts = {key.split(".")[0] for key in build().state_dict()}
    assert parts == {"image_encoder", "motion_encoder", "decoder"}


def test_parts_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="stride 32, image_encoder 8"):
        CMP(
            dict(type=ResNet, depth=18),
            MotionEncoder(32),
            dict(type=PropagationDecoder),
            FlowQuantizer(),
            dict(type=DiscreteLoss),
        )
    with pytest.raises(ValueError, match="198 channels, quantizer needs 18"):
        CMP(
            dict(type=ResNet, depth=18),
            dict(type=MotionEncoder),
            PropagationDecoder({"top": 256}, 16, 198),
            FlowQuantizer(9),
            dict(type=DiscreteLoss),
        )
    with pytest.raises(ValueError, match="num_logits.* follow from the other parts"):
        build(decoder=dict(num_logits=198))
    with pytest.raises(ValueError, match="needs a class under 'type'"):
        build(image_encoder=dict(type=None))
    with pytest.raises(ValueError, match="needs a class under 'type'"):
        build(image_encoder=dict(type="cmp.models.ResNet"))
    with pytest.raises(ValueError, match="mean and std"):
        build(std=(1.0, 0.0, 1.0))


def test_inputs_that_do_not_fit_are_refused():
    model, data = build(), batch()
    for change, message in (
        (dict(image=data["image"][:, :, :60]), "multiples of 8 px"),
        (dict(image=data["image"][:, :1]), "image must be"),
        (dict(mask=data["mask"][:, 0]), "mask"),
        (dict(guidance=data["guidance"][:, :1]), "guidance must be"),
        (dict(image=data["image"][:, :, :56]), "image's size"),
        (dict(flow=None, mode="loss"), "needs the target flow"),
        (dict(mode="train"), "mode must be"),
    ):
        with pytest.raises(ValueError, match=message):
            model(**data | change)
