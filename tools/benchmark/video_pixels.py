"""Measure a video pixel network: nats per frame compared with counting, and the time that sampling takes.

    python tools/benchmark/video_pixels.py CONFIG CHECKPOINT DIGITS_DIR
    python tools/benchmark/video_pixels.py CONFIG CHECKPOINT DIGITS_DIR --sample-frames 2 --rounds 3

The clips are those of the config: the network and the counting models are evaluated on the same validation clips;
counts come from the first --count-clips training clips. Counting needs binary clips. First table: mean of -log p over
all frames that are not given, and the standard error over clips. Second table: --sample-clips clips are continued by
--sample-frames frames with the same random numbers, in turn with the cache and with a pass over the frame per pixel;
seconds per frame, median (lowest-highest). docs/baselines/video_pixel_network.md shows these tables.
"""

import argparse
import sys
from statistics import median
from time import perf_counter

from cmp.interrupts import exit_at_interrupt, run_command

if __name__ == "__main__":
    exit_at_interrupt()  # the imports below take seconds

import numpy as np
import torch
from mmengine.registry import DATASETS, MODELS
from tqdm import tqdm

from cmp.baselines.pixel_frequencies import PixelFrequencies, around
from cmp.baselines.video_pixel_network import VideoPixelNetwork
from cmp.datasets.bouncing_digits import BouncingDigits
from cmp.engine.config import read_config
from cmp.weights import load_strictly, read_weight_file

COUNTING = {
    "frequency per position": PixelFrequencies(by_place=True),
    "same pixel of the last frame (a copy with its error rates)": PixelFrequencies([(1, 0, 0)]),
    "3 x 3 px of the last frame": PixelFrequencies(around(1, 1)),
    "3 x 3 px of each of the last two": PixelFrequencies(around(1, 1) + around(2, 1)),
}


def read_clips(dataset: BouncingDigits, count: int) -> torch.Tensor:
    """Read the first clips: (N, T, 1, H, W), values 0..1."""
    return torch.stack([dataset[i]["frames"] for i in tqdm(range(min(count, len(dataset))), "clips", leave=False)])


def build(config, checkpoint: str) -> VideoPixelNetwork:
    """Build the config's network with the checkpoint's weights.

    Raises:
        ValueError: the config is of another kind of network, or the checkpoint does not fit.
    """
    model = MODELS.build(config.model)
    if not isinstance(model, VideoPixelNetwork):
        raise ValueError(f"want a config of a video pixel network, got one of {type(model).__name__}")
    load_strictly(model, read_weight_file(checkpoint).state_dict(), source=checkpoint)
    return model.eval()


def row(name: str, nats: np.ndarray) -> str:
    """Format a line of the table from (N, frames) nats."""
    per_clip = nats.mean(axis=1)
    return f"| {name} | {per_clip.mean():.2f} ({per_clip.std(ddof=1) / len(per_clip) ** 0.5:.2f}) |"


@torch.no_grad()
def likelihoods(model: VideoPixelNetwork, train: torch.Tensor, test: torch.Tensor) -> list[str]:
    """Compute the lines of the table of nats per frame."""
    lines = ["| model | nats per frame (standard error) |", "| --- | --- |"]
    counted, evaluated = train[:, :, 0].numpy(), test[:, :, 0].numpy()
    for name, frequencies in COUNTING.items():
        lines.append(row(f"counts: {name}", frequencies.fit(counted, model.given).nats(evaluated, model.given)))
    nats = [model.nats(batch) for batch in tqdm(test.split(50), "evaluating", leave=False)]
    return [*lines, row("video pixel network", torch.cat(nats).numpy())]


def sampling(model: VideoPixelNetwork, clips: torch.Tensor, frames: int, rounds: int) -> list[str]:
    """Compute the lines of the table of seconds per sampled frame."""
    times = {True: [], False: []}
    drawn = {}
    for _ in range(rounds):
        for cached in times:
            began = perf_counter()
            drawn[cached] = model.sample(
                clips[:, : model.given], frames, torch.Generator().manual_seed(0), cached=cached
            )
            times[cached].append((perf_counter() - began) / frames)
    same = (drawn[True] == drawn[False]).float().mean().item()
    size = f"{len(clips)} clips of {clips.shape[3]} x {clips.shape[4]} px"
    cells = {cached: f"{median(t):.3f} ({min(t):.3f}-{max(t):.3f})" for cached, t in times.items()}
    return [
        f"| sampling {size} | s per frame |",
        "| --- | --- |",
        f"| one pass per pixel | {cells[False]} |",
        f"| cached | {cells[True]} |",
        "",
        f"{median(times[False]) / median(times[True]):.1f} times as fast; {100 * same:.2f} % of pixels equal",
    ]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="configs/baselines/vpn_*.py with binary clips")
    parser.add_argument("checkpoint", help="weights of a run of this config")
    parser.add_argument("digits", help="folder with the digits")
    parser.add_argument("--count-clips", type=int, default=4000, help="training clips to count (default: %(default)s)")
    parser.add_argument("--clips", type=int, default=500, help="validation clips to evaluate (default: %(default)s)")
    parser.add_argument("--sample-clips", type=int, default=4, help="clips to continue together (default: %(default)s)")
    parser.add_argument("--sample-frames", type=int, default=1, help="frames to sample (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="timings of each method (default: %(default)s)")
    args = parser.parse_args(argv)
    try:
        if min(args.count_clips, args.sample_clips, args.sample_frames, args.rounds) < 1 or args.clips < 2:
            raise ValueError("--clips must be at least 2, the other numbers at least 1")
        config = read_config(args.config)
        model = build(config, args.checkpoint)
        sets = []
        for loader in (config.train_dataloader, config.val_dataloader):
            clips = DATASETS.build({**loader.dataset, "paths": [args.digits]})
            if not isinstance(clips, BouncingDigits) or not clips.binarize:
                raise ValueError(f"{args.config}: counting needs binary BouncingDigits")
            sets.append(clips)
        train, test = read_clips(sets[0], args.count_clips), read_clips(sets[1], args.clips)
    except (OSError, ValueError) as error:
        print(f"video_pixels.py: {error}", file=sys.stderr)
        return 2
    print("\n".join(likelihoods(model, train, test)), end="\n\n")
    print("\n".join(sampling(model, test[: args.sample_clips], args.sample_frames, args.rounds)))
    return 0


if __name__ == "__main__":
    run_command(main)
