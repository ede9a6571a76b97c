"""mmengine's runner, with checkpoints that are never half-written, and resuming that takes only data from a file."""

import math
import os
from collections.abc import Mapping
from pathlib import Path
from reprlib import repr as shown
from typing import Any

import torch
from mmengine.dist import master_only
from mmengine.fileio import LocalBackend, register_backend
from mmengine.logging import MMLogger
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner import Runner
from torch import nn

from cmp.engine.hooks import WeightsOnlyCheckpointHook
from cmp.engine.schedule import Schedule
from cmp.engine.short_log import shorten
from cmp.engine.trained_model import build_trained_model, without_process_wrapper
from cmp.files import remove_leftovers, write_file
from cmp.weights import load_strictly, read_weight_file, without_wrappers

MAX_STEP = 2**53
MAX_SETTING = 1e6  # of an optimizer: learning rate, momentum, weight decay
# What torch's optimizers keep in the shape of each weight.
LIKE_WEIGHT = {"momentum_buffer", "exp_avg", "exp_avg_sq", "max_exp_avg_sq", "square_avg", "grad_avg", "sum"}


class WholeFileBackend(LocalBackend):
    """mmengine's access to local files, where a written file gets its name once it is complete and on the disk."""

    def put(self, obj: bytes, filepath: str | os.PathLike) -> None:
        """Write a file; its folder is made if it does not exist.

        Raises:
            OSError: the file cannot be written; it is named, and on a full disk the bytes that it needs are given.
        """
        Path(filepath).parent.mkdir(parents=True, exist_ok=True)
        write_file(filepath, obj)


register_backend("whole_file", WholeFileBackend, force=True)


