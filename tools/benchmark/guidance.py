"""Time the choice of guides, stage by stage, beside the same stages in plain SciPy.

    python tools/benchmark/guidance.py --sizes 384x384 480x854 --kernel 41 --stride-px 80

Both run in turn within every round, on one thread, on drawn flow (discs that turn and slide over a slow background,
with a little noise), so that the ratio holds on a machine that is shared. Both see the pixels that the sampler would
look at (every second one at 480x854). Prints the median milliseconds of each stage. With --device, also what
`batched_guidance` takes for whole batches there, the flow being there already.
"""

import argparse
import time

from cmp.interrupts import exit_at_interrupt, run_command

if __name__ == "__main__":
    exit_at_interrupt()  # the imports below take seconds

import cv2
import numpy as np
import torch
from scipy.ndimage import distance_transform_edt, maximum_filter
from scipy.signal import convolve2d

from cmp.guidance import local_maxima, motion_edges, sample_guidance, thin_points, watershed_map
from cmp.guidance.batched import batched_guidance

SOBEL = np.array([[1, 0, -1], [2, 0, -2], [1, 0, -1]], np.float32)
STAGES = ("edges", "distance", "maxima", "all three", "thinning", "sample_guidance")


def draw_flow(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Draw (H, W, 2) float32 flow, px: 8 discs, each sliding and turning, over a background that zooms slowly."""
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    flow = 0.005 * np.stack([columns - width / 2, rows - height / 2], axis=-1)
    for _ in range(8):
        y, x = rng.uniform(0, (height, width))
        radius = rng.uniform(0.05, 0.25) * min(height, width)
        turn, (slide_x, slide_y) = rng.uniform(-0.1, 0.1), rng.uniform(-15, 15, 2)
        inside = np.hypot(rows - y, columns - x) < radius
        turned = np.stack([slide_x - turn * (rows - y), slide_y + turn * (columns - x)], axis=-1)
        flow[inside] = turned[inside]
    return (flow + rng.normal(0, 0.05, flow.shape)).astype(np.float32)


def scipy_edges(flow: np.ndarray) -> np.ndarray:
    """The Sobel magnitudes of both channels, added, by four calls of convolve2d."""
    edges = np.zeros(flow.shape[:2], np.float32)
    for channel in (flow[..., 0], flow[..., 1]):
        change_x = convolve2d(channel, SOBEL, boundary="symm", mode="same")
        change_y = convolve2d(channel, SOBEL.T, boundary="symm", mode="same")
        edges += np.sqrt(change_x**2 + change_y**2)
    return edges


def scipy_distance(edges: np.ndarray) -> np.ndarray:
    """The distance to the nearest edge by distance_transform_edt."""
    return distance_transform_edt(~(edges / max(edges.max(), 0.01) > 0.1))


def scipy_maxima(distances: np.ndarray, kernel: int) -> np.ndarray:
    """The local maxima by maximum_filter, border dropped."""
    found = (distances >= maximum_filter(distances, size=kernel)) & (distances > 0)
    found[[0, -1], :] = found[:, [0, -1]] = False
    return np.argwhere(found)


def timed(function, *args, **kwargs):
    """Call function once; return (result, milliseconds)."""
    start = time.perf_counter()
    result = function(*args, **kwargs)
    return result, 1e3 * (time.perf_counter() - start)


def measure(height: int, width: int, *, kernel: int, stride_px: int, rounds: int, seed: int) -> dict[str, list[float]]:
    """Time every stage, ours and SciPy's, `rounds` times on new flow; return stage name -> milliseconds."""
    rng = np.random.default_rng(seed)
    step = max(1, max(height, width) // 400)
    times = {}
    for round_number in range(rounds + 1):  # the first round warms up and is not counted
        flow = draw_flow(height, width, rng)
        seen = np.ascontiguousarray(flow[::step, ::step])
        row = {}
        edges, row["edges"] = timed(motion_edges, seen)
        plain_edges, row["scipy edges"] = timed(scipy_edges, seen)
        distances, row["distance"] = timed(watershed_map, edges)
        plain_distances, row["scipy distance"] = timed(scipy_distance, plain_edges)
        candidates, row["maxima"] = timed(local_maxima, distances, kernel)
        plain_candidates, row["scipy maxima"] = timed(scipy_maxima, plain_distances, kernel)
        _, row["thinning"] = timed(thin_points, candidates, (kernel - 1) / 2, rng=rng)
        _, row["sample_guidance"] = timed(sample_guidance, flow, rng=rng, grid_stride_px=stride_px, nms_kernel=kernel)
        row["all three"] = row["edges"] + row["distance"] + row["maxima"]
        row["scipy all three"] = row["scipy edges"] + row["scipy distance"] + row["scipy maxima"]
        if not np.array_equal(candidates, plain_candidates):
            # A pixel within float rounding of the edge threshold: rare, and no reason to stop a measurement.
            print(f"  round {round_number}: the two sets of maxima differ")
        if round_number > 0:
            for name, milliseconds in row.items():
                times.setdefault(name, []).append(milliseconds)
    return times


def measure_batched(
    height: int, width: int, *, device: str, batch: int, kernel: int, stride_px: int, rounds: int, seed: int
) -> list[float]:
    """Time `batched_guidance` on a device; milliseconds an image of each round."""
    rng = np.random.default_rng(seed)
    drawn = np.stack([draw_flow(height, width, rng) for _ in range(batch)])
    flow = torch.from_numpy(drawn.transpose(0, 3, 1, 2).copy()).to(device)
    generator = torch.Generator(device).manual_seed(seed)
    times = []
    for round_number in range(rounds + 1):  # the first round compiles and is not counted
        start = time.perf_counter()
        batched_guidance(flow, generator=generator, grid_stride_px=stride_px, nms_kernel=kernel)
        if device != "cpu":
            torch.cuda.synchronize()
        if round_number > 0:
            times.append(1e3 * (time.perf_counter() - start) / batch)
    return times


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["256x256", "384x384", "480x854"], help="HxW of the flow, px")
    parser.add_argument("--kernel", type=int, default=41, help="window K of the local maxima, px (default 41)")
    parser.add_argument("--stride-px", type=int, default=80, help="stride of the grid, px (default 80)")
    parser.add_argument("--rounds", type=int, default=30, help="rounds a size, each on new flow (default 30)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the drawn flow (default 0)")
    parser.add_argument("--device", choices=["cpu", "cuda"], help="also time whole batches in torch there")
    parser.add_argument("--batch", type=int, default=64, help="images in such a batch (default 64)")
    args = parser.parse_args(argv)

    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        print(f"median ms (lowest-highest) of {args.rounds} rounds, one thread, K {args.kernel}")
        for size in args.sizes:
            height, width = map(int, size.split("x"))
            times = measure(
                height, width, kernel=args.kernel, stride_px=args.stride_px, rounds=args.rounds, seed=args.seed
            )
            print(f"{size:>9}  {'stage':16} {'cmp.guidance':>22} {'plain SciPy':>22}  ratio")
            for stage in STAGES:
                ours, plain = times[stage], times.get(f"scipy {stage}")
                line = f"{'':9}  {stage:16} {_summary(ours):>22}"
                if plain:
                    line += f" {_summary(plain):>22}  {np.median(plain) / np.median(ours):.1f}x"
                print(line)
            if args.device:
                chosen = dict(kernel=args.kernel, stride_px=args.stride_px, rounds=args.rounds, seed=args.seed)
                times = measure_batched(height, width, device=args.device, batch=args.batch, **chosen)
                print(f"{'':9}  batched_guidance, {args.batch} on {args.device}, ms an image: {_summary(times)}")
    finally:
        cv2.setNumThreads(threads)


def _summary(milliseconds: list[float]) -> str:
    return f"{np.median(milliseconds):.2f} ({min(milliseconds):.2f}-{max(milliseconds):.2f})"


if __name__ == "__main__":
    run_command(main)
