"""The console script: every subcommand, its help, wrong arguments, and that neither imports anything slow."""

import ast
import contextlib
import importlib
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from cmp.cli.main import COMMANDS, main
from cmp.version import __version__

ROOT = Path(__file__).resolve().parents[2]
SLOW = ("torch", "mmengine", "cv2", "numpy", "scipy", "skimage", "av", "PIL")
TOOLS = {  # script to subcommand
    "ablate": "ablate",
    "animate": "animate",
    "annotate": "annotate",
    "browse_pairs": "browse",
    "check_checkpoint": "checkpoint check",
    "compare_predictions": "compare",
    "convert_checkpoint": "checkpoint convert",
    "discover": "discover",
    "evaluate": "evaluate",
    "export_backbone": "export backbone",
    "export_propagator": "export propagator",
    "inspect_backbone": "checkpoint inspect",
    "merge_stores": "store merge",
    "playground": "playground",
    "plot_log": "plot",
    "prepare_flow": "prepare",
    "sample_clips": "clips",
    "train": "train",
    "verify_store": "store verify",
    "yolo_to_coco": "coco",
}
# Wrong arguments that are found without the libraries, and what the one line says.
WRONG = {
    "": "cmp-motion: a command is missing; --help lists the commands",
    "trin x": "cmp-motion: there is no command 'trin'; did you mean 'train'?",
    "store": "cmp-motion store: a command is missing; its commands are verify, repair, merge, refilter",
    "store check": "cmp-motion store: there is no command 'check'; its commands are verify",
    "train": "cmp-motion train: the following arguments are required: config",
    "train no_such_recipe": "cmp-motion train: no such config: no_such_recipe",
    "train r18": "cmp-motion train: several recipes are named 'r18': cmp_r18_",
    "train r18_quickstart --data none": "cmp-motion train: --data: none: no such file or folder",
    "train r18_quickstart --cfg-options a": "cmp-motion train: argument --cfg-options: expected KEY=VALUE, got 'a'",
    "train r18_quickstart --step 3": "cmp-motion train: unrecognized arguments: --step 3",
    "train r18_quickstart --precision half": "cmp-motion train: argument --precision: invalid choice: 'half'",
    "prepare a": "cmp-motion prepare: VIDEO_DIR and OUT_DIR are both needed",
    "prepare a b --interval-frame 3": "cmp-motion prepare: unrecognized arguments: --interval-frame 3",
    "prepare a b --codec zip": "cmp-motion prepare: argument --codec: invalid choice: 'zip'",
    "browse none.html/x page.txt": "cmp-motion browse: page.txt: OUT.html must end in .html",
    "evaluate knn": "cmp-motion evaluate knn: the following arguments are required: backbone, data",
    "evaluate knn random data --siz 3": "cmp-motion evaluate: unrecognized arguments: --siz 3",
    "evaluate propagation no_such none": "cmp-motion evaluate: no such config: no_such",
    "export backbone a b --format x": "cmp-motion export backbone: argument --format: invalid choice: 'x'",
    "export propagator a": "cmp-motion export propagator: the following arguments are required: OUT",
    "animate a b.mp4 --checkpoint c --arrow 1,2": "cmp-motion animate: argument --arrow: an arrow is x0,y0,x1,y1",
    "animate a b.mp4 --checkpoint c --arrow 1,2,3,4 --frames 1": "cmp-motion animate: --frames must be at least 2",
    "annotate a b.png --checkpoint c --click 1": "cmp-motion annotate: argument --click: a click is x,y, got '1'",
    "playground none.pth": "cmp-motion playground: no such file: none.pth",
    "checkpoint convert a": "cmp-motion checkpoint convert: the following arguments are required: OUT",
    "ablate no_such out": "cmp-motion ablate: no such config: no_such",
    "ablate small out --data x": "cmp-motion ablate: --data wants NAME=PATH, got ['x']",
    "plot a b.txt": "cmp-motion plot: b.txt: OUT must end in .png, .svg or .pdf",
}
ANSWER_ALL = """
import contextlib, io, json, sys
from cmp.cli.main import COMMANDS, main
answers = {{}}
for words in {lines!r}:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main(words.split())
        except SystemExit as error:
            status = error.code
    answers[words] = status, out.getvalue(), err.getvalue(), sorted(set({slow!r}) & set(sys.modules))
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """(status, stdout, stderr, slow modules that are imported by then) of command lines, all in one fresh process."""
    lines = ["--help", "--version", "store --help", *WRONG]
    lines += [f"{name} --help" for name in COMMANDS] + [
        f"evaluate {task} --help" for task in ("propagation", "segmentation", "detection", "knn", "linear")
    ]
    code = ANSWER_ALL.format(lines=lines, slow=SLOW)
    folder = tmp_path_factory.mktemp("empty")
    process = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


def test_help_and_wrong_arguments_import_nothing_slow(answers):
    assert {words: slow for words, (*_, slow) in answers.items() if slow} == {}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_subcommand_has_an_example_of_it(answers, name):
    status, out, err, _ = answers[f"{name} --help"]
    assert status == 0 and err == "" and out.startswith(f"usage: cmp-motion {name} ")
    shown = f"cmp-motion {'export backbone' if name == 'export' else name} "
    assert shown in out.split("Example:")[1]


@pytest.mark.parametrize("task", ("propagation", "segmentation", "detection", "knn", "linear"))
def test_the_help_of_an_evaluation_has_an_example_of_it(answers, task):
    status, out, _, _ = answers[f"evaluate {task} --help"]
    assert status == 0 and f"Example: cmp-motion evaluate {task} " in " ".join(out.split())


def test_the_help_lists_every_subcommand_and_the_version_is_printed(answers):
    status, out, _, _ = answers["--help"]
    assert status == 0 and all(f"  {name} " in out for name in COMMANDS)
    assert answers["--version"][:2] == [0, f"cmp-motion {__version__}\n"]
    status, out, _, _ = answers["store --help"]
    assert status == 0 and "store repair" in out and "animate" not in out


@pytest.mark.parametrize("words", WRONG)
def test_wrong_arguments_are_one_line_and_status_2(answers, words):
    status, out, err, _ = answers[words]
    assert (status, out) == (2, "") and err.startswith(WRONG[words]) and len(err.splitlines()) == 1, err


@pytest.mark.parametrize("script", TOOLS)
def test_a_script_in_tools_is_the_same_function(script):
    module, _, function = COMMANDS[TOOLS[script]][0].partition(":")
    command = importlib.import_module(f"cmp.cli.{module}")
    assert importlib.import_module(f"tools.{script}").main is getattr(command, function)
    assert command.main.__kwdefaults__ == {"prog": f"{script}.py"}
    body = ast.parse((ROOT / "tools" / f"{script}.py").read_text()).body
    assert len(body) == 4 and (ROOT / "tools" / f"{script}.py").read_text().count("\n") == 7


def test_every_script_in_tools_is_a_subcommand():
    assert {path.stem for path in (ROOT / "tools").glob("*.py")} == TOOLS.keys()


def test_a_script_of_a_checkout_that_is_not_installed_uses_the_checkouts_packages(tmp_path):
    # A script's own folder is the first place where Python looks: links there lead to the packages.
    for folder in (ROOT / "tools", ROOT / "tools" / "benchmark"):
        for package in ("cmp", "data_prep"):
            assert (folder / package).resolve() == ROOT / package
    code = "import sys; sys.path[0] = sys.argv[1]; import cmp, data_prep; print(cmp.__path__[0], data_prep.__path__[0])"
    command = [sys.executable, "-I", "-c", code, str(ROOT / "tools")]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True).stdout.split()
    assert [Path(path).resolve() for path in said] == [ROOT / "cmp", ROOT / "data_prep"]


def test_python_m_cmp_is_the_console_script(tmp_path):
    process = subprocess.run([sys.executable, "-m", "cmp", "trin"], cwd=tmp_path, capture_output=True, text=True)
    assert process.returncode == 2 and process.stderr.startswith("cmp-motion: there is no command 'trin'")


def test_the_names_that_arguments_offer_are_the_librarys():
    from cmp.cli import choices
    from cmp.engine.step import PRECISIONS
    from cmp.engine.tracking import TRACKERS
    from cmp.evaluation.interpolations import INTERPOLATIONS
    from cmp.export import FORMATS
    from cmp.flow import CODECS
    from cmp.inference import animation
    from cmp.inference.animate import METHODS
    from cmp.inference.export import GRAPH_FORMATS
    from cmp.inference.propagator import NORMALIZATIONS
    from cmp.video.readers import FILE_BACKENDS
    from data_prep.estimators import DIS
    from data_prep.estimators.classical import DIS_PRESETS

    assert choices.EXPORT_FORMATS == FORMATS
    assert choices.GRAPH_FORMATS == GRAPH_FORMATS
    assert choices.NORMALIZATIONS == NORMALIZATIONS
    assert choices.INTERPOLATIONS == tuple(INTERPOLATIONS)
    assert choices.ANIMATION_METHODS == METHODS
    assert choices.PRECISIONS == PRECISIONS
    assert choices.CODECS == CODECS
    assert choices.TRACKERS == TRACKERS
    assert choices.READERS == FILE_BACKENDS
    assert choices.MAX_FRAMES == animation.MAX_FRAMES
    assert DIS == tuple(DIS_PRESETS)


def test_help_and_errors_take_the_same_way_in_a_process_that_has_everything_imported():
    out = io.StringIO()
    with contextlib.redirect_stdout(out), pytest.raises(SystemExit) as ended:
        main(["animate", "--help"])
    assert ended.value.code == 0 and out.getvalue().startswith("usage: cmp-motion animate ")
