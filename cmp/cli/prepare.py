"""Make a pair store (frames with optical flow, the training data) from a folder of videos.

Example:
    cmp-motion prepare ~/videos ~/pairs
    cmp-motion prepare ~/videos ~/pairs --interval-seconds 0.2 --stride-seconds 1 --short-side 256 --workers 8
    cmp-motion prepare ~/pairs --refilter --min-moving-share 0.05
    cmp-motion prepare s3://bucket/videos s3://bucket/pairs --workers 8

Searches VIDEO_DIR and all folders below it for video files and for folders of frames. Run it again at any time: videos
that are done stay, an interrupted job is completed, new videos are added. Format: cmp/datasets/pair_store/format.py.
VIDEO_DIR and OUT_DIR may be addresses (s3://, gs://, https://): docs/preparation.md.

--refilter decides about the pairs of a store again under other thresholds, from their stored scores: no video is read
and no flow is computed. Thresholds that are not given stay as the store has them (docs/quality.md).
`cmp-motion store refilter` is the same.

Exit status: 0; 1 if the store has no pairs afterwards (the share of a task may have none), if a video failed with
--strict, or if the job failed; 2 for wrong usage or input; 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cmp.addresses import is_address
from cmp.cli.arguments import Parser, fail, say
from cmp.cli.choices import CODECS, READERS
from cmp.files import check_paths
from cmp.interrupts import INTERRUPTED_STATUS, imports_can_be_interrupted
from data_prep.deadlines import Deadline
from data_prep.estimators import CLASSICAL, RAFT
from data_prep.settings import PrepareSettings
from data_prep.thresholds import Thresholds

if TYPE_CHECKING:
    from data_prep.estimate import Amount, Estimate
    from data_prep.job import PrepareReport
    from data_prep.parts import Part
    from data_prep.ray_executor import RayCluster

LIMITS = {  # fields of Thresholds
    "max_unexplained": "cut: structure of the first frame that the flow does not find in the second, 0 to 2",
    "max_appearance_jump": "cut: change of colors that the flow does not explain, 0 to 1",
    "max_uneven_light": "cut: share of that which no even change of light explains, 0 to 1; cuts exceed both",
    "max_duplicate_change": "duplicate: largest local difference of the frames, gray levels",
    "min_moving_share": "still: share of pixels that change and move over 1 px",
    "max_beyond_share": "too fast: share of pixels beyond --max-flow",
    "max_inconsistent": "inconsistent: share of pixels that the flow back does not bring back",
    "max_camera_share": "camera: share of pixels moved by the camera alone; 1: not dropped",
}

REFILTER = ("refilter", "out_dir", "quiet", *LIMITS)  # the arguments that --refilter allows


def build_parser(prog: str) -> Parser:
    """The parser, with the library's defaults."""
    parser = Parser(prog=prog, description=__doc__.split("\n\n")[0], epilog="\n\n".join(__doc__.split("\n\n")[1:]))
    parser.add_argument(
        "video_dir", nargs="?", metavar="VIDEO_DIR",
        help="folder or address with videos, searched with its sub-folders; left out with --refilter",
    )  # fmt: skip
    parser.add_argument(
        "out_dir", metavar="OUT_DIR", help="folder or address of the pair store; made if it does not exist"
    )
    defaults = (
        PrepareSettings  # the class has them as attributes; an object of it checks itself with the slow libraries
    )
    _add_pair_arguments(parser, defaults)
    _add_storage_arguments(parser, defaults)
    _add_quality_arguments(parser, defaults)
    _add_job_arguments(parser, defaults)
    return parser


def _add(group, name: str, default, help: str, **kwargs) -> None:
    """Add a flag whose type is that of its default, and whose help names the default."""
    group.add_argument(name, default=default, help=f"{help} (default {default})", **{"type": type(default), **kwargs})


def _add_pair_arguments(parser: argparse.ArgumentParser, defaults: type[PrepareSettings]) -> None:
    pairs = parser.add_argument_group("which pairs")
    interval = pairs.add_mutually_exclusive_group()
    interval.add_argument(
        "--interval-frames", type=int, metavar="N",
        help="distance between the two frames of a pair, frames (default 5)",
    )  # fmt: skip
    interval.add_argument("--interval-seconds", type=float, metavar="S", help="the same in seconds of the video")
    stride = pairs.add_mutually_exclusive_group()
    stride.add_argument(
        "--pairs-per-video", type=int, metavar="N",
        help="pairs spread evenly over each video (default 50)",
    )  # fmt: skip
    stride.add_argument("--stride-frames", type=int, metavar="N", help="instead: one pair every N frames")
    stride.add_argument("--stride-seconds", type=float, metavar="S", help="instead: one pair every S seconds")


