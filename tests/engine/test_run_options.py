"""What mmengine offers by config and the documents promise: it does what they say."""

import os
import resource
import subprocess
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import EMAHook
from mmengine.logging import MessageHub
from mmengine.model import convert_sync_batchnorm
from mmengine.optim import OptimWrapper, build_optim_wrapper
from torch import nn

from cmp.engine import provenance
from cmp.engine.provenance import record_start
from cmp.engine.runner import ResumableRunner
from cmp.flow import FlowQuantizer
from cmp.models import CMP, DiscreteLoss, MotionEncoder, PropagationDecoder, PyramidResNet
from cmp.weights import read_weight_file


def small_model():
    torch.manual_seed(0)
    return CMP(
        image_encoder=dict(type=PyramidResNet, depth=18, top_stride=8, out_channels=8),
        motion_encoder=dict(type=MotionEncoder, fill="nearest", out_channels=4),
        decoder=dict(type=PropagationDecoder, strides=(1, 2), width=8, shortcut=True),
        quantizer=dict(type=FlowQuantizer, num_bins=5),
        loss=dict(type=DiscreteLoss),
        init="default",
    )


def test_weight_decay_leaves_out_norms_and_biases_where_the_config_says_so():
    model = small_model()
    config = dict(
        type=OptimWrapper,
        optimizer=dict(type=torch.optim.SGD, lr=0.1, weight_decay=1e-4),
        paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
    )
    groups = build_optim_wrapper(model, config).optimizer.param_groups
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    norms = {id(p) for m in model.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters()}
    counted = {0.0: 0, 1e-4: 0}
    for name, parameter in model.named_parameters():
        expected = 0.0 if id(parameter) in norms or name.endswith("bias") else 1e-4
        assert decay.pop(id(parameter)) == expected
        counted[expected] += 1
    assert not decay and min(counted.values()) > 10


def test_every_batch_norm_becomes_one_over_all_processes_under_the_same_keys():
    model = small_model()
    keys, norms = list(model.state_dict()), sum(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    model = convert_sync_batchnorm(model, "torch")
    assert sum(isinstance(m, nn.SyncBatchNorm) for m in model.modules()) == norms > 10
    assert not any(isinstance(m, nn.BatchNorm2d) for m in model.modules()) and list(model.state_dict()) == keys


def test_mmengines_own_average_is_saved_as_if_it_were_the_trained_weights():
    """Why there is a hook of our own; should this fail one day, it may go."""
    hook = EMAHook(momentum=0.5)
    hook.ema_model = nn.Module()
    hook.ema_model.module = nn.Linear(1, 1)
    trained = {"weight": torch.tensor([[3.0]]), "bias": torch.tensor([0.0])}
    checkpoint = {"state_dict": dict(trained)}
    hook.before_save_checkpoint(None, checkpoint)
    assert not torch.equal(checkpoint["state_dict"]["weight"], trained["weight"])


class SavingRunner(ResumableRunner):
    """A runner that does nothing but save, after step 3."""

    iter, epoch, seed, experiment_name = 2, 0, 0, "test"
    train_dataloader = SimpleNamespace(dataset=None)

    def __init__(self, size):
        self.cfg, self.model, self.message_hub, self._hooks = Config(), nn.Linear(size, size), MessageHub("test"), []


def save(runner, folder):
    runner.save_checkpoint(str(folder), "iter_3.pth", save_optimizer=False, save_param_scheduler=False, by_epoch=False)


def test_a_checkpoint_has_its_name_only_when_it_is_whole(tmp_path, monkeypatch):
    (tmp_path / ".iter_2.pth.0123456789ab.tmp").write_bytes(b"half")  # left by a killed run
    sizes, plain = [], os.fsync

    def listen(descriptor):
        sizes.append((os.fstat(descriptor).st_size, (tmp_path / "iter_3.pth").exists()))
        plain(descriptor)

    monkeypatch.setattr(os, "fsync", listen)
    save(SavingRunner(100), tmp_path)
    assert os.listdir(tmp_path) == ["iter_3.pth"]
    assert sizes[0] == ((tmp_path / "iter_3.pth").stat().st_size, False)  # on the disk before it has its name
    assert read_weight_file(tmp_path / "iter_3.pth").meta["iter"] == 3


def test_a_checkpoint_that_does_not_fit_on_the_disk_is_named_and_leaves_the_older_ones(tmp_path):
    (tmp_path / "iter_2.pth").write_bytes(b"older")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(OSError, match=r"iter_3\.pth: cannot be written \(File too large\); it needs 36\d,\d\d\d "):
            save(SavingRunner(300), tmp_path)  # 300 x 301 numbers of 4 bytes: 361,200, and the meta
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.listdir(tmp_path) == ["iter_2.pth"]


def test_the_copy_of_a_config_never_replaces_the_config_that_was_read(tmp_path):
    (tmp_path / "mine.py").write_text("a = 1  # a comment that the copy does not have\n")
    runner = SavingRunner(1)
    runner.cfg, runner._work_dir = Config.fromfile(tmp_path / "mine.py"), str(tmp_path)
    runner._timestamp = "20260101_000000"
    runner.dump_config()
    assert (tmp_path / "mine.py").read_text() == "a = 1  # a comment that the copy does not have\n"
    assert (tmp_path / "mine_20260101_000000.py").read_text() == "a = 1\n"
    runner._work_dir = str(tmp_path / "run")
    (tmp_path / "run").mkdir()
    runner.dump_config()
    assert os.listdir(tmp_path / "run") == ["mine.py"]


def test_every_start_is_noted(tmp_path):
    first = record_start(tmp_path / "run", resumed_from=None, num_processes=1)
    record_start(tmp_path / "run", resumed_from="iter_3.pth", num_processes=2)
    lines = (tmp_path / "run" / "starts.jsonl").read_text().splitlines()
    assert len(lines) == 2 and '"resumed_from": "iter_3.pth"' in lines[1] and '"processes": 2' in lines[1]
    assert first["commit"] is None or len(first["commit"]) == 40
    assert first["torch"] == torch.__version__


def test_a_start_says_whether_tracked_files_differ_from_the_commit(tmp_path, monkeypatch):
    file = tmp_path / "cmp" / "engine" / "provenance.py"
    file.parent.mkdir(parents=True)
    file.write_text("")
    monkeypatch.setattr(provenance, "__file__", str(file))
    assert provenance.commit() == dict(commit=None, changed=None)
    for arguments in ("init", "add .", "-c user.name=a -c user.email=b commit -m c"):
        subprocess.run(["git", "-C", str(tmp_path), *arguments.split()], check=True, capture_output=True)
    (tmp_path / "untracked.txt").write_text("")
    clean = provenance.commit()
    assert len(clean["commit"]) == 40 and clean["changed"] is False
    file.write_text("changed")
    assert provenance.commit() == clean | dict(changed=True)
