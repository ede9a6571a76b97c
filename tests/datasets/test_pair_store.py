"""The pair store on disk: what is written is read back, by us and by others, and damage is named."""

import gc
import io
import json
import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
import tarfile
import threading
import time
import tracemalloc

import cv2
import numpy as np
import pytest

from cmp.datasets import pair_store
from cmp.datasets.pair_store import (
    MEMBERS,
    PairStore,
    ShardWriter,
    StoreWriteError,
    begin_store,
    check_store,
    commit_record,
    discard_index,
    finish_store,
    lock_store,
    member_header,
    read_manifest,
    read_records,
    shard_path,
)
from cmp.flow.codec import encode_flow

HEIGHT, WIDTH = 24, 40
SETTINGS = {"estimator": "none", "short_side_px": HEIGHT, "thresholds": {"still": 0.5}}


def sample_members(seed, *, second=True, guides=False):
    """Members of one sample, with the arrays they hold."""
    rng = np.random.default_rng(seed)
    frames = [cv2.resize(rng.integers(0, 255, (3, 5, 3), np.uint8), (WIDTH, HEIGHT)) for _ in range(2)]
    flow = rng.uniform(-20, 20, (HEIGHT, WIDTH, 2)).astype(np.float32)
    points_yx = rng.integers(0, HEIGHT, (7, 2)).astype(np.int32)
    payload, header = encode_flow(flow, "float32")
    npy = io.BytesIO()
    np.save(npy, points_yx)
    members = {
        "first.jpg": cv2.imencode(".jpg", frames[0][..., ::-1])[1].tobytes(),
        "flow.bin": payload,
        "json": json.dumps({"flow": header, "seed": seed}).encode(),
    }
    if second:
        members["second.jpg"] = cv2.imencode(".jpg", frames[1][..., ::-1])[1].tobytes()
    if guides:
        members["guides.npy"] = npy.getvalue()
    return members, frames, flow


def write_store(root, videos, **kwargs):
    """A finished store; `videos` maps an id to its number of samples. Seeds count up over the store."""
    root.mkdir(exist_ok=True)
    seed = 0
    with lock_store(root):
        begin_store(root, SETTINGS, {"package": "test"})
        for video_id, count in videos.items():
            with ShardWriter(root, video_id) as shard:
                for number in range(count):
                    shard.add(10 * number, 10 * number + 5, sample_members(seed, **kwargs)[0])
                    seed += 1
                record = {"video_id": video_id, "status": "done", "reason": None, "dropped": []}
                commit_record(root, record | {"shard": shard.close(), "samples": shard.rows})
        finish_store(root)
    return root


@pytest.fixture(scope="module")
def store_dir(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("store"), {"alpha-1": 3, "beta_2": 2})


def test_a_sample_is_read_back_as_it_was_written(store_dir):
    store = PairStore(store_dir)
    assert len(store) == 5 and store.videos == ["alpha-1", "beta_2"]
    for position in range(5):
        sample = store.read(position, second=True)
        _, frames, flow = sample_members(position)
        assert (sample.flow == flow).all() and sample.flow.dtype == np.float32
        for image, frame in zip((sample.first, sample.second), frames):
            assert image.shape == (HEIGHT, WIDTH, 3) and np.abs(image.astype(int) - frame).mean() < 6
        assert sample.meta["seed"] == position
    assert store[3].second is None and store[-1].meta["seed"] == 4
    assert [store.video_of(i) for i in range(5)] == ["alpha-1"] * 3 + ["beta_2"] * 2
    assert store.key_of(4) == "beta_2-00000010-00000015" and store.frames[4].tolist() == [10, 15]
    assert store.about["settings"] == SETTINGS and [line["pairs"] for line in read_manifest(store.path)] == [3, 2]
    with pytest.raises(IndexError):
        store[5]


def test_tar_and_webdataset_read_the_same_samples(store_dir):
    webdataset = pytest.importorskip("webdataset")
    store = PairStore(store_dir)
    shards = [str(shard_path(store_dir, video)) for video in store.videos]
    theirs = list(webdataset.WebDataset(shards, shardshuffle=False, empty_check=False))
    assert [sample["__key__"] for sample in theirs] == [store.key_of(i) for i in range(len(store))]
    written = [member for member in MEMBERS if member != "guides.npy"]  # only earlier versions wrote that one
    for position, sample in enumerate(theirs):
        assert all(sample[member] == store.read_member(position, member) for member in written)
    listed = subprocess.run(["tar", "tf", shards[0]], capture_output=True, text=True, check=True)
    assert listed.stdout.split() == [f"{store.key_of(i)}.{member}" for i in range(3) for member in written]
    assert listed.stderr == ""
    with tarfile.open(shards[1]) as tar:
        assert {(m.mtime, m.uid, m.uname, m.mode) for m in tar.getmembers()} == {(0, 0, "", 0o644)}


