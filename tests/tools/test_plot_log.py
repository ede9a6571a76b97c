import json

import cv2
import numpy as np

from cmp.engine.run_log import read_run
from cmp.evaluation.curves import draw_curves
from tools.plot_log import main


def run_in(folder, *, slope, resumed=False):
    for start, steps in (("20260101_000000", range(1, 31)), ("20260101_000001", range(21, 61))):
        if start.endswith("1") and not resumed:
            continue
        lines = [dict(iter=s, step=s, loss=8 - slope * s, data_time_share=0.1) for s in steps]
        lines += [dict(step=s, loss=7.0, epe=4 - slope * s, epe_no_guidance=5.0, epe_zero_flow=6.0) for s in (10, 30)]
        (folder / start / "vis_data").mkdir(parents=True)
        (folder / start / "vis_data" / "scalars.json").write_text("\n".join(map(json.dumps, lines)) + "\n")
    return folder


def test_curves_of_two_runs_with_names_axes_and_units(tmp_path, capsys):
    runs = [run_in(tmp_path / "a", slope=0.05), run_in(tmp_path / "b", slope=0.02, resumed=True)]
    figure = draw_curves({run.name: read_run(run) for run in runs})
    loss, _, error, wait = figure.axes
    drawn = {line.get_label(): line.get_xydata() for line in loss.lines}
    assert drawn["a"][[0, -1]].tolist() == [[1, 7.95], [30, 6.5]] and len(drawn["b"]) == 60
    assert [line.get_xdata()[0] for line in loss.lines if line.get_linestyle() == ":"] == [20]
    assert {"a: the network", "b: guidance dropped", "a: zero flow"} <= {line.get_label() for line in error.lines}
    assert all(axes.get_xlabel() == "step" for axes in figure.axes)
    assert (error.get_ylabel(), wait.get_ylabel()) == ("EPE, px", "share of the time")

    out = tmp_path / "curves.png"
    for _ in range(2):
        assert main([*map(str, runs), str(out)]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines == ["a: 30 steps", "b: 60 steps, went on after [20]", f"wrote {out}"]
    picture = cv2.imread(str(out))
    assert picture.shape == (880, 1320, 3) and picture.std() > 10
    assert np.array_equal(sorted(path.name for path in tmp_path.iterdir()), ["a", "b", "curves.png"])


def test_failures_are_named(tmp_path, capsys):
    run_in(tmp_path / "a", slope=0.1)
    for arguments, message in (
        ([tmp_path / "none", tmp_path / "x.png"], "none is not a folder of a run"),
        ([tmp_path / "a", tmp_path / "x.bmp"], "must end in .png, .svg or .pdf"),
    ):
        assert main(list(map(str, arguments))) == 2
        assert message in capsys.readouterr().err


def test_the_name_of_a_run_is_text_whatever_is_in_it(tmp_path):
    name = r"a$\nonsense{$b"
    run_in(tmp_path / name, slope=0.1)
    assert main([str(tmp_path / name), str(tmp_path / "curves.svg")]) == 0


def baseline_in(folder, loss, metrics):
    """A run of another system: its own loss and validation metrics, H and W nowhere in it."""
    (folder / "20260101_000000" / "vis_data").mkdir(parents=True)
    lines = [{"iter": step, "step": step, "train/loss": 100.0 - step} for step in (1, 2, 3)]
    lines += [{"step": step, "val/time": 0.1} | {f"val/{k}": v + step for k, v in metrics.items()} for step in (2, 3)]
    (folder / "20260101_000000" / "vis_data" / "scalars.json").write_text("\n".join(map(json.dumps, lines)) + "\n")
    if loss is not None:
        (folder / "starts.jsonl").write_text(json.dumps(dict(loss="of an earlier start")) + "\n")
        with open(folder / "starts.jsonl", "a") as file:
            file.write(json.dumps(dict(loss=loss)) + "\n")
    return read_run(folder)


def test_every_validation_metric_of_any_system_is_drawn_once_and_losses_say_what_they_are(tmp_path):
    metrics = dict(elbo=-90.0, kl=10.0, model_psnr_all=25.0, copy_psnr_moving_all=20.0, mse=0.5, invented=7.0)
    run = baseline_in(tmp_path / "vae", "negative lower bound, nats per image", metrics)
    figure = draw_curves({"vae": run})
    titles = {axes.get_title(): axes for axes in figure.axes}
    assert titles["training loss"].get_ylabel() == "negative lower bound, nats per image"
    assert "validation loss" not in titles and "endpoint error on held-out pairs" not in titles  # it has neither
    drawn = [(line.get_label(), line.get_xydata().tolist()) for axes in figure.axes for line in axes.lines]
    for name, value in metrics.items():
        label = name if name == "invented" else f"vae: {name}"
        assert [curve for key, curve in drawn if key in (label, "vae") and curve[0] == [2, value + 2]] == [
            [[2, value + 2], [3, value + 3]]
        ]
    assert titles["similarity of predicted frames"].get_ylabel() == "dB"
    assert titles["bounds and likelihoods"].get_ylabel() == "nats"
    assert not any("time" in str(label) and "data" not in str(label) for label, _ in drawn)


def test_runs_whose_losses_differ_say_so_in_the_legend_and_an_unknown_one_is_not_called_nats(tmp_path):
    runs = dict(one=baseline_in(tmp_path / "one", "L2 + GDL", {}), other=baseline_in(tmp_path / "other", None, {}))
    axes = draw_curves(runs).axes[0]
    assert axes.get_ylabel() == "each run's own unit"
    assert [line.get_label() for line in axes.lines] == ["one (L2 + GDL)", "other (unit not recorded)"]
    assert draw_curves({"other": runs["other"]}).axes[0].get_ylabel() == "unit not recorded"
