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


class ScriptProcess:
    """`python SCRIPT ARGUMENTS`, started; with the parts of `subprocess.Popen` that tests need.

    Args:
        script: path of a Python file, run as `__main__`.
        folder: where it runs; gets two files with what it writes, which `communicate` removes.
        environment: all its environment variables.
    """

    def __init__(self, script, arguments, *, folder, environment):
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(LIBRARIES)
        self.args = [str(script), *map(str, arguments)]
        self._files = [Path(folder) / f".{name}.txt" for name in ("out", "err")]
        self._process = context.Process(target=_run, args=(self.args, folder, environment, self._files))
        self._process.start()
        self.pid = self._process.pid

    @property
    def returncode(self):
        return self._process.exitcode

    def kill(self):
        self._process.kill()

    def communicate(self, timeout=None):
        """Wait for its end; returns (standard output, standard error), or raises `subprocess.TimeoutExpired`."""
        self._process.join(timeout)
        texts = [file.read_text() if file.exists() else "" for file in self._files]
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self.args, timeout, *texts)
        for file in self._files:
            file.unlink(missing_ok=True)
        return texts


def run_script(script, arguments, *, folder, environment, timeout_s=240):
    """Run a `ScriptProcess`; its exit status, standard output and standard error."""
    process = ScriptProcess(script, arguments, folder=folder, environment=environment)
    try:
        texts = process.communicate(timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return subprocess.CompletedProcess(process.args, process.returncode, *texts)


def _run(args, folder, environment, files):
    import torch

    for number, file in enumerate(files, start=1):
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, number)
        os.close(handle)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(1)
    sys.path[:0] = filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))
    sys.argv = args
    runpy.run_path(args[0], run_name="__main__")
