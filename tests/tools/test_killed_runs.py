"""Runs that are killed or stopped, against one that never was: minutes long, in processes as a user starts them."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from cmp.engine.config import read_config
from cmp.engine.run_log import read_run
from tests.tools.test_train import CONFIG, OPTIONS, ROOT, pairs  # noqa: F401
from tools.export_backbone import main as export_backbone

STEPS = 12
MORE = [f"train_cfg.max_iters={STEPS}", "train_cfg.val_interval=6", "default_hooks.checkpoint.interval=2"]
# A hook for the config: sends a signal to the process it runs in, once, at a step or while a checkpoint is saved.
INTERRUPT = """
import os, signal, time
from pathlib import Path
from mmengine.hooks import Hook

class Interrupt(Hook):
    priority = "LOWEST"
    def __init__(self, name, step, rank=None, saving=False, validating=False):
        self.number, self.step, self.rank, self.saving = getattr(signal, name), step, rank, saving
        self.validating = validating

    def fire(self, runner):
        if (self.rank is None or runner.rank == self.rank) and not Path(f"interrupted{runner.rank}").exists():
            Path(f"interrupted{runner.rank}").touch()
            os.kill(os.getpid(), self.number)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter + 1 == self.step and not self.saving and not self.validating:
            self.fire(runner)

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter == self.step and self.validating:
            self.fire(runner)

    def before_save_checkpoint(self, runner, checkpoint):
        if runner.iter + 1 == self.step and self.saving:
            real = os.replace
            def replace(source, target):
                Path(source).write_bytes(Path(source).read_bytes()[:10000])
                self.fire(runner)
                real(source, target)
            os.replace = replace
"""


def write_config(folder, interrupt=None, more=""):
    """The quick start's config as text, with what a test adds to it."""
    read_config(CONFIG).dump(folder / "config.py")
    (folder / "interrupt.py").write_text(INTERRUPT)
    with open(folder / "config.py", "a") as file:
        file.write("\n" + more)
        if interrupt:
            file.write(f"\ncustom_hooks.append({dict(type='interrupt.Interrupt', **interrupt)!r})\n")
    return folder / "config.py"


def start(folder, pairs, *arguments, num_procs=1, interrupt=None, options=(), environment=(), more=""):  # noqa: F811
    """Start a run in a folder; the process, in a session of its own."""
    config = write_config(folder, interrupt, more)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHON": sys.executable,
                   "PYTHONPATH": str(folder), "OMP_WAIT_POLICY": "PASSIVE", **dict(environment)}  # fmt: skip
    rest = ["--data", str(pairs), "--work-dir", "run", *arguments, "--cfg-options", *OPTIONS, *MORE, *options]
    command = [sys.executable, str(ROOT / "tools" / "train.py"), str(config), *rest]
    if num_procs > 1:
        command = ["bash", str(ROOT / "tools" / "dist_train.sh"), str(config), str(num_procs), *rest]
    with open(folder / "out.txt", "a") as out:
        return subprocess.Popen(command, cwd=folder, env=environment, stdout=out, stderr=out, start_new_session=True)


def status_of(process, folder):
    """Its exit status, with its output at hand if that takes too long."""
    try:
        return process.wait(timeout=240)
    except subprocess.TimeoutExpired:
        kill_tree(process.pid)
        pytest.fail(f"still running:\n{(folder / 'out.txt').read_text()[-3000:]}")


def kill_tree(pid):
    """SIGKILL to a process and all below it, the lowest last, so that none is started again in the meantime."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    below = [int(child) for child in children.read_text().split()] if children.exists() else []
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    for child in below:
        kill_tree(child)


def result(folder):
    """Losses by step, the last validation's EPE, and the weights, momenta and schedule of the last checkpoint."""
    log = read_run(folder / "run")
    content = torch.load(folder / "run" / f"iter_{STEPS}.pth", weights_only=True)
    return log.train["loss"].tolist(), log.val["epe"].tolist(), content


