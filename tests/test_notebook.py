"""The notebook runs from its first cell to its last, in one process, without Jupyter."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "docs" / "notebooks" / "first_steps.ipynb"
RUN = """
import json
import sys

import matplotlib.pyplot as plt
import torch

sys.modules["ipywidgets"] = None  # installed or not: the plain loop takes its place
shown = []


def show():
    figures = [plt.figure(number) for number in plt.get_fignums()]
    shown.extend(len(figure.axes) for figure in figures)
    assert figures and all(axis.has_data() for figure in figures for axis in figure.axes)
    plt.close("all")


plt.show = show
names = {"__name__": "__main__"}
for number, source in enumerate(json.load(sys.stdin)):
    exec(compile(source, f"code cell {number}", "exec"), names)
assert shown == [2, 1, 4, 4, 2, 3, 4, 3, 6, 6, 6], shown
lengths = names["np"].linalg.norm(names["real_flow"], axis=2)
assert names["error"].mean() < 0.5 * lengths.mean()  # the points help
assert not torch.equal(names["found"]["starter"], names["found"]["random weights"])
print("ran to its end")
"""


def cells():
    return json.loads(NOTEBOOK.read_text("utf-8"))["cells"]


def test_it_is_stored_without_outputs_in_the_form_that_jupyter_reads():
    content = json.loads(NOTEBOOK.read_text("utf-8"))
    assert (content["nbformat"], content["nbformat_minor"]) == (4, 5)
    ids = [cell["id"] for cell in content["cells"]]
    assert len(set(ids)) == len(ids) > 20
    for cell in content["cells"]:
        assert set(cell) == {"cell_type", "id", "metadata", "source"} | (
            {"execution_count", "outputs"} if cell["cell_type"] == "code" else set()
        )
        assert not cell.get("outputs") and cell.get("execution_count") is None


def test_every_code_cell_is_valid_python():
    sources = ["".join(cell["source"]) for cell in cells() if cell["cell_type"] == "code"]
    assert len(sources) > 10
    for source in sources:
        compile(source, "cell", "exec")


@pytest.mark.slow
def test_it_runs_from_its_first_cell_to_its_last(tmp_path):
    sources = ["".join(cell["source"]) for cell in cells() if cell["cell_type"] == "code"]
    result = subprocess.run(
        [sys.executable, "-c", RUN],
        input=json.dumps(sources),
        env=os.environ | {"MPLBACKEND": "Agg", "CUDA_VISIBLE_DEVICES": "", "TMPDIR": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "ran to its end"
    assert "missing_keys=['fc.weight', 'fc.bias'], unexpected_keys=[]" in result.stdout
