"""A reader that hangs or never comes to an end costs its process and its video, and nothing else."""

import importlib
import time

import cv2
import numpy as np
import pytest

from cmp.datasets.pair_store import read_records
from cmp.video import write_video
from cmp.video.find import VideoSource
from data_prep import job
from data_prep.deadlines import Deadline
from data_prep.executors import Outcome
from data_prep.job import prepare_folder
from data_prep.pipeline import VideoTask, initialize_worker
from data_prep.settings import PrepareSettings

# What workers run before their first task: a PyAV reader that opens nothing, or opens and never delivers (told by the
# path, so no name of a test here may contain "hang": it becomes a part of its folder).
BROKEN_READER = """
import ctypes, time
from cmp.video import readers
from data_prep.pipeline import initialize_worker
def initialize():
    initialize_worker()
    readers.PyavReader.__init__, plain = start, readers.PyavReader.__init__
    readers.PyavReader._read = deliver
    readers.plain_start = plain
def start(self, path, *args):
    if "hang" in str(path): ctypes.PyDLL(None).sleep(1000)  # native code that keeps the interpreter's lock
    readers.plain_start(self, path, *args)
def deliver(self, wanted):
    while True:
        time.sleep(0.1)
        self._on_work()  # progress without end
    yield
"""
SETTINGS = dict(interval_frames=2, pairs_per_video=3, short_side_px=48)


@pytest.fixture
def made(tmp_path, monkeypatch):
    """A folder of three clips, and the store that comes of them; then workers get the broken reader."""
    (tmp_path / "videos").mkdir()
    for seed, name in enumerate(("hang.mp4", "slow.mp4", "text.mp4")):
        ground = cv2.resize(np.random.default_rng(seed).integers(0, 255, (10, 30, 3), np.uint8), (126, 64))
        write_video(tmp_path / "videos" / name, (ground[:, 3 * i : 3 * i + 96] for i in range(10)), 25)
    (tmp_path / "videos" / "text.mp4").write_text("no video")
    settings = PrepareSettings(**SETTINGS)
    prepare_folder(tmp_path / "videos", tmp_path / "expected", settings, num_workers=1, show_progress=False)
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "deadline_test_work.py").write_text(BROKEN_READER)
    monkeypatch.syspath_prepend(tmp_path / "work")  # workers take over the path
    monkeypatch.setattr(job, "initialize_worker", importlib.import_module("deadline_test_work").initialize)
    return tmp_path


def shards(store):
    return {path.name: path.read_bytes() for path in (store / "shards").iterdir()}


def test_a_silent_or_endless_decoder_is_ended_and_its_file_is_not_handed_to_older_decoders(made):
    start = time.monotonic()
    report = prepare_folder(
        made / "videos",
        made / "store",
        PrepareSettings(**SETTINGS),
        num_workers=2,
        show_progress=False,
        stall_s=5.0,
        deadline=Deadline(12, 0, 0, 0),
    )
    assert time.monotonic() - start < 200
    assert report.videos == 0 and report.failed == {"stalled": 1, "late": 1, "unreadable": 1}
    assert all("decord" not in detail for _, _, detail in report.failures) and not shards(made / "store")
    asked = prepare_folder(
        made / "videos",
        made / "asked",
        PrepareSettings(**SETTINGS, reader="decord"),
        num_workers=1,
        show_progress=False,
        stall_s=30.0,
    )
    assert asked.videos == 2 and shards(made / "asked") == shards(made / "expected")
    readers = [record["video"]["reader"] for record in read_records(made / "asked").values() if record["video"]]
    assert readers == ["decord", "decord"]


def test_a_video_with_no_reader_left_is_failed_with_the_reason_and_the_others_go_on(made):
    settings = PrepareSettings(**SETTINGS, reader="pyav")
    limits = {"stall_s": None, "deadline": Deadline(4, 0, 0, 0)}
    report = prepare_folder(made / "videos", made / "store", settings, num_workers=2, show_progress=False, **limits)
    assert report.failed == {"late": 2, "unreadable": 1}
    assert all("4 s that its length allows" in detail for _, reason, detail in report.failures if reason == "late")


def test_the_deadline_follows_bytes_frames_pixels_and_pairs():
    rule = Deadline(base_s=10, s_per_mb=2, s_per_megapixel=0.5, s_per_pair=3)
    assert rule.to_open(4_000_000) == 18
    assert rule.in_all(4_000_000, 100, (1000, 2000), 7) == 18 + 100 + 21
    assert rule.scaled(2).in_all(4_000_000, 100, (1000, 2000), 7) == 2 * 139
    for call in (lambda: Deadline(base_s=-1), lambda: Deadline(s_per_mb=float("nan")), lambda: rule.scaled(0)):
        with pytest.raises(ValueError):
            call()


def test_a_task_killed_from_outside_is_done_again_three_times_and_tried_again_by_the_next_call(made, monkeypatch):
    tries = []

    class Killed:
        def __init__(self, function, **options):
            self.tasks = []

        def __enter__(self):
            return self

        def __exit__(self, *exc):
            pass

        def submit(self, task):
            self.tasks.append(task)

        def outcomes(self):
            while self.tasks:
                task = self.tasks.pop(0)
                tries.append(task.backends[0])
                yield task, Outcome("killed", detail="its process was ended by SIGKILL")

    videos, out = made / "videos", made / "store"
    (videos / "slow.mp4").unlink()
    (videos / "text.mp4").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(job, "LocalExecutor", Killed)
        report = prepare_folder(videos, out, PrepareSettings(**SETTINGS), show_progress=False)
    assert tries == ["auto"] * 5 and report.failed == {"killed": 1}
    monkeypatch.setattr(job, "initialize_worker", initialize_worker)  # with the reader that works
    report = prepare_folder(videos, out, PrepareSettings(**SETTINGS), num_workers=1, show_progress=False)
    assert report.failed == {} and report.videos == 1


def test_a_late_reader_is_not_tried_twice():
    task = VideoTask("v", "o", VideoSource("a.mp4", "file"), PrepareSettings(), ("auto", "auto"))
    assert job._next_try(task, Outcome("late")) is None
    assert job._next_try(task, Outcome("killed")).backends == ("auto",)
