"""Run a script of tools/ in a process that has its libraries already: importing them takes longer than a small run."""

import multiprocessing
import os
import runpy
import subprocess
import sys
from pathlib import Path

# One server per test process imports these once and forks a process for each run. It imports nothing of this project
# and computes nothing, so a run begins as it would in a fresh process.
LIBRARIES = ["torch.utils.tensorboard", "torchvision", "mmengine.runner", "cv2", "scipy.sparse"]


def run_script(script, arguments, *, folder, environment, timeout_s=240):
    """The result of `python SCRIPT ARGUMENTS`, with its exit status, standard output and standard error.

    Args:
        script: path of a Python file, run as `__main__`.
        folder: where it runs; gets two files with what it writes, which are removed.
        environment: all its environment variables; PYTHONPATH is one folder.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(LIBRARIES)
    files = [Path(folder) / f".{name}.txt" for name in ("out", "err")]
    process = context.Process(target=_run, args=(str(script), list(map(str, arguments)), folder, environment, files))
    process.start()
    process.join(timeout_s)
    if process.exitcode is None:
        process.kill()
        process.join()
        raise subprocess.TimeoutExpired([script, *arguments], timeout_s, *(file.read_text() for file in files))
    texts = [file.read_text() for file in files]
    for file in files:
        file.unlink()
    return subprocess.CompletedProcess([script, *arguments], process.exitcode, *texts)


def _run(script, arguments, folder, environment, files):
    import torch

    for number, file in enumerate(files, start=1):
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, number)
        os.close(handle)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(1)
    if "PYTHONPATH" in environment:
        sys.path.insert(0, environment["PYTHONPATH"])
    sys.argv = [script, *arguments]
    runpy.run_path(script, run_name="__main__")
