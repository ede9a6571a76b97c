import copy
import subprocess
import sys
import threading
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

import cmp
from cmp.checkpoints import convert_checkpoint, write_peer_checkpoint
from cmp.flow import FlowQuantizer, JointFlowQuantizer, PolarFlowQuantizer
from cmp.inference import MotionPropagator
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
    TimmEncoder,
)

H, W = 64, 96
NUM_BINS = 11
CLOSE = 2e-3  # px: other batch sizes round otherwise, and this network amplifies it


def network(decoder=PropagationDecoder, regression=False):
    """A network whose output depends on all it reads, as one that was trained."""
    torch.manual_seed(0)
    quantizer = dict(type=DirectFlow) if regression else dict(type=FlowQuantizer, num_bins=NUM_BINS, max_flow_px=50.0)
    model = CMP(
        dict(type=ResNet, depth=18, output_stride=8, out_channels=32),
        dict(type=MotionEncoder),
        dict(type=decoder, strides=(1, 2, 4), width=16),
        quantizer,
        dict(type=RegressionLoss if regression else DiscreteLoss),
        init="default",
    )
    torch.nn.init.normal_(model.decoder.head.weight, std=1.0)
    torch.nn.init.constant_(model.motion_encoder.features[5].weight, 10.0)  # else the image drowns the guidance
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # statistics of the next batch, so that eval mode keeps the scale of the activations
    with torch.no_grad():
        model.train()(torch.rand(4, 3, H, W) * 255, *guidance(4, seed=3))
    return model.eval()


@pytest.fixture(scope="module")
def skip():
    return network(SkipPropagationDecoder)


def guidance(count, size_hw=(H, W), seed=0):
    rng = torch.Generator().manual_seed(seed)
    mask = (torch.rand(count, 1, *size_hw, generator=rng) < 0.02).float()
    return mask * (60 * torch.rand(count, 2, *size_hw, generator=rng) - 30), mask


def picture(count=1, size_hw=(H, W), seed=1):
    return torch.randint(0, 256, (count, 3, *size_hw), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def apart(a, b):
    return float((a - b).abs().max())


@pytest.mark.parametrize("decoder", (PropagationDecoder, SkipPropagationDecoder))
def test_dense_prediction_is_what_the_network_predicts(decoder):
    model, image, (sparse, mask) = network(decoder), picture(2), guidance(2)
    with torch.no_grad():
        expected = model(image, sparse, mask, mode="predict")
    flow = MotionPropagator(model).predict_dense(image, sparse, mask)
    assert flow.shape == (2, 2, H, W) and flow.dtype == torch.float32 and not flow.requires_grad
    assert apart(flow, expected) < CLOSE and expected.std() > 1


def test_floats_arrays_and_pil_images_mean_what_bytes_mean(skip):
    image, (sparse, mask) = picture(), guidance(1)
    propagator = MotionPropagator(skip)
    expected = propagator.predict_dense(image, sparse, mask)
    last = image[0].permute(1, 2, 0).numpy()
    frozen = last.copy()
    frozen.flags.writeable = False
    for same in (image[0], image.float() / 255, image.double() / 255, last, last[None], frozen, Image.fromarray(last)):
        assert apart(propagator.predict_dense(same, sparse, mask), expected) < 1e-3
    assert apart(propagator.predict_dense(image.numpy(), sparse.numpy(), mask.numpy() > 0), expected) < CLOSE
    assert apart(propagator.predict_dense(image, sparse[0].double(), mask[0].expand(2, H, W)), expected) < CLOSE


def prepared_prediction(model, image, sparse, mask):
    """What the network predicts where the images' part is computed first, as the propagator does."""
    features = model.decoder.prepare(model.encode_image(image))
    logits = model.decoder(features, model.encode_guidance(features, sparse, mask), prepared=True)
    return model.decode(logits, sparse, mask)


def test_unit_normalisation_is_twice_x_minus_one_and_imagenet_the_networks_own(skip):
    image, (sparse, mask) = picture(), guidance(1)
    plain = copy.deepcopy(skip)
    plain.mean.fill_(0)
    plain.std.fill_(1)
    with torch.no_grad():
        expected = prepared_prediction(plain, image.float() / 255 * 2 - 1, sparse, mask)
    for same in (image, image.float() / 255):
        assert torch.equal(MotionPropagator(skip, normalize="unit").predict_dense(same, sparse, mask), expected)
    with torch.no_grad():
        mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)))
        expected = prepared_prediction(plain, (image - mean) / std, sparse, mask)
    assert torch.equal(MotionPropagator(skip).predict_dense(image, sparse, mask), expected)
    with pytest.raises(ValueError, match="normalize must be one of .*got 'zero'"):
        MotionPropagator(skip, normalize="zero")


