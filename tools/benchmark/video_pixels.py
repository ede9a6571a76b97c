"""Measure a video pixel network: nats a frame beside what counting gives, and how long sampling takes.

    python tools/benchmark/video_pixels.py CONFIG CHECKPOINT DIGITS_DIR
    python tools/benchmark/video_pixels.py CONFIG CHECKPOINT DIGITS_DIR --sample-frames 2 --rounds 3

The films are the config's: the network is judged on those of validation, counts are taken from the first --count-films
of training and judged on the same films as the network. Counting needs binary films. Cells: mean of -log p over all
frames that are not given, and the standard error over films. Sampling: --sample-films films continued for
--sample-frames frames with the same random numbers, cached and by a pass over the frame for each pixel, taking turns;
seconds a frame, median (lowest-highest). The tables in docs/baselines.md come from here.
"""

import argparse
import sys
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
import torch
from mmengine.registry import DATASETS, MODELS
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the checkout's own packages, installed or not

from cmp.baselines.pixel_frequencies import PixelFrequencies, around
from cmp.baselines.video_pixel_network import VideoPixelNetwork
from cmp.datasets.bouncing_digits import BouncingDigits
from cmp.engine.checkpoint import load_strictly, read_checkpoint
from cmp.engine.config import read_config

COUNTING = {
    "each place's own frequency": PixelFrequencies(by_place=True),
    "the last frame's pixel (copied, with errors as frequent as they are)": PixelFrequencies([(1, 0, 0)]),
    "3 x 3 px of the last frame": PixelFrequencies(around(1, 1)),
    "3 x 3 px of each of the last two": PixelFrequencies(around(1, 1) + around(2, 1)),
}


def read_films(dataset: BouncingDigits, count: int) -> torch.Tensor:
    """The first films, (N, T, 1, H, W), 0..1."""
    return torch.stack([dataset[i]["frames"] for i in tqdm(range(min(count, len(dataset))), "films", leave=False)])


def build(config, checkpoint: str) -> VideoPixelNetwork:
    """The config's network with the checkpoint's weights."""
    model = MODELS.build(config.model)
    if not isinstance(model, VideoPixelNetwork):
        raise ValueError(f"want a config of a video pixel network, got one of {type(model).__name__}")
    load_strictly(model, read_checkpoint(checkpoint).state_dict, source=checkpoint)
    return model.eval()


def row(name: str, nats: np.ndarray) -> str:
    """A line of the table from (N, frames) nats."""
    films = nats.mean(axis=1)
    return f"| {name} | {films.mean():.2f} ({films.std(ddof=1) / len(films) ** 0.5:.2f}) |"


@torch.no_grad()
def likelihoods(model: VideoPixelNetwork, train: torch.Tensor, test: torch.Tensor) -> list[str]:
    """Lines of the table of nats a frame."""
    lines = ["| model | nats a frame (standard error) |", "| --- | --- |"]
    counted, judged = train[:, :, 0].numpy(), test[:, :, 0].numpy()
    for name, frequencies in COUNTING.items():
        lines.append(row(f"counts: {name}", frequencies.fit(counted, model.given).nats(judged, model.given)))
    nats = [model.nats(batch) for batch in tqdm(test.split(50), "judging", leave=False)]
    return [*lines, row("video pixel network", torch.cat(nats).numpy())]


def sampling(model: VideoPixelNetwork, films: torch.Tensor, frames: int, rounds: int) -> list[str]:
    """Lines of the table of seconds a sampled frame."""
    times = {True: [], False: []}
    drawn = {}
    for _ in range(rounds):
        for cached in times:
            began = perf_counter()
            drawn[cached] = model.sample(
                films[:, : model.given], frames, torch.Generator().manual_seed(0), cached=cached
            )
            times[cached].append((perf_counter() - began) / frames)
    same = (drawn[True] == drawn[False]).float().mean().item()
    size = f"{len(films)} films of {films.shape[3]} x {films.shape[4]} px"
    cells = {cached: f"{median(t):.3f} ({min(t):.3f}-{max(t):.3f})" for cached, t in times.items()}
    return [
        f"| sampling {size} | s a frame |",
        "| --- | --- |",
        f"| a pass for each pixel | {cells[False]} |",
        f"| cached | {cells[True]} |",
        "",
        f"{median(times[False]) / median(times[True]):.1f} times as fast; {100 * same:.2f} % of pixels drawn alike",
    ]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="configs/baselines/vpn_*.py with binary films")
    parser.add_argument("checkpoint", help="weights of a run of it")
    parser.add_argument("digits", help="folder with the digits")
    parser.add_argument("--count-films", type=int, default=4000, help="training films to count (default: %(default)s)")
    parser.add_argument("--films", type=int, default=500, help="validation films to judge (default: %(default)s)")
    parser.add_argument(
        "--sample-films", type=int, default=4, help="films to continue at a time (default: %(default)s)"
    )
    parser.add_argument("--sample-frames", type=int, default=1, help="frames to draw (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="timings of each way (default: %(default)s)")
    args = parser.parse_args(argv)
    try:
        if min(args.count_films, args.sample_films, args.sample_frames, args.rounds) < 1 or args.films < 2:
            raise ValueError("--films must be at least 2, the other numbers at least 1")
        config = read_config(args.config)
        model = build(config, args.checkpoint)
        sets = []
        for loader in (config.train_dataloader, config.val_dataloader):
            films = DATASETS.build({**loader.dataset, "paths": [args.digits]})
            if not isinstance(films, BouncingDigits) or not films.binarise:
                raise ValueError(f"{args.config}: want binary BouncingDigits, which counting needs")
            sets.append(films)
        train, test = read_films(sets[0], args.count_films), read_films(sets[1], args.films)
    except (OSError, ValueError) as error:
        print(f"video_pixels.py: {error}", file=sys.stderr)
        return 2
    print("\n".join(likelihoods(model, train, test)), end="\n\n")
    print("\n".join(sampling(model, test[: args.sample_films], args.sample_frames, args.rounds)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
