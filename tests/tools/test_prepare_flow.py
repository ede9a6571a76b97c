"""The command: what it prints and returns, and that killing it changes nothing in the end."""

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from cmp.cli import prepare
from cmp.datasets.pair_store import PairStore, lock_store, read_manifest
from cmp.video import write_video

TOOL = Path(__file__).resolve().parents[2] / "tools" / "prepare_flow.py"
FLAGS = ["--interval-frames", "2", "--pairs-per-video", "3", "--short-side", "48", "--workers", "2", "--quiet"]


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("prepare_flow", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def main(tool):
    return tool.main


def make_clip(path, seed, count=10, size_hw=(56, 72)):
    rng = np.random.default_rng(seed)
    height, width = size_hw
    ground = cv2.resize(rng.integers(0, 255, (10, 30, 3), np.uint8), (width + 3 * count, height))
    write_video(path, (ground[:, 3 * i : 3 * i + width] for i in range(count)), 25)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Eleven good clips under awkward names, two broken copies of one, and files of no concern."""
    root = tmp_path_factory.mktemp("videos")
    (root / "sub folder").mkdir()
    names = ["a.mp4", "b b.mp4", "sub folder/c.mp4", "ü日.mp4", "new\nline.mp4", "percent%03d.mp4", "semi;colon:.mp4"]
    names += [f"more{number}.mp4" for number in range(4)]
    for seed, name in enumerate(names):
        make_clip(root / name, seed)
    data = (root / "a.mp4").read_bytes()
    (root / "cut.mp4").write_bytes(data[: len(data) // 3])
    (root / "text.mp4").write_text("not a video")
    (root / "notes.txt").write_text("not a video either")
    return root


@pytest.fixture(scope="module")
def undisturbed(main, videos, tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed") / "store"
    assert main([str(videos), str(out), *FLAGS]) == 0
    return out


def contents(root):
    """Every file of a store but the empty lock."""
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file() and p.name != ".lock"}


def start(videos, out):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(TOOL), str(videos), str(out), *FLAGS]
    return subprocess.Popen(
        command,
        env=environment,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        # A shell that runs the tests in the background has Ctrl-C ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def wait_until(condition, process, limit_s=60):
    end = time.monotonic() + limit_s
    while not condition() and process.poll() is None:
        assert time.monotonic() < end, "the job did not come so far"
        time.sleep(0.002)


def count(folder):
    return len(os.listdir(folder)) if folder.is_dir() else 0


def workers_of(process):
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(child) for child in children if "spawn_main" in Path(f"/proc/{child}/cmdline").read_text()]


def is_running(pid):
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


def test_every_video_gets_a_record_and_the_last_line_counts_them(main, videos, tmp_path, capsys):
    out = tmp_path / "store"
    assert main([str(videos), str(out), *FLAGS]) == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines()[-1] == (
        f"13 videos: wrote 11 videos, 33 pairs; skipped 0; failed 2 (unreadable 2); dropped pairs 0; 33 pairs in {out}"
    )
    assert "'cut.mp4': unreadable" in captured.err and "'text.mp4': unreadable" in captured.err
    lines = read_manifest(out)
    assert {line["source"]["path"]: line["status"] for line in lines}["new\nline.mp4"] == "done" and len(lines) == 13
    assert main([str(videos), str(out), *FLAGS, "--strict"]) == 1
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.startswith("13 videos (13 settled before): wrote 0 videos, 0 pairs;")


def test_broken_videos_change_nothing_for_the_good_ones(main, videos, undisturbed, tmp_path):
    good = tmp_path / "good"
    shutil.copytree(videos, good, ignore=shutil.ignore_patterns("cut.mp4", "text.mp4"))
    assert main([str(good), str(tmp_path / "store"), *FLAGS, "--strict"]) == 0
    with_bad, without = contents(undisturbed), contents(tmp_path / "store")
    shards = [name for name in with_bad if name.startswith("shards")]
    assert len(shards) == 11 and all(with_bad[name] == without[name] for name in [*shards, "index.npz", "store.json"])


def test_a_job_killed_at_five_moments_and_run_again_gives_the_same_bytes(videos, undisturbed, tmp_path):
    out = tmp_path / "store"
    moments = [
        lambda: (out / "store.json").is_file(),
        lambda: count(out / ".tmp") > 0,
        lambda: count(out / "shards") >= 2,
        lambda: count(out / "videos") >= 6,
        lambda: (out / "manifest.jsonl").is_file(),
    ]
    for moment in moments:
        process = start(videos, out)
        wait_until(moment, process)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert len(PairStore(out)) <= 33  # what is there can be read
    process = start(videos, out)
    assert process.wait(120) == 0
    assert contents(out) == contents(undisturbed)


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
def test_losing_the_parent_alone_ctrl_c_and_losing_workers_change_nothing_in_the_end(videos, undisturbed, tmp_path):
    out = tmp_path / "store"

    process = start(videos, out)
    wait_until(lambda: count(out / "videos") >= 1, process)
    orphans = workers_of(process)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    end = time.monotonic() + 10
    while any(map(is_running, orphans)) and time.monotonic() < end:
        time.sleep(0.02)
    assert orphans and not any(map(is_running, orphans))
    assert start(videos, out).wait(120) == 0 and contents(out) == contents(undisturbed)

    out = tmp_path / "stopped"
    process = start(videos, out)
    wait_until(lambda: count(out / "videos") >= 1, process)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(30) == 130

    done = count(out / "videos")
    process = start(videos, out)
    wait_until(lambda: count(out / "videos") > done, process)
    for worker in workers_of(process):
        os.kill(worker, signal.SIGKILL)
    assert process.wait(120) == 0
    assert contents(out) == contents(undisturbed)


def test_ctrl_c_ends_the_job_with_a_word_on_how_to_go_on(main, videos, tmp_path, capsys, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("data_prep.job.prepare_folder", interrupted)
    assert main([str(videos), str(tmp_path / "store")]) == 130
    assert "run the same command again" in capsys.readouterr().err


def test_folders_without_videos_and_a_store_in_use_are_clear_errors(main, videos, undisturbed, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert main([str(tmp_path / "empty"), str(tmp_path / "s")]) == 2
    assert "contains no videos" in capsys.readouterr().err and not (tmp_path / "s").exists()
    assert main([str(tmp_path / "absent"), str(tmp_path / "s")]) == 2
    assert "absent: no such folder" in capsys.readouterr().err
    with lock_store(undisturbed):
        assert main([str(videos), str(undisturbed), *FLAGS]) == 2
    assert "another job" in capsys.readouterr().err
    assert main([str(videos), str(undisturbed), *FLAGS, "--codec", "float32"]) == 2
    assert "codec was 'half16' and is now 'float32'" in capsys.readouterr().err


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
@pytest.mark.parametrize("flags", [["--workers", "0"], ["--stall-seconds", "nan"], ["--deadline-factor", "-1"]])
def test_senseless_limits_are_refused_before_anything_is_written(main, videos, tmp_path, capsys, flags, dry):
    assert main([str(videos), str(tmp_path / "s"), *flags, *dry]) == 2
    assert f"got {flags[1]}" in capsys.readouterr().err and not (tmp_path / "s").exists()


def test_the_folder_of_the_videos_cannot_be_the_store(main, videos, capsys):
    before = sorted(path.name for path in videos.iterdir())
    assert main([str(videos), str(videos / "."), *FLAGS]) == 2
    assert "is the folder of the videos" in capsys.readouterr().err
    assert sorted(path.name for path in videos.iterdir()) == before


@pytest.mark.usefixtures("prepared_in_this_process")
def test_a_dry_run_prints_estimates_and_writes_nothing(main, videos, tmp_path, capsys):
    out = tmp_path / "store"
    assert main([str(videos), str(out), *FLAGS, "--dry-run", "--dry-run-videos", "4"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f"dry run: nothing was written to {out}" and not out.exists()
    assert "13 found, 11 with" in lines[0] and "4 of them sampled" in lines[0]
    assert lines[1].split()[:2] == ["chosen", "33"] and lines[2].split()[:4] == ["pairs", "33", "+-", "0"]


def test_nothing_usable_is_a_failure(main, tmp_path, capsys):
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "v.mp4").write_text("text")
    assert main([str(tmp_path / "videos"), str(tmp_path / "s"), "--quiet", "--workers", "1"]) == 1
    assert "failed 1 (unreadable 1)" in capsys.readouterr().out


@pytest.mark.parametrize(
    "flags",
    [
        ["--interval", "3"],
        ["--interval-frames", "0"],
        ["--workres", "2"],
        ["--stride-frames", "2", "--stride-seconds", "1"],
        ["--estimator", "magic"],
        ["--max-flow", "nan"],
        ["--max-flow", "inf"],
        ["--folder-fps", "nan"],
        ["--interval-seconds", "inf"],
        ["--stride-seconds", "nan"],
        ["--max-unexplained", "nan"],
        ["--min-moving-share", "inf"],
        ["--refilter", "--max-inconsistent", "nan"],
        ["--refilter", "--max-flow", "40"],
        ["--refilter", "--interval-frames", "3"],
        ["--refilter", "--executor", "ray"],
        ["--refilter", "--dry-run"],
        ["--refilter", "--task-index", "0", "--num-tasks", "2"],
        ["--refilter", "--workers", "2"],
        ["--refilter", "--retry-failed"],
        ["--dry-run", "--retry-failed"],
        ["--dry-run", "--strict"],
        ["--task-index", "0"],
        ["--num-tasks", "2"],
        ["--task-index", "2", "--num-tasks", "2"],
        ["--task-index", "0", "--num-tasks", "0"],
        ["--executor", "ray", "--task-index", "0", "--num-tasks", "2"],
        ["--executor", "ray", "--estimator", "raft-small", "--estimator-device", "cuda:1"],
        ["--executor", "ray", "--gpus-per-task", "-1"],
        ["--ray-address", "auto"],
        ["--dry-run", "--executor", "ray"],
        ["--dry-run", "--task-index", "0", "--num-tasks", "2"],
        ["--dry-run", "--dry-run-videos", "0"],
        ["--dry-run-seed", "1"],
        ["--gpus-per-task", "0.5"],
    ],
)
def test_typos_and_values_without_sense_are_refused(main, tmp_path, flags):
    folders = [str(tmp_path)] * ("--refilter" not in flags) + [str(tmp_path / "s")]
    with pytest.raises(SystemExit) as error:
        main([*folders, *flags])
    assert error.value.code == 2


@pytest.mark.parametrize(
    "flags, gpus", (([], 0), (["--estimator-device", "cuda"], 1), (["--gpus-per-task", "0.25"], 0.25))
)
def test_a_task_on_ray_asks_for_a_whole_gpu_where_flow_is_computed_on_one(flags, gpus):
    flags = ["videos", "out", "--executor", "ray", "--estimator", "raft-small", *flags]
    cluster = prepare.cluster_of(prepare.build_parser("prepare_flow.py").parse_intermixed_args(flags))
    assert (cluster.address, cluster.gpus_per_task) == ("auto", gpus)


def test_refilter_takes_no_videos_and_says_what_changed(main, videos, undisturbed, tmp_path, capsys):
    out = shutil.copytree(undisturbed, tmp_path / "store")
    assert main(["--refilter", str(out), "--min-moving-share", "1.1"]) == 1  # nothing is left
    line = "33 pairs before, 33 of them dropped now, 0 brought back; dropped pairs 33 (still 33); 0 pairs of 0 videos"
    assert capsys.readouterr().out.splitlines()[-1] == f"{line} in {out}"
    assert main([str(out), "--max-beyond-share", "0.5", "--refilter"]) == 1  # the other threshold stays
    assert main([str(out), "--min-moving-share", "0.01", "--refilter"]) == 0
    line = f"0 pairs before, 0 of them dropped now, 33 brought back; dropped pairs 0; 33 pairs of 11 videos in {out}"
    assert capsys.readouterr().out.splitlines()[-1] == line
    assert main(["--refilter", str(out), "--max-beyond-share", "0.25"]) == 0
    assert contents(out) == contents(undisturbed)
    assert main(["--refilter", str(tmp_path / "nothing")]) == 2
    assert "no pair store" in capsys.readouterr().err and not (tmp_path / "nothing").exists()
    with pytest.raises(SystemExit):
        main([str(videos), str(out), "--max-beyond-share", "0.5", "--refilter"])
    assert f"leave out {str(videos)!r}" in capsys.readouterr().err and contents(out) == contents(undisturbed)
    with pytest.raises(SystemExit):
        main([str(out)])
    assert "VIDEO_DIR and OUT_DIR are both needed" in capsys.readouterr().err


def test_a_job_with_other_thresholds_than_a_refiltered_store_has_is_refused(
    main, videos, undisturbed, tmp_path, capsys
):
    out = shutil.copytree(undisturbed, tmp_path / "store")
    assert main(["--refilter", str(out), "--min-moving-share", "0.02"]) == 0
    assert main([str(videos), str(out), *FLAGS]) == 2
    assert "thresholds.min_moving_share was 0.02 and is now 0.01" in capsys.readouterr().err
    assert main([str(videos), str(out), *FLAGS, "--min-moving-share", "0.02"]) == 0


def test_real_clips_and_a_real_folder_of_frames_are_all_accounted_for(main, shared_dir, tmp_path, capsys):
    root = tmp_path / "videos"
    root.mkdir()
    names = "bgs_demo.avi opencv_tree.avi torchcodec_nasa_13013.mp4 cotracker_cat.mp4 imageio_realshort.mp4"
    for name in names.split():
        os.symlink(shared_dir / "data" / "videos" / name, root / name)
    os.symlink(shared_dir / "data" / "frames_bmx-trees" / "images", root / "bmx")
    flags = ["--pairs-per-video", "6", "--short-side", "120", "--quiet", "--strict"]
    assert main([str(root), str(tmp_path / "s"), *flags]) == 0
    line = capsys.readouterr().out
    assert (
        "6 videos: wrote 5 videos" in line and "skipped 1 (all_still 1)" in line
    )  # a slow zoom, under 1 px at this size
    store = PairStore(tmp_path / "s")
    sizes = {line["source"]["path"]: line["video"]["stored_size_hw"] for line in read_manifest(store.path)}
    assert sizes["cotracker_cat.mp4"] == [157, 120] and sizes["bgs_demo.avi"] == [48, 48]
    assert sizes["bmx"] == [120, 216] and sizes["torchcodec_nasa_13013.mp4"] == [120, 213]
    for position in range(len(store)):
        sample = store[position]
        assert np.isfinite(sample.flow).all() and sample.meta["quality"]["unexplained"] <= 0.52
