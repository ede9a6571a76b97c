import json
import runpy

import numpy as np
import pytest
import torch

from cmp.checkpoints import read_peer_checkpoint, write_peer_checkpoint
from cmp.checkpoints.peer_keys import from_peer_key, is_peer_state_dict, to_peer_key
from cmp.flow import FlowQuantizer
from cmp.models import (
    CMP,
    AlexNetFCN,
    DirectFlow,
    DiscreteLoss,
    MotionEncoder,
    PropagationDecoder,
    RegressionLoss,
    ResNet,
    SkipPropagationDecoder,
)
from cmp.weights import load_strictly

NETWORKS = {
    "alexnet_plain": (dict(type=AlexNetFCN), PropagationDecoder),
    "resnet50_plain": (dict(type=ResNet, depth=50), PropagationDecoder),
    "resnet50_skip": (dict(type=ResNet, depth=50), SkipPropagationDecoder),
    "resnet18_plain": (dict(type=ResNet, depth=18), PropagationDecoder),
    "resnet18_skip": (dict(type=ResNet, depth=18), SkipPropagationDecoder),
}


def build(name, quantizer=None, loss=DiscreteLoss):
    torch.manual_seed(0)
    encoder, decoder = NETWORKS[name]
    parts = (encoder, dict(type=MotionEncoder), dict(type=decoder))
    return CMP(*parts, quantizer or FlowQuantizer(), dict(type=loss), init="default").eval()


def save(path, model, drop=(), add=None, **content):
    """The authors' file of a model."""
    weights = {to_peer_key(k): v for k, v in model.state_dict().items() if not any(d in k for d in drop)}
    torch.save({"step": 3, "state_dict": weights | (add or {}), **content}, path)


@pytest.mark.parametrize("step", ("three", [3], float("inf"), float("nan"), -1, 2.5, {"a": 1}, "9" * 5000))
def test_a_step_that_is_no_whole_number_is_refused_by_name(tmp_path, step):
    save(tmp_path / "x.pth.tar", build("resnet18_plain"))
    content = torch.load(tmp_path / "x.pth.tar", weights_only=True)
    torch.save(content | {"step": step}, tmp_path / "x.pth.tar")
    with pytest.raises(ValueError, match="x.pth.tar must have a whole number as its step"):
        read_peer_checkpoint(tmp_path / "x.pth.tar")


def test_keys_that_name_too_many_nets_or_bins_build_nothing(tmp_path):
    save(tmp_path / "x.pth.tar", build("resnet18_plain"))
    content = torch.load(tmp_path / "x.pth.tar", weights_only=True)
    weights = content["state_dict"]
    nets = {f"module.flow_decoder.decoder{i}.1.weight": torch.zeros(1) for i in range(3000)}
    torch.save(content | {"state_dict": weights | nets}, tmp_path / "nets.pth.tar")
    head = {"module.flow_decoder.head.weight": torch.zeros(10**6, 1, 1, 1)}
    torch.save(content | {"state_dict": weights | head}, tmp_path / "bins.pth.tar")
    for name in ("nets", "bins"):
        with pytest.raises(ValueError, match=f"{name}.pth.tar has .* propagation nets and .* logits: at most 8 nets"):
            read_peer_checkpoint(tmp_path / f"{name}.pth.tar").network()


def test_keys_map_by_hand():
    for theirs, ours in (
        ("module.image_encoder.layer3.0.conv2.weight", "image_encoder.layer3.0.conv2.weight"),
        ("module.flow_encoder.features.4.bias", "motion_encoder.features.4.bias"),
        ("module.flow_decoder.decoder1.3.weight", "decoder.propagation.nets.1.3.weight"),
        ("module.flow_decoder.decoder2.1.weight", "decoder.propagation.nets.2.0.weight"),
        ("module.flow_decoder.decoder8.8.running_var", "decoder.propagation.nets.8.7.running_var"),
        ("module.flow_decoder.fusion8.0.weight", "decoder.fuse_top.0.weight"),
        ("module.flow_decoder.skipconv2.1.bias", "decoder.skip_stem.1.bias"),
        ("module.flow_decoder.head.bias", "decoder.head.bias"),
    ):
        assert from_peer_key(theirs) == from_peer_key(theirs.removeprefix("module.")) == ours
        assert to_peer_key(ours) == theirs
    decoder = "module.flow_decoder."
    for theirs in (f"{decoder}tail.bias", f"{decoder}decoder2.x.weight", "module.encoder.weight", "head"):
        assert from_peer_key(theirs) is None
    for ours in ("decoder.tail.bias", "head.weight"):
        with pytest.raises(ValueError, match="does not have a layer for"):
            to_peer_key(ours)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_key_survives_both_ways(name):
    with torch.device("meta"):
        keys = list(build(name).state_dict())
    theirs = [to_peer_key(key) for key in keys]
    assert [from_peer_key(key) for key in theirs] == keys and len(set(theirs)) == len(keys)
    assert is_peer_state_dict(theirs) and not is_peer_state_dict(keys)


