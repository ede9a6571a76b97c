import json

import pytest

from cmp.engine.run_log import read_run


def write(run, start, *lines, tail=""):
    folder = run / start / "vis_data"
    folder.mkdir(parents=True)
    (folder / "scalars.json").write_text("".join(json.dumps(line) + "\n" for line in lines) + tail)


def test_a_run_that_went_on_from_a_checkpoint_is_one_curve(tmp_path):
    first = [dict(iter=step, step=step, loss=float(step)) for step in (1, 2, 3, 4)]
    write(tmp_path, "20260101_000000", *first, dict(step=2, epe=9.0), dict(step=4, epe=8.0), tail='{"iter": 5, "lo')
    second = [{"iter": step, "step": step, "train/loss": 10.0 * step} for step in (4, 5)]
    write(tmp_path, "20260101_000001", *second, {"step": 5, "val/epe": 7.0, "val/time": 0.1})
    log = read_run(tmp_path)
    assert log.train["loss"].tolist() == [[1, 1], [2, 2], [3, 3], [4, 40], [5, 50]]
    assert log.val["epe"].tolist() == [[2, 9], [5, 7]] and log.val["time"].tolist() == [[5, 0.1]]
    assert log.resumed_after == [3]


def test_a_start_that_came_to_no_step_changes_nothing(tmp_path):
    write(tmp_path, "20260101_000000", dict(iter=1, step=1, loss=1.0))
    write(tmp_path, "20260101_000001")
    log = read_run(tmp_path)
    assert log.train["loss"].tolist() == [[1, 1]] and log.resumed_after == [] and log.val == {}


def test_what_is_no_run_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="is not a folder of a run"):
        read_run(tmp_path)
    write(tmp_path, "20260101_000000", dict(loss=1.0), dict(iter=2, loss=1.0))
    with pytest.raises(ValueError, match=r"scalars.json, line 1 does not contain the scalars of a step"):
        read_run(tmp_path)


@pytest.mark.parametrize(
    "line",
    [
        '{"iter": 1, "loss": "x"}',
        '{"iter": 1, "loss": [1]}', '{"iter": Infinity, "loss": 1}', "[1, 2]", "[" * 100_000,
        '{"iter": NaN, "loss": 1}', '{"iter": 1, "loss": 1' + "0" * 400 + "}", '{"iter": 1' + "0" * 9000 + "}", "5",
    ],
    ids=["text", "list", "infinite step", "a list", "deep", "no step", "too large", "thousands of digits", "a number"],
)  # fmt: skip
def test_a_line_that_contains_no_scalars_is_named_with_its_file(tmp_path, line):
    write(tmp_path, "20260101_000000", tail=line + '\n{"iter": 2, "step": 2, "loss": null}\n')
    with pytest.raises(ValueError, match=r"scalars.json, line 1 does not contain the scalars of a step"):
        read_run(tmp_path)
    path = tmp_path / "20260101_000000/vis_data/scalars.json"
    path.write_text(path.read_text().removeprefix(line + "\n"))
    assert str(read_run(tmp_path).train["loss"].tolist()) == "[[2.0, nan]]"
    path.write_bytes(b"\xff\xfe\0" * 50)
    with pytest.raises(ValueError, match="scalars.json does not contain the scalars of a run"):
        read_run(tmp_path)