def _add_storage_arguments(parser: argparse.ArgumentParser, defaults: type[PrepareSettings]) -> None:
    stored = parser.add_argument_group("what is stored")
    _add(stored, "--short-side", defaults.short_side_px, "short side of larger frames; 0: unchanged", metavar="PX")
    stored.add_argument("--enlarge", action="store_true", help="also enlarge frames whose short side is smaller")
    names = f"optical flow by {', '.join(CLASSICAL + RAFT)}, ptlflow:NAME, or files:FOLDER; see docs/estimators.md"
    _add(stored, "--estimator", defaults.estimator, names, metavar="NAME")
    stored.add_argument(
        "--estimator-weights", metavar="FILE", help="weights for RAFT or ptlflow (default: the library's own)"
    )
    device = "of RAFT and ptlflow: auto, cpu, cuda:1"
    _add(stored, "--estimator-device", defaults.estimator_device, device, metavar="DEVICE")
    _add(stored, "--codec", defaults.codec, "how flow is stored", choices=CODECS)
    stored.add_argument(
        "--forget-dropped", action="store_true",
        help="do not store rejected pairs: saves disk, and --refilter cannot bring them back",
    )  # fmt: skip
    _add(stored, "--jpeg-quality", defaults.jpeg_quality, "of stored frames, 1 to 100", metavar="Q")
    stored.add_argument("--store-second", action="store_true", help="store the second frame too")


def _add_quality_arguments(parser: argparse.ArgumentParser, defaults: type[PrepareSettings]) -> None:
    quality = parser.add_argument_group("which pairs are rejected (all are kept with their scores: docs/quality.md)")
    _add(quality, "--max-flow", defaults.max_flow_px, "range of the training bins, px at stored size", metavar="PX")
    add_limits(quality)
    quality.add_argument(
        "--refilter", action="store_true", help="change these thresholds (except --max-flow) in an existing store"
    )


def _add_job_arguments(parser: argparse.ArgumentParser, defaults: type[PrepareSettings]) -> None:
    job = parser.add_argument_group("the job")
    job.add_argument(
        "--workers", type=int, metavar="N",
        help="processes, each with one thread (default: all cores; with Ray, all that the cluster has)",
    )  # fmt: skip
    job.add_argument(
        "--executor", default="local", choices=("local", "ray"),
        help="local: processes on this machine; ray: an existing Ray cluster, see docs/preparation.md (default local)",
    )  # fmt: skip
    job.add_argument(
        "--ray-address", metavar="ADDRESS",
        help='HOST:PORT of the cluster, or "auto": the one this machine belongs to (default auto)',
    )  # fmt: skip
    job.add_argument(
        "--gpus-per-task", type=float, metavar="X",
        help="with Ray: GPUs per task, such as 0.25 (default: 1 with --estimator-device cuda, else 0)",
    )  # fmt: skip
    readers = "auto: PyAV; decord has decoders of 2018; torchcodec is an optional package"
    _add(job, "--reader", defaults.reader, readers, choices=READERS)
    _add(job, "--folder-fps", defaults.folder_fps, "frames per second assumed for folders of frames", metavar="FPS")
    _add(job, "--stall-seconds", 300.0, "fail a video whose reader makes no progress for this long, s", metavar="S")
    rule = (
        f"{Deadline.base_s:g} s + {Deadline.s_per_mb:g} s per MB of the file + {Deadline.s_per_megapixel:g} s per "
        f"megapixel of all its frames + {Deadline.s_per_pair:g} s per pair"
    )
    text = f"fail a video that takes more than X times what its length allows, which is {rule}; 0: no limit"
    _add(job, "--deadline-factor", 1.0, text, metavar="X")
    job.add_argument(
        "--task-index", type=int, metavar="I",
        help="do only this task's share (counted from 0) of an array job of --num-tasks; see docs/preparation.md",
    )  # fmt: skip
    job.add_argument("--num-tasks", type=int, metavar="N", help="tasks of the array; store merge joins them")
    job.add_argument(
        "--dry-run", action="store_true",
        help="write nothing: estimate pairs, bytes and hours from all headers and a random sample of the videos",
    )  # fmt: skip
    job.add_argument("--dry-run-videos", type=int, metavar="N", help="number of videos in the sample (default 16)")
    job.add_argument("--dry-run-seed", type=int, metavar="N", help="seed of the choice of the sample (default 0)")
    _add(job, "--max-video-gb", 4.0, "with an address as VIDEO_DIR: larger videos are not downloaded", metavar="GB")
    job.add_argument(
        "--spool-dir", metavar="DIR",
        help="with an address: existing folder for videos and shards while they are worked on (default: the system's)",
    )  # fmt: skip
    job.add_argument("--retry-failed", action="store_true", help="do videos again that failed before")
    job.add_argument("--strict", action="store_true", help="exit with status 1 if any video failed")
    job.add_argument("--quiet", action="store_true", help="no progress bar")


