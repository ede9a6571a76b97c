"""Measure the flow codecs (size, error, speed) on flow of OpenCV's DIS (medium) from a folder of videos.

    python tools/benchmark/codec.py VIDEO_DIR
    python tools/benchmark/codec.py VIDEO_DIR --size 360x480 --pairs-per-video 2

Pairs of frames 3 to 10 apart are taken from each video; the distance cycles from pair to pair, so that runs are
repeatable. The frames are resized, and their flow is encoded and decoded by every codec on one thread. Sizes and times
are means over pairs (decoding: the best of three runs per pair); errors are over all pixels.
"""

import argparse
import sys
import time
from pathlib import Path

from cmp.interrupts import exit_at_interrupt, run_command

if __name__ == "__main__":
    exit_at_interrupt()  # the imports below take seconds

import av
import cv2
import numpy as np

from cmp.flow import CODECS, decode_flow, encode_flow

NEAREST_FRAMES, FARTHEST_FRAMES = 3, 10
DECODE_REPEATS = 3


def parse_size(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    return int(height), int(width)


def read_gray_frames(path: Path, size_hw: tuple[int, int], count: int) -> list[np.ndarray]:
    frames = []
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            frames.append(cv2.resize(frame.to_ndarray(format="gray"), size_hw[::-1], interpolation=cv2.INTER_AREA))
            if len(frames) == count:
                break
    return frames


def real_flows(video_dir: Path, size_hw: tuple[int, int], pairs_per_video: int) -> list[np.ndarray]:
    estimator = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    flows = []
    for path in sorted(path for path in video_dir.iterdir() if path.is_file()):
        try:
            frames = read_gray_frames(path, size_hw, pairs_per_video * (FARTHEST_FRAMES + 1))
        except av.FFmpegError as error:
            print(f"skipped {path.name}: {error}", file=sys.stderr)
            continue
        start = 0
        for _ in range(pairs_per_video):
            gap = NEAREST_FRAMES + len(flows) % (FARTHEST_FRAMES - NEAREST_FRAMES + 1)
            if start + gap >= len(frames):
                break
            flows.append(estimator.calc(frames[start], frames[start + gap], None))
            start += gap + 1
    return flows


def measure(codec: str, flows: list[np.ndarray]) -> dict[str, float]:
    sizes, encode_s, decode_s, errors = [], [], [], []
    for flow in flows:
        start = time.perf_counter()
        payload, header = encode_flow(flow, codec)
        encode_s.append(time.perf_counter() - start)
        times = []
        for _ in range(DECODE_REPEATS):
            start = time.perf_counter()
            decoded = decode_flow(payload, header)
            times.append(time.perf_counter() - start)
        decode_s.append(min(times))
        sizes.append(len(payload))
        difference = decoded - flow
        errors.append(np.hypot(difference[..., 0], difference[..., 1]).ravel())
    errors = np.concatenate(errors)
    return {
        "kB": np.mean(sizes) / 1e3,
        "mean px": errors.mean(),
        "p99.9 px": np.quantile(errors, 0.999),
        "max px": errors.max(),
        "encode ms": np.mean(encode_s) * 1e3,
        "decode ms": np.mean(decode_s) * 1e3,
    }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video_dir", type=Path, help="folder of videos")
    parser.add_argument("--size", type=parse_size, default=(360, 480), metavar="HxW", help="default: 360x480")
    parser.add_argument("--pairs-per-video", type=int, default=1, help="default: 1")
    args = parser.parse_args(argv)
    if not args.video_dir.is_dir():
        print(f"{args.video_dir}: no such folder", file=sys.stderr)
        return 1
    cv2.setNumThreads(1)
    flows = real_flows(args.video_dir, args.size, args.pairs_per_video)
    if not flows:
        print(f"{args.video_dir}: no video gave a pair of frames", file=sys.stderr)
        return 1
    print(f"{len(flows)} DIS flows of {args.size[0]} x {args.size[1]}; encoding includes measuring the error")
    for row, codec in enumerate(CODECS):
        figures = measure(codec, flows)
        if row == 0:
            print("| codec | " + " | ".join(figures) + " |\n|" + " --- |" * (len(figures) + 1))
        cells = (f"{value:.1f}" if unit == "kB" else f"{value:.3g}" for unit, value in figures.items())
        print(f"| {codec} | " + " | ".join(cells) + " |")
    return 0


if __name__ == "__main__":
    run_command(main)
