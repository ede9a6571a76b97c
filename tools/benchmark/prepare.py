"""Measure the speed of the preparation of pairs against a loop that does only the necessary work, in pairs per second.

    python tools/benchmark/prepare.py VIDEO_DIR
    python tools/benchmark/prepare.py VIDEO_DIR --videos 20 --pairs-per-video 50

A bare loop decodes straight through on one thread, resizes, computes flow by DIS, and encodes the first frame and the
flow: without time stamps, scores, checksums and files. The loop and the pipeline (`prepare_video`, default settings)
take turns, video by video, in one process. Two bare loops at once, in two processes, show what the machine can do with
two processes. Then whole jobs run with one worker and with two, from the start of their processes to the finished
store. A job of one pair shows how much of their time is fixed. Every rate counts the chosen pairs, kept or not. It is
given per second of the clock and per second of CPU time (workers included), which other work on the machine disturbs
less.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from cmp.interrupts import exit_at_interrupt, run_command

if __name__ == "__main__":
    exit_at_interrupt()  # the imports below take seconds

import av
import cv2
import numpy as np

from cmp.datasets.pair_store import begin_store, lock_store
from cmp.flow import encode_flow
from cmp.video import open_video
from cmp.video.find import VideoSource, find_videos
from data_prep.job import prepare_folder
from data_prep.pipeline import VideoTask, initialize_worker, prepare_video
from data_prep.settings import PrepareSettings


def now() -> np.ndarray:
    """(2,) seconds: of the clock, and of CPU time of this process and its ended children."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return np.array([time.perf_counter(), sum(usage.ru_utime + usage.ru_stime for usage in used)])


def bare_loop(path: Path, pairs: np.ndarray, settings: PrepareSettings, spent: Counter) -> None:
    """Do only the necessary work for the pairs (N, 2) of positions; adds the CPU seconds of each stage to `spent`."""
    estimator = settings.create_estimator()
    wanted = set(pairs.ravel().tolist())
    first_of = {second: first for first, second in pairs.tolist()}
    held: dict[int, np.ndarray] = {}
    start = time.process_time()

    def lap(stage: str) -> None:
        nonlocal start
        moment = time.process_time()
        spent[stage] += moment - start
        start = moment

    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        for index, frame in enumerate(container.decode(stream)):
            if index in wanted:
                image = frame.to_ndarray(format="rgb24")
                lap("decode")
                height, width = settings.stored_size(image.shape[:2])
                if (height, width) != image.shape[:2]:
                    image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
                held[index] = image
                lap("resize")
                if index in first_of:
                    first = held[first_of[index]]
                    flow = estimator.estimate(first, image)
                    lap("flow")
                    quality = [cv2.IMWRITE_JPEG_QUALITY, settings.jpeg_quality]
                    cv2.imencode(".jpg", cv2.cvtColor(first, cv2.COLOR_RGB2BGR), quality)
                    lap("JPEG")
                    encode_flow(flow, settings.codec)
                    lap("codec")
            if index == pairs[-1, 1]:
                break
    lap("decode")