class ResumableRunner(Runner):
    """A Runner whose checkpoints get their names once they are complete, and which does not overwrite its own config.

    Resuming takes numbers and tensors from the file and nothing else. mmengine's own `resume` executes the text under
    meta["config"] as Python, opens addresses, and takes paths of files to remove; none of this is called here.
    Networks that know nothing of mmengine are wrapped (`TrainedModel`).
    """

    optim_wrapper: Any  # made by mmengine: a config's dict until the run begins
    param_schedulers: Any

    def build_model(self, model: nn.Module | Mapping) -> nn.Module:
        """As `build_trained_model`."""
        return build_trained_model(model)

    def build_logger(self, *args, **kwargs) -> MMLogger:
        """Mmengine's logger, without what it says at the start of every run (`cmp.engine.short_log`)."""
        logger = super().build_logger(*args, **kwargs)
        shorten(logger)
        return logger

    @master_only
    def dump_config(self) -> None:
        """Write the config with all its values into the work dir, under its name.

        If the config that was read is in that folder, it is not changed; the copy is named by the time of the start.
        """
        name = f"{self.timestamp}.py" if self.cfg.filename is None else Path(self.cfg.filename).name
        copy = Path(self.work_dir) / name
        if self.cfg.filename is not None and copy.exists() and copy.samefile(self.cfg.filename):
            copy = copy.with_name(f"{copy.stem}_{self.timestamp}.py")
        write_file(copy, self.cfg.pretty_text)

    def save_checkpoint(self, out_dir: str, filename: str, *args, **kwargs) -> None:
        """Save as mmengine does; until the file is complete it has a temporary name that is never resumed from.

        Half-written files of killed runs in this folder are removed first: they may be gigabytes.
        """
        remove_leftovers(out_dir, "iter_*")
        kwargs["backend_args"] = {"backend": "whole_file"}
        super().save_checkpoint(out_dir, filename, *args, **kwargs)

    def load_checkpoint(self, filename: str, *_, **__) -> dict:
        """Load a file's weights into the model, strictly and on the CPU first; returns the file's content.

        Raises:
            FileNotFoundError: the file does not exist (addresses are not fetched).
            ValueError: it is broken, contains no state dict, or does not fit the model.
        """
        checkpoint = read_weight_file(filename).content
        if not isinstance(checkpoint.get("state_dict"), Mapping):
            raise ValueError(f"{filename} is not a checkpoint of a run: it has no state_dict")
        model = without_process_wrapper(self.model)
        weights = {str(key): value for key, value in checkpoint["state_dict"].items()}
        checkpoint["state_dict"] = without_wrappers(weights, expected=model.state_dict().keys())
        self.call_hook("after_load_checkpoint", checkpoint=checkpoint)
        load_strictly(model, checkpoint["state_dict"], source=str(filename))
        self._has_loaded = True
        self.logger.info(f"loaded the weights of {filename}")
        return checkpoint

    def resume(
        self, filename: str, resume_optimizer: bool = True, resume_param_scheduler: bool = True, map_location=None
    ) -> None:
        """Go on from a checkpoint of a run: weights, step, seed, counters, optimizer and schedule.

        Args:
            filename: a local file.
            resume_optimizer, resume_param_scheduler: whether to take their states too.
            map_location: ignored: tensors are read onto the CPU and copied from there.

        Raises:
            FileNotFoundError, ValueError: as `load_checkpoint`; or what the run needs is missing, or of another type
                or out of range.
        """
        checkpoint = self.load_checkpoint(filename)
        meta, hub = checkpoint.get("meta"), checkpoint.get("message_hub")
        if not isinstance(meta, Mapping) or not isinstance(hub, Mapping):
            raise ValueError(
                f"{filename} is not a checkpoint of a run, from which to go on: it has no meta, message_hub"
            )
        self.train_loop._epoch, self.train_loop._iter = (
            _whole(filename, f"meta.{key}", meta.get(key), MAX_STEP) for key in ("epoch", "iter")
        )
        if self.train_loop._iter > self.max_iters:
            raise ValueError(
                f"{filename} is of step {self.train_loop._iter}, beyond the {self.max_iters} steps of this run "
                "(train_cfg.max_iters)"
            )
        self._resume_seed(filename, meta.get("seed"))
        self._resume_counters(filename, hub)
        schedule = None
        if self.optim_wrapper is not None:
            self.optim_wrapper = self.build_optim_wrapper(self.optim_wrapper)
        if resume_param_scheduler and self.param_schedulers is not None and "param_schedulers" in checkpoint:
            self.param_schedulers = self.build_param_scheduler(self.param_schedulers)
            schedule = Schedule(self.param_schedulers)
        if resume_optimizer and "optimizer" in checkpoint:
            _load_optimizer(filename, self.optim_wrapper, checkpoint["optimizer"])
        resumed = schedule is None or schedule.resume(filename, checkpoint["param_schedulers"], self.iter)
        if not resumed and self.optim_wrapper is not None:
            rate = max(next(iter(self.optim_wrapper.get_lr().values())))
            self.logger.warning(
                f"the schedule of {filename} is not the config's, which is used: lr {rate:.3g} from step {self.iter}"
            )
        self._has_loaded = True
        self.logger.info(f"resumed at step {self.iter}")

    def _resume_seed(self, filename: str, seed: object) -> None:
        """Use the seed of the resumed run; warn where the config asks for another one."""
        if seed is None:
            return
        seed, asked = _whole(filename, "meta.seed", seed, 2**32 - 1), self._randomness_cfg.get("seed")
        if seed == asked:
            return
        if asked is not None:
            self.logger.warning(f"the run began with seed {seed} and goes on with it; the config's {asked} is ignored")
        self._randomness_cfg.update(seed=seed)
        self.set_randomness(**self._randomness_cfg)

    def _resume_counters(self, filename: str, hub: Mapping) -> None:
        """Load the message hub's counters; of files that mmengine may remove later only names inside the work dir.

        What mmengine itself sets at a start (epoch, step, lengths) is not taken.
        """
        info, resumed = (hub.get(key) for key in ("runtime_info", "resumed_keys"))
        if not isinstance(info, Mapping) or not isinstance(resumed, Mapping):
            raise ValueError(f"{filename} has a message_hub without runtime_info and resumed_keys")
        kept = {}
        for key, value in info.items():
            if key in ("skips_in_row", "skipped_steps"):
                value = _whole(filename, key, value, MAX_STEP)
            elif key == "keep_ckpt_ids":  # mmengine removes the files of these numbers
                if not isinstance(value, list):
                    raise ValueError(f"{filename}: keep_ckpt_ids must be a list of steps, got {shown(value)}")
                value = [_whole(filename, "keep_ckpt_ids", step, MAX_STEP) for step in value]
            elif key == WeightsOnlyCheckpointHook.RECENT:
                _check_recent(filename, value)
            elif str(key).startswith("best_score"):
                if isinstance(value, bool) or not isinstance(value, (int, float)):
                    raise ValueError(f"{filename}: {key} must be a number, got {shown(value)}")
            elif key == "last_ckpt" or str(key).startswith("best_ckpt"):  # mmengine removes a best one that is beaten
                own = isinstance(value, str) and Path(value).resolve().parent == Path(self.work_dir).resolve()
                if not own or not value.endswith(".pth"):
                    continue
            else:
                continue
            kept[key] = value
        resumed = dict.fromkeys(kept, True)
        self.message_hub.load_state_dict(dict(log_scalars={}, runtime_info=kept, resumed_keys=resumed))


