import json

import cv2
import numpy as np

from cmp.engine.run_log import read_run
from tools.plot_log import draw, main


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
    figure = draw({run.name: read_run(run) for run in runs})
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
        ([tmp_path / "none", tmp_path / "x.png"], "none is no folder of a run"),
        ([tmp_path / "a", tmp_path / "x.bmp"], "must end in .png, .svg or .pdf"),
    ):
        assert main(list(map(str, arguments))) == 2
        assert message in capsys.readouterr().err
