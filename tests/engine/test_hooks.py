from collections import OrderedDict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.hooks import CheckpointHook
from mmengine.logging import HistoryBuffer

from cmp.engine.checkpoint import load_model
from cmp.engine.hooks import PlainCheckpoint, PredictionPictures, ProgressBar
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
    PlainCheckpoint().before_save_checkpoint(SimpleNamespace(model=model), checkpoint)
    path = tmp_path / "iter_3.pth"
    torch.save(checkpoint, path)

    loaded = torch.load(path, weights_only=True)
    assert loaded["meta"]["cmp"] == model.describe() and loaded["meta"]["cmp_version"] == __version__
    assert loaded["meta"]["iter"] == 3 and type(loaded["meta"]["iter"]) is int
    hub = loaded["message_hub"]
    assert hub["log_scalars"] == {} and hub["runtime_info"] == {"iter": 3, "value": 0.5, "both": (1, [0, 1])}
    rebuilt = load_model(path)
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in rebuilt.state_dict().items())


class Visualizer:
    def __init__(self):
        self.added = []

    def add_image(self, name, image, step):
        self.added.append((name, image, step))


def test_each_validation_draws_its_own_predictions():
    runner = SimpleNamespace(visualizer=Visualizer(), iter=7)
    batch = dict(
        image=torch.zeros(2, 3, 8, 12, dtype=torch.uint8),
        flow=torch.ones(2, 2, 8, 12),
        mask=torch.zeros(2, 1, 8, 12),
        video=["a", "b"],
    )
    hook = PredictionPictures(max_rows=2)
    for _ in range(2):
        hook.before_val_epoch(runner)
        hook.after_val_iter(runner, 0, batch, [dict(flow=torch.ones(2, 8, 12))] * 2)
        hook.after_val_epoch(runner)
    (name, image, step), (_, again, _) = runner.visualizer.added
    assert name == "predictions" and step == 7 and image.dtype == np.uint8 and image.shape == again.shape


def test_only_the_first_process_draws(monkeypatch):
    runner = SimpleNamespace(visualizer=Visualizer(), iter=7)
    hook = PredictionPictures()
    hook.rows = [None]
    monkeypatch.setattr("cmp.engine.hooks.is_main_process", lambda: False)
    hook.after_val_epoch(runner)
    assert runner.visualizer.added == []


def test_a_validation_of_nothing_draws_nothing():
    runner = SimpleNamespace(visualizer=Visualizer(), iter=0)
    hook = PredictionPictures()
    hook.before_val_epoch(runner)
    hook.after_val_epoch(runner)
    assert runner.visualizer.added == []


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
        PlainCheckpoint().before_train(runner)
    runner.hooks[0].max_keep_ckpts = 2
    PlainCheckpoint().before_train(runner)
