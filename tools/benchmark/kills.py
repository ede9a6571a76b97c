"""Kill the preparation job at random moments, again and again, and compare with a run that was left alone.

    python tools/benchmark/kills.py
    python tools/benchmark/kills.py --kills 50 --seed 0 --videos 24
    python tools/benchmark/kills.py --what repair --kills 20

prepare: SIGKILL goes to the job's process or to one of its workers; a dead job is started again. A job that comes to
its end is compared with the undisturbed one, and a new store begun, until all kills are spent; then a last run ends
the store that is open.
repair: the same for `tools/verify_store.py --repair` on a store with flipped bits and missing files.

Every file of the stores must be the same, byte for byte. Exit status: 0; 1 if one is not.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the checkout's own packages, installed or not

from cmp.video import write_video

ROOT = Path(__file__).resolve().parents[2]
FLAGS = ["--interval-frames", "2", "--pairs-per-video", "4", "--short-side", "48", "--workers", "2", "--quiet"]
LIMIT_S = 300.0  # for a run that is left alone


def make_videos(folder: Path, count: int) -> None:
    """Clips of a sliding texture; every sixth file is cut short, every seventh is text."""
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
    """Every file of a store but the empty lock."""
    return {str(p.relative_to(store)): p.read_bytes() for p in store.rglob("*") if p.is_file() and p.name != ".lock"}


def start(tool: str, *arguments: object) -> subprocess.Popen:
    command = [sys.executable, str(ROOT / "tools" / tool), *map(str, arguments)]
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, start_new_session=True, **silent)


def workers_of(pid: int) -> list[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [int(child) for child in children if "spawn_main" in Path(f"/proc/{child}/cmdline").read_text()]
    except OSError:
        return []


def kill_until_spent(launch, finished, kills: int, usual_s: float, rng: np.random.Generator) -> tuple[Counter, int]:
    """Start a job with `launch()` and kill it or a worker at random moments.

    `finished(status)` is called when a job comes to its end. Returns how many kills went to whom, and how many jobs
    came to their end.
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
    found = contents(store)
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            what = "is missing" if name not in found else "is left over" if name not in expected else "differs"
            wrong.append(f"{store.name}/{name}: {what}")


def undisturbed(root: Path, videos: int) -> tuple[dict[str, bytes], float]:
    make_videos(root / "videos", videos)
    begin = time.monotonic()
    start("prepare_flow.py", root / "videos", root / "expected", *FLAGS).wait(LIMIT_S)
    return contents(root / "expected"), time.monotonic() - begin


def kill_prepare(root: Path, kills: int, videos: int, seed: int) -> tuple[Counter, int, list[str]]:
    """Returns how many kills went to whom, how many stores were ended, and what differs."""
    expected, usual_s = undisturbed(root, videos)
    wrong: list[str] = [] if "index.npz" in expected else ["the undisturbed run did not end"]
    stores = [root / "killed0"]

    def finished(status: int) -> None:
        if status != 0:
            wrong.append(f"{stores[-1].name}: its job ended with status {status}")
        compare(expected, stores[-1], wrong)
        shutil.rmtree(stores[-1])
        stores.append(root / f"killed{len(stores)}")

    def launch() -> subprocess.Popen:
        return start("prepare_flow.py", root / "videos", stores[-1], *FLAGS)

    given, ends = kill_until_spent(launch, finished, kills, usual_s, np.random.default_rng(seed))
    return given, ends, wrong


def damage(store: Path, rng: np.random.Generator, count: int) -> None:
    """Flip bits in some files, cut one and remove one; not the manifest, which alone knows of a record removed."""
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
    """As `kill_prepare`, of the repair."""
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
    given, ends = kill_until_spent(launch, finished, kills, usual_s, rng)
    return given, ends, wrong


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--what", choices=("prepare", "repair"), default="prepare", help="(default prepare)")
    parser.add_argument("--kills", type=int, default=50, metavar="N", help="SIGKILLs (default 50)")
    parser.add_argument("--videos", type=int, default=24, metavar="N", help="in the folder (default 24)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of moments and victims (default 0)")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as temporary:
        run = kill_prepare if args.what == "prepare" else kill_repair
        given, ends, wrong = run(Path(temporary), args.kills, args.videos, args.seed)
    for sentence in wrong:
        print(sentence, file=sys.stderr)
    print(
        f"{args.what}: {given['job']} kills of the job and {given['worker']} of a worker; {ends} jobs came to their "
        f"end, {len(wrong)} files differ from the undisturbed store"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
