"""Every stage of the benchmark of large stores does what it claims, and the table names each of them."""

import tempfile

from tools.benchmark import large


def test_every_stage_runs_on_a_few_videos(tmp_path, capsys, monkeypatch):
    stages = ["finish", "start", "split", "order", "verify", "find", "resume", "merge"]  # a dry run starts workers
    calls = []

    def measure(function, *arguments):
        calls.append(function.__name__)
        function(*arguments)  # each checks its result
        return 1.0, 2.0, 3.0

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(large, "NUM_CLIPS", 2)
    monkeypatch.setattr(large, "measure", measure)
    assert large.main(["--videos", "23", "--pairs-per-video", "3", "--only", *stages]) == 0
    table = capsys.readouterr().out.splitlines()[-len(stages) - 2 :]
    assert table[0] == "| stage | 23 videos, 69 pairs |"
    assert [line.split(" | ")[0] for line in table[2:]] == [f"| {stage}" for stage in stages]
    assert table[2].endswith("1.00 s, 2 MiB |") and len(calls) == len(stages)
    assert list(tmp_path.iterdir()) == []
