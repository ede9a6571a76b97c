"""A repair that is killed loses no knowledge of what it had to do."""

import shutil

import cv2
import numpy as np
import pytest

from cmp.datasets.pair_store import check_store, read_manifest, read_records
from cmp.video import write_video
from data_prep import repair
from data_prep.job import prepare_folder
from data_prep.repair import repair_store
from data_prep.settings import PrepareSettings

SETTINGS = PrepareSettings(interval_frames=2, pairs_per_video=2, short_side_px=48)
pytestmark = pytest.mark.usefixtures("prepared_in_this_process")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder of two clips and two broken files and their store, to copy from."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "videos").mkdir()
    for seed, name in enumerate(("a.mp4", "b.mp4")):
        ground = cv2.resize(np.random.default_rng(seed).integers(0, 255, (10, 30, 3), np.uint8), (126, 64))
        write_video(folder / "videos" / name, (ground[:, 3 * i : 3 * i + 96] for i in range(10)), 25)
    for name in ("text.mp4", "more.mp4"):
        (folder / "videos" / name).write_text("no video")
    prepare_folder(folder / "videos", folder / "store", SETTINGS, num_workers=1, show_progress=False)
    return folder


@pytest.fixture
def made(whole, tmp_path):
    """A copy of the store, beside one of its videos, and its bytes."""
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    return tmp_path / "store", {p: p.read_bytes() for p in (tmp_path / "store").rglob("*") if p.is_file()}


def flip(path, needle):
    data = path.read_bytes()
    path.write_bytes(data.replace(needle, bytes([needle[0] ^ 1]) + needle[1:], 1))


def mend(store):
    return repair_store(store, store.parent / "videos", check_store(store), num_workers=1, show_progress=False)


def test_a_missing_record_is_noticed_beside_other_damage(made):
    store, before = made
    next((store / "videos").glob("text-*")).unlink()  # only the manifest speaks of it
    flip(next((store / "videos").glob("a-*")), b"bytes")
    assert {damage.file[:9] for damage in check_store(store)} == {"videos/te", "videos/a-"}
    mend(store)
    assert {path: path.read_bytes() for path in before} == before


def test_only_a_video_that_had_not_failed_before_is_a_failure_of_the_repair(made):
    store, before = made
    for name in ("text-*", "a-*"):
        flip(next((store / "videos").glob(name)), b"bytes")
    report = mend(store)
    assert sorted(report.redone) == ["a.mp4", "text.mp4"] and report.failed == []
    assert {path: path.read_bytes() for path in before} == before
    flip(next((store / "videos").glob("a-*")), b"bytes")
    (store.parent / "videos" / "a.mp4").write_text("gone bad")
    assert [failure[:2] for failure in mend(store).failed] == [("a.mp4", "lost")]


def test_a_video_that_a_repair_cannot_redo_is_lost_until_it_comes_back_or_the_loss_is_accepted(made):
    store, before = made
    video = store.parent / "videos" / "a.mp4"
    content = video.read_bytes()
    flip(next((store / "shards").glob("a-*")), b"first.jpg")
    video.write_text("gone bad")
    for _ in range(2):  # the second time from the mark of the first
        assert [failure[0] for failure in mend(store).failed] == ["a.mp4"]
        [line] = [line for line in read_manifest(store) if line["source"]["path"] == "a.mp4"]
        assert (line["status"], line["reason"], line["pairs"]) == ("failed", "lost", 0)
        assert "unreadable" in line["detail"]
        [damage] = check_store(store)
        assert damage.file.startswith("videos/a-") and damage.problem == line["detail"]
    accepted = shutil.copytree(store, store.parent / "accepted")
    prepare_folder(video.parent, accepted, SETTINGS, num_workers=1, retry_failed=True, show_progress=False)
    assert check_store(accepted) == [] and read_records(accepted)[line["video_id"]]["reason"] == "unreadable"
    video.write_bytes(content)
    assert mend(store).failed == [] and check_store(store) == []
    assert {path: path.read_bytes() for path in before} == before


def test_a_damaged_name_in_the_manifest_is_no_lost_video(made):
    store, before = made
    flip(store / "manifest.jsonl", next((store / "videos").glob("text-*")).stem.encode())
    assert any(damage.file == "manifest.jsonl" for damage in check_store(store))
    mend(store)
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize("killed_at", ["commit_record", "discard_index", "prepare_folder"])
def test_a_repair_killed_at_any_step_is_ended_by_the_next(made, monkeypatch, killed_at):
    store, before = made
    next((store / "videos").glob("text-*")).unlink()
    flip(next((store / "videos").glob("more-*")), b"bytes")

    def killed(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(repair, killed_at, killed)
        with pytest.raises(KeyboardInterrupt):
            mend(store)
    assert check_store(store) != []
    mend(store)
    assert {path: path.read_bytes() for path in before} == before
