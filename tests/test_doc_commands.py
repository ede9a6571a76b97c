"""Every fenced command and Python block of README and docs is run, with small sizes, or a reason is stated here.

The blocks of a page are run in order, in one folder that contains what the quick start leaves (`quickstart_out`).
"""

import contextlib
import io
import os
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import cmp
from cmp.cli.main import NAME, main
from cmp.engine.config import read_config
from cmp.video import write_video
from tests.test_jobs import SMALL

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("configs/*.md")])

# Beginnings of commands that are not run, and why.
NOT_RUN = {
    "pip install": "needs a network",
    "bash tools/quickstart.sh": "makes an environment: tests/tools/test_quickstart.py",
    "bash tools/test.sh": "runs the tests",
    "jupyter lab": "needs a browser: tests/test_notebook.py runs the notebook",
    "bash tools/dist_train.sh": "starts 8 processes: tests/tools/test_train.py runs two",
    "NNODES=": "needs two machines: tests/tools/test_launchers.py",
    "sbatch": "needs Slurm: tests/tools/test_launchers.py",
    "cmp-motion prepare /data": "needs a cluster: tests/data_prep/test_parts.py and test_ray_executor.py",
    "cmp-motion store merge /data": "needs a cluster: tests/data_prep/test_parts.py",
    "cmp-motion prepare s3://": "needs an object store: tests/data_prep/test_remote.py",
    "cmp-motion prepare https://": "needs a web server: tests/data_prep/test_remote.py",
    "cmp-motion train r50_yfcc --data s3://": "needs an object store: tests/test_streamed_training.py",
    'cmp-motion train r50_yfcc --data "https://': "needs a web server: tests/test_streamed_training.py",
    "cmp-motion playground": "serves until it is stopped: tests/tools/test_playground.py",
    "cmp-motion checkpoint check ckpt": "needs Zhan et al.'s checkpoint: tests/tools/test_check_checkpoint.py",
    "cmp-motion export propagator": "takes half a minute: tests/inference/test_export.py",
    "cmp-motion evaluate segmentation": "needs CamVid or CCP: tests/tools/test_evaluate_segmentation.py",
    "cmp-motion export backbone work_dirs/night": "needs the run of a night: tests/export/test_backbone.py",
    "cmp-motion evaluate propagation my_config.py": "needs the held-out pairs of the starter network",
    "python infer/check.py": "needs an environment with torch 2.0.1",
    "cmp-motion animate photo.jpg": "needs the file that the page saved; docs/animate.md writes one",
    "cmp-motion evaluate rigidity --pair": "needs pairs with measured flow: tests/cli/test_rigidity.py",
    "cmp-motion export backbone work_dirs/quickstart": "uploads: tests/export/test_push.py",
    "cmp-motion ablate": "trains for hours: tests/tools/test_ablate.py",
    "cmp-motion train r18_quickstart --data quickstart_out/pairs --cfg-options compile": "needs a C++ compiler",
    "cmp-motion export backbone work_dirs/my_run": "needs a run with a moving average: tests/export/test_backbone.py",
    "python tools/benchmark/": "measures for minutes: tests/tools/test_benchmark_*.py",
    "python $run": "kills runs by hand: tests/tools/test_killed_runs.py",
    "cmp-motion plot undisturbed": "draws the runs of the line before",
    "run=": "sets what the line before needs",
    "one_by_one=": "sets what the line before needs",
}
# Beginnings of Python blocks that are not run, and why.
PYTHON_NOT_RUN = {
    'import numpy as np\nimport cmp\n\npropagator = cmp.load_propagator("ckpt': "needs Zhan et al.'s checkpoint",
    'propagator = cmp.load_propagator(\n    "hf://': "needs a network: tests/weights/test_download.py",
    "from torch.utils.data import DataLoader": "reads from S3: tests/datasets/test_streamed.py",
    'cmp = CMP_demo("./models/cmp': "needs MOFA-Video and its weights: tests/inference/test_compat.py",
    "import numpy as np, onnx": "runs what the export above writes: tests/inference/test_export.py",
}
# What is added to a command so that it takes seconds.
SMALLER = {
    "prepare": ["--pairs-per-video", "4", "--short-side", "48", "--workers", "1", "--quiet"],
    "train": ["--steps", "2", "--batch-size", "2"],
    "animate": ["--frames", "3", "--short-side", "64"],
    "annotate": ["--short-side", "64"],
    "evaluate knn": ["--size", "32"],
    "evaluate linear": ["--size", "32"],
}


def blocks(page):
    """(language, text) of the fenced blocks of a page."""
    return re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(), flags=re.M | re.S)


def commands(text):
    """The commands of a block of shell, continued lines joined, comments left out."""
    if text.startswith("#!"):
        return []  # a job script, which is handed to sbatch
    joined = re.sub(r"\s*\\\n\s*", " ", text)
    joined = re.sub(r'="([^"]*)"', lambda match: '="' + " ".join(match.group(1).split()) + '"', joined)
    return [re.sub(r"\s+# .*", "", line) for line in joined.splitlines() if line.strip() and not line.startswith("#")]


