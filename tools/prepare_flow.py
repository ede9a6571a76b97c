"""Make a pair store (frames with optical flow, the training data) from a folder of videos.

    python tools/prepare_flow.py ~/videos ~/pairs
    python tools/prepare_flow.py ~/videos ~/pairs --interval-seconds 0.2 --stride-seconds 1 --short-side 256 --workers 8

Searches VIDEO_DIR and all folders below it for video files and for folders of frames. Run it again at any time: what
is done stays, what was interrupted is finished, new videos are added. docs: cmp/datasets/pair_store.py.

Exit status: 0; 1 if the store holds no pair afterwards, on any failed video with --strict, or on an error;
130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the checkout's own packages, installed or not

from cmp.flow.codec import CODECS
from data_prep.estimators import CLASSICAL, RAFT
from data_prep.job import PrepareReport, prepare_folder
from data_prep.quality import Thresholds
from data_prep.settings import PrepareSettings


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0],
        epilog="\n\n".join(__doc__.split("\n\n")[1:]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    defaults, limits = PrepareSettings(), Thresholds()
    parser.add_argument("video_dir", metavar="VIDEO_DIR", help="folder with videos, searched with its sub-folders")
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
    add(stored, "--jpeg-quality", defaults.jpeg_quality, "of stored frames, 1 to 100", metavar="Q")
    stored.add_argument("--store-second", action="store_true", help="store the second frame too")
    stored.add_argument(
        "--candidates-kernel", type=int, metavar="K",
        help="store guidance candidates: maxima of the watershed map in K x K px, K odd (default: none stored)",
    )  # fmt: skip

    quality = parser.add_argument_group("which pairs are dropped (scores of all are kept)")
    add(quality, "--max-flow", defaults.max_flow_px, "range of the training bins, px at stored size", metavar="PX")
    add(quality, "--max-unexplained", limits.max_unexplained, "cut: residual after warping over contrast", metavar="X")
    add(quality, "--max-histogram-jump", limits.max_histogram_jump, "cut: distance of colours, 0 to 1", metavar="X")
    add(quality, "--min-moving-share", limits.min_moving_share, "still: share of pixels moving over 1 px", metavar="X")
    add(quality, "--max-beyond-share", limits.max_beyond_share, "too fast: share beyond --max-flow", metavar="X")

    job = parser.add_argument_group("the job")
    job.add_argument("--workers", type=int, metavar="N", help="processes, each with one thread (default: all cores)")
    add(job, "--reader", defaults.reader, "auto: decord, PyAV where it fails", choices=("auto", "decord", "pyav"))
    add(job, "--folder-fps", defaults.folder_fps, "frames per second assumed for folders of frames", metavar="FPS")
    add(job, "--stall-seconds", 300.0, "give up a reader that makes no progress for so long, s", metavar="S")
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
        candidates_kernel=args.candidates_kernel,
        max_flow_px=args.max_flow,
        thresholds=Thresholds(
            max_unexplained=args.max_unexplained,
            max_histogram_jump=args.max_histogram_jump,
            min_moving_share=args.min_moving_share,
            max_beyond_share=args.max_beyond_share,
        ),
        reader=args.reader,
        folder_fps=args.folder_fps,
    )


def summary(report: PrepareReport, out_dir: str) -> str:
    """The last line: what was written, skipped and failed, and where it is."""

    def counted(reasons: dict[str, int]) -> str:
        if not reasons:
            return "0"
        parts = ", ".join(f"{name} {count}" for name, count in sorted(reasons.items()))
        return f"{sum(reasons.values())} ({parts})"

    earlier = f" ({report.earlier_videos} settled before)" if report.earlier_videos else ""
    return (
        f"{report.found} videos{earlier}: wrote {report.videos} videos, {report.pairs} pairs; "
        f"skipped {counted(report.skipped)}; failed {counted(report.failed)}; "
        f"dropped pairs {counted(report.dropped)}; {report.store_pairs} pairs in {out_dir}"
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = build_parser()
    args = parser.parse_args(argv)
    try:
        settings = settings_of(args)
    except ValueError as error:
        parser.error(str(error))
    try:
        report = prepare_folder(
            args.video_dir,
            args.out_dir,
            settings,
            num_workers=args.workers,
            stall_s=args.stall_seconds,
            retry_failed=args.retry_failed,
            show_progress=not args.quiet,
        )
    except KeyboardInterrupt:
        print("\nStopped. Everything finished so far is kept: run the same command again to go on.", file=sys.stderr)
        return 130
    except (ValueError, OSError, RuntimeError, ModuleNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for path, reason, detail in report.failures:
        print(f"failed: {path!r}: {reason}: {detail}", file=sys.stderr)
    print(summary(report, args.out_dir))
    if report.store_pairs == 0 or (args.strict and report.failed):
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
