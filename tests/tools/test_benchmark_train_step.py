import pytest

from cmp.engine.config import read_config
from tests.tools.test_train import pairs  # noqa: F401
from tools.benchmark import train_step

SMALL = {
    "train_dataloader.dataset.transforms.0.short_side_px": 140,
    "train_dataloader.dataset.transforms.1.size_px": 128,
}


def test_it_prints_a_row_a_variant_and_trains_on_a_store(pairs, capsys, monkeypatch):  # noqa: F811
    monkeypatch.setattr(train_step, "read_config", lambda path: read_config(path, SMALL))
    monkeypatch.setattr(train_step, "peak_memory", lambda *_: (2.0, 1.0))  # of processes of their own
    arguments = ["--recipe", "alexnet", "--batch", "2", "--rounds", "1", "--threads", "1", "--workers", "0"]
    assert train_step.main([*arguments, "--data", str(pairs), "--data-steps", "2"]) == 0
    out = capsys.readouterr().out
    assert "alexnet, 128 px, batch 2" in out
    for name in (*train_step.LOSSES, *train_step.VARIANTS[:-1]):
        (row,) = [line for line in out.splitlines() if line.startswith(f"| {name} |")]
        cells = [cell.split()[0] for cell in row.strip("| ").split(" | ")]
        assert all(float(cell) > 0 for cell in cells[-4:])
    (waiting,) = [line for line in out.splitlines() if line.endswith("% of the time waiting")]
    assert waiting.startswith("alexnet, + fused SGD, 0 workers on ") and " images/s, " in waiting


@pytest.mark.parametrize("name", ("+ banded loss", "banded loss"))
def test_memory_is_that_of_two_steps_of_a_process(name, capsys, monkeypatch):
    monkeypatch.setattr(train_step, "read_config", lambda path: read_config(path, SMALL))
    assert train_step.main(["--recipe", "alexnet", "--batch", "2", "--threads", "1", "--memory-of", name]) == 0
    peak, before = map(float, capsys.readouterr().out.split())
    assert peak >= before > 0


@pytest.mark.parametrize("flag", ("--rounds", "--steps", "--batch"))
def test_nothing_to_measure_is_refused(flag, capsys):
    with pytest.raises(SystemExit) as exit_:
        train_step.main([flag, "0"])
    assert exit_.value.code == 2 and "must be at least 1" in capsys.readouterr().err.splitlines()[-1]
