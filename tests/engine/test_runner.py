"""Resuming: numbers and tensors come from the file, and nothing in it is run, opened or removed."""

import itertools

import pytest
import torch
from mmengine.model import BaseModel
from torch.utils.data import Dataset

from cmp.engine.hooks import WeightsOnlyCheckpointHook
from cmp.engine.runner import ResumableRunner

COUNT = itertools.count()


class Numbers(Dataset):
    def __len__(self):
        return 64

    def __getitem__(self, index):
        return torch.tensor([float(index % 7), 1.0])


class Linear(BaseModel):
    """Learns the sum of two numbers."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)

    def forward(self, *batch, mode="loss"):
        x = torch.stack(batch) if isinstance(batch, tuple) and batch[0].ndim == 1 else batch[0]
        return {"loss": (self.layer(x) - x.sum(-1, keepdim=True)).square().mean()}

    def train_step(self, data, optim_wrapper):
        loss = self(torch.stack(list(data)), mode="loss")["loss"]
        optim_wrapper.update_params(loss)
        return {"loss": loss.detach()}

    def describe(self):
        return {"encoder": "none"}


def runner(work_dir, *, resume=None, schedule=None, steps=6):
    torch.manual_seed(1)
    return ResumableRunner(
        model=Linear(),
        work_dir=str(work_dir),
        train_dataloader=dict(
            batch_size=2, num_workers=0, dataset=Numbers(), sampler=dict(type="InfiniteSampler", shuffle=False)
        ),
        train_cfg=dict(by_epoch=False, max_iters=steps, val_interval=1000),
        optim_wrapper=dict(type="OptimWrapper", optimizer=dict(type="SGD", lr=0.05, momentum=0.9)),
        param_scheduler=schedule or [dict(type="MultiStepLR", milestones=[2, 4], gamma=0.5, by_epoch=False)],
        default_hooks=dict(checkpoint=dict(type="CheckpointHook", interval=2, by_epoch=False, max_keep_ckpts=2)),
        custom_hooks=[WeightsOnlyCheckpointHook()],
        randomness=dict(seed=7),
        load_from=None if resume is None else str(resume),
        resume=resume is not None,
        default_scope="mmengine",
        experiment_name=f"run_{next(COUNT)}",  # mmengine keeps one hub per name
        log_level="ERROR",
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with iter_4.pth and iter_6.pth."""
    folder = tmp_path_factory.mktemp("finished")
    runner(folder).train()
    return folder


def changed(path, change):
    content = torch.load(path, weights_only=True)
    change(content)
    return content


def test_a_resumed_run_has_the_weights_optimizer_schedule_and_step_of_the_file(finished, tmp_path):
    folder = finished
    resumed = runner(tmp_path / "again", resume=folder / "iter_4.pth")
    resumed.load_or_resume()
    assert resumed.iter == 4 and resumed.optim_wrapper.get_lr()["lr"] == [pytest.approx(0.05 / 4)]
    momentum = resumed.optim_wrapper.optimizer.state[resumed.model.layer.bias]["momentum_buffer"]
    saved = torch.load(folder / "iter_4.pth", weights_only=True)
    assert torch.equal(momentum, saved["optimizer"]["state"][1]["momentum_buffer"])
    assert all(torch.equal(value, saved["state_dict"][key]) for key, value in resumed.model.state_dict().items())
    resumed.train()  # from the data's start, where ResumableTrainLoop goes on: only the counting is compared
    assert resumed.iter == 6 and resumed.optim_wrapper.get_lr()["lr"] == [pytest.approx(0.05 / 4)]


def cosine(steps):
    """Warm-up, then a decay to 0 at the last step."""
    return [
        dict(type="LinearLR", start_factor=0.1, by_epoch=False, begin=0, end=2),
        dict(type="CosineAnnealingLR", T_max=steps - 2, eta_min=0.0, by_epoch=False, begin=2, end=steps),
    ]