def test_many_guidance_sets_on_one_image_equal_one_by_one_and_encode_it_once(skip, monkeypatch):
    monkeypatch.setattr("cmp.inference.propagator.PIXELS_AT_ONCE", {"cpu": 3 * H * W})  # groups of 3, 3 and 1
    image, (sparse, mask) = picture(), guidance(7)
    propagator, calls = MotionPropagator(skip), []
    handle = skip.image_encoder.register_forward_pre_hook(lambda module, inputs: calls.append(len(inputs[0])))
    together = propagator.predict_dense(image, sparse, mask)
    repeated = propagator.predict_dense(image.expand(7, -1, -1, -1), sparse, mask)
    encoded = propagator.encode(image)
    assert calls == [1, 1, 1]
    again = propagator.predict_dense(encoded, sparse, mask)
    assert calls == [1, 1, 1]
    assert torch.equal(copy.deepcopy(propagator).predict_dense(encoded, sparse, mask), again)
    with pytest.raises(ValueError, match="got an encoding by another one"):
        MotionPropagator(skip, normalize="unit").predict_dense(encoded, sparse, mask)
    handle.remove()
    for i in range(7):
        one = propagator.predict_dense(image, sparse[i : i + 1], mask[i : i + 1])
        assert all(apart(many[i : i + 1], one) < CLOSE for many in (together, repeated, again))
    assert apart(together[0], together[1]) > 1


def test_a_batch_of_images_equals_one_by_one(skip, monkeypatch):
    monkeypatch.setattr("cmp.inference.propagator.PIXELS_AT_ONCE", {"cpu": 2 * H * W})
    image, (sparse, mask) = picture(3), guidance(3)
    propagator = MotionPropagator(skip)
    together = propagator.predict_dense(image, sparse, mask)
    for i in range(3):
        assert apart(together[i], propagator.predict_dense(image[i], sparse[i], mask[i])[0]) < CLOSE
    with pytest.raises(ValueError, match="got 3 and 2"):
        propagator.predict_dense(image, sparse[:2], mask[:2])


