import pickle
from collections import OrderedDict

import pytest
import safetensors.torch
import torch

from cmp.checkpoints import read_checkpoint
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
    again = read_checkpoint(tmp_path / "iter_7.pth").network()
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
        read_checkpoint(tmp_path / "plain.pth").network()


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


@pytest.mark.parametrize("value", (float("nan"), float("inf"), -float("inf")))
def test_a_network_with_weights_that_are_not_finite_is_refused_at_load(model, tmp_path, value):
    weights = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    weights["decoder.head.weight"][3, 2] = value
    torch.save({"meta": {"cmp": model.describe()}, "state_dict": weights}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match="x.pth has weights that are not finite .*1 of .*decoder.head.weight"):
        read_checkpoint(tmp_path / "x.pth").network()


def test_wrappers_prefixes_are_stripped_and_the_network_loads(model, tmp_path):
    meta = {"cmp": model.describe()}
    for prefix in ("module.", "_orig_mod.", "model.", "module._orig_mod."):
        weights = {prefix + key: value for key, value in model.state_dict().items()}
        torch.save({"meta": meta, "state_dict": weights}, tmp_path / "x.pth")
        assert same(read_checkpoint(tmp_path / "x.pth").network().state_dict(), model.state_dict()), prefix
    torch.save({"meta": meta, "state_dict": weights | {"model.other": torch.ones(1)}}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match="left over"):
        read_checkpoint(tmp_path / "x.pth").network()


def test_a_description_larger_than_the_weights_takes_no_memory(model, tmp_path, monkeypatch):
    described = model.describe()
    described = described | {"decoder": described["decoder"] | {"width": 2048, "strides": [1, 2, 4, 8]}}
    torch.save({"meta": {"cmp": described}, "state_dict": model.state_dict()}, tmp_path / "x.pth")
    made = []
    build = CMP.__init__

    def noted(self, **arguments):
        build(self, **arguments)
        made.append(self.decoder.head.weight)

    monkeypatch.setattr(CMP, "__init__", noted)
    with pytest.raises(ValueError, match="x.pth does not fit the network"):
        read_checkpoint(tmp_path / "x.pth").network()
    assert [weight.device.type for weight in made] == ["meta"]


@pytest.mark.parametrize("text", ("[" * 10**5, '{"mean": [NaN, 0, 0]}', "{", "[]", "7", "1" * 10**5, '{"a": "b"}'))
def test_metadata_of_any_text_is_a_value_error(model, tmp_path, text):
    safetensors.torch.save_file(model.state_dict(), tmp_path / "x.safetensors", metadata={"cmp": text})
    with pytest.raises(ValueError):
        read_checkpoint(tmp_path / "x.safetensors").network()
