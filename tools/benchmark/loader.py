"""Measure samples per second of training data on one core, against a plain loader, and reading from large stores.

    python tools/benchmark/loader.py VIDEO_DIR
    python tools/benchmark/loader.py VIDEO_DIR --sizes 360x480 --pairs 30 --rounds 9
    python tools/benchmark/loader.py VIDEO_DIR --sizes --large-samples 100000

First table: the ResNet-50 recipe (short side 416, random crop 320, K 67, stride 165) on pairs of real frames: frames 5
apart of each clip, resized to each size, with flow by OpenCV's DIS (medium). The plain loader does what the loader of
Zhan et al. does: both frames read and resized (bicubic) by Pillow and normalized on the CPU, flow of two gray JPEGs,
SciPy's Sobel, distance transform and maximum filter. It is compared with this project's dataset on the same files, on a
pair store, and on a pair store with guidance points left to the device. All run in turn on one thread, with files in
the page cache and batches of 10; printed are the median samples/s (lowest-highest) of the rounds. Seconds are CPU
seconds of the process, which other work on the machine changes little. Then follows the time of each stage.

Second table (--large-samples): stores of 1 % of that number and of all of it, with real bytes and generated names, on
disk (about 1.3 GB for 100,000) in a temporary folder. Measured are reading in random order with the page cache dropped
(posix_fadvise) and warm, and the start: opening the store, splitting it, one worker, the first batch.
"""

import argparse
import json
import os
import re
import sys
import tempfile
import time
from pathlib import Path

from cmp.interrupts import exit_at_interrupt, run_command

if __name__ == "__main__":
    exit_at_interrupt()  # the imports below take seconds

import cv2
import numpy as np
import torch
from mmengine.dataset import default_collate
from PIL import Image

from cmp.datasets import EpochSampler, FlowPair, PairList, PairStore, PropagationDataset, ResizedCrop
from cmp.datasets.pair_store import ShardWriter, begin_store, commit_record, finish_store, lock_store
from cmp.flow import encode_flow, open_flow, write_flow
from cmp.guidance import grid_points, guidance_tensors, sample_guidance
from cmp.video.readers import open_video
from tools.benchmark.guidance import scipy_distance, scipy_edges, scipy_maxima

SHORT_SIDE_PX, CROP_PX, KERNEL, STRIDE_PX = 416, 320, 67, 165
GAP_FRAMES = 5
BATCH = 10
SMALL_HW = (120, 160)  # of the frames in the large stores
SAMPLES_PER_VIDEO = 100
MEAN, STD = np.float32([123.675, 116.28, 103.53]), np.float32([58.395, 57.12, 57.375])


