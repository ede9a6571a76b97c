from collections import OrderedDict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.hooks import CheckpointHook
from mmengine.logging import HistoryBuffer, MessageHub

from cmp.checkpoints import read_checkpoint
from cmp.engine.hooks import ProgressBar, WeightsOnlyCheckpointHook
from cmp.flow import FlowQuantizer
from cmp.models import CMP, DiscreteLoss, MotionEncoder, PropagationDecoder, PyramidResNet
from cmp.version import __version__


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


def test_a_checkpoint_as_mmengine_makes_it_loads_weights_only_and_rebuilds_its_network(tmp_path):
    model = small_model()
    checkpoint = {
        "state_dict": model.state_dict(),
        "meta": {"iter": np.int64(3), "epoch": 0, "seed": np.int32(1), "cfg": "text", "folder": tmp_path},
        "message_hub": {
            "log_scalars": OrderedDict(loss=HistoryBuffer([1.0], [1])),
            "runtime_info": OrderedDict(iter=np.int64(3), value=np.float32(0.5), both=(1, np.arange(2))),
            "resumed_keys": {},
        },
    }
    WeightsOnlyCheckpointHook().before_save_checkpoint(SimpleNamespace(model=model), checkpoint)
    path = tmp_path / "iter_3.pth"
    torch.save(checkpoint, path)

    loaded = torch.load(path, weights_only=True)
    assert loaded["meta"]["cmp"] == model.describe() and loaded["meta"]["cmp_version"] == __version__
    assert loaded["meta"]["iter"] == 3 and type(loaded["meta"]["iter"]) is int
    hub = loaded["message_hub"]
    assert hub["log_scalars"] == {} and hub["runtime_info"] == {"iter": 3, "value": 0.5, "both": (1, [0, 1])}
    rebuilt = read_checkpoint(path).network()
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in rebuilt.state_dict().items())


def test_the_logs_means_go_on_after_a_resume_as_if_the_run_had_not_stopped(tmp_path):
    window, losses = 25, [float(step) ** 1.5 for step in range(60)]
    whole, first = MessageHub("whole"), MessageHub("first")
    for step, loss in enumerate(losses):
        for hub in (whole, first) if step < 40 else (whole,):
            hub.update_scalar("train/loss", loss)
            hub.update_scalar("train/data_time_share", step, count=step + 1)
            hub.update_scalar("val/loss", 1.0)
    runner = SimpleNamespace(model=small_model(), hooks=[], log_processor=SimpleNamespace(window_size=window))
    checkpoint = dict(state_dict={}, meta={}, message_hub=first.state_dict())
    WeightsOnlyCheckpointHook().before_save_checkpoint(runner, checkpoint)
    torch.save(checkpoint, tmp_path / "iter_40.pth")

    runner.message_hub = resumed = MessageHub("resumed")
    resumed.load_state_dict(torch.load(tmp_path / "iter_40.pth", weights_only=True)["message_hub"])
    WeightsOnlyCheckpointHook().before_train(runner)
    assert "recent_scalars" not in resumed.runtime_info and list(resumed.log_scalars) == [
        "train/loss", "train/data_time_share",
    ]  # fmt: skip
    for step in range(40, 45):
        resumed.update_scalar("train/loss", losses[step])
        resumed.update_scalar("train/data_time_share", step, count=step + 1)
    assert resumed.get_scalar("train/loss").mean(window) == sum(losses[20:45]) / 25
    assert resumed.get_scalar("train/data_time_share").mean(window) == sum(range(20, 45)) / sum(range(21, 46))


@pytest.mark.parametrize(("log_level", "shown"), [("INFO", False), ("WARNING", True)])
def test_away_from_a_terminal_a_bar_is_shown_where_the_log_is_quiet(log_level, shown, capsys):
    scalars = {"train/loss": HistoryBuffer([2.0, 4.0], [1, 1]), "train/data_time_share": HistoryBuffer([1, 1], [2, 6])}
    hub = SimpleNamespace(log_scalars=scalars)
    runner = SimpleNamespace(cfg={"log_level": log_level}, max_iters=3, iter=1, message_hub=hub)
    bar = ProgressBar()
    bar.before_train(runner)
    bar.bar.mininterval = 0
    for step in (1, 2):
        bar.after_train_iter(runner, step)
    bar.after_train(runner)
    shown_text = capsys.readouterr().err
    assert all((part in shown_text) == shown for part in ("3/3", "loss=3.000", "data wait=25%"))


def test_one_checkpoint_at_a_time_is_refused():
    runner = SimpleNamespace(hooks=[CheckpointHook(interval=1, max_keep_ckpts=1)])
    with pytest.raises(ValueError, match="max_keep_ckpts must be at least 2"):
        WeightsOnlyCheckpointHook().before_train(runner)
    runner.hooks[0].max_keep_ckpts = 2
    WeightsOnlyCheckpointHook().before_train(runner)
