"""Measure warping against the real other frame: PSNR and SSIM with ground-truth flow, both ways.

    python tools/benchmark/warp.py FLOW_DIR
    python tools/benchmark/warp.py FLOW_DIR --picture warp.jpg

FLOW_DIR as for tools/benchmark/estimators.py. The true flow from 1 to 2 warps frame 1 forward onto frame 2 (splatting),
and frame 2 backward onto frame 1 (sampling). A cell is PSNR in dB / SSIM (scikit-image), means over the pairs of a set.
Where the true flow has gaps (KITTI), SSIM and holes are left out: the windows of SSIM would contain the gaps.

The pixels that are compared: "visible" are those that both frames show, according to the true flow alone
(`visible_pixels`: there and back within 1 px; in frame 2, at least half a visible pixel landed there); "holes" are the
pixels of frame 2 on which nothing landed; "hidden" are those whose flow is known and which are not visible. "no warp"
is the other frame, unchanged, on the same pixels. The table in docs/animate.md is what this prints.
"""

import argparse
import sys
from collections import defaultdict
from pathlib import Path

from cmp.interrupts import exit_at_interrupt, run_command

if __name__ == "__main__":
    exit_at_interrupt()  # the imports below take seconds

import cv2
import numpy as np
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from cmp.files import write_file
from cmp.flow import read_flow, warp_backward
from cmp.inference.animate import COVERED, animate, fill_holes, splat_forward, visible_pixels
from tools.benchmark.estimators import Example, find_examples, read_frame

DENSE = 0.9  # share of known flow from which on a hole is a hole and not a gap in the ground truth


def score(image: np.ndarray, truth: np.ndarray, pixels: np.ndarray) -> tuple[float, float]:
    """PSNR in dB and SSIM of two (H, W, 3) pictures, values 0..255, over (H, W) bool pixels; NaN without any.

    The SSIM's windows reach beyond the pixels; its value counts at them only.
    """
    if not pixels.any():
        return np.nan, np.nan
    image, truth = image.astype(np.float64), truth.astype(np.float64)
    psnr = peak_signal_noise_ratio(truth[pixels], image[pixels], data_range=255)
    _, similarity = structural_similarity(truth, image, data_range=255, channel_axis=2, full=True)
    return psnr, similarity[pixels].mean()


def to_tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None].float()


def to_image(image: torch.Tensor) -> np.ndarray:
    return image[0].permute(1, 2, 0).numpy()


def measure(example: Example) -> tuple[dict[str, tuple[float, float]], dict[str, float], dict[str, np.ndarray]]:
    """Scores by row, shares of pixels, and pictures of one pair."""
    first, second = read_frame(example.first), read_frame(example.second)
    flow, known = read_flow(example.truth, return_valid=True)
    flow = to_tensor(np.where(known[..., None], flow, np.nan).astype(np.float32))
    visible = visible_pixels(flow)  # in frame 1
    softmax, landed = splat_forward(to_tensor(first), flow)
    average, _ = splat_forward(to_tensor(first), flow, torch.zeros_like(flow[:, :1]))
    fetched = to_image(warp_backward(to_tensor(second), flow, padding="border"))
    visible_flow = torch.where(visible, flow, torch.nan)
    seen = (splat_forward(to_tensor(first), visible_flow)[1][0, 0] >= COVERED).numpy()  # in frame 2
    visible = visible[0, 0].numpy()
    dense = known.mean() >= DENSE
    holes = (landed[0, 0] == 0).numpy() & dense
    alike = to_image(fill_holes(softmax, landed))
    *_, ours = animate(first, flow[0].permute(1, 2, 0).numpy(), 2)
    *_, reversed_flow = animate(first, flow[0].permute(1, 2, 0).numpy(), 2, method="backward")
    hidden = known & ~visible
    rows = {
        "frame 2, visible: no warp": score(first, second, seen),
        "frame 2, visible: splat, plain average": score(to_image(average), second, seen),
        "frame 2, visible: splat, softmax": score(to_image(softmax), second, seen),
        "frame 2, visible: fetched through the reversed flow": score(reversed_flow, second, seen),
        "frame 2, holes: no warp": score(first, second, holes),
        "frame 2, holes: filled from all around": score(alike, second, holes),
        "frame 2, holes: filled from behind (default)": score(ours, second, holes),
        "frame 2, holes: fetched through the reversed flow": score(reversed_flow, second, holes),
        "frame 1, visible: no warp": score(second, first, visible),
        "frame 1, visible: backward warp": score(fetched, first, visible),
        "frame 1, hidden: no warp": score(second, first, hidden),
        "frame 1, hidden: backward warp": score(fetched, first, hidden),
    }
    if not dense:
        rows = {row: (psnr, np.nan) for row, (psnr, _) in rows.items()}
    shares = {
        "frame 1 with known flow": known.mean(),
        "frame 1 visible": visible.mean(),
        "frame 2 visible": seen.mean(),
        "frame 2 holes": holes.mean() if dense else np.nan,
    }
    uncovered = np.where(holes[..., None], np.uint8(255), to_image(softmax).clip(0, 255).astype(np.uint8))
    masked = np.where(visible[..., None], fetched.clip(0, 255).astype(np.uint8), np.uint8(255))
    pictures = {"frame 1": first, "frame 2": second, "splat": uncovered, "filled": ours, "backward": masked}
    return rows, shares, pictures


