"""From clips to samples: right flow, right frames, and a record with a reason for every video."""

import json
import os
import platform
import subprocess
import sys
import weakref
from pathlib import Path

import cv2
import numpy as np
import pytest

from cmp.datasets.pair_store import PairStore, StoreWriteError, begin_store, lock_store, read_records
from cmp.flow import write_flow
from cmp.video import open_video, write_video
from cmp.video.find import VideoSource
from data_prep import decisions, job, pipeline
from data_prep import settings as settings_module
from data_prep.decisions import decide_record
from data_prep.estimators.classical import DisEstimator
from data_prep.executors import Outcome, TimeLimit
from data_prep.job import prepare_folder
from data_prep.pipeline import VideoTask, prepare_video, resized
from data_prep.quality import drop_reasons
from data_prep.settings import PrepareSettings
from data_prep.thresholds import Thresholds

HEIGHT, WIDTH = 72, 96
TOOL = Path(__file__).resolve().parents[2] / "tools" / "prepare_flow.py"


def texture(height, width, seed):
    small = np.random.default_rng(seed).integers(40, 215, (height // 4, width // 4, 3), np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def sliding_rectangle(count, step_xy=(2, 1), seed=0):
    """A textured rectangle, 32 high and 40 wide, moving over another texture."""
    ground, patch = texture(HEIGHT, WIDTH, seed), texture(32, 40, seed + 100)
    for number in range(count):
        frame = ground.copy()
        x, y = 6 + number * step_xy[0], 4 + number * step_xy[1]
        frame[y : y + 32, x : x + 40] = patch
        yield frame


def prepare_one(tmp_path, name, settings, kind="file", backends=("auto",)):
    """One video in this process; returns its record and the store."""
    out = tmp_path / "store"
    with lock_store(out):
        begin_store(out, {}, {})
    source = VideoSource(name, kind)
    told = []
    prepare_video(VideoTask(str(tmp_path), str(out), source, settings, backends), told.append)
    record = read_records(out)[source.video_id]
    assert sum(told) == len(record["samples"])
    return record, PairStore(out)


def test_the_flow_of_a_sliding_rectangle_is_its_step_times_the_interval(tmp_path):
    write_video(tmp_path / "v.mp4", sliding_rectangle(16), 20, crf=4)
    settings = PrepareSettings(interval_frames=2, stride_frames=4, store_second=True)
    record, store = prepare_one(tmp_path, "v.mp4", settings)
    assert record["status"] == "done" and store.frames.tolist() == [[0, 2], [4, 6], [8, 10], [12, 14]]
    with open_video(tmp_path / "v.mp4") as reader:
        frames = {frame.index: frame.image for frame in reader.read(range(16))}
    for position in range(len(store)):
        sample = store.read(position, second=True)
        first, second = store.frames[position]
        x, y = 6 + 2 * first, 4 + first
        inner = sample.flow[y + 6 : y + 26, x + 6 : x + 34]
        outside = np.concatenate([sample.flow[:, x + 60 :].reshape(-1, 2), sample.flow[y + 50 :].reshape(-1, 2)])
        assert np.abs(inner.mean(axis=(0, 1)) - [4, 2]).max() < 0.2 and np.abs(outside.mean(axis=0)).max() < 0.2
        for image, number in ((sample.first, first), (sample.second, second)):
            assert min(frames, key=lambda i: np.abs(image.astype(int) - frames[i]).mean()) == number
        meta = sample.meta
        assert meta["frames"] == [first, second] and meta["times_s"] == pytest.approx([first / 20, second / 20])
        assert meta["video"] == {"id": store.videos[0], "path": "v.mp4", "fps": 20.0, "size_hw": [HEIGHT, WIDTH]}
        assert meta["flow"]["codec"] == "half16" and meta["estimator"]["name"] == "dis-medium"
        assert meta["quality"]["moving_share"] > 0.1


def test_a_smaller_stored_size_shrinks_frames_and_flow_together(tmp_path):
    write_video(tmp_path / "v.mp4", sliding_rectangle(10, step_xy=(4, 0)), 25, crf=4)
    record, store = prepare_one(tmp_path, "v.mp4", PrepareSettings(interval_frames=2, short_side_px=36))
    assert record["video"]["stored_size_hw"] == [36, 48] and store[0].first.shape == (36, 48, 3)
    assert np.abs(np.median(store[0].flow[6:16, 6:20], axis=(0, 1)) - [4, 0]).max() < 0.6  # 8 px of 96, so 4 of 48


@pytest.mark.parametrize(
    "size_hw, short_side_px, enlarge, stored",
    [
        ((480, 640), 416, False, (416, 555)),
        ((640, 480), 416, False, (555, 416)),
        ((144, 176), 416, False, (144, 176)),
        ((144, 176), 416, True, (416, 508)),
        ((481, 853), 0, False, (481, 853)),
        ((719, 1281), 240, False, (240, 428)),
    ],
)
def test_stored_sizes_keep_the_shape_and_never_grow_unasked(size_hw, short_side_px, enlarge, stored):
    assert PrepareSettings(short_side_px=short_side_px, enlarge=enlarge).stored_size(size_hw) == stored


def test_pairs_across_a_cut_and_still_pairs_are_dropped_with_reason_and_scores(tmp_path):
    moving = list(sliding_rectangle(10))
    bright = [255 - frame // 3 for frame in sliding_rectangle(6, seed=7)]
    write_video(tmp_path / "v.mp4", moving + bright + [bright[-1]] * 8, 25, crf=4)
    record, store = prepare_one(tmp_path, "v.mp4", PrepareSettings(interval_frames=2))
    dropped = {tuple(pair["frames"]): pair for pair in record["dropped"]}
    assert dropped[8, 10]["reasons"][0] == dropped[9, 11]["reasons"][0] == "cut"
    assert all(dropped[i, i + 2]["reasons"] == ["duplicate", "still"] for i in range(16, 22))
    assert dropped[8, 10]["quality"]["histogram_jump"] > 0.5
    kept = set(map(tuple, store.frames.tolist()))
    assert kept.isdisjoint(dropped) and {(i, i + 2) for i in range(8)} <= kept
    assert len(kept) + len(dropped) == record["pairs_chosen"] == 22


def test_each_pair_is_decided_once_and_no_kept_pair_is_ever_listed_as_dropped(tmp_path, monkeypatch):
    moving = list(sliding_rectangle(8))
    write_video(tmp_path / "v.mp4", moving + [moving[-1]] * 4, 25, crf=4)
    counted = []

    def count(scores, thresholds):
        counted.append(scores)
        return drop_reasons(scores, thresholds)

    for module in (pipeline, decisions):
        monkeypatch.setattr(module, "drop_reasons", count)
    record, _ = prepare_one(tmp_path, "v.mp4", PrepareSettings(interval_frames=2))
    assert len(counted) == len(record["samples"]) + len(record["dropped"]) == record["pairs_chosen"] == 10
    assert all(row["reasons"] for row in record["dropped"]) and not any("reasons" in row for row in record["samples"])
    assert decide_record(record, Thresholds()) == record


def test_every_way_to_fail_or_be_skipped_has_its_reason(tmp_path):
    settings = PrepareSettings()
    write_video(tmp_path / "short.mp4", sliding_rectangle(5), 25)
    write_video(tmp_path / "still.mp4", [next(sliding_rectangle(1))] * 12, 25)
    (tmp_path / "text.mp4").write_text("not a video")
    (tmp_path / "folder").mkdir()
    for number in range(9):
        (tmp_path / "folder" / f"{number}.jpg").write_bytes(b"not an image")
    outcomes = {}
    for name, kind in [("short.mp4", "file"), ("still.mp4", "file"), ("text.mp4", "file"), ("gone.mp4", "file"),
                       ("folder", "frames")]:  # fmt: skip
        record, _ = prepare_one(tmp_path, name, settings, kind)
        assert (
            record["samples"] == []
            and (record["shard"] is None) == (name != "still.mp4")
            and str(tmp_path) not in json.dumps(record)
        )
        outcomes[name] = (record["status"], record["reason"])
    assert outcomes == {
        "short.mp4": ("skipped", "too_short"),
        "still.mp4": ("skipped", "all_duplicate"),
        "text.mp4": ("failed", "unreadable"),
        "gone.mp4": ("failed", "unreadable"),
        "folder": ("failed", "unreadable"),
    }


def test_a_library_that_chokes_on_a_video_costs_that_video_alone(tmp_path, monkeypatch):
    write_video(tmp_path / "v.mp4", sliding_rectangle(12), 25)

    def choke(*args, **kwargs):
        raise cv2.error("strange matrix")

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "score_pair", choke)
        record, store = prepare_one(tmp_path, "v.mp4", PrepareSettings())
    assert (record["status"], record["reason"]) == ("failed", "broke") and "strange matrix" in record["detail"]
    assert len(store) == 0 and list((tmp_path / "store" / "shards").iterdir()) == []


def test_trouble_with_the_disk_is_not_blamed_on_the_video(tmp_path, monkeypatch):
    write_video(tmp_path / "v.mp4", sliding_rectangle(12), 25)

    def full(*args, **kwargs):
        raise StoreWriteError("disk full")

    monkeypatch.setattr(pipeline.ShardWriter, "add", full)
    with pytest.raises(StoreWriteError, match="disk full"):
        prepare_one(tmp_path, "v.mp4", PrepareSettings())
    assert read_records(tmp_path / "store") == {}


def test_a_dead_reader_is_tried_again_then_replaced_and_a_stalled_one_replaced_at_once():
    task = VideoTask("v", "o", VideoSource("a.mp4", "file"), PrepareSettings(), ("auto", "auto", "pyav"))
    second = job._next_try(task, Outcome("died"))
    third = job._next_try(second, Outcome("died"))
    assert (second.backends, third.backends) == (("auto", "pyav"), ("pyav",))
    assert job._next_try(third, Outcome("died")) is None
    assert job._next_try(task, Outcome("stalled")).backends == ("pyav",)


@pytest.mark.parametrize(
    "changes",
    [
        {"interval_frames": 0},
        {"interval_frames": 5, "interval_s": 1.0},
        {"estimator": "x"},
        {"codec": "x"},
        {"reader": "frames"},
        {"short_side_px": 4},
        {"enlarge": True, "short_side_px": 0},
        {"jpeg_quality": 101},
        {"folder_fps": 0},
    ],
)
def test_settings_that_make_no_sense_are_refused(changes):
    with pytest.raises(ValueError):
        PrepareSettings(**changes)


@pytest.mark.usefixtures("prepared_in_this_process")
def test_a_folder_run_fills_the_store_and_a_changed_or_new_video_is_brought_up_to_date(tmp_path):
    videos, out = tmp_path / "videos", tmp_path / "store"
    videos.mkdir()
    settings = PrepareSettings(interval_frames=2, pairs_per_video=3, short_side_px=48)
    write_video(videos / "a.mp4", sliding_rectangle(8), 25)
    report = prepare_folder(videos, out, settings, num_workers=1, show_progress=False)
    assert (report.found, report.videos, report.pairs, report.store_pairs) == (1, 1, 3, 3)
    before = PairStore(out)
    a_bytes = before.read_member(0, "json")
    stamp = (out / "index.npz").stat().st_mtime_ns
    again = prepare_folder(videos, out, settings, num_workers=1, show_progress=False)
    assert (again.videos, again.earlier_videos, again.store_pairs) == (0, 1, 3)
    assert (out / "index.npz").stat().st_mtime_ns == stamp and not (out / ".tmp").exists()

    write_video(videos / "b c.mp4", sliding_rectangle(8, seed=3), 25)
    (videos / "bad.mp4").write_text("text")
    report = prepare_folder(videos, out, settings, num_workers=1, show_progress=False)
    assert (report.found, report.videos, report.earlier_videos, report.store_pairs) == (3, 1, 1, 6)
    assert report.failed == {"unreadable": 1} and report.failures[0][0] == "bad.mp4"
    assert PairStore(out).read_member(0, "json") == a_bytes

    write_video(videos / "bad.mp4", sliding_rectangle(8, seed=5), 25)  # repaired; and a shard was lost
    next((out / "shards").glob("a-*.tar")).unlink()
    report = prepare_folder(videos, out, settings, num_workers=1, show_progress=False)
    assert (report.videos, report.earlier_videos, report.store_pairs) == (2, 1, 9) and report.failed == {}
    assert PairStore(out).read_member(0, "json") == a_bytes
    with pytest.raises(ValueError, match="short_side_px was 48 and is now 60"):
        prepare_folder(videos, out, PrepareSettings(interval_frames=2, pairs_per_video=3, short_side_px=60))


@pytest.mark.usefixtures("prepared_in_this_process")
def test_a_job_that_changes_a_store_takes_its_index_away_until_it_has_finished(tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    write_video(tmp_path / "in" / "a.mp4", sliding_rectangle(12), 20)
    settings = PrepareSettings(interval_frames=2, stride_frames=4)
    prepare_folder(tmp_path / "in", tmp_path / "out", settings, num_workers=1, show_progress=False)
    derived = [tmp_path / "out" / name for name in ("index.npz", "manifest.jsonl")]
    assert all(path.is_file() for path in derived)

    write_video(tmp_path / "in" / "b.mp4", sliding_rectangle(12, seed=1), 20)

    def killed(root):
        raise KeyboardInterrupt

    monkeypatch.setattr(job, "finish_store", killed)
    with pytest.raises(KeyboardInterrupt):
        prepare_folder(tmp_path / "in", tmp_path / "out", settings, num_workers=1, show_progress=False)
    assert not any(path.exists() for path in derived)  # the old index would know nothing of b.mp4
    assert len(PairStore(tmp_path / "out").videos) == 2


def test_flow_from_files_becomes_the_flow_of_the_samples(tmp_path):
    write_video(tmp_path / "v.mp4", sliding_rectangle(10), 20)
    (tmp_path / "flow" / "v").mkdir(parents=True)
    rng = np.random.default_rng(0)
    flows = {(first, first + 2): rng.uniform(-9, 9, (HEIGHT, WIDTH, 2)).astype(np.float32) for first in (0, 4)}
    for (first, second), flow in flows.items():
        write_flow(tmp_path / "flow" / "v" / f"{first}_{second}.flo", flow)
    limits = Thresholds(max_unexplained=99, max_inconsistent=1, min_moving_share=0)  # the flow is random
    settings = dict(interval_frames=2, stride_frames=4, thresholds=limits, codec="float32")
    settings = PrepareSettings(estimator=f"files:{tmp_path / 'flow'}", **settings)
    record, store = prepare_one(tmp_path, "v.mp4", settings)
    assert record["status"] == "done" and store.frames.tolist() == [[0, 2], [4, 6]]
    assert all((store[position].flow == flow).all() for position, flow in enumerate(flows.values()))
    assert store[0].meta["estimator"]["name"] == "files" and str(tmp_path) not in str(settings.as_stored())
    (tmp_path / "flow" / "v" / "4_6.flo").unlink()
    source = VideoSource("v.mp4", "file")
    prepare_video(VideoTask(str(tmp_path), str(store.path), source, settings, ("auto",)), lambda written: None)
    record = read_records(store.path)[source.video_id]
    assert record["status"] == "failed" and "4_6.flo" in record["detail"]


def test_an_estimator_that_likes_batches_gets_them_and_the_store_is_the_same(tmp_path, monkeypatch):
    for folder in ("one", "three"):
        (tmp_path / folder).mkdir()
        write_video(tmp_path / folder / "v.mp4", sliding_rectangle(16), 20)
    settings = PrepareSettings(interval_frames=2, stride_frames=2)
    record, _ = prepare_one(tmp_path / "one", "v.mp4", settings)
    sizes = []

    class Batched(DisEstimator):
        batch_size = 3

        def estimate_batch(self, firsts, seconds):
            sizes.append(len(firsts))
            return super().estimate_batch(firsts, seconds)

    monkeypatch.setattr(settings_module, "create_estimator", lambda name, **kwargs: Batched(name))
    again, _ = prepare_one(tmp_path / "three", "v.mp4", settings)
    assert sizes == [3, 3, 1] and again["shard"] == record["shard"] and len(again["samples"]) == 7


def test_a_worker_starts_without_the_packages_that_take_longest_to_import():
    """A worker imports its command's module too, under another name; torch alone takes 2 s."""
    code = f"import runpy, sys; runpy.run_path({str(TOOL)!r}, run_name='__mp_main__'); import data_prep.pipeline; "
    code += "print(sorted({'torch', 'scipy', 'skimage', 'mmengine', 'matplotlib', 'ray', 'decord'} & set(sys.modules)))"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    assert (
        subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True).stdout == "[]\n"
    )


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="speaks of glibc's malloc")
def test_a_worker_keeps_the_memory_of_one_pair_for_the_next():
    code = """if True:
        import resource
        import numpy as np
        from data_prep.pipeline import initialize_worker

        def new_pages():
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            arrays = [np.ones(10 << 20, np.uint8) for _ in range(3)]
            return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

        initialize_worker()
        print(new_pages(), *(new_pages() for _ in range(5)))
    """
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    _, *later = map(int, ended.stdout.split())
    assert max(later) < 200  # of the 7,680 pages that three arrays fill


def test_a_worker_computes_on_one_thread():
    code = "import cv2, os; from data_prep.pipeline import initialize_worker; initialize_worker(); "
    code += "print(cv2.getNumThreads(), os.environ['OMP_NUM_THREADS'], os.environ['MKL_NUM_THREADS'])"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "2"}
    ended = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert ended.stdout.split() == ["1", "1", "1"]


