"""Ctrl-C, really sent to commands at several moments: one line, status 130, no traceback, nothing left behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from cmp.flow import write_flow
from tools.benchmark.inference import random_propagator

TOOLS = Path(__file__).resolve().parents[2] / "tools"
# Arguments with which a command begins its slow imports, in a folder with "here" and "store".
COMMANDS = {
    "ablate.py": "small out",
    "animate.py": "here out.gif --checkpoint here --arrow 1,1,2,2",
    "annotate.py": "here out.png --checkpoint here --click 1,1",
    "browse_pairs.py": "store",
    "check_checkpoint.py": "here out",
    "compare_predictions.py": "here here",
    "convert_checkpoint.py": "here out.pth",
    "discover.py": "here out",
    "evaluate.py": "knn here store",
    "export_backbone.py": "here out.pth",
    "export_propagator.py": "here out.onnx",
    "inspect_backbone.py": "here store out",
    "merge_stores.py": "store",
    "playground.py": "here",
    "plot_log.py": "store out.png",
    "prepare_flow.py": "store out",
    "train.py": "r18_quickstart",
    "verify_store.py": "store",
    "yolo_to_coco.py": "store out",
}


def start(*command, folder, **environment):
    """Start a command as the leader of its own process group, Ctrl-C at its default; stderr is collected."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **environment}
    return subprocess.Popen(
        [sys.executable, *map(str, command)],
        cwd=folder,
        env=environment,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        # A shell that runs the tests in the background has Ctrl-C ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def wait_until(condition, process, limit_s=120):
    end = time.monotonic() + limit_s
    while not condition():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < end, "the command did not come so far"
        time.sleep(0.005)


def assert_group_is_gone(process):
    """No process of the command's group is left (zombies aside)."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        states = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[2]) == process.pid and fields[0] != "Z":
                states.append(stat)
        if not states:
            return
        time.sleep(0.05)
    raise AssertionError(f"left running: {states}")


def assert_one_line(process, name, lines=1):
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    said = [line for line in stderr.splitlines() if line.strip() and "it/s" not in line and "%|" not in line]
    assert len(said) == lines and said[-1].startswith(f"{name}: interrupted"), stderr
    assert_group_is_gone(process)


@pytest.mark.parametrize("name", COMMANDS)
def test_ctrl_c_while_a_command_imports_is_one_line_and_130(name, tmp_path):
    for module in ("numpy", "torch", "cv2", "PIL", "av", "mmengine", "yaml", "tqdm"):
        (tmp_path / f"{module}.py").write_text("import os, signal, time; os.kill(os.getpid(), 2); time.sleep(60)")
    (tmp_path / "here").touch()
    (tmp_path / "store").mkdir()
    command = (TOOLS / name, *COMMANDS[name].split())
    assert_one_line(start(*command, folder=tmp_path, PYTHONPATH=str(tmp_path)), name)


def test_every_command_with_slow_imports_is_interrupted_above():
    assert COMMANDS.keys() == {path.name for path in TOOLS.glob("*.py")} - {"sample_clips.py"}


MAIN = f"""
import os, signal, sys, tempfile, time
sys.path.insert(0, {str(TOOLS.parent)!r})
from cmp.interrupts import child_finishes_first, exit_at_interrupt, run_command
exit_at_interrupt()

class Interrupts:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)

def ctrl_c():
    os.kill(os.getpid(), signal.SIGINT)
"""


@pytest.mark.parametrize(
    "body, status, line",
    (
        ("    ctrl_c()", 130, "command.py: interrupted\n"),
        ("    Interrupts()\n    time.sleep(60)", 130, "command.py: interrupted\n"),
        (
            "    try:\n        ctrl_c()\n    except BaseException:\n        raise ValueError('wrong')",
            130,
            "interrupted\n",
        ),
        (
            "    try:\n        ctrl_c()\n    finally:\n        ctrl_c()",
            130,
            "command.py: interrupted again: ended at once\n",
        ),
        ("    try:\n        ctrl_c()\n    except KeyboardInterrupt:\n        return 130", 130, ""),
        ("    try:\n        ctrl_c()\n    except KeyboardInterrupt:\n        return 0", 0, ""),
        ("    return 3", 3, ""),
        ("    sys.exit(2)", 2, ""),
        ("    raise ValueError('wrong')", 1, "ValueError: wrong\n"),
    ),
    ids=("plain", "in a finalizer", "made another error", "twice", "said by main", "swallowed", "3", "exit", "error"),
)
def test_what_main_does_decides_the_status_and_ctrl_c_is_one_line(tmp_path, body, status, line):
    (tmp_path / "command.py").write_text(f"{MAIN}\ndef main():\n{body}\n\nrun_command(main)\n")
    process = start("command.py", folder=tmp_path)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == status and stderr.endswith(line), stderr
    assert stderr.count("\n") == bool(line) or "ValueError: wrong" in line


def test_a_server_that_is_interrupted_has_always_been_interrupted(tmp_path):
    body = "    try:\n        ctrl_c()\n    except KeyboardInterrupt:\n        return 0"
    (tmp_path / "command.py").write_text(f"{MAIN}\ndef main():\n{body}\n\nrun_command(main, endless=True)\n")
    assert_one_line(start("command.py", folder=tmp_path), "command.py")


def test_a_loaders_workers_end_without_a_word_and_temporary_files_go(tmp_path):
    body = """
    import torch
    class Slow(torch.utils.data.Dataset):
        def __len__(self):
            return 10**6
        def __getitem__(self, index):
            time.sleep(0.01)
            return index
    with tempfile.TemporaryDirectory(dir=".", prefix="partial"):
        for batch in torch.utils.data.DataLoader(Slow(), batch_size=2, num_workers=2):
            open("began", "w").close()