@pytest.mark.parametrize("name", ("alexnet_plain", "resnet50_plain", "resnet50_skip"))
def test_keys_shapes_order_and_optimizer_are_those_of_the_authors_files(name, shared_dir):
    stored = json.loads((shared_dir / f"golden/{name}_keys.json").read_text())
    with torch.device("meta"):
        model = build(name)
    ours = [[to_peer_key(k), list(v.shape), str(v.dtype).removeprefix("torch.")] for k, v in model.state_dict().items()]
    assert ours == stored["state_dict"]
    # One optimizer state per parameter, numbered in this order, so states by number carry over.
    assert len(list(model.parameters())) == stored["optimizer"]["n_state"]


@pytest.mark.parametrize("name", ("resnet18_plain", "resnet18_skip"))
def test_a_file_of_theirs_is_recognised_and_loaded(name, tmp_path):
    model = build(name)
    save(tmp_path / "ckpt_iter_3.pth.tar", model)
    again = read_peer_checkpoint(tmp_path / "ckpt_iter_3.pth.tar").network()
    assert type(again.decoder) is type(model.decoder) and again.image_encoder.strides["top"] == 8
    assert again.decoder.propagation.strides == model.decoder.propagation.strides
    image, guidance, mask = torch.zeros(1, 3, 64, 96), torch.ones(1, 2, 64, 96), torch.ones(1, 1, 64, 96)
    with torch.no_grad():
        assert torch.equal(again(image, guidance, mask), model(image, guidance, mask))


def test_an_alexnet_file_can_be_read_as_either_variant(tmp_path):
    model = build("alexnet_plain")
    save(tmp_path / "a.pth.tar", model)
    assert read_peer_checkpoint(tmp_path / "a.pth.tar").network().motion_encoder.stride == 32
    assert read_peer_checkpoint(tmp_path / "a.pth.tar").network(alexnet_stride=8).motion_encoder.stride == 8


def test_a_head_of_two_channels_is_a_regression_network(tmp_path):
    save(tmp_path / "a.pth.tar", build("resnet18_plain", DirectFlow(), RegressionLoss))
    model = read_peer_checkpoint(tmp_path / "a.pth.tar").network()
    assert isinstance(model.quantizer, DirectFlow) and isinstance(model.loss, RegressionLoss)


def test_files_of_2019_saved_from_a_gpu_without_batch_counters_load_on_the_cpu(tmp_path, monkeypatch):
    model = build("resnet18_plain")
    weights = {to_peer_key(k): v for k, v in model.state_dict().items() if "num_batches" not in k}
    with monkeypatch.context() as patch:
        patch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
        torch.save({"step": 42000, "state_dict": weights}, tmp_path / "a.pth.tar", _use_new_zipfile_serialization=False)
    assert b"cuda:0" in (tmp_path / "a.pth.tar").read_bytes()
    assert read_peer_checkpoint(tmp_path / "a.pth.tar").step == 42000
    again = read_peer_checkpoint(tmp_path / "a.pth.tar").network().state_dict()
    assert all(torch.equal(again[k], v) for k, v in model.state_dict().items())


