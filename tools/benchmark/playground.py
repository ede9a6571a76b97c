"""Measure the playground: seconds from an arrow to the drawn flow, and to video, confidence and mask.

    python tools/benchmark/playground.py                    # the published plain ResNet-50, random weights, 384 x 384
    python tools/benchmark/playground.py --browser          # also in a headless Chromium, from the mouse's release on
    python tools/benchmark/playground.py --checkpoint ckpt_iter_42000.pth.tar --size 512

The image is a bundled photograph, encoded once, as the page does it. Medians of the rounds, with the range. --browser
needs the packages gradio and playwright and a Chromium.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from cmp.interrupts import exit_at_interrupt, run_command

if __name__ == "__main__":
    exit_at_interrupt()  # the imports below take seconds

import numpy as np
import torch
from inference import DECODERS, random_propagator
from PIL import Image
from skimage import data

from cmp.flow import flow_to_color, write_flow
from cmp.inference import MotionPropagator, load_propagator
from cmp.inference.animate import animate
from cmp.inference.arrows import check_arrows
from cmp.inference.interactive import draw_confidence, draw_moving_part, move_scene, open_scene
from cmp.playground.page import FPS, build_page
from cmp.playground.server import launch_page, own_folder
from cmp.video import write_video

NUM_FRAMES = 16  # as the page begins


def measure_parts(propagator: MotionPropagator, size: int, rounds: int) -> dict[str, list[float]]:
    """Seconds of every part, a list with one value per round."""
    image = np.array(Image.fromarray(data.astronaut()).resize((size, size)))
    times: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for i in range(rounds + 1):  # the first one warms up
            marks = [("", time.perf_counter())]
            scene = open_scene(propagator, image)
            marks.append(("an image opened (once for all its arrows)", time.perf_counter()))
            arrows = [[0.4 * size, 0.3 * size, 0.45 * size, (0.2 + 0.01 * i) * size], [9, 9, 9, 9]]
            motion = move_scene(propagator, scene, *check_arrows(arrows, (size, size)))
            flow_to_color(motion.flow)
            draw_confidence(motion.confidence)
            marks.append(("flow and confidence", time.perf_counter()))
            frames = list(animate(image, motion.flow, NUM_FRAMES))
            write_video(Path(folder) / "motion.mp4", frames, FPS)
            marks.append((f"video of {NUM_FRAMES} frames, MP4", time.perf_counter()))
            draw_moving_part(propagator, scene, motion)
            marks.append(("mask", time.perf_counter()))
            write_video(Path(folder) / "motion.gif", frames, FPS)
            write_flow(Path(folder) / "motion.flo", motion.flow)
            marks.append(("GIF and flow file, afterwards", time.perf_counter()))
            for (_, before), (name, after) in zip(marks, marks[1:]):
                times.setdefault(name, []).append(after - before)
            times.setdefault("arrow to flow, video, confidence and mask", []).append(marks[4][1] - marks[1][1])
    return {name: values[1:] for name, values in times.items()}


def measure_in_browser(propagator: MotionPropagator, size: int, rounds: int) -> dict[str, list[float]]:
    """Seconds from the release of the mouse to a new drawn flow, and to a new video and mask."""
    from playwright.sync_api import sync_playwright

    source = "(name) => (document.querySelector(`#playground-${name}`).querySelector('img, video') || {}).src || ''"
    changed = "([name, before]) => { const now = (" + source + ")(name); return now && now !== before; }"
    times: dict[str, list[float]] = {"in Chromium: arrow to drawn flow": [], "in Chromium: arrow to all four": []}
    executable = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with own_folder() as folder, sync_playwright() as playwright:
        page = build_page(propagator, folder, name="measured", long_side_px=size)
        address = launch_page(page, host="127.0.0.1", port=None, block=False)
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 1280, "height": 860})
        start = time.perf_counter()
        tab.goto(address)
        tab.wait_for_selector("#playground-flow img")
        times["in Chromium: page to the example's flow"] = [time.perf_counter() - start]
        tab.wait_for_selector("#playground-flo:not([disabled])")
        for i in range(rounds + 1):
            box = tab.locator("#playground-canvas canvas").bounding_box()
            before = {name: tab.evaluate(source, name) for name in ("flow", "video", "mask")}
            x, y = box["x"] + (0.2 + 0.05 * i) * box["width"], box["y"] + 0.5 * box["height"]
            tab.mouse.move(x, y)
            tab.mouse.down()
            tab.mouse.move(x + 30, y - 20, steps=3)
            start = time.perf_counter()
            tab.mouse.up()
            tab.wait_for_function(changed, arg=["flow", before["flow"]])
            flow_s = time.perf_counter() - start
            for name in ("video", "mask"):
                tab.wait_for_function(changed, arg=[name, before[name]])
            if i:
                times["in Chromium: arrow to drawn flow"].append(flow_s)
                times["in Chromium: arrow to all four"].append(time.perf_counter() - start)
            tab.wait_for_selector("#playground-flo:not([disabled])")
        browser.close()
        page.close()
    return times


def main(argv: list[str] | None = None) -> int:
    """Measure and print; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", help="measure this network instead of a published one with random weights")
    parser.add_argument("--decoder", choices=DECODERS, default="plain", help="default: %(default)s")
    parser.add_argument("--size", type=int, default=384, metavar="PX", help="side of the image (default: 384)")
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--browser", action="store_true", help="also drive the page in Chromium")
    parser.add_argument("--device", default="cpu", help="default: %(default)s")
    args = parser.parse_args(argv)

    if args.size < 16 or args.rounds < 1:
        parser.error(f"--size must be at least 16 and --rounds 1, got {args.size} and {args.rounds}")
    if args.checkpoint:
        try:
            propagator = load_propagator(args.checkpoint, device=args.device)
        except (ValueError, OSError) as error:
            parser.error(str(error))
    else:
        propagator = random_propagator(args.decoder, torch.float32).to(args.device)
    times = measure_parts(propagator, args.size, args.rounds)
    if args.browser:
        times |= measure_in_browser(propagator, args.size, args.rounds)
    print(
        f"{args.checkpoint or args.decoder + ' ResNet-50'} at {args.size} x {args.size} on {args.device} "
        f"({torch.get_num_threads()} threads), medians of {args.rounds} rounds, s"
    )
    for name, values in times.items():
        print(f"  {name:45s} {statistics.median(values):6.3f} ({min(values):.3f}-{max(values):.3f})")
    return 0


if __name__ == "__main__":
    run_command(main)