def settings_of(args: argparse.Namespace) -> PrepareSettings:
    """The settings on the command line."""
    return PrepareSettings(
        interval_frames=args.interval_frames,
        interval_s=args.interval_seconds,
        pairs_per_video=args.pairs_per_video,
        stride_frames=args.stride_frames,
        stride_s=args.stride_seconds,
        short_side_px=args.short_side,
        enlarge=args.enlarge,
        estimator=args.estimator,
        estimator_weights=args.estimator_weights,
        estimator_device=args.estimator_device,
        codec=args.codec,
        jpeg_quality=args.jpeg_quality,
        store_second=args.store_second,
        forget_dropped=args.forget_dropped,
        max_flow_px=args.max_flow,
        thresholds=Thresholds(**given_limits(args)),
        reader=args.reader,
        folder_fps=args.folder_fps,
    )


def given_limits(args: argparse.Namespace) -> dict[str, float]:
    """The thresholds on the command line."""
    return {name: getattr(args, name) for name in LIMITS if hasattr(args, name)}


def counted(reasons: dict[str, int]) -> str:
    """Their sum, and each of them."""
    if not reasons:
        return "0"
    parts = ", ".join(f"{name} {count}" for name, count in sorted(reasons.items()))
    return f"{sum(reasons.values())} ({parts})"


def add_limits(group: argparse._ActionsContainer) -> None:
    """Add the thresholds; an argument that is not given is not set."""
    limits = Thresholds()
    for name, help in LIMITS.items():
        group.add_argument(
            "--" + name.replace("_", "-"), type=float, metavar="X", default=argparse.SUPPRESS,
            help=f"{help} (default {getattr(limits, name)})",
        )  # fmt: skip


def refilter(args: argparse.Namespace) -> int:
    """Decide again about the pairs of the store `args.out_dir`; returns the exit status."""
    with imports_can_be_interrupted():
        from data_prep.decisions import refilter_store
    report = refilter_store(args.out_dir, given_limits(args))
    if report.lost:
        print(f"{report.lost} pairs could not be brought back: the store was made with --forget-dropped")
    print(
        f"{report.pairs_before} pairs before, {report.dropped_now} of them dropped now, {report.back} brought back; "
        f"dropped pairs {counted(report.reasons)}; {report.pairs} pairs of {report.videos} videos in {args.out_dir}"
    )
    return 0 if report.pairs else 1


def misplaced_arguments(args: argparse.Namespace, parser: argparse.ArgumentParser) -> str | None:
    """What is wrong with VIDEO_DIR and the flags next to --refilter; None if nothing is."""
    if not args.refilter:
        needed = "VIDEO_DIR and OUT_DIR are both needed (only --refilter takes a store alone)"
        return needed if args.video_dir is None else None
    idle = [name for name, value in vars(args).items() if name not in REFILTER and value != parser.get_default(name)]
    if "video_dir" in idle:
        return f"--refilter takes only the store and reads no video: leave out {args.video_dir!r}"
    if idle:
        flags = ", ".join("--" + name.replace("_", "-") for name in idle)
        return f"--refilter changes only thresholds: leave out {flags}"
    return None