def test_the_same_samples_give_the_same_bytes_at_another_time(tmp_path, monkeypatch):
    first = write_store(tmp_path / "a", {"v": 2})
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + 1000)  # what zip and gzip ask
    second = write_store(tmp_path / "b", {"v": 2})
    contents = [{path.relative_to(root): path.read_bytes() for path in root.rglob("*.*")} for root in (first, second)]
    assert len(contents[0]) == 5 and contents[0] == contents[1]


def test_a_store_of_an_earlier_version_with_points_in_it_is_read_and_verified(tmp_path):
    root = write_store(tmp_path / "s", {"v": 1}, guides=True)
    store = PairStore(root)
    assert store.has(0, "guides.npy") and (store[0].flow == sample_members(0)[2]).all()
    assert np.load(io.BytesIO(store.read_member(0, "guides.npy"))).shape == (7, 2)
    damaged = [damage for damage in check_store(root) if "not a video record" not in damage.problem]
    assert damaged == []  # the records of this file's stores lack fields of preparation


def test_samples_without_second_frame_say_so(tmp_path):
    store = PairStore(write_store(tmp_path / "s", {"v": 1}, second=False))
    assert store[0].second is None and not store.has(0, "second.jpg")
    with pytest.raises(ValueError, match="without its second frame"):
        store.read(0, second=True)
    with pytest.raises(ValueError, match="guides.npy is not in this store"):
        store.read_member(0, "guides.npy")


def test_a_flipped_bit_a_cut_and_a_missing_shard_are_named(tmp_path):
    root = write_store(tmp_path / "s", {"v": 2, "w": 1})
    shard = shard_path(root, "v")
    whole = shard.read_bytes()
    with tarfile.open(shard) as tar:
        places = {member.name: member.offset_data for member in tar.getmembers()}
    for name in ("v-00000010-00000015.first.jpg", "v-00000010-00000015.flow.bin", "v-00000010-00000015.json"):
        damaged = bytearray(whole)
        damaged[places[name] + 9] ^= 1
        shard.write_bytes(damaged)
        store = PairStore(root)
        assert store[0].meta["seed"] == 0 and store[2].meta["seed"] == 2
        with pytest.raises(ValueError, match=rf"v\.tar: member {name} is damaged"):
            store[1]
    shard.write_bytes(whole[:-600])
    with pytest.raises(ValueError, match=r"v\.tar: member .* bytes instead of"):
        PairStore(root)[0]
    shard.unlink()
    with pytest.raises(FileNotFoundError, match=r"v\.tar: member .*the shard is missing"):
        PairStore(root)[0]
    assert PairStore(root)[2].meta["seed"] == 2


def test_names_that_lead_out_of_the_folder_are_refused(tmp_path):
    root = write_store(tmp_path / "s", {"v": 1})
    with np.load(root / "index.npz") as archive:
        index = dict(archive)
    for bad in ("../v", "a/b", "..", "", "a.b", "x" * 65):
        np.savez(root / "index.npz", **(index | {"video_ids": np.array([bad])}))
        with pytest.raises(ValueError, match=r"index\.npz: not a valid index"):
            PairStore(root)
        with pytest.raises(ValueError, match="video id"):
            ShardWriter(root, bad)
    changes = {"offset": index["offset"] + 10**6, "video": index["video"] + 1, "size": index["size"][:, :2]}
    for name, value in changes.items():
        np.savez(root / "index.npz", **(index | {name: value}))
        with pytest.raises(ValueError, match="not a valid index"):
            PairStore(root)
    (root / "index.npz").write_bytes(b"PK no zip")
    with pytest.raises(ValueError, match=r"index\.npz: damaged"):
        PairStore(root)


