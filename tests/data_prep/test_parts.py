"""The parts of an array job add up to what one job makes, byte for byte, whatever happens on the way."""

import os
import shutil

import cv2
import numpy as np
import pytest

from cmp.datasets.pair_store import PairStore, lock_store
from cmp.video import write_video
from cmp.video.find import find_videos
from data_prep import parts
from data_prep.job import prepare_folder
from data_prep.parts import Part, merge_parts
from data_prep.settings import PrepareSettings

SETTINGS = PrepareSettings(interval_frames=2, pairs_per_video=3, short_side_px=48)
NUM_VIDEOS, NUM_TASKS = 9, 4
pytestmark = pytest.mark.usefixtures("prepared_in_this_process")


def make_clip(path, seed, count=8, size_hw=(56, 72)):
    height, width = size_hw
    ground = np.random.default_rng(seed).integers(0, 255, (10, 30, 3), np.uint8)
    ground = cv2.resize(ground, (width + 3 * count, height))
    write_video(path, (ground[:, 3 * i : 3 * i + width] for i in range(count)), 25)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    root = tmp_path_factory.mktemp("videos")
    for seed in range(NUM_VIDEOS - 1):
        make_clip(root / f"{seed}.mp4", seed)
    (root / "text.mp4").write_text("not a video")
    return root


def prepare(videos, out, part=None, settings=SETTINGS, **options):
    return prepare_folder(videos, out, settings, num_workers=1, part=part, show_progress=False, **options)


def prepare_all(videos, out, num_tasks=NUM_TASKS, settings=SETTINGS):
    for index in reversed(range(num_tasks)):
        prepare(videos, out, Part(index, num_tasks), settings)


def contents(root):
    """Every file of a store but the empty lock."""
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file() and p.name != ".lock"}


@pytest.fixture(scope="module")
def single(videos, tmp_path_factory):
    out = tmp_path_factory.mktemp("single") / "store"
    prepare(videos, out)
    return contents(out)


@pytest.fixture(scope="module")
def whole_parts(videos, tmp_path_factory):
    """A folder with all parts done, to copy from."""
    out = tmp_path_factory.mktemp("parts") / "store"
    prepare_all(videos, out)
    return out


def test_every_video_falls_to_one_task_and_stays_there_when_videos_are_added(videos):
    ids = [source.video_id for source in find_videos(videos)]
    shares = {video_id: [i for i in range(NUM_TASKS) if Part(i, NUM_TASKS).takes(video_id)] for video_id in ids}
    assert all(len(share) == 1 for share in shares.values()) and len(ids) == NUM_VIDEOS
    assert len({share[0] for share in shares.values()}) > 1
    assert Part(2, 3).takes("any-name-00000000000b") and not Part(2, 3).takes("any-name-00000000000c")  # 11, 12 mod 3


@pytest.mark.parametrize("num_tasks", [1, 3, 20])
def test_any_number_of_tasks_in_any_order_adds_up_to_the_bytes_of_one_job(videos, single, tmp_path, num_tasks):
    out = tmp_path / "store"
    prepare_all(videos, out, num_tasks)
    report = merge_parts(out)
    assert (report.num_tasks, report.videos, report.pairs) == (num_tasks, NUM_VIDEOS, 3 * (NUM_VIDEOS - 1))
    assert contents(out) == single and report.other_versions == []
    stamp = (out / "index.npz").stat().st_mtime_ns
    assert merge_parts(out).num_tasks == 0  # twice is safe
    assert (out / "index.npz").stat().st_mtime_ns == stamp and contents(out) == single


def test_an_unfinished_set_is_refused_by_the_numbers_of_its_tasks_and_stays_as_it_is(videos, whole_parts, tmp_path):
    out = shutil.copytree(whole_parts, tmp_path / "store")
    shutil.rmtree(Part(0, NUM_TASKS).path(out))
    shutil.rmtree(Part(1, NUM_TASKS).path(out))
    (Part(3, NUM_TASKS).path(out) / "index.npz").unlink()
    before = contents(out)
    with pytest.raises(ValueError, match=r"of 4 tasks 0-1 not started; 3 not finished. Run again: --array=0-1,3"):
        merge_parts(out)
    assert contents(out) == before
    for index in (0, 1, 3):
        prepare(videos, out, Part(index, NUM_TASKS))
    assert merge_parts(out).num_tasks == NUM_TASKS


def test_a_merge_killed_at_any_step_and_called_again_gives_the_same_bytes(whole_parts, single, tmp_path, monkeypatch):
    steps = []
    for victim in ("replace", "unlink"):
        original = getattr(os, victim)
        for last in range(60):
            out = shutil.copytree(whole_parts, tmp_path / f"{victim}{last}")
            left = [last]

            def dying(*args, left=left, original=original, **kwargs):
                if left[0] == 0:
                    raise KeyboardInterrupt
                left[0] -= 1
                return original(*args, **kwargs)

            with monkeypatch.context() as patch:
                patch.setattr(os, victim, dying)
                try:
                    merge_parts(out)
                    finished = True
                except KeyboardInterrupt:
                    finished = False
            merge_parts(out)
            assert contents(out) == single
            shutil.rmtree(out)
            if finished:
                break
        steps.append(last)
    assert steps[0] >= 2 * NUM_VIDEOS - 1 and finished  # every shard and record was a place to die at


