from math import isnan
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cmp.baselines.evaluation import BaselinePictures, BaselineValLoop, MeanOverSet
from cmp.video import open_video


def test_a_mean_leaves_out_samples_without_the_measure_and_is_nan_where_none_has_it():
    metric = MeanOverSet()
    samples = [dict(a=1.0, b=float("nan"), c=float("nan")), dict(a=2.0, b=5.0, c=float("nan"))]
    metric.process({}, samples)
    metric.process({}, [dict(a=6.0, b=8.0, c=float("nan"))])
    means = metric.evaluate(3)
    assert isnan(means.pop("c")) and means == pytest.approx(dict(a=3.0, b=6.5))


def test_each_sample_gets_its_own_measures_without_gradients():
    seen, calls = [], []

    def val_step(batch):
        assert not torch.is_grad_enabled()
        return dict(psnr=2 * batch["frames"], kl=batch["frames"] + 0.5)

    loop = SimpleNamespace(
        runner=SimpleNamespace(
            model=SimpleNamespace(val_step=val_step), call_hook=lambda name, **rest: calls.append((name, rest))
        ),
        evaluator=SimpleNamespace(process=lambda data_samples, data_batch: seen.extend(data_samples)),
    )
    batch = dict(frames=torch.tensor([1.0, 2.0]))
    BaselineValLoop.run_iter(loop, 4, batch)
    assert seen == [dict(psnr=2.0, kl=1.5), dict(psnr=4.0, kl=2.5)]
    assert [name for name, _ in calls] == ["before_val_iter", "after_val_iter"]
    assert calls[1][1] == dict(batch_idx=4, data_batch=batch, outputs=seen)


def test_images_and_animations_are_of_the_first_samples_of_each_validations_first_batch(tmp_path):
    def pictures(frames, label):
        assert not torch.is_grad_enabled()
        return dict(
            sheet=np.full((6, 8, 3), int(frames.sum()), np.uint8),
            animation=np.stack([np.full((16, 24, 3), int(value), np.uint8) for value in label]),
        )

    shown = []
    runner = SimpleNamespace(
        model=SimpleNamespace(pictures=pictures, data_preprocessor=dict),
        visualizer=SimpleNamespace(add_image=lambda name, picture, step: shown.append((name, picture.max(), step))),
        log_dir=tmp_path,
    )
    hook = BaselinePictures(max_samples=2, fps=10.0)
    for runner.iter, first in ((3, 10), (6, 20)):
        hook.before_val_epoch(runner)
        for index, start in enumerate((first, first + 100)):
            batch = dict(frames=start + torch.arange(3), label=torch.tensor([40, 200, 90]))
            hook.after_val_iter(runner, index, batch, [])
        hook.after_val_epoch(runner, {})
    assert shown == [("sheet", 10 + 11, 3), ("sheet", 20 + 21, 6)]
    for step in (3, 6):
        with open_video(tmp_path / "vis_data" / "vis_image" / f"animation_{step}.gif") as reader:
            frames = [frame.image for frame in reader.read(range(reader.num_frames))]
            assert reader.fps == pytest.approx(10)
        assert [frame.shape for frame in frames] == [(16, 24, 3)] * 2
        np.testing.assert_allclose([frame.mean() for frame in frames], [40, 200], atol=6)
