"""Kill a job at random moments, again and again, and compare its store with that of a job that nobody disturbed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from cmp.video import write_video

ROOT = Path(__file__).resolve().parents[2]
FLAGS = ["--interval-frames", "2", "--pairs-per-video", "4", "--short-side", "48", "--workers", "2", "--quiet"]
LIMIT_S = 300.0  # for a run that nobody kills


def make_videos(folder: Path, count: int) -> None:
    """Write clips of a sliding texture; every sixth file is cut short, every seventh is text."""
    folder.mkdir(parents=True)
    for number in range(count):
        path = folder / f"{number:03d}.mp4"
        noise = np.random.default_rng(number).integers(0, 255, (12, 40, 3), np.uint8)
        ground = cv2.resize(noise, (160, 64), interpolation=cv2.INTER_CUBIC)
        write_video(path, (ground[:, 2 * i : 2 * i + 96] for i in range(24)), 25)
        if number % 6 == 5:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        elif number % 7 == 6:
            path.write_text("not a video")


def contents(store: Path) -> dict[str, bytes]:
    """The bytes of every file of a store by its path, without the lock."""
    return {str(p.relative_to(store)): p.read_bytes() for p in store.rglob("*") if p.is_file() and p.name != ".lock"}


def start(tool: str, *arguments: object) -> subprocess.Popen:
    """Start a command of `tools/`, without its output."""
    command = [sys.executable, str(ROOT / "tools" / tool), *map(str, arguments)]
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, start_new_session=True, **silent)


def workers_of(pid: int) -> list[int]:
    """Process ids of the workers of a job; Linux only."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [int(child) for child in children if "spawn_main" in Path(f"/proc/{child}/cmdline").read_text()]
    except OSError:
        return []


def kill_repeatedly(
    launch: Callable[[], subprocess.Popen],
    finished: Callable[[int], None],
    kills: int,
    usual_s: float,
    rng: np.random.Generator,
) -> tuple[Counter, int]:
    """Start a job and send SIGKILL to it or to one of its workers at random moments, `kills` times.

    Args:
        launch: starts a job; called again after the job was killed or has ended.
        finished: called with the exit status of every job that ended by itself.
        usual_s: seconds that an undisturbed job takes; the waits before the kills are uniform in 0 .. usual_s.

    Returns:
        How many kills hit the "job" and a "worker", and how many jobs ended by themselves. The last job is never
        killed.
    """
    given, ends = Counter(), 0
    process = launch()
    while given.total() < kills:
        end = time.monotonic() + rng.uniform(0.0, usual_s)
        while time.monotonic() < end and process.poll() is None:
            time.sleep(0.002)
        if process.poll() is not None:
            finished(process.returncode)
            ends += 1
            process = launch()
            continue
        workers = workers_of(process.pid)
        victim = "worker" if workers and rng.integers(2) else "job"
        try:
            os.kill(int(rng.choice(workers)) if victim == "worker" else process.pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
        given[victim] += 1
        if victim == "job":
            process.wait()
            process = launch()
    finished(process.wait(LIMIT_S))
    return given, ends + 1


def compare(expected: dict[str, bytes], store: Path, wrong: list[str]) -> None:
    """Append one line to `wrong` for every file of the store that differs, is missing or is left over."""
    found = contents(store)
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            what = "is missing" if name not in found else "is left over" if name not in expected else "differs"
            wrong.append(f"{store.name}/{name}: {what}")


def undisturbed(root: Path, videos: int) -> tuple[dict[str, bytes], float]:
    """Make root/videos and prepare root/expected; returns the bytes of its files and the seconds it took."""
    make_videos(root / "videos", videos)
    begin = time.monotonic()
    start("prepare_flow.py", root / "videos", root / "expected", *FLAGS).wait(LIMIT_S)
    return contents(root / "expected"), time.monotonic() - begin


def kill_prepare(root: Path, kills: int, videos: int, seed: int) -> tuple[Counter, int, list[str]]:
    """Kill tools/prepare_flow.py. A job that ends is compared with the undisturbed one, and the next store is begun.

    Returns how many kills hit the job and a worker, how many jobs ended, and one line per difference.
    """
    expected, usual_s = undisturbed(root, videos)
    wrong: list[str] = [] if "index.npz" in expected else ["the undisturbed run failed"]
    stores = [root / "killed0"]

    def finished(status: int) -> None:
        if status != 0:
            wrong.append(f"{stores[-1].name}: its job ended with status {status}")
        compare(expected, stores[-1], wrong)
        shutil.rmtree(stores[-1])
        stores.append(root / f"killed{len(stores)}")

    def launch() -> subprocess.Popen:
        return start("prepare_flow.py", root / "videos", stores[-1], *FLAGS)

    given, ends = kill_repeatedly(launch, finished, kills, usual_s, np.random.default_rng(seed))
    return given, ends, wrong


def damage(store: Path, rng: np.random.Generator, count: int) -> None:
    """Remove one file of a store, cut one, and flip bits in others, `count` in all.

    The manifest is left as it is: if a record is removed, only the manifest still names its video.
    """
    safe = (".lock", "store.json", "manifest.jsonl")
    files = sorted(path for path in store.rglob("*") if path.is_file() and path.name not in safe)
    chosen = [files[i] for i in rng.choice(len(files), count, replace=False)]
    for number, path in enumerate(chosen):
        data = bytearray(path.read_bytes())
        if number == 0:
            path.unlink()
        elif number == 1:
            path.write_bytes(data[: len(data) // 2])
        else:
            data[rng.integers(len(data))] ^= 1 << rng.integers(8)
            path.write_bytes(data)


def kill_repair(root: Path, kills: int, videos: int, seed: int) -> tuple[Counter, int, list[str]]:
    """The same as `kill_prepare` for `tools/verify_store.py --repair` on a damaged store."""
    rng = np.random.default_rng(seed)
    expected, usual_s = undisturbed(root, videos)
    wrong: list[str] = []
    store = root / "damaged"

    def renew() -> None:
        shutil.rmtree(store, ignore_errors=True)
        shutil.copytree(root / "expected", store)
        damage(store, rng, max(3, videos // 3))

    def finished(status: int) -> None:
        compare(expected, store, wrong)
        renew()

    def launch() -> subprocess.Popen:
        return start("verify_store.py", store, "--repair", root / "videos", "--workers", "2", "--quiet")

    renew()
    given, ends = kill_repeatedly(launch, finished, kills, usual_s, rng)
    return given, ends, wrong


def summary(what: str, given: Counter, ends: int, wrong: list[str]) -> str:
    """The line of docs/robustness.md."""
    return (
        f"{what}: {given['job']} kills of the job and {given['worker']} of a worker; {ends} jobs came to their end, "
        f"{len(wrong)} files differ from the undisturbed store"
    )
