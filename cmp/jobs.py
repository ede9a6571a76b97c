"""One call per job, with the names and defaults of the commands: `cmp.prepare`, `cmp.pretrain`, `cmp.evaluate`.

A command's flag `--short-side` is the argument `short_side` here. Nothing slow is imported before a call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cmp.addresses import is_address, names_shards
from cmp.starter import STARTER

if TYPE_CHECKING:
    from data_prep.job import PrepareReport

PathValue = str | PathLike
LIMITS = (  # fields of `data_prep.thresholds.Thresholds`
    "max_unexplained",
    "max_appearance_jump",
    "max_uneven_light",
    "max_duplicate_change",
    "min_moving_share",
    "max_beyond_share",
    "max_inconsistent",
    "max_camera_share",
)


class Pretrained(NamedTuple):
    """What a training left."""

    checkpoint: Path | None  # the newest; None if none was due
    step: int
    work_dir: Path
    stopped_by: str | None  # name of the signal that stopped it before its end; call again with resume=True


def prepare(
    videos: PathValue,
    out: PathValue,
    *,
    interval_frames: int | None = None,
    interval_seconds: float | None = None,
    pairs_per_video: int | None = None,
    stride_frames: int | None = None,
    stride_seconds: float | None = None,
    short_side: int = 416,
    enlarge: bool = False,
    estimator: str = "dis-medium",
    estimator_weights: PathValue | None = None,
    estimator_device: str = "auto",
    codec: str = "half16",
    forget_dropped: bool = False,
    jpeg_quality: int = 92,
    store_second: bool = False,
    max_flow: float = 50.0,
    workers: int | None = None,
    reader: str = "auto",
    folder_fps: float = 25.0,
    stall_seconds: float = 300.0,
    deadline_factor: float = 1.0,
    max_video_gb: float = 4.0,
    spool_dir: PathValue | None = None,
    retry_failed: bool = False,
    quiet: bool = False,
    **thresholds: float,
) -> PrepareReport:
    """Make a pair store from a folder of videos, or bring it up to date: `cmp-motion prepare VIDEOS OUT`.

    Args:
        videos: folder of videos, searched with its sub-folders; or an address, as text (docs/preparation.md).
        out: folder of the store; made if it does not exist; or an address, as text.
        interval_frames, interval_seconds: distance of the two frames of a pair; 5 frames where neither is given.
        pairs_per_video, stride_frames, stride_seconds: how many pairs, or one every so often; 50 per video where
            nothing is given.
        short_side: of stored frames, px; 0 keeps their size.
        enlarge: also enlarge smaller frames.
        estimator, estimator_weights, estimator_device: optical flow; docs/estimators.md.
        codec: how flow is stored.
        forget_dropped: do not store rejected pairs.
        jpeg_quality: of stored frames, 1 to 100.
        store_second: store the second frame too.
        max_flow: range of the training bins, px at stored size.
        workers: processes; None: one per core.
        reader: auto, pyav or decord.
        folder_fps: frames per second assumed for folders of frames.
        stall_seconds, deadline_factor: when a video is given up; deadline_factor 0: no limit by its length.
        max_video_gb, spool_dir: for addresses: larger videos are not downloaded; an existing folder for videos and
            shards while they are worked on, None: the system's for temporary files.
        retry_failed: do videos again that failed before.
        quiet: no progress bar.
        **thresholds: fields of `data_prep.thresholds.Thresholds`, such as min_moving_share; docs/quality.md.

    Returns:
        What became of the videos. A video that fails costs only itself; it is in `failures`.

    Raises:
        FileNotFoundError, NotADirectoryError, ValueError, RuntimeError: as `data_prep.job.prepare_folder`; for
            addresses as `data_prep.remote.prepare_addresses`.
    """
    from data_prep.deadlines import Deadline
    from data_prep.job import prepare_folder
    from data_prep.remote import prepare_addresses
    from data_prep.settings import PrepareSettings
    from data_prep.thresholds import Thresholds

    if unknown := set(thresholds) - set(LIMITS):
        raise TypeError(f"prepare() got unexpected arguments {sorted(unknown)}; thresholds are {', '.join(LIMITS)}")
    settings = PrepareSettings(
        interval_frames=interval_frames,
        interval_s=interval_seconds,
        pairs_per_video=pairs_per_video,
        stride_frames=stride_frames,
        stride_s=stride_seconds,
        short_side_px=short_side,
        enlarge=enlarge,
        estimator=estimator,
        estimator_weights=None if estimator_weights is None else str(estimator_weights),
        estimator_device=estimator_device,
        codec=codec,
        forget_dropped=forget_dropped,
        jpeg_quality=jpeg_quality,
        store_second=store_second,
        max_flow_px=max_flow,
        thresholds=Thresholds(**thresholds),
        reader=reader,
        folder_fps=folder_fps,
    )
    common: dict[str, Any] = dict(
        num_workers=workers,
        stall_s=stall_seconds,
        deadline=Deadline().scaled(deadline_factor) if deadline_factor else None,
        retry_failed=retry_failed,
        show_progress=not quiet,
    )
    if not (is_address(videos) or is_address(out)):
        return prepare_folder(videos, out, settings, **common)
    return prepare_addresses(
        str(videos), str(out), settings, max_video_bytes=round(max_video_gb * 1e9), spool_dir=spool_dir, **common
    )


def pretrain(
    pairs: PathValue | Sequence[PathValue],
    out: PathValue,
    *,
    recipe: PathValue = "r18_quickstart",
    val_data: Sequence[PathValue] | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    seed: int | None = None,
    device: str | None = None,
    precision: str | None = None,
    resume: bool | PathValue = False,
    start_from: PathValue | None = None,
    track: str | None = None,
    cfg_options: Mapping[str, object] | None = None,
) -> Pretrained:
    """Pretrain on pair stores in this process: `cmp-motion train RECIPE --data PAIRS --work-dir OUT`.

    Args:
        pairs: a pair store or list file of Zhan et al., or several; or shards to stream, as text: tar files, or the
            address of a store.
        out: the work dir: log, checkpoints and pictures.
        recipe: a config file, or the name of a recipe.
        val_data: pair stores to validate on; all of `pairs` is then trained on. Shards are never validated on.
        steps: length instead of the recipe's; the schedule is rescaled to it.
        batch_size: pairs per batch; the learning rate follows the recipe's `batch_rule`.
        seed: of weights, order and samples; None: the recipe's.
        device: "cpu", "cuda" or "cuda:N"; None: a GPU where there is one.
        precision: "float32", "bfloat16" or "auto"; None: the recipe's.
        resume: True: go on from the newest checkpoint in `out`; a path: from that checkpoint.
        start_from: a whole network, such as "starter", with whose weights a new run begins; None: drawn weights.
        track: "wandb" or "mlflow": send what is logged there too.
        cfg_options: dotted keys of the config to new values, such as {"train_dataloader.num_workers": 0}.

    Returns:
        The newest checkpoint and the step that was reached. Ctrl-C and SIGTERM finish the step and save.

    Raises:
        FileNotFoundError, OSError, ValueError, FolderInUse: the pairs, the recipe or a value cannot be used; another
            run uses `out`; or `out` has checkpoints and resume is False.
        FloatingPointError, RuntimeError: training failed.
    """
    from contextlib import ExitStack

    from cmp.checkpoints import read_network_checkpoint
    from cmp.engine.processes import hold_work_dir, watch_processes
    from cmp.engine.resume import checkpoint_to_resume
    from cmp.engine.run import check_data, check_machine, on_device, train_run, training_config
    from cmp.files import check_paths

    paths = [pairs] if isinstance(pairs, str | PathLike) else list(pairs)
    local = [path for path in paths if not names_shards(path)]
    started = None if start_from == STARTER else start_from
    check_paths(reads={"pairs": local, "val_data": val_data, "start_from": started}, folders={"out": out})
    config, notes = training_config(
        recipe,
        data=paths,
        val_data=val_data,
        work_dir=out,
        steps=steps,
        batch_size=batch_size,
        seed=seed,
        precision=precision,
        options=cfg_options,
        track=track,
    )
    check_data(config, list(map(str, paths)))
    start = None if start_from is None else read_network_checkpoint(start_from)
    asked = "auto" if resume is True else None if resume is False else str(resume)
    with ExitStack() as held:
        held.enter_context(on_device(device))
        check_machine(config)
        held.enter_context(hold_work_dir(config.work_dir))
        watch_processes(config.work_dir, config)
        checkpoint = checkpoint_to_resume(asked, config.work_dir)
        for note in notes:
            print(note)
        finished = train_run(config, resume_from=checkpoint, start_from=start)
    newest = finished.last_checkpoint
    return Pretrained(
        Path(newest) if newest else None, finished.runner.iter, Path(config.work_dir), finished.stopped_by
    )


def evaluate(task: str, *inputs: PathValue, **options) -> dict:
    """Measure a network or a backbone: `cmp-motion evaluate TASK ...`; returns the numbers of its metrics.json.

    Args:
        task: "propagation", "segmentation", "detection", "knn" or "linear".
        *inputs: what the command takes: config and checkpoint; config, backbone and data; or backbone and data.
        **options: the command's flags, as arguments of `evaluate_propagation`, `evaluate_task` and `evaluate_probe` in
            this module.

    Raises:
        ValueError: the task is unknown.
        TypeError: inputs or options are not those of the task.
        FileNotFoundError, OSError, ValueError: an input cannot be used; it is named.
    """
    if task == "propagation":
        return evaluate_propagation(*inputs, **options)
    if task in ("segmentation", "detection"):
        return evaluate_task(task, *inputs, **options)
    if task in ("knn", "linear"):
        return evaluate_probe(task, *inputs, **options)
    raise ValueError(f"task must be propagation, segmentation, detection, knn or linear, got {task!r}")


def evaluate_propagation(
    config: PathValue,
    checkpoint: PathValue | None,
    *,
    data: PathValue | Sequence[PathValue] | None = None,
    part: str | None = None,
    points: Sequence[int | str] = ("all",),
    out: PathValue | None = None,
    interpolations: Sequence[str] = ("nearest", "inverse_distance", "fading"),
    rows: int = 6,
    beside: PathValue | None = None,
    device: str | None = None,
) -> dict:
    """Endpoint error of predicted flow on pairs, with two controls and interpolations; as `evaluate_checkpoint`.

    Args:
        config: the one that the network was trained with: a file, or the name of a recipe.
        checkpoint: of a training; None: only what needs no network.
        data: pair stores or list files instead of the config's.
        part: "all", "val" or "train"; None: what the network was not trained on.
        points: numbers of guidance points to keep.
        out: folder for metrics.json, table.txt and predictions.png; None: nothing is kept.
        interpolations: methods without a network to compare with.
        rows: samples in the picture.
        beside: another checkpoint, or "starter", whose error on the same pairs is the metric epe_beside.
        device: where to compute; None: a GPU where there is one.

    Returns:
        The metrics in px (epe, epe_no_guidance, ...), or {"points": metrics of each number}; and "judged": which pairs.
    """
    from contextlib import nullcontext

    from cmp.engine.processes import hold_work_dir
    from cmp.evaluation.propagation import evaluate_checkpoint

    paths = [data] if isinstance(data, str | PathLike) else data
    with nullcontext() if out is None else hold_work_dir(out):
        found = evaluate_checkpoint(
            config,
            checkpoint,
            data=None if paths is None else list(map(str, paths)),
            part=part,
            points=points,
            interpolations=interpolations,
            rows=rows,
            beside=beside,
            device=device,
        )
        if out is not None:
            found.write(out)
    return found.numbers()


def evaluate_task(
    task: str,
    config: PathValue,
    backbone: PathValue,
    data: PathValue,
    *,
    work_dir: PathValue | None = None,
    steps: int | None = None,
    seed: int = 0,
    resume: bool | PathValue = False,
    cfg_options: Mapping[str, object] | None = None,
    **own,
) -> dict:
    """Train segmentation or detection on a backbone and evaluate it, as `cmp.downstream.tasks`.

    Args:
        task: "segmentation" or "detection".
        config: a file, or the name of a recipe in configs/downstream.
        backbone: an export, a checkpoint of pretraining, or "random".
        data: folder of the data set.
        work_dir: of the run; None: work_dirs/CONFIG.
        steps: length of training; None: the config's.
        seed: of head, order and crops.
        resume: True: go on from the newest checkpoint; a path: from that one.
        cfg_options: dotted keys of the config to new values.
        **own: of segmentation: frozen, scales, flip, check_data.

    Returns:
        The metrics, %: miou, or box_AP and mask_AP; {} where a signal stopped the training.
    """
    from cmp.downstream.tasks import run_task, task_config

    check_data = own.pop("check_data", False)
    found = task_config(
        task, config, backbone, data, work_dir=work_dir, steps=steps, seed=seed, options=cfg_options, **own
    )
    asked = "auto" if resume is True else None if resume is False else str(resume)
    metrics, _ = run_task(task, found, resume=asked, check_data=check_data)
    return metrics or {}


def evaluate_probe(
    task: str,
    backbone: PathValue,
    data: PathValue,
    *,
    parts: Sequence[str] = ("train", "test"),
    encoder: str = "resnet18",
    size: int = 96,
    seed: int = 0,
    k: int = 20,
    device: str | None = None,
) -> dict:
    """Accuracy of nearest neighbors or a linear classifier on frozen features, as `cmp.downstream.probes`.

    Args:
        task: "knn" or "linear".
        backbone: an export, a checkpoint of pretraining, or "random".
        data: folder of two parts, each with one folder per class.
        parts: names of the two parts.
        encoder: of a random backbone.
        size: side that images are resized to, px.
        seed: of a random backbone and of held-out images.
        k: neighbors that vote (knn).
        device: where to compute; None: a GPU where there is one.

    Returns:
        accuracy (%), images, classes, and what was evaluated.
    """
    from cmp.downstream import probes

    return probes.evaluate_probe(
        task,
        backbone,
        data,
        parts=parts,
        encoder=encoder,
        size_px=size,
        seed=seed,
        k=k,
        device=device,
    )
