"""Training as a user starts it, in separate processes, because a runner leaves global state behind."""

import errno
import json
import math
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
import torchvision
from mmengine.dataset import default_collate
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cmp.checkpoints import read_checkpoint
from cmp.cli.train import report
from cmp.datasets import Crop, PairList, PropagationDataset
from cmp.engine import resume
from cmp.engine.config import read_config
from cmp.engine.errors import describe_error
from cmp.engine.provenance import record_start
from cmp.engine.restarts import torchrun_started_again
from cmp.engine.resume import checkpoint_to_resume
from cmp.engine.run_log import read_run
from cmp.evaluation.controls import predict_with_controls
from cmp.evaluation.metrics import FlowMetric
from cmp.flow import write_flow
from cmp.folder_lock import hold_folder
from cmp.weights import read_weight_file
from tests.tools.script_process import run_script
from tools.export_backbone import main as export_backbone
from tools.train import main

ROOT = Path(__file__).resolve().parents[2]
CONFIG = str(ROOT / "configs" / "pretrain" / "cmp_r18_quickstart_1xb16_300.py")
DIGITS = str(ROOT / "configs" / "baselines" / "vae_mnist_1xb100_6k.py")
STEPS = 6
OPTIONS = [
    "model.image_encoder.out_channels=8",
    f"train_cfg.max_iters={STEPS}",
    "train_cfg.val_interval=3",
    "default_hooks.checkpoint.interval=3",
    "default_hooks.checkpoint.max_keep_ckpts=5",
    "default_hooks.logger.interval=1",
    "log_processor.window_size=1",
]
for loader in ("train_dataloader", "val_dataloader"):
    OPTIONS += [f"{loader}.batch_size=2", f"{loader}.num_workers=0", f"{loader}.persistent_workers=False"]
    OPTIONS += [f"{loader}.dataset.transforms.{i}=64" for i in ("0.short_side_px", "1.size_px")]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """A list file of 3 videos with 5 pairs each: a dark rectangle moves over noise."""
    folder = tmp_path_factory.mktemp("pairs")
    lines = []
    for video in range(3):
        (folder / f"v{video}").mkdir()
        for k in range(5):
            image = np.random.default_rng((video, k)).integers(0, 256, (64, 80, 3), np.uint8)
            flow = np.zeros((64, 80, 2), np.float32)
            rectangle = slice(20, 44), slice(10 + k, 50)
            image[rectangle] //= 4
            flow[rectangle] = 3 + video, -2 - k
            flow_name = f"v{video}/{k}.{'flo' if k % 2 else 'npz'}"
            cv2.imwrite(str(folder / f"v{video}" / f"{k}.png"), image)
            write_flow(folder / flow_name, flow)
            lines.append(f"v{video}/{k}.png v{video}/{k + 1}.png {flow_name}")
    (folder / "list.txt").write_text("\n".join(lines))
    return folder / "list.txt"


def train(folder, pairs, *arguments, options=(), num_procs=None, fresh=False):
    """Run the command in a folder; the finished process. A fresh one imports the libraries itself."""
    arguments = [CONFIG, "--data", str(pairs), "--work-dir", "run", *arguments, "--cfg-options", *OPTIONS, *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHON": sys.executable}
    script = ROOT / "tools" / "train.py"
    if not (num_procs or fresh):
        return run_script(script, arguments, folder=folder, environment=environment)
    command = [sys.executable, str(script), *arguments]
    if num_procs:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            environment["PORT"] = str(free.getsockname()[1])
        command = ["bash", str(ROOT / "tools" / "dist_train.sh"), arguments[0], str(num_procs), *arguments[1:]]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240)


