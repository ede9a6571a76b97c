"""Make a pair store (frames with optical flow, the training data) from a folder of videos.

    python tools/prepare_flow.py ~/videos ~/pairs
    python tools/prepare_flow.py ~/videos ~/pairs --interval-seconds 0.2 --stride-seconds 1 --short-side 256 --workers 8
    python tools/prepare_flow.py ~/pairs --refilter --min-moving-share 0.05

Searches VIDEO_DIR and all folders below it for video files and for folders of frames. Run it again at any time: what
is done stays, what was interrupted is finished, new videos are added. docs: cmp/datasets/pair_store.py.

--refilter judges the pairs of a store again under other thresholds, from the scores that it keeps: no video is needed
and no flow computed. Thresholds that are not given stay as the store has them. docs/quality.md.

Exit status: 0; 1 if the store holds no pair afterwards (a task's share may hold none), on any failed video with
--strict, or on an error; 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the checkout's own packages, installed or not

from cmp.flow.codec import CODECS
from data_prep.deadlines import Deadline
from data_prep.estimate import Amount, Estimate, estimate_folder
from data_prep.estimators import CLASSICAL, RAFT
from data_prep.job import PrepareReport, prepare_folder
from data_prep.parts import Part
from data_prep.quality import Thresholds
from data_prep.ray_executor import RayCluster
from data_prep.settings import PrepareSettings
from data_prep.verdicts import refilter_store

LIMITS = {  # fields of Thresholds
    "max_unexplained": "cut: structure of the first frame that the flow does not find in the second, 0 to 2",
    "max_appearance_jump": "cut: change of colours that the flow does not explain, 0 to 1",
    "max_duplicate_change": "duplicate: largest local difference of the frames, grey levels",
    "min_moving_share": "still: share of pixels that change and move over 1 px",
    "max_beyond_share": "too fast: share of pixels beyond --max-flow",
    "max_inconsistent": "inconsistent: share of pixels that the flow back does not bring back",
    "max_camera_share": "camera: share of pixels moved by the camera alone; 1: not dropped",
}

REFILTER = ("refilter", "out_dir", "quiet", *LIMITS)  # what goes with --refilter


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0],
        epilog="\n\n".join(__doc__.split("\n\n")[1:]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    defaults, limits = PrepareSettings(), Thresholds()
    parser.add_argument(
        "video_dir", nargs="?", metavar="VIDEO_DIR",
        help="folder with videos, searched with its sub-folders; left out with --refilter",
    )  # fmt: skip
    parser.add_argument("out_dir", metavar="OUT_DIR", help="folder of the pair store; made if it does not exist")

    pairs = parser.add_argument_group("which pairs")
    interval = pairs.add_mutually_exclusive_group()
    interval.add_argument(
        "--interval-frames", type=int, metavar="N",
        help=f"distance between the two frames of a pair, frames (default {defaults.interval_frames})",
    )  # fmt: skip
    interval.add_argument("--interval-seconds", type=float, metavar="S", help="the same in seconds of the video")
    stride = pairs.add_mutually_exclusive_group()
    stride.add_argument(
        "--pairs-per-video", type=int, metavar="N",
        help=f"pairs spread evenly over each video (default {defaults.pairs_per_video})",
    )  # fmt: skip
    stride.add_argument("--stride-frames", type=int, metavar="N", help="instead: one pair every N frames")
    stride.add_argument("--stride-seconds", type=float, metavar="S", help="instead: one pair every S seconds")

    stored = parser.add_argument_group("what is stored")

    def add(group, name: str, default, help: str, **kwargs) -> None:
        unit = f"{help} (default {default})"
        group.add_argument(name, default=default, help=unit, **{"type": type(default), **kwargs})

    add(stored, "--short-side", defaults.short_side_px, "frames are shrunk to this short side; 0: not", metavar="PX")
    stored.add_argument("--enlarge", action="store_true", help="also enlarge frames that are smaller than that")
    names = f"optical flow by {', '.join(CLASSICAL + RAFT)}, ptlflow:NAME, or files:FOLDER; see docs/estimators.md"
    add(stored, "--estimator", defaults.estimator, names, metavar="NAME")
    stored.add_argument(
        "--estimator-weights", metavar="FILE", help="weights for RAFT or ptlflow (default: the library's own)"
    )
    add(stored, "--estimator-device", defaults.estimator_device, "where those run: auto, cpu, cuda:1", metavar="DEVICE")
    add(stored, "--codec", defaults.codec, "how flow is stored", choices=tuple(CODECS))
    stored.add_argument(
        "--forget-dropped", action="store_true",
        help="do not store rejected pairs: saves disk, and --refilter cannot bring them back",
    )  # fmt: skip
    add(stored, "--jpeg-quality", defaults.jpeg_quality, "of stored frames, 1 to 100", metavar="Q")
    stored.add_argument("--store-second", action="store_true", help="store the second frame too")
    stored.add_argument(
        "--candidates-kernel", type=int, metavar="K",
        help="store guidance candidates: maxima of the watershed map in K x K px, K odd (default: none stored)",
    )  # fmt: skip

    quality = parser.add_argument_group("which pairs are rejected (all are kept with their scores: docs/quality.md)")
    add(quality, "--max-flow", defaults.max_flow_px, "range of the training bins, px at stored size", metavar="PX")
    for name, help in LIMITS.items():
        quality.add_argument(
            "--" + name.replace("_", "-"), type=float, metavar="X", default=argparse.SUPPRESS,
            help=f"{help} (default {getattr(limits, name)})",
        )  # fmt: skip
    quality.add_argument(
        "--refilter", action="store_true", help="change these thresholds (but --max-flow) in a store that is there"
    )

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
        help="with Ray: share of a GPU for each task (default: 1 with --estimator-device cuda, else 0)",
    )  # fmt: skip
    readers = "auto: PyAV, and decord where it crashes or hangs"
    add(job, "--reader", defaults.reader, readers, choices=("auto", "decord", "pyav"))
    add(job, "--folder-fps", defaults.folder_fps, "frames per second assumed for folders of frames", metavar="FPS")
    add(job, "--stall-seconds", 300.0, "give up a reader that makes no progress for so long, s", metavar="S")
    rule = (
        f"{Deadline.base_s:g} s + {Deadline.s_per_mb:g} s a MB of the file + {Deadline.s_per_megapixel:g} s a "
        f"megapixel of all its frames + {Deadline.s_per_pair:g} s a pair"
    )
    text = f"and one that needs more than X times what the video's length allows, which is {rule}; 0: no limit"
    add(job, "--deadline-factor", 1.0, text, metavar="X")
    job.add_argument(
        "--task-index", type=int, metavar="I",
        help="do only this task's share (counted from 0) of an array job of --num-tasks; see docs/preparation.md",
    )  # fmt: skip
    job.add_argument("--num-tasks", type=int, metavar="N", help="tasks of the array; tools/merge_stores.py joins them")
    job.add_argument(
        "--dry-run", action="store_true",
        help="write nothing: estimate pairs, bytes and hours from all headers and a random sample of the videos",
    )  # fmt: skip
    job.add_argument("--dry-run-videos", type=int, metavar="N", help="size of that sample (default 16)")
    job.add_argument("--dry-run-seed", type=int, metavar="N", help="of its choice (default 0)")
    job.add_argument("--retry-failed", action="store_true", help="do videos again that failed before")
    job.add_argument("--strict", action="store_true", help="exit with status 1 if any video failed")
    job.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser


def settings_of(args: argparse.Namespace) -> PrepareSettings:
    """The settings that a command line asks for."""
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
        candidates_kernel=args.candidates_kernel,
        max_flow_px=args.max_flow,
        thresholds=Thresholds(**given_limits(args)),
        reader=args.reader,
        folder_fps=args.folder_fps,
    )


def given_limits(args: argparse.Namespace) -> dict[str, float]:
    """The thresholds that stand on the command line."""
    return {name: getattr(args, name) for name in LIMITS if hasattr(args, name)}


def counted(reasons: dict[str, int]) -> str:
    if not reasons:
        return "0"
    parts = ", ".join(f"{name} {count}" for name, count in sorted(reasons.items()))
    return f"{sum(reasons.values())} ({parts})"


def refilter(args: argparse.Namespace) -> int:
    report = refilter_store(args.out_dir, given_limits(args))
    if report.lost:
        print(f"{report.lost} pairs could not be brought back: the store was made with --forget-dropped")
    print(
        f"{report.pairs_before} pairs before, {report.dropped_now} of them dropped now, {report.back} brought back; "
        f"dropped pairs {counted(report.reasons)}; {report.pairs} pairs of {report.videos} videos in {args.out_dir}"
    )
    return 0 if report.pairs else 1


def part_of(args: argparse.Namespace) -> Part | None:
    """The share of an array job that a command line asks for; None for the whole folder."""
    if (args.task_index is None) != (args.num_tasks is None):
        raise ValueError("--task-index and --num-tasks go together")
    return None if args.task_index is None else Part(args.task_index, args.num_tasks)


def check_dry_run(args: argparse.Namespace) -> None:
    """Raise ValueError where a dry run does not go with the other flags."""
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


def dry_run_lines(estimate: Estimate) -> list[str]:
    """What a dry run prints: every number with how it was got."""

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
        row("size", gb, "GB", "bytes a chosen pair and pixel in the sample, times those in the headers"),
        row("core time", estimate.core_hours, "h", "time a chosen pair and pixel in the sample, on this machine"),
        row("time", estimate.hours, "h", f"that, over {estimate.num_workers} workers"),
        f"{'lost':11} {lost} (videos of the sample that give no pair)",
        "+- is the 95 % interval of the choice of the sample; it knows nothing of files unlike all of it.",
    ]


def cluster_of(args: argparse.Namespace) -> RayCluster | None:
    """The Ray cluster that a command line asks for; None for processes on this machine."""
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
    return RayCluster("auto" if args.ray_address is None else args.ray_address, gpus)


def summary(report: PrepareReport, out_dir: str) -> str:
    """The last line: what was written, skipped and failed, and where it is."""
    earlier = f" ({report.earlier_videos} settled before)" if report.earlier_videos else ""
    return (
        f"{report.found} videos{earlier}: wrote {report.videos} videos, {report.pairs} pairs; "
        f"skipped {counted(report.skipped)}; failed {counted(report.failed)}; "
        f"dropped pairs {counted(report.dropped)}; {report.store_pairs} pairs in {out_dir}"
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = build_parser()
    args = parser.parse_intermixed_args(argv)
    sys.stdout.reconfigure(errors="backslashreplace")  # for names that are no text
    try:
        settings, part, cluster = settings_of(args), part_of(args), cluster_of(args)
        check_dry_run(args)
    except ValueError as error:
        parser.error(str(error))
    if args.refilter:
        idle = [
            name for name, value in vars(args).items() if name not in REFILTER and value != parser.get_default(name)
        ]
        if idle:
            if "video_dir" in idle:
                parser.error(f"--refilter takes the store alone and reads no video: leave out {args.video_dir!r}")
            flags = ", ".join("--" + name.replace("_", "-") for name in idle)
            parser.error(f"--refilter changes thresholds and nothing else: it does not go with {flags}")
    elif args.video_dir is None:
        parser.error("VIDEO_DIR and OUT_DIR are both needed (only --refilter does without videos)")
    try:
        if args.refilter:
            return refilter(args)
        deadline = Deadline().scaled(args.deadline_factor) if args.deadline_factor else None
        if args.dry_run:
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
        report = prepare_folder(
            args.video_dir,
            args.out_dir,
            settings,
            num_workers=args.workers,
            stall_s=args.stall_seconds,
            deadline=deadline,
            retry_failed=args.retry_failed,
            part=part,
            cluster=cluster,
            show_progress=not args.quiet,
        )
    except KeyboardInterrupt:
        print("\nStopped. Everything finished so far is kept: run the same command again to go on.", file=sys.stderr)
        return 130
    except (ValueError, OSError, RuntimeError, ModuleNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for path, reason, detail in report.failures:
        print(f"failed: {path!r}: {reason}: {repr(detail)[1:-1]}", file=sys.stderr)  # names may hold any byte
    for path in report.out_of_reach:
        print(f"cannot be read now: {path!r}: what was made of it earlier stays", file=sys.stderr)
    print(summary(report, args.out_dir if part is None else str(part.path(args.out_dir))))
    if (report.store_pairs == 0 and part is None) or (args.strict and report.failed):
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
