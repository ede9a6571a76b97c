"""How often a file of weights is read."""

import os
import sys

import pytest
import torch

from cmp.checkpoints import convert_checkpoint, read_checkpoint
from cmp.downstream.probes import Encoder
from cmp.export import read_backbone
from cmp.flow import FlowQuantizer
from cmp.inference import load_propagator
from cmp.models import CMP, DiscreteLoss, MotionEncoder, PropagationDecoder, ResNet
from cmp.weights import read

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
opened: list[str] | None = None


def _note(event, arguments):
    if event == "open" and opened is not None and isinstance(arguments[0], (str, bytes, os.PathLike)):
        opened.append(os.path.realpath(os.fsdecode(arguments[0])))


sys.addaudithook(_note)  # sees every opening by Python, whoever asks for it


@pytest.fixture
def count(monkeypatch):
    """Call something; how often it opened a file, and how often its content was loaded."""
    loads = []

    def count(call, path):
        global opened
        opened, loads[:] = [], []
        try:
            call()
            return opened.count(os.path.realpath(path)), loads.count(os.path.realpath(path))
        finally:
            opened = None

    def load(file, *args, **kwargs):
        loads.append(os.path.realpath(file.name))
        return torch_load(file, *args, **kwargs)

    def safe_open(path, *args, **kwargs):
        loads.append(os.path.realpath(path))
        return real_safe_open(path, *args, **kwargs)

    torch_load, real_safe_open = torch.load, read.safe_open
    monkeypatch.setattr(torch, "load", load)
    monkeypatch.setattr(read, "safe_open", safe_open)
    return count


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """One small network as ours, Zhan et al.'s, safetensors, of 2019, and its encoder alone."""
    folder = tmp_path_factory.mktemp("files")
    torch.manual_seed(0)
    network = CMP(
        dict(type=ResNet, depth=18),
        dict(type=MotionEncoder),
        dict(type=PropagationDecoder),
        dict(type=FlowQuantizer, num_bins=9),
        dict(type=DiscreteLoss),
        init="default",
    ).eval()
    meta = dict(cmp=network.describe(), iter=3)
    torch.save(dict(state_dict=network.state_dict(), meta=meta), folder / "ours.pth")
    convert_checkpoint(folder / "ours.pth", folder / "theirs.pth.tar", to="peer")
    content = torch.load(folder / "theirs.pth.tar", weights_only=True)
    torch.save(content, folder / "of_2019.pth.tar", _use_new_zipfile_serialization=False)
    convert_checkpoint(folder / "ours.pth", folder / "ours.safetensors")
    convert_checkpoint(folder / "ours.pth", folder / "encoder.pth.tar", to="peer-backbone")
    return folder


@pytest.mark.parametrize(
    "name, to, out",
    (
        ("theirs.pth.tar", "cmp", "a.pth"),
        ("theirs.pth.tar", "cmp", "a.safetensors"),
        ("theirs.pth.tar", "peer-backbone", "a.pth"),
        ("of_2019.pth.tar", "cmp", "a.pth"),
        ("ours.pth", "peer", "a.pth.tar"),
        ("ours.safetensors", "peer", "a.pth.tar"),
        ("encoder.pth.tar", "cmp", "a.pth"),
        ("encoder.pth.tar", "peer-backbone", "a.pth"),
    ),
)
def test_converting_reads_its_source_once(files, tmp_path, count, name, to, out):
    opens, loads = count(lambda: convert_checkpoint(files / name, tmp_path / out, to=to), files / name)
    assert (opens, loads) == (1, 1)


@pytest.mark.parametrize("name", ("ours.pth", "theirs.pth.tar", "of_2019.pth.tar", "ours.safetensors"))
def test_every_user_of_a_checkpoint_reads_it_once(files, count, name):
    def everything_in_it():
        checkpoint = read_checkpoint(files / name)
        checkpoint.network()
        checkpoint.encoder()
        assert (checkpoint.step, checkpoint.mean, checkpoint.std) == (3, MEAN, STD)

    for call in (
        everything_in_it,
        lambda: load_propagator(files / name),
        lambda: read_backbone(files / name),
        lambda: Encoder(str(files / name)),
    ):
        assert count(call, files / name) == (1, 1)
