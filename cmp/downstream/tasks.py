"""The tasks that train on a backbone, segmentation and detection: their configs, and training and evaluation in one."""

from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path

from mmengine.config import Config

from cmp.downstream import detection, segmentation
from cmp.downstream.data_check import print_data_report
from cmp.downstream.run import set_length, train_and_evaluate
from cmp.engine.config import check_required, read_config
from cmp.engine.processes import hold_work_dir
from cmp.engine.resume import checkpoint_to_resume

TASKS = {"segmentation": segmentation, "detection": detection}


def task_config(
    task: str,
    config: str | PathLike,
    backbone: str | PathLike,
    data: str | PathLike,
    *,
    work_dir: str | PathLike | None = None,
    steps: int | None = None,
    seed: int = 0,
    options: Mapping[str, object] | None = None,
    frozen: bool = False,
    scales: list[float] | None = None,
    flip: bool = False,
) -> Config:
    """The config of a task with what was chosen; no data is read.

    Args:
        task: a key of `TASKS`.
        config: a config file, or the name of one in configs/downstream.
        backbone: an export, a checkpoint of pretraining, or "random".
        data: folder of the data set.
        work_dir: folder of the run; None: work_dirs/CONFIG.
        steps: length of training; None: the config's.
        seed: of head, order and crops.
        options: dotted keys of the config to new values.
        frozen: (segmentation) keep the backbone and train a linear head alone.
        scales: (segmentation) sizes to test at; None: the config's.
        flip: (segmentation) test mirrored images too.

    Raises:
        FileNotFoundError, ValueError: the config cannot be read, or a value does not fit.
    """
    found = read_config(config, options, variant="frozen" if frozen else None)
    if steps is not None:
        set_length(found, steps)
    found.randomness.seed = seed
    TASKS[task].prepare_config(found, data_dir=data, backbone=backbone)
    found.work_dir = str(work_dir or Path("work_dirs") / Path(found.filename).stem)
    if task == "segmentation":
        if scales:
            found.val_cfg.scales = scales
        found.val_cfg.flip = found.val_cfg.flip or flip
    return found


def run_task(
    task: str,
    config: Config,
    *,
    resume: str | None = None,
    check_data: bool = False,
    say: Callable[[str], None] = print,
    warn: Callable[[str], None] = print,
) -> tuple[dict | None, str | None]:
    """Train a task and evaluate it, while no other run uses its work dir.

    Args:
        task: a key of `TASKS`.
        config: of `task_config`.
        resume: "auto" or a checkpoint to go on from; None starts anew.
        check_data: (segmentation) read every file first, and print what is in the data.
        say, warn: receive lines about what the run goes on from.

    Returns:
        As `train_and_evaluate`.

    Raises:
        FolderInUse, OSError, ValueError: another run uses the work dir, or data, backbone or checkpoint cannot be used.
    """
    with hold_work_dir(config.work_dir):
        checkpoint = checkpoint_to_resume(resume, config.work_dir, warn=warn)
        if resume:
            anew = f"no checkpoint in {config.work_dir} yet: starting anew"
            say(f"going on from {checkpoint}" if checkpoint else anew)
        check_required(config)
        TASKS[task].check_data(config)
        if check_data:
            _check_all_files(config)
        return train_and_evaluate(config, checkpoint)


def _check_all_files(config: Config) -> None:
    problems = []
    for name in ("train", "val"):
        try:
            print_data_report(config[f"{name}_dataloader"].dataset)
        except (OSError, ValueError) as error:
            problems.append(str(error))
    if problems:
        raise ValueError("\n".join(problems))
