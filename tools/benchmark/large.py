"""Measure processor seconds and peak memory of what is done to whole stores and folders, by their size.

    python tools/benchmark/large.py
    python tools/benchmark/large.py --videos 1000 10000 --pairs-per-video 50 --only finish verify

For each size a folder tree of videos and the store made from it are built, in a temporary folder. The store has
--pairs-per-video pairs per video. A few small clips are really encoded and prepared. All other videos and shards are
hard links to theirs, and their records are copies under other names, so files, bytes and checksums are real.

Each stage runs in a new process. Printed are its CPU seconds (with those of its workers) and the peak of its resident
memory, both without the imports. Other work on the machine changes CPU seconds little. The stages are:

    finish   derive index and manifest from the records (`finish_store`)
    start    open the store and make the dataset of its training part (`PropagationDataset`)
    split    split the pairs into training and validation by the fixed rule (`split_positions`)
    order    draw all pairs of one epoch (`EpochSampler`)
    verify   check every byte (`check_store`)
    merge    merge the store from ten parts of an array job (`merge_parts`)
    find     find the videos in a tree of folders (`find_videos`)
    dry run  estimate a preparation: all headers, and a sample of 16 videos (`estimate_folder`)
    resume   call a preparation again that has nothing left to do (`prepare_folder`)
"""

import argparse
import multiprocessing
import os
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from cmp.interrupts import exit_at_interrupt, run_command

if __name__ == "__main__":
    exit_at_interrupt()  # the imports below take seconds

from cmp.datasets import EpochSampler, PairStore, PropagationDataset, ResizedCrop
from cmp.datasets.pair_store import (
    begin_store,
    check_store,
    finish_store,
    lock_store,
    read_about,
    read_records,
    record_path,
    sealed_json,
    shard_path,
)
from cmp.datasets.splits import split_positions
from cmp.video import write_video
from cmp.video.find import VideoSource, find_videos
from data_prep.estimate import estimate_folder
from data_prep.job import prepare_folder
from data_prep.parts import Part, merge_parts
from data_prep.settings import PrepareSettings
from data_prep.thresholds import Thresholds
from tools.benchmark.memory import memory_mib, moving_frames

NUM_CLIPS = 20  # really encoded
VIDEOS_PER_FOLDER = 100
NUM_PARTS = 10
KEEP_ALL = Thresholds(
    max_unexplained=10, max_appearance_jump=10, max_duplicate_change=-1, min_moving_share=0, max_inconsistent=10
)


def settings_for(pairs_per_video: int) -> PrepareSettings:
    return PrepareSettings(
        interval_frames=2, pairs_per_video=pairs_per_video, short_side_px=32, thresholds=KEEP_ALL, estimator="dis-fast"
    )


def make_clips(root: Path, settings: PrepareSettings) -> None:
    """Encode the clips, and prepare them."""
    (root / "clips").mkdir()
    for number in range(NUM_CLIPS):
        frames = moving_frames(settings.pairs_per_video + 2, (32, 48), number)
        write_video(root / "clips" / f"{number:02d}.mp4", frames, 25)
    prepare_folder(root / "clips", root / "made", settings, num_workers=1, show_progress=False)


def make_large(root: Path, settings: PrepareSettings, num_videos: int) -> tuple[Path, Path]:
    """Multiply the clips and their store under made-up names; returns the folder of videos and the unfinished store."""
    videos, store = root / f"videos{num_videos}", root / f"store{num_videos}"
    records = list(read_records(root / "made").values())
    with lock_store(store):
        begin_store(store, settings.as_stored(), read_about(root / "made")["about"])
    for number in range(num_videos):
        original = records[number % len(records)]
        folder = f"{number // VIDEOS_PER_FOLDER:05d}"
        (videos / folder).mkdir(parents=True, exist_ok=True)
        source = VideoSource(f"{folder}/{number:07d}.mp4", "file")
        record = original | {"video_id": source.video_id, "source": original["source"] | {"path": source.path}}
        os.link(root / "clips" / original["source"]["path"], videos / source.path)
        os.link(shard_path(root / "made", original["video_id"]), shard_path(store, source.video_id))
        record_path(store, source.video_id).write_bytes(sealed_json(record))
    return videos, store


def take_apart(store: Path, settings: PrepareSettings) -> None:
    """Move the videos of a store into finished parts of an array job."""
    about = read_about(store)["about"]
    parts = [Part(index, NUM_PARTS) for index in range(NUM_PARTS)]
    for part in parts:
        with lock_store(part.path(store)):
            begin_store(part.path(store), settings.as_stored(), about)
    for name in sorted(os.listdir(store / "videos")):
        video_id = name.removesuffix(".json")
        target = next(part for part in parts if part.takes(video_id)).path(store)
        os.rename(record_path(store, video_id), record_path(target, video_id))
        os.rename(shard_path(store, video_id), shard_path(target, video_id))
    for part in parts:
        finish_store(part.path(store))