def reason(text, reasons):
    return next((why for start, why in reasons.items() if text.startswith(start)), None)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with what the quick start leaves, of drawn videos and two steps, and a small set of classes."""
    place = tmp_path_factory.mktemp("place")
    clips, out = place / "quickstart_out" / "clips", place / "quickstart_out"
    clips.mkdir(parents=True)
    for number in range(6):
        rng = np.random.default_rng(number)
        ground, square = rng.integers(0, 90, (64, 96, 3), np.uint8), rng.integers(120, 255, (24, 24, 3), np.uint8)
        frames = [ground.copy() for _ in range(14)]
        for time, frame in enumerate(frames):
            frame[4 + 5 * number : 28 + 5 * number, 3 * time : 3 * time + 24] = square
        write_video(clips / f"{number}.mp4", frames, 25)
    cmp.prepare(clips, out / "pairs", short_side=48, pairs_per_video=4, workers=1, quiet=True)
    trained = cmp.pretrain(out / "pairs", out / "run", steps=2, batch_size=2, device="cpu", cfg_options=SMALL)
    shutil.copy(trained.checkpoint, out / "run" / "iter_300.pth")
    cmp.export_backbone(trained.checkpoint, out / "backbone_resnet18.pth")
    for part in ("train", "test"):
        for number in range(30 if part == "train" else 6):
            folder = place / "cifar10" / part / f"class{number % 2}"
            folder.mkdir(parents=True, exist_ok=True)
            image = np.random.default_rng(number).integers(0, 256, (32, 40, 3), np.uint8)
            Image.fromarray(image).save(folder / f"{number}.png")
    return place


def run_command(line):
    """Run a command of `cmp-motion` or a script of tools/ in this process, or `echo ... > FILE`."""
    words = shlex.split(line)
    if words[0] == "echo" and words[-2] == ">":
        Path(words[-1]).write_text(" ".join(words[1:-2]) + "\n")
        return
    assert words[0] == NAME, f"cannot be run: {line!r}; add it to NOT_RUN with a reason, or write it as {NAME} ..."
    words = words[1:]
    for name, flags in SMALLER.items():
        if " ".join(words).startswith(f"{name} "):
            words = _without(words, flags) + flags
    if words[0] == "train" and "--print-config" not in words:
        options = [f"{key}={value}" for key, value in SMALL.items()]
        at = words.index("--cfg-options") + 1 if "--cfg-options" in words else None
        words = words[:at] + options + words[at:] if at else [*words, "--cfg-options", *options]
        words += ["--device", "cpu"]
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert main(words) == 0, line


def _without(words, flags):
    """The words without the flags that are given again, and their values."""
    for flag in flags[::2] if "--quiet" not in flags else flags[:-1:2]:
        if flag in words:
            at = words.index(flag)
            words = words[:at] + words[at + 2 :]
    return words


def run_python(text, place):
    """Run a block: a config is read, a program is executed with training that takes two steps."""
    if "read_base()" in text:
        (place / "my_config.py").write_text(text)
        read_config(place / "my_config.py")
        return
    text = text.replace("steps=300", f"steps=2, batch_size=2, device='cpu', cfg_options={SMALL!r}")
    text = text.replace("short_side=160)", "short_side=48, pairs_per_video=4, workers=1, quiet=True)")
    with contextlib.redirect_stdout(io.StringIO()):
        exec(compile(text, "block", "exec"), {"__name__": "block"})


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p)], ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_blocks_of_a_page_can_be_pasted(page, place, monkeypatch):
    monkeypatch.chdir(place)
    for language, text in blocks(page):
        if language == "bash":
            for line in commands(text):
                if reason(line, NOT_RUN) is None:
                    run_command(line)
        elif language == "python" and reason(text, PYTHON_NOT_RUN) is None:
            run_python(text, place)


def test_every_reason_not_to_run_a_block_is_needed():
    lines = [line for page in PAGES for language, text in blocks(page) if language == "bash" for line in commands(text)]
    programs = [text for page in PAGES for language, text in blocks(page) if language == "python"]
    assert [start for start in NOT_RUN if not any(line.startswith(start) for line in lines)] == []
    assert [start for start in PYTHON_NOT_RUN if not any(text.startswith(start) for text in programs)] == []


def test_no_command_has_a_placeholder_that_cannot_be_pasted():
    wrong = []
    for page in PAGES:
        for language, text in blocks(page):
            for line in commands(text) if language == "bash" else ():
                if reason(line, NOT_RUN) is None and re.search(r"(?<![\w./-])[A-Z][A-Z_0-9]{2,}(?![\w=])|\[--", line):
                    wrong.append(f"{page.name}: {line}")
    assert wrong == []


def test_what_is_run_is_what_is_written(place, monkeypatch):
    assert commands("a \\\n    b   # why\n# c\nd e\n") == ["a b", "d e"]
    monkeypatch.chdir(place)
    with pytest.raises(AssertionError, match="cannot be run: 'python x.py'"):
        run_command("python x.py")
    with contextlib.redirect_stderr(io.StringIO()), pytest.raises(AssertionError):
        run_command("cmp-motion browse nowhere")
    assert os.getcwd() == str(place)