def draw(pictures: list[dict[str, np.ndarray]], width: int = 380) -> np.ndarray:
    """One row a pair, one column a picture, the names on top."""
    rows = []
    for entry in pictures:
        height = round(width * entry["frame 1"].shape[0] / entry["frame 1"].shape[1])
        row = [
            cv2.resize(np.ascontiguousarray(p), (width, height), interpolation=cv2.INTER_AREA) for p in entry.values()
        ]
        rows.append(np.concatenate(row, axis=1))
    titles = np.full((26, rows[0].shape[1], 3), 255, np.uint8)
    names = ("frame 1", "frame 2", "frame 1 splatted, holes white", "holes filled", "frame 2 fetched, hidden white")
    for i, name in enumerate(names):
        cv2.putText(titles, name, (i * width + 8, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
    return np.concatenate([titles, *rows])


def mean(values: list[float]) -> float:
    values = [value for value in values if not np.isnan(value)]
    return float(np.mean(values)) if values else np.nan


def main(argv: list[str] | None = None) -> int:
    """Measure and print; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("flow_dir", type=Path, metavar="FLOW_DIR", help="folder with the sets")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="also draw a pair of each set with dense flow")
    args = parser.parse_args(argv)
    sets = find_examples(args.flow_dir)
    if not sets:
        print(f"{args.flow_dir}: holds none of middlebury/, flyingchairs/, kitti/", file=sys.stderr)
        return 1
    cells, shares, pictures = defaultdict(dict), defaultdict(dict), []
    try:
        for name, examples in sets.items():
            results = [measure(example) for example in examples]
            for row in results[0][0]:
                cells[row][name] = [mean([result[0][row][i] for result in results]) for i in (0, 1)]
            for row in results[0][1]:
                shares[row][name] = mean([result[1][row] for result in results])
            if not np.isnan(shares["frame 2 holes"][name]):
                pictures.append(max(results, key=lambda result: result[1]["frame 2 holes"])[2])
        if args.picture and pictures:
            encoded = cv2.imencode(args.picture.suffix, cv2.cvtColor(draw(pictures), cv2.COLOR_RGB2BGR))[1]
            write_file(args.picture, encoded.tobytes())
    except (ValueError, OSError, cv2.error) as error:
        print(f"warp.py: {error}", file=sys.stderr)
        return 1
    print("pairs: " + ", ".join(f"{len(e)} {n}" for n, e in sets.items()) + "; cells: PSNR dB / SSIM")
    print("| | " + " | ".join(sets) + " |\n|" + " --- |" * (len(sets) + 1))
    for row, entry in cells.items():
        texts = ((f"{psnr:.2f}", f"{ssim:.3f}") for psnr, ssim in entry.values())
        print(f"| {row} | " + " | ".join(" / ".join(text).replace("nan", "-") for text in texts) + " |")
    for row, entry in shares.items():
        texts = ("-" if np.isnan(share) else f"{100 * share:.1f} %" for share in entry.values())
        print(f"| share: {row} | " + " | ".join(texts) + " |")
    return 0


if __name__ == "__main__":
    run_command(main)