def start(store: Path) -> None:
    PropagationDataset(
        PairStore(store), [ResizedCrop(32, 32, random=True)], part="train", grid_stride_px=16, nms_kernel=15
    )


def order(store: Path) -> None:
    draws = iter(EpochSampler(range(len(PairStore(store)))))
    for _ in range(len(PairStore(store))):
        next(draws)


def verify(store: Path) -> None:
    found = check_store(store)
    assert not found, found[:3]


def merge(store: Path, num_videos: int) -> None:
    assert merge_parts(store).videos == num_videos


def find(videos: Path, num_videos: int) -> None:
    assert len(find_videos(videos)) == num_videos


def dry_run(videos: Path, settings: PrepareSettings, num_videos: int) -> None:
    assert estimate_folder(videos, settings, show_progress=False).readable == num_videos


def resume(videos: Path, store: Path, settings: PrepareSettings, num_videos: int) -> None:
    report = prepare_folder(videos, store, settings, show_progress=False)
    assert (report.earlier_videos, report.videos) == (num_videos, 0), report


def split(store: Path) -> None:
    split_positions(PairStore(store).pair_videos, "train", val_share=0.1)


def used_s() -> float:
    """CPU seconds of this process and its ended children."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def _measured(connection, function: Callable, arguments: tuple) -> None:
    before_s, before_mib, began = used_s(), memory_mib("self", "VmRSS"), time.perf_counter()
    function(*arguments)
    passed = time.perf_counter() - began
    connection.send((used_s() - before_s, memory_mib("self", "VmHWM") - before_mib, passed))


def measure(function: Callable, *arguments) -> tuple[float, float, float]:
    """Run a stage in a new process; returns its CPU seconds, its peak memory in MiB, and seconds of the clock."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_measured, args=(theirs, function, arguments))
    process.start()
    theirs.close()
    try:
        return ours.recv()
    except EOFError:
        raise RuntimeError(f"{function.__name__} failed; see above") from None
    finally:
        process.join()


def measure_size(root: Path, settings: PrepareSettings, num_videos: int, only: list[str]) -> dict[str, tuple]:
    """What each stage takes for one size, by its name."""
    videos, store = make_large(root, settings, num_videos)
    stages: dict[str, tuple] = {
        "finish": (finish_store, store),
        "start": (start, store),
        "split": (split, store),
        "order": (order, store),
        "verify": (verify, store),
        "find": (find, videos, num_videos),
        "dry run": (dry_run, videos, settings, num_videos),
        "resume": (resume, videos, store, settings, num_videos),
        "merge": (merge, store, num_videos),
    }
    found = {}
    for name, (function, *arguments) in stages.items():
        if only and name not in only:
            continue
        if name == "merge":
            take_apart(store, settings)
        elif name != "finish" and not (store / "index.npz").is_file():
            finish_store(store)
        found[name] = measure(function, *arguments)
        seconds, peak, passed = found[name]
        print(f"{num_videos} videos, {name}: {seconds:.2f} CPU s, {peak:.0f} MiB, {passed:.2f} s", flush=True)
    return found


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    sizes = [1000, 10_000, 100_000]
    parser.add_argument("--videos", nargs="+", type=int, default=sizes, help=f"numbers of videos (default {sizes})")
    parser.add_argument("--pairs-per-video", type=int, default=10, metavar="N", help="default 10")
    parser.add_argument("--only", nargs="+", default=[], metavar="STAGE", help="stages to measure (default: all)")
    args = parser.parse_args(argv)
    if min(*args.videos, args.pairs_per_video) < 1:
        parser.error("--videos and --pairs-per-video must be at least 1")
    settings = settings_for(args.pairs_per_video)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make_clips(root, settings)
        tables = [measure_size(root, settings, count, args.only) for count in args.videos]
    print("| stage | " + " | ".join(f"{n} videos, {n * args.pairs_per_video} pairs" for n in args.videos) + " |")
    print("|" + " --- |" * (len(args.videos) + 1))
    for name in tables[0]:
        cells = [f"{table[name][0]:.2f} s, {table[name][1]:.0f} MiB" for table in tables]
        print(f"| {name} | " + " | ".join(cells) + " |")
    return 0


if __name__ == "__main__":
    run_command(main)