def _check_recent(filename: str, recent: object) -> None:
    """Raise ValueError unless these are the newest log scalars: name to values and counts, as lists of one length."""
    if not isinstance(recent, Mapping):
        raise ValueError(f"{filename}: recent_scalars must be a dict, got {shown(recent)}")
    for name, pair in recent.items():
        lists = isinstance(pair, (list, tuple)) and len(pair) == 2 and all(isinstance(part, list) for part in pair)
        values, counts = pair if lists else ([], [None])
        numbers = all(type(value) in (int, float) for value in values)
        if not isinstance(name, str) or not numbers or len(values) != len(counts):
            raise ValueError(
                f"{filename}: recent_scalars of {shown(name)} must be values and counts, got {shown(pair)}"
            )
        for count in counts:
            _whole(filename, f"a count of {name}", count, MAX_STEP)


def _load_optimizer(filename: str, wrapper: OptimWrapper | OptimWrapperDict, states: Any) -> None:
    """Load the optimizer's state, or that of each of several: finite numbers, and tensors of the weights' shapes."""
    several = isinstance(wrapper, OptimWrapperDict)
    for name, one in wrapper.items() if several else [(None, wrapper)]:
        try:
            state = states[name] if several else states
            one.load_state_dict(_checked_state(one.optimizer, state))
            _load_base_settings(one, state.get("base_param_settings"))
        except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
            raise ValueError(f"{filename} has an optimizer's state that does not fit: {error}") from error


def _load_base_settings(wrapper: OptimWrapper, settings: object) -> None:
    """Take numbers, such as the rate, of the settings that are logged where layers have rates of their own."""
    own = getattr(wrapper, "base_param_settings", None)
    if own is None or not isinstance(settings, Mapping):
        return
    for key, value in settings.items():
        if type(own.get(key)) in (int, float) and type(value) in (int, float) and _same_kind(own[key], value):
            own[key] = value


def _checked_state(optimizer: torch.optim.Optimizer, state: Mapping) -> dict:
    """The state with the file's numbers and tensors, and the config's switches, such as maximize or fused.

    Raises:
        ValueError: it has a number or tensor that this optimizer cannot continue with.
    """
    weights: list[torch.Tensor] = []
    groups = []
    for own, group in zip(optimizer.param_groups, state["param_groups"], strict=True):
        weights += own["params"]
        groups.append({**own, "params": group["params"]})
        for key, value in own.items():
            if key == "params" or key not in group or value is None or isinstance(value, (bool, str)):
                continue
            if not _same_kind(value, group[key]):
                raise ValueError(f"{key} = {shown(group[key])}, expected something like {shown(value)}")
            groups[-1][key] = group[key]
    numbers = [number for group in groups for number in group["params"]]
    for number, weight in zip(numbers, weights, strict=True):
        for key, value in state["state"].get(number, {}).items():
            _check_value(key, value, weight)
    scaler = {key: state[key] for key in ("loss_scaler",) if key in state}  # of half precision
    for key, value in (pair for values in scaler.values() for pair in values.items()):
        if type(value) not in (int, float) or not 0 <= value < math.inf:
            raise ValueError(f"loss_scaler.{key} = {shown(value)}, expected a number")
    return {"state": state["state"], "param_groups": groups, **scaler}


def _check_value(key: str, value: object, weight: torch.Tensor) -> None:
    """Raise ValueError unless an optimizer may keep this value for a weight."""
    if isinstance(value, torch.Tensor):
        if value.shape != weight.shape and (value.numel() > 1 or key in LIKE_WEIGHT):
            raise ValueError(f"{key} of {tuple(value.shape)} for a weight of {tuple(weight.shape)}")
        if not value.isfinite().all():
            raise ValueError(f"{key} contains values that are not finite")
    elif value is not None and (key in LIKE_WEIGHT or not _is_setting(value)):
        raise ValueError(f"{key} = {shown(value)}, expected a tensor or a number")


def _same_kind(own: object, value: object) -> bool:
    """Whether a setting may replace another: both are numbers in 0..MAX_SETTING, or lists of such of one length."""
    if isinstance(own, (list, tuple)):
        return isinstance(value, (list, tuple)) and len(value) == len(own) and all(map(_same_kind, own, value))
    return _is_setting(value)


def _is_setting(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value <= MAX_SETTING


def _whole(filename: str, name: str, value: object, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= high:
        raise ValueError(f"{filename}: {name} must be a whole number from 0 to {high}, got {shown(value)}")
    return value