"""
    (tmp_path / "command.py").write_text(f"{MAIN}\ndef main():{body}\nrun_command(main)\n")
    process = start("command.py", folder=tmp_path)
    wait_until((tmp_path / "began").exists, process)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    assert_one_line(process, "command.py")
    assert not list(tmp_path.glob("partial*"))


@pytest.mark.parametrize("number, status", ((signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)))
def test_a_child_command_saves_before_its_parent_ends(tmp_path, number, status):
    (tmp_path / "child.py").write_text(
        "import signal, time\nasked = []\nsignal.signal(15, lambda *_: asked.append(1))\nopen('began', 'w').close()\n"
        "while not asked:\n    time.sleep(0.02)\ntime.sleep(0.5)\nopen('saved', 'w').close()\n"
    )
    body = """
    import subprocess
    with child_finishes_first():
        subprocess.run([sys.executable, 'child.py'])"""
    (tmp_path / "command.py").write_text(f"{MAIN}\ndef main():{body}\n\nrun_command(main)\n")
    process = start("command.py", folder=tmp_path)
    wait_until((tmp_path / "began").exists, process)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == status, stderr
    assert (tmp_path / "saved").exists()


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """A list file of 6 videos with 10 pairs each."""
    folder = tmp_path_factory.mktemp("pairs")
    lines = []
    for video in range(6):
        (folder / f"v{video}").mkdir()
        for k in range(10):
            image = np.random.default_rng((video, k)).integers(0, 256, (160, 200, 3), np.uint8)
            cv2.imwrite(str(folder / f"v{video}" / f"{k}.png"), image)
            write_flow(folder / f"v{video}/{k}.npz", np.ones((160, 200, 2), np.float32))
            lines.append(f"v{video}/{k}.png v{video}/{k}.png v{video}/{k}.npz")
    (folder / "list.txt").write_text("\n".join(lines))
    return folder / "list.txt"


def test_ctrl_c_while_pairs_are_judged_leaves_no_file(pairs, tmp_path):
    config = TOOLS.parent / "configs" / "pretrain" / "cmp_r18_quickstart_1xb16_300.py"
    arguments = ["propagation", config, "none", "--data", pairs, "--out", "out", "--interpolations", "edge_aware"]
    process = start(TOOLS / "evaluate.py", *arguments, folder=tmp_path)
    for line in iter(lambda: process.stderr.read(1), ""):
        if line == "%":  # the progress bar is there, so that workers are starting
            break
    time.sleep(0.3)
    os.killpg(process.pid, signal.SIGINT)
    assert_one_line(process, "evaluate.py")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_ctrl_c_while_an_animation_is_written_leaves_no_file(tmp_path):
    cv2.imwrite(str(tmp_path / "image.png"), np.random.default_rng(0).integers(0, 256, (64, 80, 3), np.uint8))
    model = random_propagator("plain", torch.float32).network
    torch.save(dict(state_dict=model.state_dict(), meta=dict(cmp=model.describe())), tmp_path / "c.pth")
    arguments = ["image.png", "out.mp4", "--checkpoint", "c.pth", "--arrow", "10,10,20,15", "--frames", "5000"]
    process = start(TOOLS / "animate.py", *arguments, folder=tmp_path)
    wait_until(lambda: list(tmp_path.glob("*out.mp4*")), process)
    os.killpg(process.pid, signal.SIGINT)
    assert_one_line(process, "animate.py")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.pth", "image.png"]


@pytest.mark.parametrize("moment", ("workers import", "workers work"))
def test_ctrl_c_while_videos_are_prepared_is_one_line(tmp_path, moment):
    for video in range(6):
        (tmp_path / f"videos/v{video}").mkdir(parents=True)
        for k in range(8):
            image = np.random.default_rng((video, k)).integers(0, 256, (120, 160, 3), np.uint8)
            cv2.imwrite(str(tmp_path / f"videos/v{video}" / f"{k}.png"), image)
    process = start(TOOLS / "prepare_flow.py", "videos", "store", "--workers", "2", "--quiet", folder=tmp_path)

    def workers():
        try:
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            return [child for child in children if "spawn_main" in Path(f"/proc/{child}/cmdline").read_text()]
        except OSError:
            return []

    done = workers if moment == "workers import" else lambda: list(tmp_path.glob("store/videos/*.json"))
    wait_until(done, process)
    os.killpg(process.pid, signal.SIGINT)
    assert_one_line(process, "prepare_flow.py")