@pytest.mark.parametrize("size_hw", ((50, 70), (1, 1), (65, 96)))
def test_any_size_is_padded_at_the_right_and_bottom_and_cropped_back(skip, size_hw):
    image, (sparse, mask) = picture(size_hw=size_hw), guidance(2, size_hw)
    flow = MotionPropagator(skip).predict_dense(image, sparse, mask)
    bottom, right = (max(-(-side // 8) * 8, 32) - side for side in size_hw)
    wide = torch.nn.functional.pad(image.float(), (0, right, 0, bottom), mode="replicate")
    with torch.no_grad():
        padded = [torch.nn.functional.pad(t, (0, right, 0, bottom)) for t in (sparse, mask)]
        expected = skip(wide.expand(2, -1, -1, -1), *padded, mode="predict")[..., : size_hw[0], : size_hw[1]]
    assert flow.shape == (2, 2, *size_hw) and apart(flow, expected) < CLOSE


def test_arrows_are_guidance_at_their_pixels(skip):
    image, propagator = picture(), MotionPropagator(skip)
    points, vectors = np.array([[10.4, 20.0], [95.4, 63.4], [-0.4, 0]]), np.array([[5.0, -3], [0, 0], [1, 2]])
    sparse, mask = torch.zeros(1, 2, H, W), torch.zeros(1, 1, H, W)
    sparse[0, :, 20, 10], sparse[0, :, 0, 0] = torch.tensor([5.0, -3]), torch.tensor([1.0, 2])
    mask[0, 0, 20, 10] = mask[0, 0, 63, 95] = mask[0, 0, 0, 0] = 1
    expected = propagator.predict_dense(image, sparse, mask)
    for p, v in ((points, vectors), (points.tolist(), vectors.tolist()), map(torch.from_numpy, (points, vectors))):
        assert apart(propagator.predict(image, p, v), expected) < CLOSE
    two = propagator.predict(image, [points, points[:1]], [vectors, vectors[:1]])
    assert two.shape == (2, 2, H, W) and apart(two[:1], expected) < CLOSE
    assert apart(two[1:], propagator.predict(image, points[:1], vectors[:1])) < CLOSE


def test_confidence_is_one_less_the_entropy_over_its_largest_value(skip):
    image, (sparse, mask) = picture(), guidance(2)
    flow, confidence = MotionPropagator(skip).predict_dense(image, sparse, mask, return_confidence=True)
    with torch.no_grad():
        logits = skip(image.expand(2, -1, -1, -1), sparse, mask)
    p = logits.double().unflatten(1, (2, NUM_BINS)).softmax(2)
    entropy = -(p * p.log()).sum(2).mean(1, keepdim=True)
    expected = torch.nn.functional.interpolate(
        1 - entropy / np.log(NUM_BINS), size=(H, W), mode="bilinear", align_corners=True
    )
    assert confidence.shape == (2, 1, H, W) and apart(confidence, expected) < CLOSE
    assert confidence.min() >= 0 and confidence.max() <= 1 and confidence.std() > 0.01
    with pytest.raises(ValueError, match="return_confidence needs a network with bins"):
        MotionPropagator(network(regression=True)).predict_dense(image, sparse, mask, return_confidence=True)


def test_guidance_beyond_the_bins_warns_once_and_a_regression_never(skip):
    image, propagator = picture(), MotionPropagator(skip)
    assert propagator.max_flow_px == pytest.approx(50 * (1 - 1 / NUM_BINS))
    with pytest.warns(UserWarning, match=r"60.0 px is beyond the 45.45 px") as caught:
        propagator.predict(image, [[3, 4]], [[60, 0]])
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        propagator.predict(image, [[3, 4]], [[60, 0]])
        MotionPropagator(skip).predict(image, [[3, 4]], [[45, -45]])
        assert MotionPropagator(network(regression=True)).predict(image, [[3, 4]], [[900, 0]]).shape == (1, 2, H, W)


def test_threads_get_what_one_thread_gets(skip):
    propagator, (sparse, mask) = MotionPropagator(skip), guidance(4)
    image = picture(4)
    expected = [propagator.predict_dense(image[i], sparse[i], mask[i]) for i in range(4)]
    results = [None] * 4

    def work(i):
        for _ in range(3):
            results[i] = propagator.predict_dense(image[i], sparse[i], mask[i])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert all(apart(a, b) < CLOSE for a, b in zip(results, expected))


def test_it_stays_in_eval_mode_without_gradients_inside_another_module(skip):
    propagator, (sparse, mask) = MotionPropagator(copy.deepcopy(skip)), guidance(1)
    before = propagator.predict_dense(picture(), sparse, mask)
    outer = torch.nn.ModuleDict({"flow": propagator}).train()
    assert not any(m.training for m in propagator.network.modules())
    assert not any(p.requires_grad for p in outer.parameters())
    after = outer["flow"](picture(), sparse, mask)
    assert torch.equal(before, after)
    (after * torch.ones(1, requires_grad=True)).sum().backward()  # an ordinary tensor, not one of inference mode


def test_compiled_parts_predict_the_same(skip):
    model, (sparse, mask) = copy.deepcopy(skip), guidance(2)
    expected = MotionPropagator(model).predict_dense(picture(), sparse, mask)
    compiled, graphs = MotionPropagator(model), []

    def count(graph, inputs):
        graphs.append(graph)
        return graph.forward

    compiled.compile(backend=count, fullgraph=True)
    assert apart(compiled.predict_dense(picture(), sparse, mask), expected) < CLOSE
    assert len(graphs) == 3  # image encoder, motion encoder, decoder: each without a break


@pytest.mark.parametrize("layout", ("cmp", "peer", "safetensors"))
def test_every_layout_loads_and_in_bfloat16_predicts_nearly_the_same(layout, tmp_path):
    # Theirs have 256 channels on the encoder and 128 in the nets: another small network.
    torch.manual_seed(0)
    encoder, motion = dict(type=ResNet, depth=18), dict(type=MotionEncoder)
    parts = (encoder, motion, dict(type=SkipPropagationDecoder), dict(type=FlowQuantizer), dict(type=DiscreteLoss))
    model = CMP(*parts, init="default").eval()
    torch.nn.init.normal_(model.decoder.head.weight, std=0.5)
    path = tmp_path / ("w.safetensors" if layout == "safetensors" else "w.pth.tar")
    write_peer_checkpoint(tmp_path / "theirs.pth.tar", model.state_dict(), step=1)
    if layout == "peer":
        path = tmp_path / "theirs.pth.tar"
    else:
        convert_checkpoint(tmp_path / "theirs.pth.tar", path)
    image, (sparse, mask) = picture(), guidance(1)
    with torch.no_grad():
        expected = model(image, sparse, mask, mode="predict")
    propagator = cmp.load_propagator(path)
    assert isinstance(propagator, torch.nn.Module)
    assert apart(propagator.predict_dense(image, sparse, mask), expected) < CLOSE
    half = cmp.load_propagator(str(path), dtype=torch.bfloat16)
    assert next(half.network.decoder.parameters()).dtype == torch.bfloat16
    flow = half.predict_dense(image, sparse, mask)
    assert flow.dtype == torch.float32 and 0 < apart(flow, expected) < 0.05 * expected.abs().max()
    with pytest.raises(ValueError, match="dtype must be a floating torch.dtype, got torch.int8"):
        cmp.load_propagator(path, dtype=torch.int8)
    with pytest.raises(FileNotFoundError, match="none.pth"):
        cmp.load_propagator(tmp_path / "none.pth")


BAD_DENSE = {
    "image must be .3, H, W": dict(image=torch.zeros(1, 1, H, W)),
    "image must be uint8 or floating in 0..1, got torch.int64": dict(image=torch.zeros(3, H, W, dtype=torch.int64)),
    r"image must be in 0..1 where it is floating, got 0..255": dict(
        image=torch.tensor([0.0, 255]).repeat(3 * H * W // 2).view(3, H, W)
    ),
    r"image must be in 0..1 where it is floating, got nan..nan": dict(image=torch.full((3, H, W), torch.nan)),
    "image must be a tensor, an array or a PIL image, got str": dict(image="a.png"),
    "image must be an ordinary dense tensor, got torch.sparse_coo": dict(image=torch.zeros(3, H, W).to_sparse()),
    "image must be an ordinary dense tensor, got torch.strided on meta": dict(
        image=torch.zeros(3, H, W, device="meta")
    ),
    "mask must be an ordinary dense tensor": dict(mask=torch.zeros(1, 1, H, W).to_sparse()),
    "image must not be empty": dict(image=torch.zeros(3, 0, W)),
    "image must show which axis is color": dict(image=np.zeros((3, H, 3), np.uint8)),
    "image must be an array of real numbers, got object": dict(image=np.zeros((H, W, 3), object)),
    rf"sparse must be \(T, 2, {H}, {W}\) for this image, got \(1, 2, 64, 95\)": dict(sparse=torch.zeros(1, 2, 64, 95)),
    "sparse must be finite, got 1 values": dict(sparse=torch.zeros(2, H, W).index_fill(2, torch.tensor(0), 0)),
    rf"mask must be \(T, 1, {H}, {W}\) or \(T, 2, {H}, {W}\) for this image, got": dict(mask=torch.zeros(1, 3, H, W)),
    "mask must have as many sets as sparse, 1, got 2": dict(mask=torch.zeros(2, 1, H, W)),
    "mask must be the same in its two channels": dict(mask=torch.eye(2)[:1].view(1, 2, 1, 1).repeat(1, 1, H, W)),
    "mask must be a tensor or an array, got NoneType": dict(mask=None),
}


@pytest.mark.parametrize("message", BAD_DENSE)
def test_bad_maps_are_refused_by_name(skip, message):
    sparse, mask = guidance(1)
    arguments = dict(image=picture(), sparse=sparse, mask=mask) | BAD_DENSE[message]
    if "1 values" in message:
        arguments["sparse"][0, 3, 4] = torch.nan
    with pytest.raises(ValueError, match=message):
        MotionPropagator(skip).predict_dense(**arguments)


@pytest.mark.parametrize(
    "points, vectors, message",
    (
        ([[W, 3]], [[1, 1]], r"points_xy must lie in the image of 96 x 64 px .* got 1 outside, first x=96, y=3"),
        ([[3, -1]], [[1, 1]], "outside, first x=3, y=-1"),
        ([[3, np.nan]], [[1, 1]], "points_xy must be finite"),
        ([[3, 4]], [[np.inf, 1]], "vectors_xy must be finite"),
        ([[3, 4]], [[1e300, 1]], "vectors_xy must be finite in float32"),
        ([[1e30, 4]], [[1, 1]], "points_xy must lie in the image"),
        ([], [], "points_xy must have at least one point"),
        (np.zeros((0, 2)), np.zeros((0, 2)), "points_xy must have at least one point"),
        (np.zeros((2, 0, 2)), np.zeros((2, 0, 2)), "points_xy must have at least one point"),
        (np.zeros((0, 3, 2)), np.zeros((0, 3, 2)), "points_xy must have at least one set"),
        ([[1, 2, 3]], [[1, 2, 3]], r"points_xy must be \(P, 2\).* got \(1, 3\)"),
        ([3, 4], [1, 1], r"points_xy must be \(P, 2\).* got \(2,\)"),
        ([[3, 4]], [[1, 1], [2, 2]], r"vectors_xy must be shaped as points_xy, \(1, 2\), got \(2, 2\)"),
        ([[[3, 4]], [[5, 6]]], [[[1, 1]]], "vectors_xy must have as many sets as points_xy, 2, got 1"),
        ([["a", "b"]], [[1, 1]], "points_xy must be numbers"),
    ),
)
def test_bad_arrows_are_refused_by_name(skip, points, vectors, message):
    with pytest.raises(ValueError, match=message):
        MotionPropagator(skip).predict(picture(), points, vectors)


def test_greys_of_16_bits_are_not_clipped_and_tensors_of_any_float_give_points(skip):
    propagator = MotionPropagator(skip)
    grey = np.linspace(0, 255, H * W).reshape(H, W).round()
    expected = propagator.predict(Image.fromarray(grey.astype(np.uint8)), [[3, 4]], [[5, -2]])
    for picture_ in (Image.fromarray((grey * 257).astype(np.uint16)), Image.fromarray((grey / 255).astype(np.float32))):
        assert picture_.mode[0] in "IF"
        assert apart(propagator.predict(picture_, [[3, 4]], [[5, -2]]), expected) < CLOSE
    colour = np.repeat(grey[..., None], 3, axis=2)
    assert apart(propagator.predict((colour / 255).astype(np.longdouble), [[3, 4]], [[5, -2]]), expected) < CLOSE
    points, vectors = torch.tensor([[3, 4]]).bfloat16(), torch.tensor([[5, -2]]).bfloat16()
    for p, v in ((points, vectors), ([points], [vectors])):
        assert apart(propagator.predict(colour.astype(np.uint8), p, v), expected) < CLOSE


def test_a_device_that_is_not_there_is_refused(tmp_path):
    for device in ("typewriter", "cuda:77"):
        with pytest.raises(ValueError, match=f"device must be one that torch can use here, got '{device}'"):
            cmp.load_propagator(tmp_path / "none.pth", device=device)


def test_an_empty_mask_is_allowed_where_maps_are_given(skip):
    flow = MotionPropagator(skip).predict_dense(picture(), torch.zeros(1, 2, H, W), torch.zeros(1, 1, H, W))
    assert flow.isfinite().all()


def test_huge_images_are_refused_before_they_are_decoded(skip):
    propagator = MotionPropagator(skip, max_pixels=H * W)
    assert propagator.predict(picture(), [[0, 0]], [[1, 0]]).shape == (1, 2, H, W)
    for image in (picture(size_hw=(H + 1, W)), Image.new("RGB", (W, H + 1))):
        with pytest.raises(ValueError, match="image must have at most 6144 pixels, got 65 x 96"):
            propagator.predict(image, [[0, 0]], [[1, 0]])


def test_importing_the_package_does_not_import_torch():
    code = "import sys, cmp; assert 'torch' not in sys.modules; cmp.load_propagator; assert 'torch' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


SMALL = dict(
    image_encoder=dict(type=ResNet, depth=18, output_stride=8, out_channels=16),
    motion_encoder=dict(type=MotionEncoder),
    decoder=dict(type=PropagationDecoder, strides=(1, 2), width=16),
    quantizer=dict(type=FlowQuantizer, num_bins=NUM_BINS),
    loss=dict(type=DiscreteLoss),
)
PYRAMID = dict(type=PyramidResNet, depth=18, top_stride=8, out_channels=16)
KINDS = {
    "plain": {},
    "skips": dict(decoder=dict(type=SkipPropagationDecoder, strides=(1, 2), width=16)),
    "attention": dict(image_encoder=PYRAMID, motion_encoder=dict(type=MotionEncoder, fill="attention", heads=2)),
    "attention, skips, correction": dict(
        motion_encoder=dict(type=MotionEncoder, fill="attention"),
        decoder=dict(type=SkipPropagationDecoder, strides=(1, 2), width=16),
        guide_reach_px=8.0,
    ),
    "filled, shortcut, correction": dict(
        image_encoder=PYRAMID,
        motion_encoder=dict(type=MotionEncoder, fill="inverse_distance"),
        decoder=dict(type=PropagationDecoder, strides=(1, 2), width=16, shortcut=True),
        guide_reach_px=8.0,
    ),
    "nearest": dict(motion_encoder=dict(type=MotionEncoder, fill="nearest")),
    "alexnet": dict(image_encoder=dict(type=AlexNetFCN, output_stride=8, out_channels=16)),
    "joint bins": dict(quantizer=dict(type=JointFlowQuantizer, num_bins=5)),
    "polar bins": dict(quantizer=dict(type=PolarFlowQuantizer, num_angles=8, num_radii=5)),
    "quadratic bins": dict(quantizer=dict(type=FlowQuantizer, num_bins=NUM_BINS, spacing="quadratic")),
    "regression": dict(quantizer=dict(type=DirectFlow), loss=dict(type=RegressionLoss)),
    "timm, convolutions": dict(image_encoder=dict(type=TimmEncoder, name="resnet10t", top_stride=8, out_channels=16)),
    "timm, patches": dict(
        image_encoder=dict(type=TimmEncoder, name="vit_tiny_patch16_224", top_stride=8, out_channels=16)
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_network_predicts_in_every_type_as_in_float32_within_its_precision(kind, tmp_path):
    if kind.startswith("timm"):
        pytest.importorskip("timm")
    torch.manual_seed(0)
    model = CMP(**SMALL | KINDS[kind], init="default").eval()
    torch.nn.init.normal_(model.decoder.head.weight, std=0.3)
    path = tmp_path / "x.pth"
    torch.save({"meta": {"cmp": model.describe()}, "state_dict": model.state_dict()}, path)
    size_hw = (60, 90)  # padded on two sides
    image, (sparse, mask) = picture(1, size_hw), guidance(2, size_hw)
    expected = cmp.load_propagator(path).predict_dense(image, sparse, mask)
    largest = float(expected.abs().max())
    assert largest > 0.05
    for dtype, share in ((torch.float64, 1e-4), (torch.float16, 0.02), (torch.bfloat16, 0.15)):
        propagator = cmp.load_propagator(path, dtype=dtype)
        assert {p.dtype for p in propagator.network.decoder.parameters()} == {dtype}
        flow = propagator.predict_dense(image, sparse, mask)
        assert flow.dtype == torch.float32 and flow.isfinite().all()
        assert apart(flow, expected) < share * largest, (dtype, apart(flow, expected), largest)


def test_cells_are_what_a_prediction_is_upsampled_from(skip):
    plain = MotionPropagator(skip)
    image = torch.rand(3, 37, 61, generator=torch.Generator().manual_seed(2))
    points, vectors = (
        np.array([[[9, 5], [40, 30]], [[20, 20], [3, 33]]]),
        np.array([[[8, 0], [0, 0]], [[0, -9], [4, 4]]]),
    )
    flow, moving = plain.predict_cells(image, points, vectors, moving_px=2.0)
    assert flow.shape == (2, 2, *moving.shape[2:]) and moving.shape[:2] == (2, 1)
    expected = plain.predict(image, points, vectors)
    torch.testing.assert_close(plain.upsample_cells(flow, (37, 61)), expected, atol=CLOSE, rtol=0)
    assert 0 <= moving.min() < moving.max() <= 1
    assert plain.predict_cells(plain.encode(image), points, vectors)[1] is None
    with pytest.raises(ValueError, match="length_px must be at least 0"):
        plain.predict_cells(image, points, vectors, moving_px=-1.0)


def test_a_network_that_regresses_flow_moves_surely_or_not_at_all():
    regression = MotionPropagator(network(regression=True))
    flow, moving = regression.predict_cells(torch.rand(3, H, W), [[9, 5]], [[8.0, 0.0]], moving_px=0.5)
    assert torch.equal(moving[:, 0] == 1, flow.norm(dim=1) > 0.5) and set(moving.unique().tolist()) <= {0.0, 1.0}