def assert_same(folder, whole):
    (losses, epes, content), (whole_losses, whole_epes, whole_content) = result(folder), result(whole)
    assert [step for step, _ in whole_losses] == list(range(1, STEPS + 1))
    assert losses == whole_losses and epes == whole_epes
    for part in ("state_dict", "optimizer"):
        torch.testing.assert_close(content[part], whole_content[part], rtol=0, atol=0)
    assert content["param_schedulers"] == whole_content["param_schedulers"]


@pytest.fixture(scope="module", params=(1, 2), ids=("one process", "two processes"))
def whole(request, pairs, tmp_path_factory):  # noqa: F811
    """Number of processes, and the folder of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    process = start(folder, pairs, num_procs=request.param)
    assert status_of(process, folder) == 0, (folder / "out.txt").read_text()[-3000:]
    return request.param, folder


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_run_killed_at_random_moments_ends_as_one_that_never_was(whole, pairs, tmp_path):  # noqa: F811
    num_procs, folder = whole
    rng = random.Random(0)
    kills = 0
    for _ in range(4):
        process = start(tmp_path, pairs, "--resume", num_procs=num_procs, options=["train_dataloader.num_workers=1"])
        known = set((tmp_path / "run").glob("iter_*.pth"))
        while process.poll() is None and not set((tmp_path / "run").glob("iter_*.pth")) - known:
            time.sleep(0.02)  # until it has come further than the start before
        time.sleep(rng.uniform(0, 0.5))
        kills += process.poll() is None
        kill_tree(process.pid)
        process.wait()
    assert kills >= 1
    assert status_of(start(tmp_path, pairs, "--resume", num_procs=num_procs), tmp_path) == 0
    assert read_run(tmp_path / "run").resumed_after
    assert_same(tmp_path, folder)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "interrupt",
    (
        dict(name="SIGTERM", step=5),
        dict(name="SIGUSR1", step=5, rank=0),
        dict(name="SIGTERM", step=6, validating=True),
    ),
    ids=("SIGTERM in a step", "SIGUSR1 to the first process", "SIGTERM in a validation"),
)
def test_a_stopped_run_says_75_and_goes_on_exactly(whole, pairs, tmp_path, interrupt):  # noqa: F811
    num_procs, folder = whole
    process = start(tmp_path, pairs, num_procs=num_procs, interrupt=interrupt, environment={"MAX_RESTARTS": "0"})
    output = tmp_path / "out.txt"
    assert status_of(process, tmp_path) == 75, output.read_text()[-3000:]
    step = interrupt["step"]
    assert f"stopped by {interrupt['name']} at step {step} of {STEPS}; checkpoint: " in output.read_text()
    assert (tmp_path / "run" / f"iter_{step}.pth").is_file()
    again = start(tmp_path, pairs, "--resume", num_procs=num_procs)
    assert status_of(again, tmp_path) == 0, output.read_text()[-3000:]
    assert_same(tmp_path, folder)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_checkpoint_cut_off_by_a_kill_never_gets_its_name(whole, pairs, tmp_path):  # noqa: F811
    num_procs, folder = whole
    process = start(tmp_path, pairs, num_procs=num_procs, interrupt=dict(name="SIGKILL", step=4, rank=0, saving=True),
                    environment={"MAX_RESTARTS": "0"})  # fmt: skip
    assert status_of(process, tmp_path) != 0
    assert sorted(path.name for path in (tmp_path / "run").glob("iter_*")) == ["iter_2.pth"]
    assert len(list((tmp_path / "run").glob(".iter_4.pth.*.tmp"))) == 1
    assert status_of(start(tmp_path, pairs, "--resume", num_procs=num_procs), tmp_path) == 0
    assert not list((tmp_path / "run").glob(".iter_*"))  # the next run removes what was left
    assert_same(tmp_path, folder)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_torchrun_goes_on_by_itself_when_a_worker_is_killed(whole, pairs, tmp_path):  # noqa: F811
    num_procs, folder = whole
    if num_procs == 1:
        pytest.skip("one process has no torchrun above it")
    process = start(tmp_path, pairs, num_procs=2, interrupt=dict(name="SIGKILL", step=7, rank=1))
    assert status_of(process, tmp_path) == 0, (tmp_path / "out.txt").read_text()[-3000:]
    starts = [json.loads(line) for line in (tmp_path / "run" / "starts.jsonl").read_text().splitlines()]
    assert [start["resumed_from"] and Path(start["resumed_from"]).name for start in starts] == [None, "iter_6.pth"]
    assert_same(tmp_path, folder)


OPTIONS_OF_THE_PAGE = """
train_cfg.update(accumulate_batches=2)
optim_wrapper.update(clip_grad=dict(max_norm=1.0), paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0))
custom_hooks.append(dict(type="cmp.engine.weight_average.WeightAverage", momentum=0.1))
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("interrupt", (dict(name="SIGTERM", step=6, validating=True), dict(name="SIGKILL", step=5)))
def test_a_run_with_every_option_goes_on_exactly_and_exports_its_average(pairs, tmp_path, interrupt):  # noqa: F811
    folders = [tmp_path / "whole", tmp_path / "stopped"]
    for folder, first in zip(folders, (None, interrupt)):
        folder.mkdir()
        if first:
            stopped = status_of(start(folder, pairs, more=OPTIONS_OF_THE_PAGE, interrupt=first), folder)
            assert stopped == (75 if first["name"] == "SIGTERM" else -signal.SIGKILL)
        process = start(folder, pairs, "--resume", more=OPTIONS_OF_THE_PAGE)
        assert status_of(process, folder) == 0, (folder / "out.txt").read_text()[-3000:]
    assert_same(folders[1], folders[0])
    whole, stopped = (result(folder)[2] for folder in folders)
    assert whole["ema_steps"] == stopped["ema_steps"] == STEPS
    torch.testing.assert_close(stopped["ema_state_dict"], whole["ema_state_dict"], rtol=0, atol=0)
    out = tmp_path / "average.pth"
    assert export_backbone([str(folders[1] / "run" / f"iter_{STEPS}.pth"), str(out), "--ema"]) == 0
    exported, average = torch.load(out, weights_only=True), whole["ema_state_dict"]
    assert torch.equal(exported["conv1.weight"], average["image_encoder.conv1.weight"])
    assert not torch.equal(exported["conv1.weight"], whole["state_dict"]["image_encoder.conv1.weight"])
    assert json.loads((tmp_path / "average.pth.json").read_text())["weights"] == "exponential moving average"


