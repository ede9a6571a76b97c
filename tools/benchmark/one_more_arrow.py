"""Measure what one more arrow and an animation take: prediction on an encoded image, and 16 frames from its flow.

    python tools/benchmark/one_more_arrow.py
    python tools/benchmark/one_more_arrow.py --checkpoint ckpt_iter_42000.pth.tar --sizes 384 --threads 2

Printed are CPU milliseconds of the process and milliseconds of the clock: the median (lowest-highest) of the rounds. On
a busy machine use one thread: several wait for each other, which counts as CPU time.
"""

import argparse
import statistics
import time
from collections.abc import Callable

from cmp.interrupts import exit_at_interrupt, run_command

if __name__ == "__main__":
    exit_at_interrupt()  # the imports below take seconds

import cv2
import numpy as np
import torch

from cmp.inference import load_propagator
from cmp.inference.animate import animate

NUM_FRAMES = 16  # as the playground begins
COUNTS = (1, 8)  # arrows


def measured(call: Callable[[], object], rounds: int) -> str:
    """CPU and clock time of a call, in ms, after one that warms up."""
    call()
    taken = []
    for _ in range(rounds):
        start = time.process_time(), time.perf_counter()
        call()
        taken.append((1e3 * (time.process_time() - start[0]), 1e3 * (time.perf_counter() - start[1])))
    columns = (f"{statistics.median(c):.1f} ({min(c):.1f}-{max(c):.1f})" for c in zip(*taken))
    return " | ".join(columns)


def main(argv: list[str] | None = None) -> int:
    """Measure and print; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="starter", help="default: the starter network")
    parser.add_argument("--sizes", nargs="+", type=int, default=[128, 384], metavar="PX", help="default: 128 384")
    parser.add_argument("--rounds", type=int, default=9, help="default: %(default)s")
    parser.add_argument("--threads", type=int, default=1, help="default: %(default)s")
    args = parser.parse_args(argv)
    if min(*args.sizes, args.rounds, args.threads) < 1:
        parser.error("--sizes, --rounds and --threads must be at least 1")
    torch.set_num_threads(args.threads)
    cv2.setNumThreads(args.threads)
    try:
        propagator = load_propagator(args.checkpoint)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    rng = np.random.default_rng(0)
    print(f"{args.checkpoint}, {args.threads} threads, {args.rounds} rounds\n")
    print("| image | what | CPU ms | ms of the clock |\n| --- | --- | --- | --- |")
    for size in args.sizes:
        image = cv2.resize(rng.integers(0, 255, (12, 12, 3), np.uint8), (size, size))
        encoded = propagator.encode(image)
        for count in COUNTS:
            arrows = rng.uniform(0, size - 1, (count, 2)), rng.normal(0, 5, (count, 2))
            flow = propagator.predict(encoded, *arrows)[0].permute(1, 2, 0).numpy()
            row = measured(lambda e=encoded, a=arrows: propagator.predict(e, *a), args.rounds)
            print(f"| {size}x{size} | prediction from {count} arrows | {row} |", flush=True)
        row = measured(lambda i=image, f=flow: list(animate(i, f, NUM_FRAMES)), args.rounds)
        print(f"| {size}x{size} | {NUM_FRAMES} frames | {row} |", flush=True)
    return 0


if __name__ == "__main__":
    run_command(main)