def real_pairs(
    video_dir: Path, size_hw: tuple[int, int], count: int
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Up to `count` pairs, one per clip: both frames (H, W, 3) uint8 RGB, and flow (H, W, 2) float32 px."""
    estimator = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    paths = sorted(path for path in video_dir.iterdir() if path.is_file())
    pairs = []
    for path in paths:
        try:
            with open_video(path, "pyav") as video:
                frames = [frame.image for frame in video.read([0, GAP_FRAMES])]
        except (OSError, ValueError, IndexError) as error:
            print(f"skipped {path.name}: {error}", file=sys.stderr)
            continue
        first, second = (cv2.resize(f, size_hw[::-1], interpolation=cv2.INTER_AREA) for f in frames)
        flow = estimator.calc(*(cv2.cvtColor(f, cv2.COLOR_RGB2GRAY) for f in (first, second)), None)
        pairs.append((first, second, flow))
        if len(pairs) == count:
            break
    if not pairs:
        raise ValueError(f"{video_dir}: contains no video of at least {GAP_FRAMES + 1} frames")
    return pairs


def jpeg(image: np.ndarray) -> bytes:
    return cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()


def write_files(folder: Path, pairs: list) -> Path:
    """Write the pairs as files of Zhan et al.: JPEG frames, flow as two gray JPEGs, a list file. Returns its path."""
    lines = []
    for i, (first, second, flow) in enumerate(pairs):
        names = [f"{i}_{name}.jpg" for name in ("first", "second", "x", "y")]
        (folder / names[0]).write_bytes(jpeg(first))
        (folder / names[1]).write_bytes(jpeg(second))
        write_flow((folder / names[2], folder / names[3]), flow)
        lines.append(" ".join(names))
    (folder / "list.txt").write_text("\n".join(lines))
    return folder / "list.txt"


def write_store(root: Path, pairs: list, num_videos: int = 1, samples_per_video: int | None = None) -> Path:
    """Write the pairs as a pair store, repeated until every video has its samples. Returns its path."""
    members = []
    for first, _, flow in pairs:
        payload, header = encode_flow(flow, "half16")
        members.append({"first.jpg": jpeg(first), "flow.bin": payload, "json": json.dumps({"flow": header}).encode()})
    with lock_store(root):
        begin_store(root, {"made_by": "tools/benchmark/loader.py"}, {})
        for video in range(num_videos):
            with ShardWriter(root, f"v{video:06d}") as shard:
                for i in range(samples_per_video or len(pairs)):
                    shard.add(i, i + GAP_FRAMES, members[(video + i) % len(members)])
                written = shard.close()
            record = {"video_id": f"v{video:06d}", "status": "done", "shard": written, "dropped": []}
            commit_record(root, record | {"samples": [row | {"quality": {}} for row in shard.rows]})
        finish_store(root)
    return root


class PlainDataset(torch.utils.data.Dataset):
    """Makes samples as the loader of Zhan et al. does, with the libraries that it uses."""

    def __init__(self, pairs: PairList) -> None:
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int | tuple[int, int]) -> dict:
        index, epoch = index if isinstance(index, tuple) else (index, 0)
        rng = np.random.default_rng((epoch, index))
        files = self.pairs[index]
        images = [Image.open(path).convert("RGB") for path in (files.first, files.second)]
        coded = [cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) for path in files.flow]
        flow = np.stack(coded, axis=2).astype(np.float32) / 255 * 100 - 50
        height, width = flow.shape[:2]
        ratio = SHORT_SIDE_PX / min(height, width)
        size = int(width * ratio), int(height * ratio)
        images = [np.array(image.resize(size, Image.Resampling.BICUBIC)) for image in images]
        flow = cv2.resize(flow, size, interpolation=cv2.INTER_LINEAR) * ratio
        y, x = (int(rng.integers(0, side - CROP_PX + 1)) for side in size[::-1])
        window = slice(y, y + CROP_PX), slice(x, x + CROP_PX)
        images = [
            torch.from_numpy(((image[window].astype(np.float32) - MEAN) / STD).transpose(2, 0, 1).copy())
            for image in images
        ]
        flow = flow[window].copy()
        candidates = scipy_maxima(scipy_distance(scipy_edges(flow)), KERNEL)
        points = np.concatenate([plain_thinning(candidates, rng), grid_points(flow.shape[:2], stride_px=STRIDE_PX)])
        sparse, mask = np.zeros((2, CROP_PX, CROP_PX), np.float32), np.zeros((2, CROP_PX, CROP_PX), np.float32)
        for y, x in rng.permutation(points):
            sparse[:, y, x], mask[:, y, x] = flow[y, x], 1
        return dict(
            images=torch.cat(images),
            flow=torch.from_numpy(flow.transpose(2, 0, 1).copy()),
            guidance=torch.from_numpy(sparse),
            mask=torch.from_numpy(mask),
        )


def plain_thinning(points_yx: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Thin points by one loop over all pairs of close points; of each pair a random one is removed."""
    near = (np.abs(points_yx[:, None] - points_yx[None]) < (KERNEL - 1) / 2).all(axis=2)
    stays = np.ones(len(points_yx), bool)
    for i, j in np.argwhere(np.triu(near, 1)):
        if stays[i] and stays[j]:
            stays[i if rng.random() > 0.5 else j] = False
    return points_yx[stays]


def recipe(source, **arguments) -> PropagationDataset:
    transforms = [ResizedCrop(SHORT_SIDE_PX, CROP_PX, random=True)]
    return PropagationDataset(source, transforms, **(dict(grid_stride_px=STRIDE_PX, nms_kernel=KERNEL) | arguments))


def samples_per_second(dataset: torch.utils.data.Dataset, epoch: int = 0) -> float:
    """Make every sample of an epoch and collate batches; returns samples per CPU second of this process."""
    start = time.process_time()
    for first in range(0, len(dataset), BATCH):
        default_collate([dataset[i, epoch] for i in range(first, min(first + BATCH, len(dataset)))])
    return len(dataset) / (time.process_time() - start)


def stages(store: PairStore) -> dict[str, float]:
    """Median milliseconds of each stage of a sample from a store."""
    rng, times = np.random.default_rng(0), {}
    resize_and_crop = ResizedCrop(SHORT_SIDE_PX, CROP_PX, random=True)

    def timed(name, function, *args, **kwargs):
        start = time.process_time()
        result = function(*args, **kwargs)
        times.setdefault(name, []).append(1e3 * (time.process_time() - start))
        return result

    for i in [*range(len(store))] * 3:
        payload, meta, data = (store.read_member(i, member) for member in ("flow.bin", "json", "first.jpg"))
        flow = timed("inflate flow", open_flow, payload, json.loads(meta)["flow"])
        image = timed("decode image", cv2.imdecode, np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
        pair = timed(
            "crop decoded and resized", resize_and_crop, FlowPair(image, flow, np.ones(flow.shape[:2], bool)), rng
        )
        timed("to channels first", lambda p=pair: [np.ascontiguousarray(part.transpose(2, 0, 1)) for part in p[:2]])
        points = timed(
            "guidance points", sample_guidance, pair.flow, rng=rng, grid_stride_px=STRIDE_PX, nms_kernel=KERNEL
        )
        timed("guidance and mask", guidance_tensors, pair.flow, points)
    dataset = recipe(store)
    batch = [dataset[i % len(dataset)] for i in range(BATCH)]
    for _ in range(5):
        timed("collate", default_collate, batch)
    return {name: float(np.median(t)) / (BATCH if name == "collate" else 1) for name, t in times.items()}


def compare_loaders(video_dir: Path, size_hw: tuple[int, int], num_pairs: int, rounds: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        pairs = real_pairs(video_dir, size_hw, num_pairs)
        listed = PairList(write_files(Path(folder), pairs))
        store = PairStore(write_store(Path(folder) / "store", pairs))
        variants = {
            "plain loader": PlainDataset(listed),
            "ours, the same files": recipe(listed),
            "ours, a pair store": recipe(store),
            "ours, points on the device": recipe(store, strategies=None),
        }
        rates = {name: [] for name in variants}
        for round_number in range(rounds + 1):  # the first warms up
            for name, dataset in variants.items():
                rate = samples_per_second(dataset, round_number)
                if round_number:
                    rates[name].append(rate)
        print(f"\n{size_hw[1]}x{size_hw[0]}, {len(pairs)} pairs, {rounds} rounds   samples/s on one core")
        plain = np.median(rates["plain loader"])
        for name, values in rates.items():
            middle = np.median(values)
            print(f"  {name:28}{middle:8.1f} ({min(values):.1f}-{max(values):.1f}) {middle / plain:7.1f}x")
        print("  a sample from the store, ms: " + ", ".join(f"{k} {v:.2f}" for k, v in stages(store).items()))


def drop_cache(root: Path) -> None:
    """Ask the kernel to forget every file under root."""
    for path in root.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)


def start_up_s(root: Path) -> float:
    """Seconds from opening the store to the first batch of one worker."""
    start = time.perf_counter()
    transforms = [ResizedCrop(96, 64, random=True)]
    points = dict(grid_stride_px=32, nms_kernel=15)
    dataset = PropagationDataset(PairStore(root), transforms, part="train", val_share=0.02, **points)
    sampler = EpochSampler(dataset)
    loader = torch.utils.data.DataLoader(
        dataset, batch_size=BATCH, num_workers=1, sampler=sampler, collate_fn=default_collate
    )
    batches = iter(loader)
    next(batches)
    passed = time.perf_counter() - start
    del batches
    return passed


def read_rate(root: Path, positions: np.ndarray) -> float:
    """Samples per second that one core reads and decodes."""
    store = PairStore(root)
    start = time.perf_counter()
    for position in positions:
        store.read(int(position))
    return len(positions) / (time.perf_counter() - start)


def compare_sizes(video_dir: Path, num_samples: int, rounds: int) -> None:
    pairs = real_pairs(video_dir, SMALL_HW, 20)
    print(f"\nstores of {SMALL_HW[1]}x{SMALL_HW[0]} samples, {SAMPLES_PER_VIDEO} per video")
    print(
        f"  {'samples':>8} {'GB':>6} {'start, cold':>14} {'start, warm':>14} {'read/s, cold':>22} {'read/s, warm':>22}"
    )
    for count in (max(1, num_samples // 100), num_samples):
        with tempfile.TemporaryDirectory() as folder:
            samples = min(SAMPLES_PER_VIDEO, count)
            root = write_store(Path(folder) / "store", pairs, -(-count // samples), samples)
            size = sum(path.stat().st_size for path in root.rglob("*") if path.is_file()) / 1e9
            total, rng, seen = len(PairStore(root)), np.random.default_rng(0), {}
            for _ in range(rounds):
                positions = rng.choice(total, min(total, 1000), replace=False)
                for name, measure in (("start", start_up_s), ("read", lambda r, p=positions: read_rate(r, p))):
                    drop_cache(root)
                    seen.setdefault(f"{name} cold", []).append(measure(root))
                    seen.setdefault(f"{name} warm", []).append(measure(root))
        starts = [f"{np.median(seen[f'start {state}']):.2f} s" for state in ("cold", "warm")]
        reads = [_summary(seen[f"read {state}"]) for state in ("cold", "warm")]
        print(f"  {total:8d} {size:6.2f} {starts[0]:>14} {starts[1]:>14} {reads[0]:>22} {reads[1]:>22}")


def _summary(values: list[float]) -> str:
    return f"{np.median(values):.0f} ({min(values):.0f}-{max(values):.0f})"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video_dir", type=Path, help="folder of videos")
    parser.add_argument("--sizes", nargs="*", default=["360x480", "480x854"], help="HxW of the frames, px")
    parser.add_argument("--pairs", type=int, default=20, help="pairs per size, one per clip (default 20)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of all loaders in turn (default 5)")
    parser.add_argument("--large-samples", type=int, default=0, help="samples of the large store (default: none made)")
    args = parser.parse_args(argv)
    for size in args.sizes:
        if not re.fullmatch("[1-9][0-9]*x[1-9][0-9]*", size):
            parser.error(f"--sizes takes HxW, such as 360x480, got {size!r}")
    if min(args.pairs, args.rounds) < 1:
        parser.error("--pairs and --rounds must be at least 1")
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    try:
        for size in args.sizes:
            height, _, width = size.partition("x")
            compare_loaders(args.video_dir, (int(height), int(width)), args.pairs, args.rounds)
        if args.large_samples:
            compare_sizes(args.video_dir, args.large_samples, args.rounds)
    except (OSError, ValueError) as error:
        print(f"loader.py: {error}", file=sys.stderr)
        return 2
    print(f"\nmeasured {len(args.sizes)} sizes and {2 * bool(args.large_samples)} stores; nothing is left on disk")
    return 0


if __name__ == "__main__":
    run_command(main)