def two_agents(folder, pairs, interrupt):  # noqa: F811
    """A process each on two torchrun agents, as on two machines; their exit statuses."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    write_config(folder, interrupt)
    agents = []
    for rank in range(2):
        environment = dict(NNODES="2", NODE_RANK=str(rank), MASTER_ADDR="127.0.0.1", MASTER_PORT=port, **os.environ)
        environment |= dict(PYTHON=sys.executable, OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="", PYTHONPATH=str(folder))
        command = ["bash", str(ROOT / "tools" / "dist_train.sh"), str(folder / "config.py"), "1", "--data", str(pairs)]
        command += ["--work-dir", "run", "--cfg-options", *OPTIONS, *MORE]
        with open(folder / "out.txt", "a") as out:
            agents.append(subprocess.Popen(command, cwd=folder, env=environment, stdout=out, stderr=out))
    return [status_of(agent, folder) for agent in agents]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("interrupt", (None, dict(name="SIGKILL", step=7, rank=1)), ids=("undisturbed", "one killed"))
def test_two_machines_do_what_two_processes_of_one_do(whole, pairs, tmp_path, interrupt):  # noqa: F811
    num_procs, folder = whole
    if num_procs == 1:
        pytest.skip("compared with two processes")
    assert two_agents(tmp_path, pairs, interrupt) == [0, 0], (tmp_path / "out.txt").read_text()[-3000:]
    assert_same(tmp_path, folder)