def part_of(args: argparse.Namespace) -> Part | None:
    """The task of an array job on the command line; None for the whole folder."""
    if (args.task_index is None) != (args.num_tasks is None):
        raise ValueError("--task-index and --num-tasks go together")
    if args.task_index is None:
        return None
    with imports_can_be_interrupted():
        from data_prep.parts import Part
    return Part(args.task_index, args.num_tasks)


def check_dry_run(args: argparse.Namespace) -> None:
    """Raise ValueError for flags that --dry-run excludes or needs."""
    if not args.dry_run:
        for flag, value in (("--dry-run-videos", args.dry_run_videos), ("--dry-run-seed", args.dry_run_seed)):
            if value is not None:
                raise ValueError(f"{flag} needs --dry-run")
    elif args.retry_failed or args.strict:
        raise ValueError("--dry-run tries every video of its sample: leave out --retry-failed and --strict")
    elif args.executor != "local" or args.task_index is not None:
        raise ValueError("--dry-run measures this machine and the whole folder: leave out --executor and --task-index")
    elif args.dry_run_videos is not None and args.dry_run_videos < 1:
        raise ValueError(f"--dry-run-videos must be at least 1, got {args.dry_run_videos}")
    elif args.dry_run_seed is not None and args.dry_run_seed < 0:
        raise ValueError(f"--dry-run-seed must be at least 0, got {args.dry_run_seed}")


def dry_run(args: argparse.Namespace, settings: PrepareSettings, deadline: Deadline | None) -> int:
    """Estimate, print, and write nothing; returns the exit status."""
    with imports_can_be_interrupted():
        from data_prep.estimate import estimate_folder
    estimate = estimate_folder(
        args.video_dir,
        settings,
        num_videos=16 if args.dry_run_videos is None else args.dry_run_videos,
        seed=args.dry_run_seed or 0,
        num_workers=args.workers,
        stall_s=args.stall_seconds,
        deadline=deadline,
        show_progress=not args.quiet,
    )
    print("\n".join(dry_run_lines(estimate)))
    print(f"dry run: nothing was written to {args.out_dir}")
    return 0


def dry_run_lines(estimate: Estimate) -> list[str]:
    """The lines that a dry run prints: every number with its source."""
    from data_prep.estimate import Amount

    def row(name: str, amount: Amount, unit: str, how: str) -> str:
        spread = "?" if amount.spread == float("inf") else f"{amount.spread:,.3g}"
        return f"{name:11} {amount.value:>10,.4g} +- {spread:<8} {unit:5} {how}"

    gb = Amount(estimate.bytes.value / 1e9, estimate.bytes.spread / 1e9)
    lost = ", ".join(f"{count} {reason}" for reason, count in sorted(estimate.lost.items())) or "none"
    return [
        f"{'videos':11} {estimate.found:>10,} found, {estimate.readable:,} with a length and a size in their header, "
        f"{estimate.sampled:,} of them sampled",
        f"{'chosen':11} {estimate.chosen:>10,} pairs by the lengths in the headers",
        row("pairs", estimate.pairs, "", f"those, times the share kept in the sample ({estimate.kept_share:.0%})"),
        row("size", gb, "GB", "bytes per chosen pair and pixel in the sample, times those in the headers"),
        row("core time", estimate.core_hours, "h", "time per chosen pair and pixel in the sample, on this machine"),
        row("time", estimate.hours, "h", f"that, over {estimate.num_workers} workers"),
        f"{'lost':11} {lost} (videos of the sample that give no pair)",
        "+- is the 95 % interval for the choice of the sample; files unlike all of the sample are not in it.",
    ]


def check_addresses(args: argparse.Namespace) -> bool:
    """Whether VIDEO_DIR or OUT_DIR is an address; ValueError for flags that do not go with one, or need one."""
    there = [path for path in (args.video_dir, args.out_dir) if is_address(path)]
    if there:
        for flag, value in (
            ("--refilter", args.refilter),
            ("--dry-run", args.dry_run),
            ("--task-index", args.task_index is not None),
            ("--executor ray", args.executor != "local"),
        ):
            if value:
                raise ValueError(f"{flag} needs local folders, got {there[0]!r}")
        if not args.max_video_gb > 0:
            raise ValueError(f"--max-video-gb must be above 0, got {args.max_video_gb:g}")
        if args.spool_dir is not None and not os.path.isdir(args.spool_dir):
            raise ValueError(f"--spool-dir: {args.spool_dir}: no such folder")
    elif args.spool_dir is not None:
        raise ValueError("--spool-dir needs an address as VIDEO_DIR or OUT_DIR")
    return bool(there)