def test_a_task_run_again_after_a_merge_was_killed_does_no_harm(videos, whole_parts, single, tmp_path, monkeypatch):
    out = shutil.copytree(whole_parts, tmp_path / "store")
    original, left = os.replace, [7]

    def dying(*args):
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt
        return original(*args)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", dying)
        with pytest.raises(KeyboardInterrupt):
            merge_parts(out)
    for index in range(NUM_TASKS):
        prepare(videos, out, Part(index, NUM_TASKS))
    merge_parts(out)
    assert contents(out) == single


def test_videos_added_and_changed_later_are_done_by_a_second_array_and_nothing_else_is(videos, tmp_path):
    folder, out = shutil.copytree(videos, tmp_path / "videos"), tmp_path / "store"
    prepare_all(folder, out)
    merge_parts(out)
    make_clip(folder / "new.mp4", 77)
    make_clip(folder / "3.mp4", 78)
    reports = [prepare(folder, out, Part(index, 2)) for index in range(2)]
    assert sum(report.found for report in reports) == NUM_VIDEOS + 1
    assert sum(report.videos for report in reports) == 2 and sum(report.earlier_videos for report in reports) == 8
    merge_parts(out)
    prepare(folder, tmp_path / "single")
    assert contents(out) == contents(tmp_path / "single")


def test_a_killed_merge_over_an_older_store_leaves_no_record_that_speaks_of_another_shard(
    videos, tmp_path, monkeypatch
):
    folder, out = shutil.copytree(videos, tmp_path / "videos"), tmp_path / "store"
    prepare(folder, out)
    make_clip(folder / "3.mp4", 78, count=12)
    prepare(folder, out, Part(0, 1))

    def dying(*args):
        original(*args)
        raise KeyboardInterrupt

    original = os.replace
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", dying)  # dies after the new shard is in place
        merge_parts(out)
    assert not (out / "index.npz").exists() and not (out / "manifest.jsonl").exists()
    store = PairStore(out)
    assert len(store) == 3 * (NUM_VIDEOS - 2) and all(store[position] for position in range(len(store)))
    merge_parts(out)
    prepare(folder, tmp_path / "single")
    assert contents(out) == contents(tmp_path / "single")


def test_parts_of_other_settings_or_another_length_are_refused(videos, whole_parts, tmp_path):
    other = PrepareSettings(interval_frames=2, pairs_per_video=3, short_side_px=40)
    with pytest.raises(ValueError, match=r"short_side_px is 48 there, 40 here"):
        prepare(videos, whole_parts, Part(0, NUM_TASKS), other)
    with pytest.raises(ValueError, match=r"array of 4 tasks, this is one of 5"):
        prepare(videos, whole_parts, Part(0, 5))
    with pytest.raises(ValueError, match=r"contains parts of an array job"):
        prepare(videos, whole_parts)

    mixed, foreign = tmp_path / "mixed", tmp_path / "foreign"
    prepare(videos, mixed, Part(0, 2))
    prepare(videos, foreign, Part(1, 2), other)
    shutil.move(Part(1, 2).path(foreign), Part(1, 2).path(mixed))
    before = contents(mixed)
    with pytest.raises(ValueError, match=r"00001-of-00002: made with other settings: short_side_px is 40 there, 48"):
        merge_parts(mixed)
    assert contents(mixed) == before
    shutil.copytree(Part(0, 2).path(mixed), mixed / "parts" / "00000-of-00003")
    with pytest.raises(ValueError, match=r"arrays of 2 and 3 tasks"):
        merge_parts(mixed)


def test_a_lost_shard_and_a_task_still_writing_stop_the_merge(whole_parts, tmp_path):
    out = shutil.copytree(whole_parts, tmp_path / "store")
    part = next(part for part in parts.find_parts(out) if list(part.path(out).glob("shards/*.tar")))
    with lock_store(part.path(out)), pytest.raises(RuntimeError, match="another job"):
        merge_parts(out)
    next(part.path(out).glob("shards/*.tar")).unlink()
    shutil.rmtree(out / "shards", ignore_errors=True)
    with pytest.raises(ValueError, match=rf"\.tar: missing or cut; run task {part.index} of 4 again"):
        merge_parts(out)


def test_a_folder_without_anything_to_merge_is_said_to_be_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        merge_parts(tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match="no pair store here"):
        merge_parts(tmp_path)


def test_a_merged_store_reads_like_any_other(whole_parts, tmp_path):
    out = shutil.copytree(whole_parts, tmp_path / "store")
    merge_parts(out)
    store = PairStore(out)
    assert len(store) == 3 * (NUM_VIDEOS - 1) and all(np.isfinite(store[i].flow).all() for i in range(len(store)))


@pytest.mark.parametrize("index, num_tasks", [(0, 0), (-1, 3), (3, 3), (0, -1)])
def test_shares_that_do_not_exist_are_refused(index, num_tasks):
    with pytest.raises(ValueError, match="task"):
        Part(index, num_tasks)