@pytest.fixture(scope="module")
def finished(pairs, tmp_path_factory):
    """The folder of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("finished")
    process = train(folder, pairs)
    assert process.returncode == 0, process.stderr[-3000:]
    assert f"trained to step {STEPS} of {STEPS}; checkpoint: " in process.stdout.splitlines()[-1]
    (folder / "printed.txt").write_text(process.stdout + process.stderr)
    return folder / "run"


def logged(run):
    """(step, loss) of every training step and the metrics of every validation that a run logged."""
    (scalars,) = run.glob("*/vis_data/scalars.json")
    lines = [json.loads(line) for line in scalars.read_text().splitlines()]
    validations = [{k.removeprefix("val/"): v for k, v in line.items()} for line in lines if "val/epe" in line]
    return [(line["iter"], line["train/loss"]) for line in lines if "iter" in line], validations


def test_a_run_logs_every_step_validates_and_draws(finished):
    losses, validations = logged(finished)
    assert [step for step, _ in losses] == [1, 2, 3, 4, 5, 6]
    # Near a start that says nothing of x or y the loss is twice the logarithm of 41 bins; then it falls.
    assert 0.9 * 2 * math.log(41) < losses[0][1] < 1.1 * 2 * math.log(41) and losses[-1][1] < losses[0][1]
    assert len(validations) == 2
    assert {"loss", "epe", "epe_moving", "epe_within_0_8_px", "epe_no_guidance", "epe_shuffled_image"} <= set(
        validations[0]
    )
    assert {"epe_zero_flow", "epe_nearest_guide", "epe_inverse_distance"} <= set(validations[0])
    pictures = sorted(finished.glob("*/vis_data/vis_image/*.png"))
    assert [path.name for path in pictures] == ["predictions_3.png", "predictions_6.png"]
    assert cv2.imread(str(pictures[0])).std() > 10
    assert list(finished.glob("*/vis_data/events.out.tfevents.*")) and list(finished.glob("*/*.log"))


def test_what_is_printed_before_the_first_step_is_short_and_without_notes_about_other_code(finished):
    printed = (finished.parent / "printed.txt").read_text()
    (log,) = finished.glob("*/*.log")
    for text in (printed, log.read_text()):
        before, step, _ = text.partition("Iter(train) [1/6]")
        assert step and len(before.splitlines()) < 60, before
        assert "whole config, starts.jsonl, checkpoints and log are in" in before
        assert "deprecated" not in text and "paramwise_options" not in text and "DistSamplerSeedHook" not in text


def test_without_data_the_first_line_says_how_to_name_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["r18_quickstart", "--steps", "10"]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err == "train.py: no pair store here: data/pairs; name yours with --data\n"
    assert list(tmp_path.iterdir()) == []


def test_a_device_that_is_not_there_is_refused(pairs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for device, said in (("cuda:99", "--device cuda:99: torch sees "), ("tpu", "--device must be cpu, cuda or cuda:N")):
        assert main(["r18_quickstart", "--data", str(pairs), "--device", device]) == 2
        assert capsys.readouterr().err.startswith(f"train.py: {said}")
    assert list(tmp_path.iterdir()) == []


def test_length_batch_and_seed_change_what_would_run(pairs, capsys):
    options = ["--steps", "30", "--batch-size", "4", "--seed", "5", "--precision", "bfloat16"]
    assert main(["r18_quickstart", "--data", str(pairs), *options, "--print-config"]) == 0
    text = capsys.readouterr().out
    for part in ("max_iters=30", "T_max=27", "batch_size=4", "lr=0.002", "seed=5", "precision='bfloat16'"):
        assert part in text, part


def test_checkpoints_load_weights_only_and_rebuild_their_network(finished):
    content = torch.load(finished / "iter_6.pth", weights_only=True)
    assert content["meta"]["iter"] == 6 and content["meta"]["cmp"]["encoder"] == "resnet18"
    assert content["optimizer"]["state"]
    model = read_checkpoint(finished / "iter_6.pth").network()
    assert all(torch.equal(value, content["state_dict"][key]) for key, value in model.state_dict().items())
    assert Path((finished / "last_checkpoint").read_text().strip()).name == "iter_6.pth"


def test_its_export_loads_in_torchvision(finished, tmp_path, capsys):
    out = tmp_path / "backbone.pth"
    assert export_backbone([str(finished / "iter_6.pth"), str(out), "--format", "torchvision"]) == 0
    network = torchvision.models.resnet18(weights=None)
    missing, unexpected = network.load_state_dict(torch.load(out, weights_only=True), strict=False)
    assert set(missing) == {"fc.weight", "fc.bias"} and unexpected == []
    content = torch.load(finished / "iter_6.pth", weights_only=True)["state_dict"]
    assert torch.equal(network.layer4[1].conv2.weight, content["image_encoder.layer4.1.conv2.weight"])


@pytest.mark.parametrize("form", ("newest", "path"))
def test_a_resumed_run_has_exactly_the_losses_of_one_that_never_stopped(finished, pairs, tmp_path, form):
    arguments = ["--resume"]
    if form == "path":
        arguments.append(str(finished / "iter_3.pth"))
    else:
        (tmp_path / "run").mkdir()
        shutil.copy(finished / "iter_3.pth", tmp_path / "run")
        (tmp_path / "run" / "last_checkpoint").write_text(str(tmp_path / "run" / "iter_3.pth"))
    process = train(tmp_path, pairs, *arguments)
    assert process.returncode == 0, process.stderr[-3000:]
    losses, validations = logged(tmp_path / "run")
    whole_losses, whole_validations = logged(finished)
    assert losses == whole_losses[3:]
    assert validations[-1]["epe"] == whole_validations[-1]["epe"]
    one, other = (torch.load(f / "iter_6.pth", weights_only=True)["state_dict"] for f in (finished, tmp_path / "run"))
    assert all(torch.equal(value, other[key]) for key, value in one.items())


def test_a_run_killed_while_it_saved_goes_on_from_the_checkpoint_before(finished, pairs, tmp_path):
    (tmp_path / "run").mkdir()
    shutil.copy(finished / "iter_3.pth", tmp_path / "run")
    half = (finished / "iter_6.pth").read_bytes()
    (tmp_path / "run" / "iter_6.pth").write_bytes(half[: len(half) // 2])
    (tmp_path / "run" / "last_checkpoint").write_text(str(tmp_path / "run" / "iter_1.pth"))  # removed in the meantime
    process = train(tmp_path, pairs, "--resume")
    assert process.returncode == 0, process.stderr[-3000:]
    assert "passed over" in process.stderr and "iter_6.pth" in process.stderr
    assert logged(tmp_path / "run")[0] == logged(finished)[0][3:]


def test_a_checkpoint_of_another_network_is_refused(finished, pairs, tmp_path):
    process = train(tmp_path, pairs, "--resume", str(finished / "iter_3.pth"), options=["model.quantizer.num_bins=31"])
    assert process.returncode == 2
    assert "misshapen" in process.stderr and "decoder.head.weight" in process.stderr
    assert "Traceback" not in process.stderr


def test_a_run_can_begin_with_the_weights_of_a_file(finished, pairs, tmp_path):
    """With a learning rate of 0 the weights stay as the file has them; only batch norm statistics move."""
    source = finished / "iter_3.pth"
    still = ["optim_wrapper.optimizer.lr=0", "optim_wrapper.optimizer.weight_decay=0"]
    process = train(tmp_path, pairs, "--start-from", str(source), "--steps", "2", options=still)
    assert process.returncode == 0, process.stderr[-3000:]
    expected, found = (read_weight_file(path).content["state_dict"] for path in (source, tmp_path / "run/iter_2.pth"))
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    weights = [key for key in expected if not key.endswith(statistics)]
    assert len(weights) > 50 and all(torch.equal(found[key], expected[key]) for key in weights)
    assert any(not torch.equal(found[key], expected[key]) for key in expected if key.endswith("running_mean"))
    (line,) = (tmp_path / "run" / "starts.jsonl").read_text().splitlines()
    assert json.loads(line)["started_from"] == str(source) and json.loads(line)["resumed_from"] is None
    again = train(tmp_path, pairs, "--start-from", "starter", "--steps", "2", "--resume", options=still)
    assert again.returncode == 0, again.stderr[-3000:]  # the checkpoint is resumed, the starter's weights are not used
    assert "started_from" not in (tmp_path / "run" / "starts.jsonl").read_text().splitlines()[-1]


def test_weights_of_another_network_or_none_are_refused_as_a_start(finished, pairs, tmp_path):
    other = train(tmp_path, pairs, "--start-from", "starter")
    assert other.returncode == 2 and "does not fit the network" in other.stderr and "Traceback" not in other.stderr
    assert not list(tmp_path.glob("run/iter_*"))
    missing = train(tmp_path, pairs, "--start-from", "none.pth")
    assert missing.returncode == 2 and missing.stderr.strip() == "train.py: --start-from: none.pth: no such file"
    torch.save({"state_dict": {"layer.weight": torch.zeros(2)}}, tmp_path / "layer.pth")
    partial = train(tmp_path, pairs, "--start-from", "layer.pth")
    assert partial.returncode == 2 and "layer.pth does not contain a whole network" in partial.stderr


def test_two_processes_share_the_pairs_and_judge_each_held_out_pair_once(pairs, tmp_path):
    process = train(tmp_path, pairs, num_procs=2, options=["val_dataloader.batch_size=1"])
    assert process.returncode == 0, process.stderr[-3000:]
    assert process.stdout.count("trained to step") == 1, process.stderr[-3000:]  # else it was started again
    losses, validations = logged(tmp_path / "run")
    assert [step for step, _ in losses] == [1, 2, 3, 4, 5, 6]
    assert sorted(path.name for path in (tmp_path / "run").glob("*.pth")) == ["iter_3.pth", "iter_6.pth"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]

    # 3 held-out pairs were dealt 2 and 1; one process that judges the checkpoint finds the same.
    model, metric = read_checkpoint(tmp_path / "run" / "iter_6.pth").network(), FlowMetric()
    transforms = [Crop(64, random=False)]
    dataset = PropagationDataset(
        PairList(pairs), transforms, grid_stride_px=64, nms_kernel=15, part="val", val_share=0.2, other_images=True
    )
    assert len(dataset) == 3
    for i in range(3):
        batch = default_collate([dataset[i]])
        metric.process(batch, predict_with_controls(model, batch))
    alone = metric.evaluate(3)
    names = [name for name in alone if not math.isnan(alone[name])]
    assert len(names) > 8 and "epe_shuffled_image" in names  # which image is the wrong one is a property of the pair
    assert {name: validations[-1][name] for name in names} == pytest.approx({n: alone[n] for n in names}, rel=1e-4)


INTERRUPT = """
import os, signal
from mmengine.hooks import Hook

