import pickle
from collections import OrderedDict

import pytest
import safetensors.torch
import torch

from cmp.engine.checkpoint import load_model, load_strictly, newest_checkpoint, read_checkpoint
from cmp.flow import FlowQuantizer
from cmp.models import CMP, DiscreteLoss, MotionEncoder, PropagationDecoder, ResNet


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return CMP(
        image_encoder=dict(type=ResNet, depth=18, output_stride=16),
        motion_encoder=dict(type=MotionEncoder, fill="nearest"),
        decoder=dict(type=PropagationDecoder, strides=(1, 2)),
        quantizer=dict(type=FlowQuantizer, num_bins=11),
        loss=dict(type=DiscreteLoss),
    ).eval()


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def test_our_checkpoint_gives_its_network_back(model, tmp_path):
    meta = {"cmp": model.describe(), "iter": 7, "cfg": "model = ..."}
    torch.save({"meta": meta, "state_dict": model.state_dict(), "optimizer": {"lr": 0.1}}, tmp_path / "iter_7.pth")
    checkpoint = read_checkpoint(tmp_path / "iter_7.pth")
    assert same(checkpoint.state_dict, model.state_dict()) and checkpoint.meta["iter"] == 7
    again = load_model(tmp_path / "iter_7.pth")
    assert not again.training and same(again.state_dict(), model.state_dict())
    image, guidance, mask = torch.zeros(1, 3, 64, 96), torch.ones(1, 2, 64, 96), torch.ones(1, 1, 64, 96)
    with torch.no_grad():
        assert torch.equal(again(image, guidance, mask), model(image, guidance, mask))


def test_plain_wrapped_and_safetensors_files_are_read_too(model, tmp_path):
    weights = model.state_dict()
    torch.save(weights, tmp_path / "plain.pth")
    torch.save(OrderedDict((f"module.{k}", v) for k, v in weights.items()), tmp_path / "wrapped.pth")
    torch.save(weights, tmp_path / "of_2019.pth.tar", _use_new_zipfile_serialization=False)
    safetensors.torch.save_file(weights, tmp_path / "a.safetensors", metadata={"encoder": "resnet18"})
    for name in ("plain.pth", "wrapped.pth", "of_2019.pth.tar", "a.safetensors"):
        assert same(read_checkpoint(tmp_path / name).state_dict, weights), name
    assert read_checkpoint(tmp_path / "a.safetensors").meta == {"encoder": "resnet18"}
    with pytest.raises(ValueError, match="plain.pth does not describe its network"):
        load_model(tmp_path / "plain.pth")


class Intruder:
    def __reduce__(self):
        return exec, ("raise SystemExit('code from the file ran')",)


def test_a_file_that_would_run_code_is_refused(tmp_path):
    torch.save({"state_dict": {"a": torch.zeros(1)}, "meta": Intruder()}, tmp_path / "intruder.pth")
    (tmp_path / "pickle.pth").write_bytes(pickle.dumps(Intruder(), protocol=2))
    for name in ("intruder.pth", "pickle.pth"):
        with pytest.raises(ValueError, match=f"{name} cannot be read as a torch file of tensors") as refused:
            read_checkpoint(tmp_path / name)
        assert "weights_only" not in str(refused.value)  # torch's advice is to run the file


@pytest.mark.parametrize("suffix", (".pth", ".tar", ".safetensors"))
def test_a_truncated_empty_or_foreign_file_is_refused_by_name(tmp_path, suffix):
    weights = {"a": torch.arange(1000.0)}
    path = tmp_path / f"broken{suffix}"
    if suffix == ".safetensors":
        safetensors.torch.save_file(weights, path)
    else:
        torch.save(weights, path, _use_new_zipfile_serialization=suffix == ".pth")
    whole = path.read_bytes()
    for content in (b"", b"not weights at all", whole[:100], whole[: len(whole) // 2], whole[:-10]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="broken"):
            read_checkpoint(path)


def test_files_without_a_state_dict_are_refused_by_name(tmp_path):
    for i, content in enumerate(({}, {"state_dict": [1]}, {"step": 3}, [torch.zeros(1)], {"state_dict": {}})):
        torch.save(content, tmp_path / f"{i}.pth")
        with pytest.raises(ValueError, match=f"{i}.pth"):
            read_checkpoint(tmp_path / f"{i}.pth")
    with pytest.raises(FileNotFoundError, match="none.pth"):
        read_checkpoint(tmp_path / "none.pth")
    with pytest.raises(FileNotFoundError):
        read_checkpoint(tmp_path)


def test_everything_that_does_not_fit_is_listed_and_nothing_is_loaded(model):
    weights = {key: value + 1 for key, value in model.state_dict().items()}
    weights["decoder.head.bias"] = torch.zeros(3)
    weights["decoder.tail.bias"] = torch.zeros(3)
    del weights["image_encoder.conv1.weight"], weights["image_encoder.bn1.running_var"]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ValueError) as error:
        load_strictly(model, weights, source="some.pth")
    text = str(error.value)
    assert text.startswith("some.pth") and "decoder.head.bias: (3,), expected (22,)" in text
    assert "missing (2): image_encoder.conv1.weight, image_encoder.bn1.running_var" in text
    assert "left over (1): decoder.tail.bias" in text
    assert same(model.state_dict(), before)


def test_only_the_batch_counters_may_be_missing(model):
    weights = {k: v + 1 for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}
    load_strictly(model, weights, source="some.pth")
    loaded = model.state_dict()
    assert weights.keys() < loaded.keys() and all(torch.equal(loaded[k], v) for k, v in weights.items())


def test_the_newest_whole_checkpoint_is_found_past_one_that_was_being_written(tmp_path):
    assert newest_checkpoint(tmp_path) == (None, [])
    for step in (2, 9, 10):
        torch.save({"state_dict": {"w": torch.zeros(step)}, "meta": {"iter": step}}, tmp_path / f"iter_{step}.pth")
    whole = (tmp_path / "iter_10.pth").read_bytes()
    assert newest_checkpoint(tmp_path) == (tmp_path / "iter_10.pth", [])
    (tmp_path / "iter_10.pth").write_bytes(whole[: len(whole) // 2])
    path, broken = newest_checkpoint(tmp_path)
    assert path == tmp_path / "iter_9.pth" and len(broken) == 1 and "iter_10.pth" in broken[0]