@pytest.mark.parametrize(
    "change, message",
    (
        (dict(drop=("image_encoder.bn1.running_mean",)), r"missing \(1\): image_encoder.bn1.running_mean"),
        (dict(drop=("decoder.head",)), "no propagation nets, or no head"),
        (dict(add={"module.flow_decoder.tail.weight": torch.zeros(1)}), "flow_decoder.tail.weight"),
        (dict(add={"module.image_encoder.fc.weight": torch.zeros(1)}), r"left over \(1\): image_encoder.fc.weight"),
        (dict(add={"module.image_encoder.bn1.bias": torch.zeros(3)}), r"bn1.bias: \(3,\), expected \(64,\)"),
        (dict(add={"module.flow_decoder.skipconv2.0.weight": torch.zeros(1)}), r"left over \(1\): decoder.skip_stem"),
    ),
)
def test_anything_missing_left_over_or_misshapen_is_refused_by_name(change, message, tmp_path):
    save(tmp_path / "some.pth.tar", build("resnet18_plain"), **change)
    with pytest.raises(ValueError, match=f"(?s)some.pth.tar.*{message}"):
        read_peer_checkpoint(tmp_path / "some.pth.tar").network()


def test_other_files_are_refused_by_name(tmp_path):
    for i, content in enumerate(({"state_dict": build("resnet18_plain").state_dict()}, {"state_dict": 3}, {"step": 1})):
        torch.save(content, tmp_path / f"{i}.pth")
        with pytest.raises(ValueError, match=f"{i}.pth is not a network of Zhan et al|does not contain a state dict"):
            read_peer_checkpoint(tmp_path / f"{i}.pth")


def test_our_checkpoint_goes_out_in_their_layout_and_training_goes_on_from_it(tmp_path):
    model = build("resnet18_plain").train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    data = (torch.zeros(2, 3, 64, 96), torch.ones(2, 2, 64, 96), torch.ones(2, 1, 64, 96), torch.ones(2, 2, 64, 96))

    def step(model, optimizer):
        optimizer.zero_grad()
        model(*data, mode="loss")["loss"].backward()
        optimizer.step()

    step(model, optimizer)
    path = tmp_path / "ckpt_iter_1.pth.tar"
    write_peer_checkpoint(path, model.state_dict(), step=1, optimizer=optimizer.state_dict())
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    content = torch.load(path, weights_only=True)
    assert content.keys() == {"step", "state_dict", "optimizer"}
    assert all(key.startswith("module.") for key in content["state_dict"])

    checkpoint = read_peer_checkpoint(path)
    again = build("resnet18_plain").train()
    load_strictly(again, checkpoint.state_dict, source=str(path))
    resumed = torch.optim.SGD(again.parameters(), lr=0.1)
    resumed.load_state_dict(checkpoint.optimizer)
    step(model, optimizer)
    step(again, resumed)
    for key, value in model.state_dict().items():
        torch.testing.assert_close(again.state_dict()[key], value, msg=key)


def test_golden_weights_give_the_golden_outputs(shared_dir, tmp_path):
    golden = shared_dir / "golden"
    recipe = runpy.run_path(str(golden / "weights_recipe.py"))
    paths = golden / "resnet50_plain.json", golden / "resnet50_plain.npz"
    weights = {k: torch.from_numpy(v) for k, v in recipe["golden_weights"](*map(str, paths)).items()}
    torch.save({"step": 3, "state_dict": weights}, tmp_path / "golden.pth.tar")
    model = read_peer_checkpoint(tmp_path / "golden.pth.tar").network()
    model.mean.zero_()  # golden images are normalised already
    model.std.fill_(1)

    noise, stored = json.loads(paths[0].read_text())["numeric_noise"], np.load(paths[1])
    for case in "ab":  # 128x128 and 128x192
        image, sparse = (torch.from_numpy(stored[f"{name}_{case}"]) for name in ("image", "sparse"))
        with torch.no_grad():
            logits = model(image, sparse[:, :2], sparse[:, 2:3])
            outputs = {"logits": logits, "flow": model.quantizer.expectation(logits)}
            outputs["flow_up"] = model.decode(logits, sparse[:, :2], sparse[:, 2:3])
        # What another convolution library makes of the same network is noise; a wrong dilation differs by 7.7.
        for name, tolerance in (("logits", "nomkldnn"), ("flow", "nomkldnn_flow"), ("flow_up", "nomkldnn_flow")):
            expected = torch.from_numpy(stored[f"{name}_{case}"])
            assert (outputs[name] - expected).abs().max() <= 1.5 * noise[case][tolerance], (case, name)