def choose_videos(video_dir: Path, count: int, settings: PrepareSettings) -> list[tuple[VideoSource, np.ndarray]]:
    """`count` videos with at least one pair, spread over the sorted list, and their pairs."""
    chosen = []
    sources = [source for source in find_videos(video_dir) if source.kind == "file"]
    for source in sources[:: max(1, len(sources) // count)]:
        try:
            with open_video(video_dir / source.path) as reader:
                pairs = settings.choose(reader.times_s)
        except ValueError as error:
            print(f"left out: {error}", file=sys.stderr)
            continue
        if len(pairs):
            chosen.append((source, pairs))
    return chosen[:count]


def two_bare_loops(options: list[str]) -> np.ndarray:
    """(2,) seconds of two processes that each do all pairs at the same time: of the clock, and of CPU time."""
    command = [sys.executable, __file__, *options, "--bare-loop"]
    loops = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for loop in loops:
        loop.stdout.readline()  # it is ready
    start = time.perf_counter()
    for loop in loops:
        loop.stdin.write("go\n")
        loop.stdin.flush()
    used = sum(float(loop.stdout.readline()) for loop in loops)
    seconds = time.perf_counter() - start
    for loop in loops:
        loop.communicate()
    return np.array([seconds, used])


def alternate(
    video_dir: Path,
    videos: list[tuple[VideoSource, np.ndarray]],
    place: Path,
    settings: PrepareSettings,
    stages: Counter,
    repeat: int,
) -> tuple[np.ndarray, np.ndarray]:
    """(2,) seconds of the bare loop and of the pipeline in this process, which take turns in being first."""
    with lock_store(place / "store"):
        begin_store(place / "store", {}, {})
    bare = real = np.zeros(2)
    for number, (source, pairs) in enumerate(videos):
        for turn in (0, 1):
            start = now()
            if (number + repeat + turn) % 2:
                bare_loop(video_dir / source.path, pairs, settings, stages)
                bare = bare + now() - start
            else:
                task = VideoTask(str(video_dir), str(place / "store"), source, settings, ("auto",))
                prepare_video(task, lambda value: None)
                real = real + now() - start
    return bare, real


def time_jobs(
    video_dir: Path, videos: list[tuple[VideoSource, np.ndarray]], place: Path, settings: PrepareSettings
) -> tuple[dict[str, np.ndarray], float]:
    """(2,) seconds of a job by its number of workers, and the clock's seconds of one pair of the smallest video."""
    links, one = place / "videos", place / "one"
    links.mkdir()
    one.mkdir()
    for source, _ in videos:
        (links / source.path.replace("/", "-")).symlink_to((video_dir / source.path).resolve())
    smallest = min(links.iterdir(), key=lambda path: path.stat().st_size)
    (one / smallest.name).symlink_to(smallest.resolve())
    found = {}
    for workers in (1, 2):
        start = now()
        prepare_folder(links, place / f"job-{workers}", settings, num_workers=workers, show_progress=False)
        found[f"job, {workers} worker" + "s" * (workers > 1)] = now() - start
    start = now()
    single = PrepareSettings(pairs_per_video=1)
    prepare_folder(one, place / "job-one", single, num_workers=1, show_progress=False)
    return found, (now() - start)[0]


def print_table(best: dict[str, np.ndarray]) -> None:
    """Print the rates of each way of working: (2,) pairs per second of the clock and of CPU time."""
    print("| | pairs/s | of the bare loop | of one worker | pairs per CPU second | of the bare loop |")
    print("|" + " --- |" * 6)
    for label, rates in best.items():
        share, cpu_share = rates / best["bare loop"]
        to_one = f"{rates[0] / best['job, 1 worker'][0]:.2f}" if label.startswith("job") else "-"
        print(f"| {label} | {rates[0]:.2f} | {share:.2f} | {to_one} | {rates[1]:.2f} | {cpu_share:.2f} |")
    of_two = best["job, 2 workers"][0] / best["two bare loops at once"][0]
    print(f"two workers do {of_two:.2f} of what two bare loops do at once")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("video_dir", type=Path, metavar="VIDEO_DIR", help="folder of videos")
    parser.add_argument("--videos", type=int, default=12, metavar="N", help="how many of them (default 12)")
    parser.add_argument("--pairs-per-video", type=int, default=20, metavar="N", help="default 20")
    parser.add_argument("--repeats", type=int, default=1, metavar="N", help="default 1; the best counts")
    parser.add_argument(
        "--bare-loop",
        action="store_true",
        help="print ready, wait for a line, run the bare loop, and print its CPU seconds",
    )
    args = parser.parse_args(argv)
    if min(args.videos, args.pairs_per_video, args.repeats) < 1:
        parser.error("--videos, --pairs-per-video and --repeats must be at least 1")
    if not args.video_dir.is_dir():
        print(f"{args.video_dir}: no such folder", file=sys.stderr)
        return 1
    initialize_worker()
    settings = PrepareSettings(pairs_per_video=args.pairs_per_video)
    videos = choose_videos(args.video_dir, args.videos, settings)
    if not videos:
        print(f"{args.video_dir}: no video is long enough for a pair", file=sys.stderr)
        return 1
    num_pairs = sum(len(pairs) for _, pairs in videos)
    stages: Counter = Counter()
    if args.bare_loop:
        print("ready", flush=True)
        sys.stdin.readline()
        start = time.process_time()
        for source, pairs in videos:
            bare_loop(args.video_dir / source.path, pairs, settings, stages)
        print(time.process_time() - start)
        return 0
    print(f"{num_pairs} pairs of {len(videos)} videos, short side {settings.short_side_px} px, {settings.estimator}")

    seconds: dict[str, list[np.ndarray]] = {"bare loop": [], "two bare loops at once": [], "pipeline, same process": []}
    options = [str(args.video_dir), "--videos", str(args.videos), "--pairs-per-video", str(args.pairs_per_video)]
    with tempfile.TemporaryDirectory() as folder:
        for repeat in range(args.repeats):
            place = Path(folder) / str(repeat)
            place.mkdir()
            bare, real = alternate(args.video_dir, videos, place, settings, stages, repeat)
            seconds["bare loop"].append(bare)
            seconds["two bare loops at once"].append(two_bare_loops(options) / 2)  # for as many pairs as the others
            seconds["pipeline, same process"].append(real)
            jobs, fixed_s = time_jobs(args.video_dir, videos, place, settings)
            for label, spent in jobs.items():
                seconds.setdefault(label, []).append(spent)

    stage_ms = {stage: 1e3 * spent / num_pairs / args.repeats for stage, spent in stages.items()}
    print("bare loop, CPU ms per pair: " + ", ".join(f"{stage} {ms:.1f}" for stage, ms in stage_ms.items()))
    print(f"a job of one pair of the smallest video: {fixed_s:.2f} s")
    print_table({label: num_pairs / np.min(found, axis=0) for label, found in seconds.items()})
    return 0


if __name__ == "__main__":
    run_command(main)
