"""Measure the memory of the preparation job: on one long video, and over many videos.

    python tools/benchmark/memory.py long
    python tools/benchmark/memory.py many --videos 1000

long: makes a file of two hours at 1080p and 24 frames/s (10 s are encoded, and their packets repeated), and prepares it
with the defaults in one worker; prints the peak resident memory of the worker (VmHWM) and the time.
many: prepares small clips in one worker that is never replaced; prints its resident memory every 50 videos.

Exit status: 0; 1 if a worker exceeded 1 GiB, or grew by more than 5 % from video 100 to the last.
"""

import argparse
import io
import tempfile
import time
from pathlib import Path

from cmp.interrupts import exit_at_interrupt, run_command

if __name__ == "__main__":
    exit_at_interrupt()  # the imports below take seconds

import av
import cv2
import numpy as np

from cmp.datasets.pair_store import begin_store, lock_store, read_records
from cmp.video import write_video
from cmp.video.find import find_videos
from data_prep.executors import LocalExecutor
from data_prep.pipeline import VideoTask, initialize_worker, prepare_video
from data_prep.settings import PrepareSettings

FPS, HEIGHT, WIDTH, PIECE_S = 24, 1080, 1920, 10
LIMIT_MIB = 1024
MAX_GROWTH = 1.05


def moving_frames(count: int, size_hw: tuple[int, int], seed: int):
    """A smooth texture that moves by 3 px per frame, and wraps around."""
    height, width = size_hw
    noise = np.random.default_rng(seed).integers(0, 255, (max(2, height // 60), max(2, width // 60), 3), np.uint8)
    ground = cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    for number in range(count):
        yield np.roll(ground, 3 * number, axis=1)


def make_long(path: Path, hours: float) -> int:
    """Write the long file; returns its number of frames."""
    piece = io.BytesIO()
    with av.open(piece, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"preset": "veryfast", "crf": "23"})
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        for image in moving_frames(PIECE_S * FPS, (HEIGHT, WIDTH), 0):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    with av.open(io.BytesIO(piece.getvalue())) as source, av.open(str(path), "w", format="mp4") as target:
        template = source.streams.video[0]
        stream = target.add_stream_from_template(template)
        packets = [packet for packet in source.demux(template) if packet.dts is not None]
        stamps = [(packet.pts, packet.dts) for packet in packets]
        length = round(PIECE_S / template.time_base)
        time_base, data = template.time_base, [bytes(packet) for packet in packets]
        keys = [packet.is_keyframe for packet in packets]
        repeats = round(hours * 3600 / PIECE_S)
        for repeat in range(repeats):
            for (pts, dts), content, is_key in zip(stamps, data, keys):
                packet = av.Packet(content)
                packet.pts, packet.dts, packet.time_base = pts + repeat * length, dts + repeat * length, time_base
                packet.is_keyframe, packet.stream = is_key, stream
                target.mux(packet)
    return repeats * PIECE_S * FPS


def memory_mib(pid: int, field: str) -> float:
    """VmRSS (now) or VmHWM (peak) of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"process {pid} has no {field}")


def measured_video(task: VideoTask, progress) -> tuple[float, float]:
    """Prepare a video as the job does; returns the resident memory of the worker now and at its peak, MiB."""
    prepare_video(task, progress)
    return memory_mib("self", "VmRSS"), memory_mib("self", "VmHWM")


def prepare_and_watch(videos: Path, store: Path, settings: PrepareSettings):
    """Prepare a folder in one worker that is never replaced; yields (memory now, peak) in MiB after each video."""
    with lock_store(store):
        begin_store(store, settings.as_stored(), {})
        sources = find_videos(videos)
        with LocalExecutor(
            measured_video, num_workers=1, initialize=initialize_worker,
            tasks_per_worker=len(sources) + 1, max_growth_bytes=1 << 40,
        ) as executor:  # fmt: skip
            for source in sources:
                executor.submit(VideoTask(str(videos), str(store), source, settings, ("auto",)))
            for task, outcome in executor.outcomes():
                if outcome.status != "done":
                    raise RuntimeError(f"{task.source.path}: {outcome.status}: {outcome.detail}")
                yield outcome.value


def run_long(root: Path, hours: float) -> bool:
    (root / "videos").mkdir(parents=True)
    start = time.monotonic()
    frames = make_long(root / "videos" / "long.mp4", hours)
    megabytes = (root / "videos" / "long.mp4").stat().st_size / 1e6
    made_s = time.monotonic() - start
    start = time.monotonic()
    [(_, peak)] = prepare_and_watch(root / "videos", root / "store", PrepareSettings())
    seconds = time.monotonic() - start
    [record] = read_records(root / "store").values()
    print("| file | frames | MB | made in, s | pairs | prepared in, s | peak of the worker, MiB |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    print(
        f"| {hours:g} h, {WIDTH} x {HEIGHT} | {frames} | {megabytes:.0f} | {made_s:.0f} | {record['pairs_chosen']} "
        f"| {seconds:.0f} | {peak:.0f} |"
    )
    good = record["status"] == "done" and record["video"]["num_frames"] == frames and peak <= LIMIT_MIB
    print(f"{'passed' if good else 'FAILED'}: {record['status']}, peak {peak:.0f} MiB of {LIMIT_MIB} MiB")
    return good


def run_many(root: Path, count: int) -> bool:
    (root / "videos").mkdir(parents=True)
    for number in range(count):
        write_video(root / "videos" / f"{number:04d}.mp4", moving_frames(12, (96, 128), number), FPS)
    settings = PrepareSettings(interval_frames=2, pairs_per_video=4)
    start = time.monotonic()
    curve = []
    print("| videos | resident, MiB | peak, MiB |\n| --- | --- | --- |")
    for number, (now, peak) in enumerate(prepare_and_watch(root / "videos", root / "store", settings), 1):
        curve.append(now)
        if number % 50 == 0 or number in (1, 10, count):
            print(f"| {number} | {now:.1f} | {peak:.1f} |", flush=True)
    early, late = curve[min(99, count // 2)], curve[-1]
    good = late <= MAX_GROWTH * early
    seconds = time.monotonic() - start
    print(
        f"{'passed' if good else 'FAILED'}: {early:.1f} MiB early, {late:.1f} MiB after {count} videos; {seconds:.0f} s"
    )
    return good


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("what", choices=("long", "many"), help="one long video, or many small ones")
    parser.add_argument("--hours", type=float, default=2.0, metavar="H", help="length of the long one (default 2)")
    parser.add_argument("--videos", type=int, default=1000, metavar="N", help="number of small ones (default 1000)")
    parser.add_argument(
        "--keep", type=Path, metavar="DIR", help="a new folder for videos and stores (default: thrown away)"
    )
    args = parser.parse_args(argv)
    if args.hours <= 0 or args.videos < 1:
        parser.error("--hours must be above 0 and --videos at least 1")
    with tempfile.TemporaryDirectory() as temporary:
        root = args.keep or Path(temporary)
        good = run_long(root, args.hours) if args.what == "long" else run_many(root, args.videos)
    return 0 if good else 1


if __name__ == "__main__":
    run_command(main)
