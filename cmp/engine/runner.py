"""mmengine's runner, with checkpoints that are never half-written, and resuming that takes only data from a file."""

import math
import os
from collections.abc import Mapping
from pathlib import Path
from reprlib import repr as shown

import torch
from mmengine.dist import master_only
from mmengine.fileio import LocalBackend, register_backend
from mmengine.logging import MMLogger
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner import Runner
from torch import nn

from cmp.engine.schedule import Schedule
from cmp.engine.short_log import shorten
from cmp.engine.trained_model import build_trained_model, without_process_wrapper
from cmp.files import remove_leftovers, write_file
from cmp.weights import load_strictly, read_weight_file, without_wrappers

MAX_STEP = 2**53


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
            FileNotFoundError: there is no such file (addresses are not fetched).
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
        if schedule is not None and not schedule.resume(filename, checkpoint["param_schedulers"], self.iter):
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
        """Load the message hub's values; of files that mmengine may remove later only names inside the work dir."""
        info, resumed = (hub.get(key) for key in ("runtime_info", "resumed_keys"))
        if not isinstance(info, Mapping) or not isinstance(resumed, Mapping):
            raise ValueError(f"{filename} has a message_hub without runtime_info and resumed_keys")
        kept = {}
        for key, value in info.items():
            if key == "keep_ckpt_ids":  # mmengine removes the files of these numbers
                if not isinstance(value, list):
                    raise ValueError(f"{filename}: keep_ckpt_ids must be a list of steps, got {shown(value)}")
                value = [_whole(filename, "keep_ckpt_ids", step, MAX_STEP) for step in value]
            elif key == "last_ckpt" or str(key).startswith("best_ckpt"):  # mmengine removes a best one that is beaten
                own = isinstance(value, str) and Path(value).resolve().parent == Path(self.work_dir).resolve()
                if not own or not value.endswith(".pth"):
                    continue
            kept[key] = value
        resumed = {key: bool(value) for key, value in resumed.items() if key in kept}
        self.message_hub.load_state_dict(dict(log_scalars={}, runtime_info=kept, resumed_keys=resumed))


def _load_optimizer(filename: str, wrapper: OptimWrapper | OptimWrapperDict, states: object) -> None:
    """Load the optimizer's state, or that of each of several: finite numbers, and tensors of the weights' shapes."""
    several = isinstance(wrapper, OptimWrapperDict)
    for name, one in wrapper.items() if several else [(None, wrapper)]:
        try:
            state = states[name] if several else states
            _check_optimizer(one.optimizer, state)
            one.load_state_dict(state)
        except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
            raise ValueError(f"{filename} has an optimizer's state that does not fit: {error}") from error


def _check_optimizer(optimizer: torch.optim.Optimizer, state: Mapping) -> None:
    """Raise ValueError where a state has a number or tensor that this optimizer cannot continue with."""
    weights: list[torch.Tensor] = []
    for own, group in zip(optimizer.param_groups, state["param_groups"], strict=True):
        weights += own["params"]
        for key, value in own.items():
            if key != "params" and key in group and not _same_kind(value, group[key]):
                raise ValueError(f"{key} = {shown(group[key])}, expected something like {shown(value)}")
    numbers = [number for group in state["param_groups"] for number in group["params"]]
    for number, weight in zip(numbers, weights, strict=True):
        for key, value in state["state"].get(number, {}).items():
            if not isinstance(value, torch.Tensor):
                continue
            if value.numel() > 1 and value.shape != weight.shape:
                raise ValueError(f"{key} of {tuple(value.shape)} for a weight of {tuple(weight.shape)}")
            if not value.isfinite().all():
                raise ValueError(f"{key} contains values that are not finite")


def _same_kind(own: object, value: object) -> bool:
    """Whether a setting may replace another: both are numbers (finite), of one length, or of one type."""
    if isinstance(own, (list, tuple)):
        return isinstance(value, (list, tuple)) and len(value) == len(own) and all(map(_same_kind, own, value))
    if own is None or isinstance(own, (bool, str)) or isinstance(value, bool):
        return value is None or type(own) is type(value) or own is None and isinstance(value, bool)
    return isinstance(value, (int, float)) and math.isfinite(value)


def _whole(filename: str, name: str, value: object, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= high:
        raise ValueError(f"{filename}: {name} must be a whole number from 0 to {high}, got {shown(value)}")
    return value
