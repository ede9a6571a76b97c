"""One training run from a config: where its data is, what it needs of the machine, and training to its end."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from mmengine.config import Config
from mmengine.device import utils as device_utils
from mmengine.utils import get_object_from_string

from cmp.addresses import names_shards
from cmp.engine.adjust import set_batch_size, set_precision, set_seed, set_steps
from cmp.engine.config import check_training_config, read_config
from cmp.engine.processes import leave_together
from cmp.engine.provenance import record_start
from cmp.engine.resume import last_checkpoint
from cmp.engine.runner import ResumableRunner
from cmp.engine.tracking import add_tracker
from cmp.engine.trained_model import unwrapped, with_classes, without_process_wrapper
from cmp.weights import load_strictly


class Weights(Protocol):
    """The weights of a whole network, such as a `cmp.checkpoints.Checkpoint`."""

    @property
    def path(self) -> str:
        """Their file, for messages and the run's record."""

    @property
    def state_dict(self) -> Mapping[str, torch.Tensor]:
        """The weights under our keys."""


class FinishedRun(NamedTuple):
    """What is left of a run that has ended."""

    runner: ResumableRunner
    start: dict  # what `record_start` wrote; empty in all processes but the first
    stopped_by: str | None  # name of the signal that stopped it before its end

    @property
    def last_checkpoint(self) -> str | None:
        """Path of the newest checkpoint; None if none was due."""
        newest = last_checkpoint(self.runner.work_dir)
        return None if newest is None else str(newest)


def training_config(
    recipe: str | os.PathLike,
    *,
    data: Sequence[str | os.PathLike] | None = None,
    val_data: Sequence[str | os.PathLike] | None = None,
    work_dir: str | os.PathLike | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    seed: int | None = None,
    precision: str | None = None,
    options: Mapping[str, object] | None = None,
    track: str | None = None,
) -> tuple[Config, list[str]]:
    """The config of a run with what was chosen, and lines that say what follows from the choices; no data is read.

    Args:
        recipe: a config file or the name of a recipe, as for `find_recipe`.
        data: what to train and validate on instead of the config's paths; or shards to stream (`names_shards`), which
            are only trained on.
        val_data: what to validate on instead; all of `data` is then trained on, and all of this is validated on.
        work_dir: folder of the run; None: work_dirs/CONFIG.
        steps, batch_size, seed, precision: as for the functions of `cmp.engine.adjust`; None: the config's.
        options: dotted keys of the config to new values.
        track: "wandb" or "mlflow", to which what is logged is sent too; see `add_tracker`.

    Raises:
        FileNotFoundError, ValueError: the config or a value is wrong.
    """
    config = read_config(recipe, options)
    check_training_config(config)
    notes = []
    if steps is not None:
        notes.append(set_steps(config, steps))
    if batch_size is not None:
        notes.append(set_batch_size(config, batch_size))
    if seed is not None:
        set_seed(config, seed)
    if precision is not None:
        set_precision(config, precision)
    if data:
        streams = put_data(config, list(map(str, data)))
        if streams:
            notes.append("the data are streamed in an order of their own: the config's sampler is not used")
        if streams and not val_data:
            config.val_dataloader = config.val_cfg = config.val_evaluator = None
            notes.append("no validation: shards are only trained on; name a pair store for it with --val-data")
    if val_data:
        put_val_data(config, list(map(str, val_data)))
    config.work_dir = str(work_dir or Path("work_dirs") / Path(config.filename).stem)
    if track is not None:
        add_tracker(config, track)
    return config, notes


@contextmanager
def on_device(device: str | None) -> Iterator[None]:
    """Train on this device in the block: "cpu", "cuda" or "cuda:N"; None: a GPU where there is one.

    Raises:
        ValueError: torch does not see such a GPU, or the name is another one.
    """
    if device is None:
        yield
        return
    kind, _, number = device.partition(":")
    if kind not in ("cpu", "cuda") or number and not number.isdigit() or device.startswith("cpu:"):
        raise ValueError(f"--device must be cpu, cuda or cuda:N, got {device!r}")
    if kind == "cuda":
        if int(number or 0) >= torch.cuda.device_count():
            raise ValueError(f"--device {device}: torch sees {torch.cuda.device_count()} GPUs here")
        if number:
            torch.cuda.set_device(int(number))
    before, device_utils.DEVICE = device_utils.DEVICE, kind
    try:
        yield
    finally:
        device_utils.DEVICE = before


def put_data(config: Config, paths: Sequence[str]) -> bool:
    """Train and validate on these paths: the datasets' `source.paths`, or `paths` where a dataset has no source.

    Shards (`names_shards`) are put into the training's dataset only, which is changed to one that streams them.

    Returns:
        Whether they are streamed.

    Raises:
        ValueError: the recipe's dataset cannot be streamed, or some paths name shards and others do not.
    """
    streams = [names_shards(path) for path in paths]
    if any(streams):
        if not all(streams):
            raise ValueError("--data: shards that are streamed and paths on the disk cannot be mixed")
        _put_stream(config, paths)
        return True
    for loader in (config.train_dataloader, config.get("val_dataloader")):
        if loader is not None:
            loader.dataset.get("source", loader.dataset).paths = paths
    return False