def test_an_unfinished_store_is_read_from_its_records(tmp_path, caplog):
    root = write_store(tmp_path / "s", {"v": 2, "w": 1})
    discard_index(root)
    store = PairStore(root)
    assert len(store) == 3 and store[2].meta["seed"] == 2 and "has not finished" in caplog.text
    with pytest.raises(FileNotFoundError, match=r"manifest\.jsonl"):
        read_manifest(store.path)


def test_an_empty_store_has_no_samples_and_other_folders_are_not_stores(tmp_path):
    assert len(PairStore(write_store(tmp_path / "s", {}))) == 0
    (tmp_path / "other").mkdir()
    with pytest.raises(FileNotFoundError, match="no pair store"):
        PairStore(tmp_path / "other")
    (tmp_path / "other" / "store.json").write_text('{"format": "else"}')
    with pytest.raises(ValueError, match="not a cmp-pairs store"):
        PairStore(tmp_path / "other")
    (tmp_path / "other" / "store.json").write_text('{"format": "cmp-pairs", "format_version": 99}')
    with pytest.raises(ValueError, match="version 99"):
        PairStore(tmp_path / "other")


def test_open_files_stay_bounded_and_a_pickled_store_reads_the_same(tmp_path):
    store = PairStore(write_store(tmp_path / "s", {f"v{i:02d}": 1 for i in range(12)}), max_open_shards=3)
    gc.collect()
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None
    seeds = [store[i].meta["seed"] for i in range(12)]
    if before is not None:
        assert len(os.listdir("/proc/self/fd")) <= before + 3
    copy = pickle.loads(pickle.dumps(store))
    assert [copy[i].meta["seed"] for i in range(12)] == seeds == list(range(12))