def cluster_of(args: argparse.Namespace) -> RayCluster | None:
    """The Ray cluster on the command line; None for processes on this machine."""
    if args.executor != "ray":
        for flag, value in (("--ray-address", args.ray_address), ("--gpus-per-task", args.gpus_per_task)):
            if value is not None:
                raise ValueError(f"{flag} needs --executor ray")
        return None
    if args.task_index is not None:
        raise ValueError("--task-index does not go with --executor ray: Ray splits the work itself")
    if args.estimator_device.startswith("cuda:"):
        raise ValueError("with --executor ray, Ray chooses the GPU: give --estimator-device cuda")
    gpus = args.gpus_per_task
    if gpus is None:
        gpus = 1.0 if args.estimator_device == "cuda" else 0.0
    from data_prep.ray_executor import RayCluster

    return RayCluster("auto" if args.ray_address is None else args.ray_address, gpus)


def summary(report: PrepareReport, out_dir: str) -> str:
    """The last line: what was written, skipped and failed, and where the store is."""
    earlier = f" ({report.earlier_videos} settled before)" if report.earlier_videos else ""
    return (
        f"{report.found} videos{earlier}: wrote {report.videos} videos, {report.pairs} pairs; "
        f"skipped {counted(report.skipped)}; failed {counted(report.failed)}; "
        f"dropped pairs {counted(report.dropped)}; {report.store_pairs} pairs in {out_dir}"
    )


def main(argv: Sequence[str] | None = None, *, prog: str = "prepare_flow.py") -> int:
    """Prepare, try (--dry-run) or refilter; returns the exit status."""
    parser = build_parser(prog)
    args = parser.parse_intermixed_args(argv)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # for names that are not valid text
    if message := misplaced_arguments(args, parser):
        parser.error(message)
    try:
        check_dry_run(args)
        has_address = check_addresses(args)
        with imports_can_be_interrupted():
            settings, part, cluster = settings_of(args), part_of(args), cluster_of(args)
    except ValueError as error:
        parser.error(str(error))
    try:
        local = {name: None if is_address(path) else path for name, path in vars(args).items()}
        check_paths(reads={"VIDEO_DIR": local["video_dir"], "--estimator-weights": args.estimator_weights})
        check_paths(reads={}, folders={"OUT_DIR": local["out_dir"]})
        if args.refilter:
            return refilter(args)
        deadline = Deadline().scaled(args.deadline_factor) if args.deadline_factor else None
        if args.dry_run:
            return dry_run(args, settings, deadline)
        common = dict(
            num_workers=args.workers,
            stall_s=args.stall_seconds,
            deadline=deadline,
            retry_failed=args.retry_failed,
            show_progress=not args.quiet,
        )
        with imports_can_be_interrupted():
            from data_prep.job import prepare_folder
            from data_prep.remote import prepare_addresses
        if has_address:
            limits = dict(max_video_bytes=round(args.max_video_gb * 1e9), spool_dir=args.spool_dir)
            report = prepare_addresses(args.video_dir, args.out_dir, settings, **limits, **common)
        else:
            report = prepare_folder(args.video_dir, args.out_dir, settings, part=part, cluster=cluster, **common)
    except KeyboardInterrupt:
        say(prog, "interrupted: everything finished so far is kept; run the same command again to continue")
        return INTERRUPTED_STATUS
    except (ValueError, OSError, RuntimeError, ModuleNotFoundError) as error:
        return fail(prog, error)
    return print_report(args, prog, report, part)


def print_report(args: argparse.Namespace, prog: str, report: PrepareReport, part: Part | None) -> int:
    """Print what was done; returns the exit status."""
    for path, reason, detail in report.failures:
        say(prog, f"failed: {path!r}: {reason}: {repr(detail)[1:-1]}")  # names may contain any bytes
    for path in report.out_of_reach:
        say(prog, f"cannot be read now: {path!r}: its pairs stay in the store")
    print(summary(report, args.out_dir if part is None else str(part.path(args.out_dir))))
    if (report.store_pairs == 0 and part is None) or (args.strict and report.failed):
        return 1
    return 0