def _put_stream(config: Config, paths: Sequence[str]) -> None:
    dataset = config.train_dataloader.dataset
    function = getattr(with_classes({"type": dataset.type}, "dataset")["type"], "to_stream", None)
    if function is None:
        raise ValueError("--data: only recipes for pairs can stream shards; the data of this one are of another kind")
    get_object_from_string(function)(dataset, paths)
    config.train_dataloader.sampler = None


def put_val_data(config: Config, paths: Sequence[str]) -> None:
    """Validate on all of these paths, and train on all of the others.

    Raises:
        ValueError: the config does not validate, its data have no parts, or a path names shards.
    """
    dataset = (config.get("val_dataloader") or {}).get("dataset")
    if dataset is None or "source" not in dataset or any(map(names_shards, paths)):
        raise ValueError(f"--val-data: must be pair stores on the disk, for a recipe of pairs, got {', '.join(paths)}")
    dataset.source.paths = paths
    for each in (dataset, config.train_dataloader.dataset):
        each.part, each.val_list = "all", None
    if "shards" in config.train_dataloader.dataset:
        config.train_dataloader.dataset.pop("val_list")


def check_data(config: Config, paths: Sequence[str] | None = None) -> None:
    """Report a wrong path before anything is printed or built: a source is opened once.

    Args:
        config: with these paths in it.
        paths: what --data named; None: the config's own paths are used.

    Raises:
        FileNotFoundError, ValueError: a path does not exist, or the source of `put_data` cannot be opened.
        ModuleNotFoundError: shards are to be streamed, and a package for it is missing.
    """
    dataset = config.train_dataloader.dataset
    if "shards" in dataset:
        stream = with_classes(dataset, "train_dataloader.dataset")
        stream = stream.pop("type")(**stream)  # lists the shards
        stream.check_readers(
            int(os.environ.get("WORLD_SIZE", 1)), max(1, config.train_dataloader.get("num_workers", 0))
        )
        return
    source = dataset.get("source", dataset)
    named = source.get("paths") if paths is None else paths
    missing = [str(path) for path in named or () if not Path(path).exists()]
    if missing and paths is None:
        what = "pair store" if "source" in dataset else "data"
        raise FileNotFoundError(f"no {what} here: {', '.join(missing)}; name yours with --data")
    if missing:
        raise FileNotFoundError(f"--data: {', '.join(missing)}: no such file or folder")
    if "source" in dataset:
        source = with_classes(dataset.source, "train_dataloader.dataset.source")
        source.pop("type")(**source)


def check_machine(config: Config) -> None:
    """Refuse a config that asks for batch norm over processes where that cannot be.

    Raises:
        ValueError: sync_bn is set, and there is no GPU or no launcher started this process.
    """
    if not config.get("sync_bn"):
        return
    if not torch.cuda.is_available():
        raise ValueError("sync_bn needs GPUs: torch's SyncBatchNorm does not run on CPUs (--cfg-options sync_bn=None)")
    if "RANK" not in os.environ:
        raise ValueError("sync_bn needs processes that share batches: start it by tools/dist_train.sh, also for one")


def train_run(config: Config, *, resume_from: str | None, start_from: Weights | None = None) -> FinishedRun:
    """Train what a config describes to its end, or until a stop signal, and leave the other processes together.

    Args:
        config: complete, with its work_dir; `join_processes` was called where there are several.
        resume_from: the checkpoint to go on from; None starts anew.
        start_from: what a run that starts anew begins with, instead of drawn weights.

    Raises:
        ValueError: the weights of `start_from` do not fit the network.
        Whatever the parts that the config names raise; see `cmp.engine.errors`.
    """
    if resume_from:
        config.load_from, config.resume = resume_from, True
    runner = ResumableRunner.from_cfg(config)
    if start_from is not None and not resume_from:
        weights = {key: value.float() for key, value in start_from.state_dict.items()}
        load_strictly(without_process_wrapper(runner.model), weights, source=start_from.path)
    start = {}
    if runner.rank == 0:
        loss = getattr(unwrapped(runner.model), "loss_unit", None)
        start = record_start(
            runner.work_dir,
            resumed_from=resume_from,
            started_from=start_from.path if start_from is not None and not resume_from else None,
            num_processes=runner.world_size,
            loss=loss,
        )
        runner.logger.info(
            f"torch {start['torch']} on {start['device']}, {start['processes']} process(es), seed {runner.seed}; "
            f"the whole config, starts.jsonl, checkpoints and log are in {runner.work_dir}"
        )
    runner.train()
    finished = FinishedRun(runner, start, runner.train_loop.stopped_by)
    leave_together()
    return finished