class Interrupt(Hook):
    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter + 1 == 2:
            os.kill(os.getpid(), signal.SIGTERM)
"""
INTERRUPT_VALIDATION = INTERRUPT.replace("after_train_iter", "before_val_iter").replace("iter + 1 == 2", "iter == 3")


def with_hook(folder, monkeypatch, code):
    """Let `train` run a config with the hook that a module `interrupt` of this code defines."""
    (folder / "interrupt.py").write_text(code)
    read_config(CONFIG).dump(folder / "config.py")
    with open(folder / "config.py", "a") as file:
        file.write("\ncustom_hooks.append(dict(type='interrupt.Interrupt'))\n")
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.setitem(globals(), "CONFIG", str(folder / "config.py"))


@pytest.mark.parametrize("name", ("SIGTERM", "SIGINT"))
def test_a_run_that_is_told_to_stop_saves_says_75_and_goes_on_exactly(finished, pairs, tmp_path, monkeypatch, name):
    with_hook(tmp_path, monkeypatch, INTERRUPT.replace("SIGTERM", name))
    process = train(tmp_path, pairs)
    assert process.returncode == 75, process.stderr[-3000:]
    assert process.stdout.splitlines()[-1].startswith(f"stopped by {name} at step 2 of {STEPS}; checkpoint: ")
    assert [path.name for path in (tmp_path / "run").glob("iter_*")] == ["iter_2.pth"]
    if name != "SIGTERM":
        return  # the checkpoint is the same, and going on from it takes another run
    process = train(tmp_path, pairs, "--resume")
    assert process.returncode == 0, process.stderr[-3000:]
    log, whole = read_run(tmp_path / "run"), read_run(finished)
    assert log.resumed_after == [2] and log.train["loss"].tolist() == whole.train["loss"].tolist()
    assert log.val["epe"].tolist() == whole.val["epe"].tolist()
    one, other = (torch.load(f / "iter_6.pth", weights_only=True) for f in (finished, tmp_path / "run"))
    for part in ("state_dict", "optimizer"):
        torch.testing.assert_close(one[part], other[part], rtol=0, atol=0)
    assert one["param_schedulers"] == other["param_schedulers"]


def test_ctrl_c_during_a_validation_breaks_it_off_and_saves(pairs, tmp_path, monkeypatch):
    with_hook(tmp_path, monkeypatch, INTERRUPT_VALIDATION.replace("SIGTERM", "SIGINT"))
    process = train(tmp_path, pairs)
    assert process.returncode == 75, process.stderr[-3000:]
    assert process.stdout.splitlines()[-1].startswith(f"stopped by SIGINT at step 3 of {STEPS}; checkpoint: ")
    assert "Traceback" not in process.stderr
    assert [path.name for path in (tmp_path / "run").glob("iter_*")] == ["iter_3.pth"]
    assert read_run(tmp_path / "run").val == {}


def test_a_second_ctrl_c_ends_the_run_at_once(pairs, tmp_path, monkeypatch):
    twice = "os.kill(os.getpid(), signal.SIGINT); os.kill(os.getpid(), signal.SIGINT)"
    with_hook(tmp_path, monkeypatch, INTERRUPT.replace("os.kill(os.getpid(), signal.SIGTERM)", twice))
    process = train(tmp_path, pairs)
    assert process.returncode == 130
    assert process.stderr.splitlines()[-1].startswith("train.py: interrupted again: ended at once")
    assert "Traceback" not in process.stderr and not list((tmp_path / "run").glob("iter_*"))


@pytest.mark.parametrize("moment", ("importing", "building"))
def test_ctrl_c_before_the_first_step_is_one_line_and_130(pairs, tmp_path, monkeypatch, moment):
    code = "import os, signal; os.kill(os.getpid(), signal.SIGINT)"
    if moment == "building":
        with_hook(tmp_path, monkeypatch, code)
    else:
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        (tmp_path / "torch.py").write_text(code)
    process = train(tmp_path, pairs, fresh=moment == "importing")
    assert process.returncode == 130, process.stderr[-3000:]
    assert process.stderr.splitlines()[-1].startswith("train.py: interrupted") and "Traceback" not in process.stderr
    assert not list(tmp_path.glob("run/iter_*")) and not list(tmp_path.glob("run/.*"))


@pytest.mark.parametrize("name, moment", (("SIGTERM", "importing"), ("SIGUSR1", "importing"), ("SIGTERM", "building")))
def test_a_signal_before_the_first_step_says_that_nothing_had_begun_and_75(pairs, tmp_path, monkeypatch, name, moment):
    code = f"import os, signal; os.kill(os.getpid(), signal.{name})"
    if moment == "importing":
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        (tmp_path / "torch.py").write_text(code)
    else:
        with_hook(tmp_path, monkeypatch, code)
    process = train(tmp_path, pairs, fresh=moment == "importing")
    assert process.returncode == 75, process.stderr[-3000:]
    assert process.stderr.splitlines()[-1].startswith(f"stopped by {name} before the first step: nothing had begun")


def test_a_run_keeps_its_config_its_commit_its_scalars_and_its_pictures(finished):
    (start,) = [json.loads(line) for line in (finished / "starts.jsonl").read_text().splitlines()]
    assert start["resumed_from"] is None and start["processes"] == 1 and "commit" in start
    assert (finished / Path(CONFIG).name).is_file()
    (folder,) = finished.glob("*/vis_data")
    events = EventAccumulator(str(folder))
    events.Reload()
    scalars = events.Tags()["scalars"]
    assert {"train/loss", "train/lr", "val/loss", "val/epe", "val/epe_no_guidance", "train/data_time_share"} <= set(
        scalars
    )
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 3, 4, 5, 6]
    assert [event.step for event in events.Images("predictions")] == [3, 6]
    share = [event.value for event in events.Scalars("train/data_time_share")]
    assert all(0 < value < 1 for value in share)
    (log,) = finished.glob("*/*.log")
    assert "eta: " in log.read_text() and "data_time_share: " in log.read_text()


def test_a_folder_with_another_runs_checkpoints_is_refused(finished, pairs, capsys, monkeypatch):
    arguments = [CONFIG, "--data", str(pairs), "--work-dir", str(finished)]
    assert main(arguments) == 2
    assert "is of an earlier run: --resume goes on" in capsys.readouterr().err
    monkeypatch.setenv("CMP_STATUS_FILE", str(finished.parent / "status"))
    assert main(arguments) == 2
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")  # torchrun tries again, but the refusal stands
    assert main(arguments) == 2
    assert checkpoint_to_resume(None, str(finished), restarted=True) == str(finished / "iter_6.pth")


def test_a_work_dir_that_another_run_holds_is_refused_with_its_process(pairs, tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    arguments = [CONFIG, "--data", str(pairs), "--work-dir", str(run)]
    with hold_folder(run):
        assert main(arguments) == 2
        assert main([*arguments, "--resume"]) == 2
    refused = f"train.py: {run}: another run writes into this folder (host {os.uname().nodename}, process {os.getpid()}"
    assert [line.startswith(refused) for line in capsys.readouterr().err.splitlines()] == [True, True]
    assert list(run.iterdir()) == []


def test_a_refused_run_makes_no_folder_and_a_killed_ones_half_checkpoint_is_removed(pairs, tmp_path, capsys):
    arguments = [CONFIG, "--data", str(pairs), "--work-dir", str(tmp_path / "run"), "--resume"]
    assert main([*arguments, str(tmp_path / "none.pth")]) == 2
    assert "none.pth" in capsys.readouterr().err and list(tmp_path.iterdir()) == []
    (tmp_path / "run").mkdir()
    for name in ("iter_3.pth.77.partial", "iter_3.pth.partial"):
        (tmp_path / "run" / name).write_text("half")
    assert main([*arguments, str(tmp_path / "none.pth")]) == 2
    assert list((tmp_path / "run").iterdir()) == []


def test_a_checkpoint_asked_for_is_refused_where_the_folder_has_a_newer_one(finished, pairs, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    first, last, elsewhere = str(run / "iter_3.pth"), str(run / "iter_6.pth"), str(finished / "iter_3.pth")
    for asked in (first, elsewhere):
        assert main([CONFIG, "--data", str(pairs), "--work-dir", str(run), "--resume", asked]) == 2
        error = capsys.readouterr().err
        assert f"{run} has iter_6.pth" in error and asked in error and "another --work-dir branches off" in error
    assert checkpoint_to_resume(last, str(run)) == last
    assert checkpoint_to_resume(elsewhere, str(tmp_path / "empty")) == elsewhere
    (run / "iter_6.pth").unlink()
    assert checkpoint_to_resume(first, str(run)) == first


def test_a_branch_without_a_checkpoint_asks_for_the_path_again_and_opens_none_from_its_record(
    finished, tmp_path, monkeypatch
):
    run, asked = str(tmp_path / "run"), str(finished / "iter_3.pth")
    assert checkpoint_to_resume("auto", run) is None
    assert checkpoint_to_resume(asked, run, restarted=True) == asked  # torchrun gives the same arguments again
    assert checkpoint_to_resume(None, run, restarted=True) is None
    monkeypatch.chdir(finished)
    record_start(run, resumed_from=checkpoint_to_resume("iter_3.pth", run), num_processes=1)
    monkeypatch.chdir(tmp_path)
    opened = []
    monkeypatch.setattr(resume, "read_weight_file", lambda path: opened.append(path) or read_weight_file(path))
    with pytest.raises(ValueError, match=f"no checkpoint yet, and its last start went on from {asked}: give that path"):
        checkpoint_to_resume("auto", run)
    assert opened == []
    assert checkpoint_to_resume(asked, run) == asked
    shutil.copy(finished / "iter_6.pth", run)
    for again in (dict(asked=asked, restarted=True), dict(asked="auto"), dict(asked=None, restarted=True)):
        assert checkpoint_to_resume(work_dir=run, **again) == str(tmp_path / "run" / "iter_6.pth")
    record_start(run, resumed_from=str(tmp_path / "run" / "iter_6.pth"), num_processes=1)
    (tmp_path / "run" / "iter_6.pth").unlink()  # one's own, taken away to begin anew
    assert checkpoint_to_resume("auto", run) is None
    for line in ("{cut o", '{"resumed_from": 5}', "[" * 100_000, "[]"):
        (tmp_path / "run" / "starts.jsonl").write_text(line + "\n")
        with pytest.raises(ValueError, match="starts.jsonl does not name"):
            checkpoint_to_resume("auto", run)


def test_the_last_checkpoint_of_a_folder_is_in_it_whatever_its_file_says(tmp_path):
    run, elsewhere = tmp_path / "run", tmp_path / "iter_9.pth"
    run.mkdir()
    assert resume.last_checkpoint(run) is None
    (run / "last_checkpoint").write_text(f"{elsewhere}\n")
    for name in (str(elsewhere), "iter_9.pth", "/moved/from/iter_9.pth", "D:\\run\\iter_9.pth"):
        (run / "last_checkpoint").write_text(name)
        assert resume.last_checkpoint(run) == run / "iter_9.pth"
    for odd in (b"", b"..", b"\xff\xfe", b"/", b"a\0b"):
        (run / "last_checkpoint").write_bytes(odd)
        assert resume.last_checkpoint(run) is None


def test_a_machines_first_process_knows_that_torchrun_started_it_before(tmp_path, monkeypatch):
    monkeypatch.delenv("CMP_STATUS_FILE", raising=False)
    assert [torchrun_started_again() for _ in range(2)] == [False, False]  # no torchrun
    monkeypatch.setenv("CMP_STATUS_FILE", str(tmp_path / "status"))
    monkeypatch.setenv("LOCAL_RANK", "1")  # may start before or after the first one
    assert [torchrun_started_again() for _ in range(2)] == [False, False]
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert [torchrun_started_again() for _ in range(3)] == [False, True, True]
    monkeypatch.setenv("CMP_STATUS_FILE", str(tmp_path / "other"))
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert torchrun_started_again()


@pytest.mark.parametrize("by_torchrun", (True, False))
def test_batch_norm_over_all_processes_needs_gpus_and_says_so(pairs, tmp_path, capsys, monkeypatch, by_torchrun):
    if by_torchrun:
        for name, value in dict(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0").items():
            monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    arguments = [CONFIG, "--data", str(pairs), "--work-dir", str(tmp_path / "run")]
    assert main([*arguments, "--cfg-options", "sync_bn=torch"]) == 2
    assert "sync_bn needs GPUs" in capsys.readouterr().err


def test_batch_norm_over_all_processes_needs_processes_and_says_so(pairs, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    arguments = [CONFIG, "--data", str(pairs), "--work-dir", str(tmp_path / "run")]
    assert main([*arguments, "--cfg-options", "sync_bn=torch"]) == 2
    assert "start it by tools/dist_train.sh" in capsys.readouterr().err.splitlines()[-1]


def test_the_config_that_would_run_is_printed_without_looking_at_the_data(tmp_path, capsys):
    mine = tmp_path / "mine.py"
    mine.write_text(
        "from mmengine.config import read_base\n\nwith read_base():\n"
        "    from configs.pretrain.cmp_r18_quickstart_1xb16_300 import *\n\ntrain_cfg.update(max_iters=7)\n"
    )
    arguments = [str(mine), "--data", "no/store", "other", "--work-dir", str(tmp_path / "run"), "--print-config"]
    assert main([*arguments, "--cfg-options", "train_cfg.accumulate_batches=3", "model.decoder.width=32"]) == 0
    (tmp_path / "printed.py").write_text(printed := capsys.readouterr().out)
    config = read_config(tmp_path / "printed.py")
    assert config.train_cfg == dict(
        type="cmp.engine.loops.ResumableTrainLoop", max_iters=7, val_interval=300, accumulate_batches=3
    )
    assert config.model.decoder.width == 32
    paths = [config[f"{part}_dataloader"].dataset.source.paths for part in ("train", "val")]
    assert paths == [["no/store", "other"]] * 2 and config.work_dir == str(tmp_path / "run")
    assert main([str(tmp_path / "printed.py"), "--work-dir", str(tmp_path / "run"), "--print-config"]) == 0
    assert capsys.readouterr().out == printed and not (tmp_path / "run").exists()


def test_what_cannot_start_is_named_and_exits_with_2(pairs, tmp_path, capsys):
    syntax, part = tmp_path / "syntax.py", tmp_path / "part.py"
    syntax.write_text("model = dict(\n")
    part.write_text("train_cfg = dict(max_iters=3)\n")
    for arguments, message in (
        ([CONFIG, "--cfg-options", "train_dataloader.batchsize=4"], "did you mean 'batch_size'?"),
        ([str(tmp_path / "none.py")], f"no such config: {tmp_path / 'none.py'}"),
        (
            [CONFIG, "--data", str(pairs), "--resume", str(tmp_path / "none.pth")],
            f"no such file: {tmp_path / 'none.pth'}",
        ),
        ([DIGITS, "--data", str(tmp_path / "mnist")], f"--data: {tmp_path / 'mnist'}: no such file or folder"),
        ([str(syntax)], f"{syntax}: cannot be read as a config: SyntaxError: '(' was never closed"),
        ([str(part)], f"{part}: not a training config: model, train_dataloader, optim_wrapper missing"),
        ([CONFIG, "--cfg-options", "train_cfg.val_interval=0"], "train_cfg.val_interval must be a whole number"),
    ):
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert error.startswith("train.py: ") and message in error and "Traceback" not in error
    for arguments, message in (
        (["--unknown"], "unrecognized arguments: --unknown"),
        (["--cfg-options", "sync_bn=None", "foo"], "--cfg-options: expected KEY=VALUE, got 'foo'"),
        (["--cfg-options", "model=[(1,2]"], "--cfg-options: expected KEY=VALUE, got 'model=[(1,2]'"),
    ):
        with pytest.raises(SystemExit) as exit_:
            main([CONFIG, *arguments])
        assert exit_.value.code == 2 and message in capsys.readouterr().err.splitlines()[-1]


def test_what_cannot_be_built_is_named_in_the_last_line(pairs, tmp_path):
    process = train(tmp_path, pairs, options=["param_scheduler.0.type=Foo"])
    assert process.returncode == 2
    line = process.stderr.splitlines()[-1]
    assert line.startswith("train.py: KeyError: ") and "Foo is not in" in line and "Traceback" not in process.stderr


@pytest.mark.parametrize(
    "error, status, noted",
    ((FloatingPointError("not finite"), 1, "1"), (OSError("disk"), 1, ""), (ValueError("a bad shard"), 2, "")),
)
def test_only_what_no_restart_would_change_is_noted_for_torchrun(pairs, tmp_path, monkeypatch, error, status, noted):
    def fail():
        raise error

    runner = SimpleNamespace(rank=1, world_size=1, train=fail)
    monkeypatch.setattr("cmp.engine.run.ResumableRunner", SimpleNamespace(from_cfg=lambda config: runner))
    file = tmp_path / "status"
    file.touch()
    monkeypatch.setenv("CMP_STATUS_FILE", str(file))
    assert main([CONFIG, "--data", str(pairs), "--work-dir", str(tmp_path / "run")]) == status
    assert file.read_text() == noted


class Damaged(torch.utils.data.Dataset):
    def __len__(self):
        return 1

    def __getitem__(self, index):
        raise ValueError("shards/v3.tar is cut off")


def test_of_an_error_in_a_loaders_worker_its_own_last_line_is_said():
    with pytest.raises(ValueError) as error:
        list(torch.utils.data.DataLoader(Damaged(), num_workers=1))
    assert "Traceback" in str(error.value) and describe_error(error.value) == "ValueError: shards/v3.tar is cut off"


@pytest.mark.parametrize("number", (errno.ENOSPC, errno.EDQUOT, errno.EFBIG))
def test_a_full_disk_under_the_logs_is_named_by_its_folder_with_what_is_free(tmp_path, capsys, number):
    """The error of a write to an open file names no file."""
    error = OSError(number, os.strerror(number))
    assert report(error, "train.py", str(tmp_path)) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{tmp_path}: a log in this folder cannot be written" in line
    assert re.search(r"[0-9,]+ bytes are free: make space and go on with --resume", line)


def test_missing_pairs_are_named(tmp_path):
    process = train(tmp_path, tmp_path / "none")
    assert process.returncode == 2
    assert "none" in process.stderr.splitlines()[-1] and "Traceback" not in process.stderr


def test_the_launcher_says_how_it_is_used():
    script = str(ROOT / "tools" / "dist_train.sh")
    for arguments, status in (([], 2), ([CONFIG], 2), (["--help"], 0)):
        process = subprocess.run(["bash", script, *arguments], capture_output=True, text=True)
        assert process.returncode == status and "CONFIG NUM_PROCS" in process.stdout