@pytest.mark.parametrize("steps", (6, 12))
def test_a_run_with_another_number_of_steps_follows_its_own_schedule(steps, tmp_path, caplog):
    """The schedule of 6 steps ends with a rate of 0, from which no recursive formula comes back."""
    runner(tmp_path / "short", schedule=cosine(6)).train()
    resumed = runner(tmp_path / "long", resume=tmp_path / "short" / "iter_6.pth", schedule=cosine(steps), steps=steps)
    said = []
    resumed.logger.warning = said.append
    resumed.load_or_resume()
    whole = runner(tmp_path / "whole", schedule=cosine(steps), steps=steps)
    whole.optim_wrapper = whole.build_optim_wrapper(whole.optim_wrapper)
    whole.param_schedulers = whole.build_param_scheduler(whole.param_schedulers)
    for _ in range(6):
        for scheduler in whole.param_schedulers:
            scheduler.step()
    expected = whole.optim_wrapper.get_lr()["lr"]
    assert resumed.optim_wrapper.get_lr()["lr"] == pytest.approx(expected, abs=1e-12)
    assert (expected[0] > 0.03) == (steps == 12) == bool(said)
    assert not said or "is not the config's, which is used: lr 0.0327 from step 6" in said[0]
    states = [[s.state_dict() for s in run.param_schedulers] for run in (resumed, whole)]
    assert [s["_global_step"] for s in states[0]] == [s["_global_step"] for s in states[1]] == [6, 6]


def test_python_text_in_a_checkpoint_is_not_run(finished, tmp_path):
    trace = tmp_path / "ran"
    text = f"import pathlib\npathlib.Path({str(trace)!r}).write_text('code from the file ran')\n"

    def plant(content):
        for key in ("config", "cfg"):
            content["meta"][key] = text

    torch.save(changed(finished / "iter_4.pth", plant), tmp_path / "x.pth")
    runner(tmp_path / "run", resume=tmp_path / "x.pth").load_or_resume()
    assert not trace.exists()


def test_a_checkpoint_names_no_file_to_be_removed(finished, tmp_path):
    """mmengine removes the files of keep_ckpt_ids, and the best one when it is beaten."""
    victim = tmp_path / "victim.pth"
    victim.write_text("somebody's")
    work_dir = tmp_path / "run"
    (work_dir / "iter_").mkdir(parents=True)

    def paths(content):
        content["message_hub"]["runtime_info"]["keep_ckpt_ids"] = ["/../../victim"] * 3

    torch.save(changed(finished / "iter_4.pth", paths), tmp_path / "x.pth")
    with pytest.raises(ValueError, match="keep_ckpt_ids must be a whole number"):
        runner(work_dir, resume=tmp_path / "x.pth").train()
    assert victim.read_text() == "somebody's"

    def best(content):
        content["message_hub"]["runtime_info"] |= dict(best_ckpt=str(victim), last_ckpt=str(victim), skipped_steps=3)

    torch.save(changed(finished / "iter_4.pth", best), tmp_path / "x.pth")
    resumed = runner(work_dir, resume=tmp_path / "x.pth")
    resumed.load_or_resume()
    info = resumed.message_hub.runtime_info
    assert str(victim) not in map(str, info.values()) and info["skipped_steps"] == 3


def _set(*path):
    *parents, key, value = path

    def change(content):
        node = content
        for name in parents:
            node = node[name]
        node[key] = value

    return change