def test_no_more_frames_are_held_than_pairs_reach_across(tmp_path, monkeypatch):
    write_video(tmp_path / "v.mp4", sliding_rectangle(16), 20)
    seen, most = [], 0

    def watched(image, size_hw):
        nonlocal most
        small = resized(image, size_hw).copy()
        seen.append(weakref.ref(small))
        most = max(most, sum(reference() is not None for reference in seen))
        return small

    monkeypatch.setattr("data_prep.pipeline.resized", watched)
    prepare_one(tmp_path, "v.mp4", PrepareSettings(interval_frames=2, pairs_per_video=60))
    assert len(seen) == 16 and most <= 2 + 3  # those that wait, this one, and a pair at work


def test_workers_begin_with_folders_and_then_the_largest_files(tmp_path):
    sizes = {"a.mp4": 10, "b.mp4": 30, "c.mp4": 30, "d.mp4": 20}
    for name, size in sizes.items():
        (tmp_path / name).write_bytes(bytes(size))
    (tmp_path / "frames").mkdir()
    sources = [VideoSource(name, "file") for name in sizes]
    sources += [VideoSource("frames", "frames"), VideoSource("gone.mp4", "file")]
    order = [source.path for source in job._largest_first(tmp_path, sources)]
    assert order == ["frames", "b.mp4", "c.mp4", "d.mp4", "a.mp4", "gone.mp4"]


def test_progress_is_added_up_and_passed_on_ten_times_a_second_and_time_limits_at_once(monkeypatch):
    now, told = [5.0], []
    monkeypatch.setattr(pipeline.time, "monotonic", lambda: now[0])
    progress = pipeline._Seldom(told.append)
    for number in range(26):
        now[0] = 5 + number / 16
        progress(1)
    assert len(told) == 12 and sum(told) == 25  # every second sixteenth of a second
    limit = TimeLimit(60)
    progress(limit)
    assert told[12:] == [limit]
    progress.flush()
    assert told[13:] == [1]
