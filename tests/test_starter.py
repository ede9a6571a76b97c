import hashlib

import pytest
import torch

from cmp import starter
from cmp.checkpoints import read_checkpoint
from cmp.export import export_backbone
from cmp.inference import load_propagator


@pytest.fixture
def other_file(tmp_path, monkeypatch):
    """A function that puts other bytes in the place of the starter network."""

    def put(content, sha256=starter.SHA256):
        path = tmp_path / "starter.safetensors"
        if content is not None:
            path.write_bytes(content)
        monkeypatch.setattr(starter, "FILE", path)
        monkeypatch.setattr(starter, "SHA256", sha256)
        starter.starter_path.cache_clear()

    yield put
    starter.starter_path.cache_clear()


def test_a_starter_with_one_other_bit_is_refused(other_file):
    content = bytearray(starter.FILE.read_bytes())
    content[len(content) // 2] ^= 1
    other_file(bytes(content))
    with pytest.raises(ValueError, match="starter network is damaged"):
        load_propagator()


def test_a_missing_starter_is_answered_by_what_to_do(other_file):
    other_file(None)
    with pytest.raises(FileNotFoundError, match="install cmp-motion again, or name a checkpoint"):
        load_propagator()


def test_the_file_is_what_the_source_code_states_and_small_enough():
    content = starter.FILE.read_bytes()
    assert hashlib.sha256(content).hexdigest() == starter.SHA256 and len(content) <= 25_000_000


def test_without_a_path_the_starter_is_loaded():
    assert read_checkpoint(starter.FILE).encoder_name == "resnet18"
    weights = [load_propagator(*path).network.state_dict() for path in ((), ("starter",), (starter.FILE,))]
    assert all(torch.equal(value, other[key]) for other in weights[1:] for key, value in weights[0].items())


def test_its_backbone_is_exported_like_any_other(tmp_path):
    report = export_backbone("starter", tmp_path / "backbone.pth")
    assert report.backbone.name == "resnet18"
    weights = torch.load(tmp_path / "backbone.pth", weights_only=True)
    assert {v.dtype for k, v in weights.items() if not k.endswith("num_batches_tracked")} == {torch.float32}
