"""Kills, full and read-only disks, vanished inputs, two jobs: nothing half-written, and the next run completes.

The long runs print the figures of docs/robustness.md: pytest -m slow tests/robustness -rP
"""

import os
import resource
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import killed_jobs
import numpy as np
import pytest

from cmp.datasets.pair_store import PairStore, check_store, read_records, shard_path
from data_prep import job
from data_prep.job import prepare_folder
from data_prep.parts import Part, merge_parts
from data_prep.settings import PrepareSettings
from tools.verify_store import main as verify

TOOLS = Path(__file__).resolve().parents[2] / "tools"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder of videos, two of them broken, and its store; do not change them."""
    root = tmp_path_factory.mktemp("made")
    killed_jobs.undisturbed(root, 8)
    assert (root / "expected" / "index.npz").is_file()
    return root


def command(videos, out):
    flags = [*killed_jobs.FLAGS, "--workers", "1"]
    return [sys.executable, str(TOOLS / "prepare_flow.py"), str(videos), str(out), *flags]


def assert_nothing_is_half_written(out):
    records = read_records(out)
    for video_id, record in records.items():
        if record["status"] == "done":
            assert shard_path(out, video_id).stat().st_size == record["shard"]["bytes"]
    assert not (out / "index.npz").exists()
    found = [damage for damage in check_store(out) if damage.file not in ("index.npz", "manifest.jsonl")]
    assert all("no record mentions it" in damage.problem for damage in found)  # shards whose record came too late


def test_a_few_kills_at_random_moments_change_nothing_in_the_end(tmp_path):
    given, ends, wrong = killed_jobs.kill_prepare(tmp_path, 2, 4, seed=1)
    assert wrong == [] and given.total() == 2 and ends >= 1


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", [0, 1])
def test_fifty_kills_at_random_moments_change_nothing_in_the_end(tmp_path, seed):
    given, ends, wrong = killed_jobs.kill_prepare(tmp_path, 50, 24, seed)
    print(killed_jobs.summary("prepare", given, ends, wrong))
    assert wrong == [] and given["job"] > 10 and given["worker"] > 5 and ends >= 1


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_repair_killed_at_random_moments_and_done_again_ends_with_the_same_bytes(tmp_path):
    given, ends, wrong = killed_jobs.kill_repair(tmp_path, 20, 24, seed=0)
    print(killed_jobs.summary("repair", given, ends, wrong))
    assert wrong == [] and given["job"] > 5 and ends >= 1


def test_a_repair_killed_in_its_middle_is_completed_by_the_next(made, tmp_path):
    store = Path(shutil.copytree(made / "expected", tmp_path / "store"))
    killed_jobs.damage(store, np.random.default_rng(3), 4)
    repair = ("verify_store.py", store, "--repair", made / "videos", "--workers", "1", "--quiet")
    process = killed_jobs.start(*repair)
    while process.poll() is None and not any("damaged" in p.read_text() for p in store.glob("videos/*.json")):
        pass  # until it has begun
    process.kill()
    process.wait()
    assert killed_jobs.contents(store) != killed_jobs.contents(made / "expected")
    killed_jobs.start(*repair).wait(100)
    assert killed_jobs.contents(store) == killed_jobs.contents(made / "expected")


def test_a_disk_that_takes_no_more_ends_the_job_with_its_reason_and_the_next_run_completes(made, tmp_path):
    out = tmp_path / "store"
    sizes = sorted(path.stat().st_size for path in (made / "expected" / "shards").iterdir())

    def limited():  # in the job and its workers: no file may grow beyond this
        resource.setrlimit(resource.RLIMIT_FSIZE, (sizes[-1] - 600, resource.RLIM_INFINITY))

    ran = subprocess.run(command(made / "videos", out), preexec_fn=limited, capture_output=True, text=True)
    assert ran.returncode == 1 and "cannot be written (File too large)" in ran.stderr
    assert ran.stderr.startswith("prepare_flow.py: ") and len(ran.stderr.splitlines()) == 1
    assert "StoreWriteError" not in ran.stderr and "; it needs " in ran.stderr
    assert_nothing_is_half_written(out)
    assert subprocess.run(command(made / "videos", out), capture_output=True).returncode == 0
    assert killed_jobs.contents(out) == killed_jobs.contents(made / "expected")


def in_own_mounts(script, folder):
    """Run a shell script that may mount, without leaving a trace; skips where that is not allowed."""
    if shutil.which("unshare") is None:
        pytest.skip("needs unshare")
    probe = ["unshare", "-rm", "mount", "-t", "tmpfs", "none", str(folder)]
    if subprocess.run(probe, capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    return subprocess.run(["unshare", "-rm", "sh", "-ec", script], capture_output=True, text=True)


@pytest.mark.slow
def test_a_full_disk_and_a_read_only_one_are_named_and_the_next_run_completes(made, tmp_path):
    disk, copy = tmp_path / "disk", tmp_path / "copy"
    disk.mkdir()
    run = " ".join(map(str, command(made / "videos", disk / "store")))
    # Pages of 4 KiB: the store needs some 200; then there is room for all; then it may not be written, nor a new one.
    script = f"""
        mount -t tmpfs -o size=120k none {disk}
        {run} || echo full $?
        cp -r {disk}/store {copy}-full
        mount -o remount,size=50m {disk}
        {run}
        cp -r {disk}/store {copy}
        rm {disk}/store/videos/000-*.json
        mount -o remount,ro {disk}
        {run} || echo sealed $?
        {run.replace("/store", "/another")} || echo sealed $?
    """
    ran = in_own_mounts(script, disk)
    errors = ran.stderr.splitlines()
    assert "full 1" in ran.stdout and "cannot be written (No space left on device)" in errors[0]
    assert_nothing_is_half_written(Path(f"{copy}-full"))
    assert killed_jobs.contents(copy) == killed_jobs.contents(made / "expected")
    assert ran.stdout.count("sealed 1") == 2
    assert errors[-1].startswith("prepare_flow.py: ") and "another" in errors[-1]
    assert "Read-only file system" in errors[-2]


@pytest.mark.usefixtures("prepared_in_this_process")
def test_an_input_that_vanishes_after_it_was_listed_costs_only_itself(made, tmp_path, monkeypatch):
    videos = Path(shutil.copytree(made / "videos", tmp_path / "videos"))
    settings = PrepareSettings(interval_frames=2, pairs_per_video=4, short_side_px=48)
    plain = job.find_videos

    def find_and_lose(*args, **kwargs):
        sources = plain(*args, **kwargs)
        os.rename(videos / "001.mp4", tmp_path / "away.mp4")
        return sources

    with monkeypatch.context() as patch:
        patch.setattr(job, "find_videos", find_and_lose)
        report = prepare_folder(videos, tmp_path / "store", settings, num_workers=1, show_progress=False)
    lost = [detail for path, reason, detail in report.failures if path == "001.mp4"]
    assert len(lost) == 1 and "No such file" in lost[0]
    os.rename(tmp_path / "away.mp4", videos / "001.mp4")
    prepare_folder(videos, tmp_path / "store", settings, num_workers=1, show_progress=False)
    assert killed_jobs.contents(tmp_path / "store") == killed_jobs.contents(made / "expected")


@pytest.mark.usefixtures("prepared_in_this_process")
def test_a_video_that_cannot_be_read_any_more_keeps_what_was_made_of_it(made, tmp_path):
    videos = Path(shutil.copytree(made / "videos", tmp_path / "videos"))
    (tmp_path / "archive").mkdir()
    for name in ("000.mp4", "001.mp4"):
        os.rename(videos / name, tmp_path / "archive" / name)
        (videos / name).symlink_to(tmp_path / "archive" / name)
    (videos / "never.mp4").symlink_to(tmp_path / "nothing.mp4")
    settings = PrepareSettings(interval_frames=2, pairs_per_video=4, short_side_px=48)
    out, whole = tmp_path / "store", tmp_path / "merged"
    run = partial(prepare_folder, videos, settings=settings, num_workers=1, show_progress=False)
    assert run(out).out_of_reach == []
    before = killed_jobs.contents(out)
    for index in (0, 1):
        run(whole, part=Part(index, 2))
    merge_parts(whole)
    merged = killed_jobs.contents(whole)
    os.rename(tmp_path / "archive", tmp_path / "away")
    report = run(out)
    assert report.out_of_reach == ["000.mp4", "001.mp4"] and report.failed == {"unreadable": 3}
    assert (report.videos, report.pairs) == (0, 0) and report.store_pairs == len(PairStore(out))
    assert killed_jobs.contents(out) == before
    for index in (0, 1):
        run(whole, part=Part(index, 2))
    merge_parts(whole)
    assert killed_jobs.contents(whole) == merged


def test_a_second_job_on_a_store_is_refused_and_the_first_goes_on(made, tmp_path):
    out = tmp_path / "store"
    first = killed_jobs.start("prepare_flow.py", made / "videos", out, *killed_jobs.FLAGS, "--workers", "1")
    while not (out / "store.json").is_file() and first.poll() is None:
        pass
    os.kill(first.pid, signal.SIGSTOP)  # else it might be done before the second has begun
    second = subprocess.run(command(made / "videos", out), capture_output=True, text=True)
    os.kill(first.pid, signal.SIGCONT)
    assert second.returncode == 2 and "another job is writing this store (host " in second.stderr
    assert "wait for it to end" in second.stderr
    assert first.wait(100) == 0
    assert killed_jobs.contents(out) == killed_jobs.contents(made / "expected")


@pytest.mark.usefixtures("prepared_in_this_process")
def test_random_flips_over_every_kind_of_file_are_all_found_and_repaired(made, tmp_path):
    rng = np.random.default_rng(0)
    store = Path(shutil.copytree(made / "expected", tmp_path / "store"))
    files = sorted(path for path in store.rglob("*") if path.is_file() and path.name != ".lock")
    for path in files:
        whole = path.read_bytes()
        for _ in range(8):
            data = bytearray(whole)
            for _ in range(rng.integers(1, 4)):
                data[rng.integers(len(data))] ^= 1 << rng.integers(8)
            if bytes(data) == whole:  # two flips of one bit
                continue
            path.write_bytes(data)
            assert str(path.relative_to(store)) in [damage.file for damage in check_store(store)]
        path.write_bytes(whole)
    for path in (files[i] for i in rng.choice(len(files), 5, replace=False)):
        data = bytearray(path.read_bytes())
        data[rng.integers(len(data))] ^= 1 << rng.integers(8)
        path.write_bytes(data)
    verify([str(store), "--repair", str(made / "videos"), "--quiet", "--workers", "1"])
    assert killed_jobs.contents(store) == killed_jobs.contents(made / "expected") and len(PairStore(store)) > 0