def test_threads_and_forked_and_spawned_processes_read_the_same(store_dir):
    store = PairStore(store_dir)
    expected = [store.read_member(i, "flow.bin") for i in range(5)]  # shards are open now
    wrong = []

    def reader():
        for _ in range(20):
            wrong.extend(i for i in range(5) if store.read_member(i, "flow.bin") != expected[i])

    threads = [threading.Thread(target=reader) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    for method in ("fork", "spawn"):
        if method not in multiprocessing.get_all_start_methods():
            continue
        with multiprocessing.get_context(method).Pool(1) as pool:
            arguments = [(store, i, "flow.bin") for i in range(5)]
            assert pool.starmap(PairStore.read_member, arguments) == expected


def test_a_store_of_a_hundred_thousand_samples_opens_by_its_index_alone(tmp_path):
    root = write_store(tmp_path / "s", {"v": 1})
    with np.load(root / "index.npz") as archive:
        index = dict(archive)
    count, videos = 100_000, 1000
    for name in ("frames", "offset", "size", "crc32"):
        index[name] = np.repeat(index[name], count, axis=0)
    index["video"] = np.repeat(np.arange(videos, dtype=np.int32), count // videos)
    index["video_ids"] = np.array([f"v{i:05d}" for i in range(videos)])
    index["shard_bytes"] = np.repeat(index["shard_bytes"], videos)
    np.savez(root / "index.npz", **index)
    for folder in ("shards", "videos"):
        shutil.rmtree(root / folder)
    assert len(PairStore(root)) == count  # how fast: tools/benchmark/loader.py --large-samples


def test_a_store_begun_with_other_settings_is_refused_and_the_difference_named(store_dir, tmp_path):
    begin_store(store_dir, SETTINGS, {"package": "a later one"})
    assert PairStore(store_dir).about["about"] == {"package": "test"}
    with pytest.raises(ValueError, match="short_side_px was 24 and is now 99"):
        begin_store(store_dir, SETTINGS | {"short_side_px": 99}, {})
    (tmp_path / "nested").mkdir(exist_ok=True)
    begin_store(tmp_path / "nested", SETTINGS | {"thresholds": {"a": 1, "b": 2}}, {})
    with pytest.raises(ValueError, match="other settings: thresholds.b was 2 and is now 3. Use"):
        begin_store(tmp_path / "nested", SETTINGS | {"thresholds": {"a": 1, "b": 3}}, {})
    (tmp_path / "holiday.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match="holds 'holiday.jpg'"):
        begin_store(tmp_path, SETTINGS, {})


def test_a_second_job_on_one_store_is_refused(tmp_path):
    with lock_store(tmp_path / "s"):
        with pytest.raises(RuntimeError, match="another job"):
            with lock_store(tmp_path / "s"):
                pass
    with lock_store(tmp_path / "s"):
        pass


def test_what_cannot_be_written_is_an_error_of_the_store(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreWriteError, match="cannot be written"):
        with lock_store(tmp_path / "file"):
            pass
    root = write_store(tmp_path / "s", {"v": 1})
    before = shard_path(root, "v").read_bytes()

    def full(*args):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(StoreWriteError, match="No space left"):
        patch.setattr(pair_store.writer.os, "fsync", full)
        with ShardWriter(root, "v") as shard:
            shard.add(0, 5, sample_members(9)[0])
            shard.close()
    with monkeypatch.context() as patch, pytest.raises(StoreWriteError, match="No space left"):
        patch.setattr(pair_store.writer.os, "fsync", full)
        finish_store(root)
    assert shard_path(root, "v").read_bytes() == before and len(PairStore(root)) == 1


def test_the_index_is_sorted_by_id_even_where_file_names_sort_otherwise(tmp_path):
    store = PairStore(write_store(tmp_path / "s", {"v": 2, "v-1": 3, "u": 1}))  # "v-1.json" comes before "v.json"
    assert store.videos == ["u", "v", "v-1"]
    assert [store.read(i).meta["seed"] for i in range(6)] == [5, 0, 1, 2, 3, 4]


def test_finishing_and_checking_a_store_keep_few_records_in_memory(tmp_path):
    rows = [
        {"frames": [i, i + 5], "members": [[512, 9, 1]] * 5, "folder": "", "quality": {"score": i / 7}}
        for i in range(150)
    ]
    source = {"path": "v.mp4", "kind": "file"}
    record = {"status": "done", "reason": None, "detail": None, "dropped": [], "samples": rows, "source": source}
    with lock_store(tmp_path):
        begin_store(tmp_path, SETTINGS, {})
        for number in range(25):
            shard = {"bytes": 9999, "sha256": "0" * 64}
            commit_record(tmp_path, record | {"video_id": f"v{number}", "shard": shard})

    def peak_bytes(function):
        tracemalloc.start()
        try:
            function(tmp_path)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    finish_store(tmp_path)  # imports
    all_at_once = peak_bytes(read_records)
    assert all_at_once > 3_000_000
    assert peak_bytes(finish_store) < all_at_once / 2 and peak_bytes(check_store) < all_at_once / 2
    assert len(PairStore(tmp_path)) == 3750 and PairStore(tmp_path).frames[-1].tolist() == [149, 154]


def test_what_a_killed_job_left_is_cleared(tmp_path):
    root = write_store(tmp_path / "s", {"v": 1})
    (root / "shards" / "orphan.tar").write_bytes(b"no record")
    (root / ".tmp").mkdir()
    (root / ".tmp" / "v.tar.123").write_bytes(b"half")
    begin_store(root, SETTINGS, {})
    finish_store(root)
    assert sorted(p.name for p in root.rglob("*")) == sorted(
        ["store.json", "manifest.jsonl", "index.npz", "shards", "v.tar", "videos", "v.json"]
    )


def test_a_shard_refuses_samples_that_are_incomplete_or_do_not_follow(tmp_path):
    root = write_store(tmp_path / "s", {})
    members, *_ = sample_members(0)
    with ShardWriter(root, "v") as shard:
        with pytest.raises(ValueError, match=r"flow\.bin"):
            shard.add(0, 5, {"first.jpg": b"", "json": b""})
        with pytest.raises(ValueError, match="depth"):
            shard.add(0, 5, members | {"depth": b""})
        shard.add(10, 15, members)
        with pytest.raises(ValueError, match="rise"):
            shard.add(10, 15, members)
    assert not shard_path(root, "v").exists() and list((root / ".tmp").iterdir()) == []


@pytest.mark.parametrize("length", [1, 60, 99, 100, 101, 106])
@pytest.mark.parametrize("size", [0, 1, 30_001, 8**11 - 1])
def test_headers_are_those_of_tarfile(length, size):
    name = ("__rejected__/" + 20 * "abc-9_")[-length:] if length < 100 else "__rejected__/" + (length - 13) * "z"
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    assert member_header(name, size) == info.tobuf(tarfile.USTAR_FORMAT)


def test_reading_a_store_needs_no_part_of_the_preparation():
    code = "import sys, cmp.datasets.pair_store; sys.exit(not {'data_prep', 'decord', 'av'}.isdisjoint(sys.modules))"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == 0