@pytest.mark.parametrize(
    "change, message",
    (
        (_set("meta", "iter", "4"), "meta.iter must be a whole number"),
        (_set("meta", "iter", -1), "meta.iter must be a whole number"),
        (_set("meta", "epoch", True), "meta.epoch must be a whole number"),
        (_set("meta", "seed", "os.system"), "meta.seed must be a whole number"),
        (_set("meta", None), "no meta"),
        (_set("message_hub", {}), "message_hub without runtime_info"),
        (_set("message_hub", "runtime_info", "keep_ckpt_ids", "all"), "keep_ckpt_ids must be a list"),
        (_set("optimizer", "param_groups", []), "optimizer's state"),
        (_set("optimizer", "text"), "optimizer's state"),
        (_set("optimizer", "param_groups", 0, "lr", float("nan")), "lr = nan"),
        (_set("optimizer", "param_groups", 0, "lr", "1e-3"), "lr = '1e-3'"),
        (_set("optimizer", "param_groups", 0, "momentum", [1, 2]), "momentum = [1, 2]"),
        (_set("optimizer", "state", 0, "momentum_buffer", torch.full((1, 2), torch.inf)), "not finite"),
        (_set("optimizer", "state", 0, "momentum_buffer", torch.zeros(2, 2)), "momentum_buffer of (2, 2)"),
        (_set("optimizer", "state", 0, "momentum_buffer", torch.ones(1)), "momentum_buffer of (1,)"),
        (_set("optimizer", "state", 0, "momentum_buffer", "text"), "momentum_buffer = 'text'"),
        (_set("optimizer", "state", 0, "momentum_buffer", 3.0), "momentum_buffer = 3.0"),
        (_set("optimizer", "param_groups", 0, "lr", -1.0), "lr = -1.0"),
        (_set("optimizer", "param_groups", 0, "weight_decay", 10**400), "weight_decay = 1000"),
        (_set("optimizer", "loss_scaler", {"scale": "text"}), "loss_scaler.scale = 'text'"),
        (_set("message_hub", "runtime_info", "skips_in_row", "text"), "skips_in_row must be a whole number"),
        (_set("message_hub", "runtime_info", "best_score", "text"), "best_score must be a number"),
        (_set("message_hub", "runtime_info", "recent_scalars", {"train/loss": [[1.0], []]}), "recent_scalars of"),
        (_set("message_hub", "runtime_info", "recent_scalars", {"train/loss": "text"}), "recent_scalars of"),
        (_set("message_hub", "runtime_info", "recent_scalars", [1]), "recent_scalars must be a dict"),
        (_set("param_schedulers", 0, "last_step", float("nan")), "schedule with last_step = nan"),
        (_set("param_schedulers", 0, "_global_step", 10**400), "schedule with _global_step"),
        (_set("param_schedulers", 0, "_last_value", ["text"]), "schedule with _last_value"),
        (_set("meta", "iter", 7), "step 7, beyond the 6 steps"),
        (_set("param_schedulers", []), "another number of schedulers"),
        (_set("param_schedulers", [{"step": "os.system"}]), "schedule of another kind"),
        (_set("param_schedulers", [{"base_values": "text"}]), "schedule with base_values"),
        (_set("param_schedulers", [{"last_step": torch.nn.functional.relu(torch.ones(1))}]), "schedule with last_step"),
    ),
)
def test_what_a_run_cannot_go_on_from_is_refused_by_name(finished, tmp_path, change, message):
    torch.save(changed(finished / "iter_4.pth", change), tmp_path / "x.pth")
    with pytest.raises(ValueError, match="x.pth") as refused:
        runner(tmp_path / "run", resume=tmp_path / "x.pth").load_or_resume()
    assert message in str(refused.value)


def test_switches_of_the_optimizer_and_of_the_counters_are_not_the_files(finished, tmp_path):
    """A file could turn the descent into an ascent, or stop the run by what it says of its counters."""

    def change(content):
        content["optimizer"]["param_groups"][0] |= dict(maximize=True, differentiable=True, foreach="text", other=1)
        content["message_hub"]["resumed_keys"] = dict.fromkeys(content["message_hub"]["resumed_keys"], False)
        content["message_hub"]["runtime_info"] |= dict(loop_stage="val", other="text")

    torch.save(changed(finished / "iter_4.pth", change), tmp_path / "x.pth")
    resumed = runner(tmp_path / "run", resume=tmp_path / "x.pth")
    resumed.train()
    (group,) = resumed.optim_wrapper.param_groups
    assert group["maximize"] is group["differentiable"] is False and group["foreach"] is None and "other" not in group
    assert resumed.iter == 6 and "other" not in resumed.message_hub.runtime_info
    expected = torch.load(finished / "iter_6.pth", weights_only=True)["message_hub"]["runtime_info"]
    assert resumed.message_hub.get_info("iter") == expected["iter"] == 5


def test_no_address_is_opened(finished, tmp_path, monkeypatch):
    def opened(*_, **__):
        raise AssertionError("an address was opened")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", opened)
    monkeypatch.setattr("mmengine.runner.checkpoint._load_checkpoint", opened)
    for address in ("https://example.org/x.pth", "torchvision://resnet18", "s3://bucket/x.pth"):
        with pytest.raises(FileNotFoundError):
            runner(tmp_path / "run").load_checkpoint(address)
