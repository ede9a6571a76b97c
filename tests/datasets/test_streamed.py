"""Pairs streamed from shards: the same samples as from the store, in an order that follows from the seed."""

import itertools
import json
import shutil
import tarfile
import tracemalloc
from pathlib import Path

import cv2
import fsspec
import numpy as np
import pytest
import torch

from cmp.datasets.pair_store import PairStore, ShardWriter, begin_store, commit_record, finish_store, lock_store
from cmp.datasets.splits import split_positions
from cmp.datasets.streamed import StreamedPairs, list_shards
from cmp.flow.codec import encode_flow

pytest.importorskip("webdataset")
HEIGHT, WIDTH = 24, 40
VIDEOS = {"a": 3, "b": 2, "c": 4, "d": 1}
GRID = dict(strategies=("grid",), grid_stride_px=8)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    root = tmp_path_factory.mktemp("store")
    rng = np.random.default_rng(0)
    with lock_store(root):
        begin_store(root, {}, {})
        for video, count in VIDEOS.items():
            with ShardWriter(root, video) as shard:
                for number in range(count):
                    flow = rng.uniform(-9, 9, (HEIGHT, WIDTH, 2)).astype(np.float32)
                    payload, header = encode_flow(flow, "float32")
                    image = cv2.imencode(".jpg", rng.integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8))[1].tobytes()
                    members = {"first.jpg": image, "flow.bin": payload, "json": json.dumps({"flow": header}).encode()}
                    shard.add(10 * number, 10 * number + 5, members)
                record = {"video_id": video, "status": "done", "reason": None, "dropped": []}
                commit_record(root, record | {"shard": shard.close(), "samples": shard.rows})
        finish_store(root)
    return root


def keys(stream, count):
    return [sample["key"] for sample in itertools.islice(iter(stream), count)]


def test_an_epoch_has_every_pair_once_as_the_store_has_it(store):
    pairs = PairStore(store)
    by_key = {pairs.key_of(i): pairs.read(i) for i in range(len(pairs))}
    found = list(itertools.islice(StreamedPairs(str(store), (), buffer_pairs=4, **GRID), 10))
    assert sorted(sample["key"] for sample in found) == sorted(by_key)
    for sample in found:
        stored = by_key[sample["key"]]
        assert (sample["image"].numpy().transpose(1, 2, 0) == stored.first).all()
        assert (sample["flow"].numpy().transpose(1, 2, 0) == stored.flow).all() and sample["valid"].all()
        assert sample["video"] == sample["key"].split("-")[0]
        points = sample["mask"][0] > 0
        assert points.sum() == 15 and (sample["guidance"][:, points] == sample["flow"][:, points]).all()  # 3 x 5


def test_the_order_follows_from_the_seed_and_changes_with_the_epoch(store):
    order = keys(StreamedPairs(str(store), (), seed=1, **GRID), 20)
    assert order == keys(StreamedPairs(str(store), (), seed=1, **GRID), 20)
    assert order[:10] != keys(StreamedPairs(str(store), (), seed=2, **GRID), 10)
    assert sorted(order[:10]) == sorted(order[10:]) and order[:10] != order[10:]
    in_shards = keys(StreamedPairs(str(store), (), buffer_pairs=1, **GRID), 10)
    videos = [video for video, _ in itertools.groupby(key.split("-")[0] for key in in_shards)]
    assert sorted(videos) == sorted(VIDEOS)  # without a buffer the pairs of a video come in a row


def test_the_randomness_of_a_sample_follows_from_seed_epoch_and_key(store):
    options = dict(strategies=("grid",), grid_stride_px=8, max_points=3)
    one, two = (StreamedPairs(str(store), (), seed=3, buffer_pairs=b, **options) for b in (1, 10))
    first, second = ({s["key"]: s["mask"] for s in itertools.islice(stream, 10)} for stream in (one, two))
    assert all(torch.equal(first[key], second[key]) for key in first)
    later = {s["key"]: s["mask"] for s in itertools.islice(one, 10, 20)}
    assert any(not torch.equal(first[key], later[key]) for key in first)


def test_processes_share_the_shards(store, monkeypatch):
    found = []
    for rank in range(2):
        monkeypatch.setattr("cmp.datasets.streamed.get_dist_info", lambda rank=rank: (rank, 2))
        # Without a buffer the first epoch's two shards come first, each in one run of its video.
        order = keys(StreamedPairs(str(store), (), buffer_pairs=1, **GRID), 10)
        videos = [video for video, _ in itertools.groupby(key.split("-")[0] for key in order)]
        found.append(set(videos[:2]))
    assert len(found[0]) == len(found[1]) == 2
    assert found[0].isdisjoint(found[1])
    monkeypatch.setattr("cmp.datasets.streamed.get_dist_info", lambda: (0, 5))
    with pytest.raises(ValueError, match="4 shards cannot be divided among 5 process"):
        next(iter(StreamedPairs(str(store), (), **GRID)))


def test_shards_are_read_from_where_fsspec_finds_them(store):
    memory = fsspec.filesystem("memory")
    memory.put(str(store), "/streamed/store", recursive=True)
    shards = list_shards("memory://streamed/store")
    assert [shard.rsplit("/", 1)[1] for shard in shards] == ["a.tar", "b.tar", "c.tar", "d.tar"]
    assert keys(StreamedPairs("memory://streamed/store", (), seed=1, **GRID), 10) == keys(
        StreamedPairs(str(store), (), seed=1, **GRID), 10
    )
    with pytest.raises(FileNotFoundError, match="memory://nothing: contains no shards"):
        list_shards("memory://nothing")
    memory.rm("/streamed", recursive=True)


def test_whole_videos_are_held_out_as_from_a_store(store, tmp_path):
    videos = [f"v{number:02}" for number in range(20)]
    (tmp_path / "shards").mkdir()
    for video in videos:
        (tmp_path / "shards" / f"{video}.tar").touch()
    parts = [list_shards(str(tmp_path), part=part, val_share=0.25) for part in ("train", "val")]
    for part, shards in zip(("train", "val"), parts):
        pairs = [video for video in videos for _ in range(3)]
        held = {pairs[i] for i in split_positions(pairs, part, val_share=0.25)}
        assert {Path(shard).stem for shard in shards} == held
    assert sorted(parts[0] + parts[1]) == list_shards(str(tmp_path)) and len(parts[1]) == 5
    for options, message in ((dict(part="test"), "part must be"), (dict(part="val", val_share=2), "val_share")):
        with pytest.raises(ValueError, match=message):
            list_shards(str(tmp_path), **options)
    with pytest.raises(ValueError, match="4 shards cannot be divided into training and validation"):
        list_shards(str(store), part="train")


def damaged_copy(store, folder, name, change):
    """A copy of a store in which one shard was changed by a function of its bytes."""
    root = folder / name
    shutil.copytree(store, root)
    path = root / "shards" / "c.tar"
    path.write_bytes(change(bytearray(path.read_bytes())))
    return root


def flipped(data):
    """One bit in the middle of the first JPEG's pixels: it still decodes, to other colors."""
    end = data.index(b"\xff\xd9")
    data[end - 40] ^= 1
    return data


def without_image(data):
    start = data.index(b"\xff\xd8")
    data[start : start + 2] = b"\0\0"
    return data


def as_large(data):
    """In place of the last pair, the header of a member that claims 300 MB."""
    header = tarfile.TarInfo.frombuf(data[:512], "ascii", "strict")
    header.name, header.size = header.name.replace("00000000-00000005", "00000090-00000095"), 300 << 20
    return bytes(data[: data.index(b"c-00000030")]) + header.tobuf(tarfile.USTAR_FORMAT) + bytes(1000)


@pytest.mark.parametrize(
    "change, left, said",
    [
        (flipped, 9, "c-00000000-00000005.first.jpg: damaged: its checksum differs"),
        (without_image, 9, "c-00000000-00000005.first.jpg: damaged: its checksum differs"),
        (lambda data: data[: len(data) * 6 // 10], 8, "the shard breaks off here"),
        (as_large, 9, "bytes, at most 268435456 are read"),
    ],
)
def test_a_damaged_pair_is_left_out_with_a_line_and_no_other(store, tmp_path, capsys, change, left, said):
    root = damaged_copy(store, tmp_path, "damaged", change)
    stream = StreamedPairs(str(root), (), buffer_pairs=1, **GRID)
    tracemalloc.start()
    found = keys(stream, left)
    assert tracemalloc.get_traced_memory()[1] < 30 << 20
    tracemalloc.stop()
    assert len(set(found)) == left and sum(key.startswith("c-") for key in found) == left - 6
    keys(stream, 2 * left)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith(f"left out: file://{root}/shards/c.tar: c-") and said in lines[0]


def test_without_a_record_only_what_cannot_be_decoded_is_left_out(store, tmp_path, capsys):
    root = damaged_copy(store, tmp_path, "damaged", without_image)
    shutil.rmtree(root / "videos")
    assert len(set(keys(StreamedPairs(str(root), (), **GRID), 9))) == 9
    assert "c-00000000-00000005 cannot be decoded" in capsys.readouterr().err
    (root / "videos").mkdir()
    (root / "videos" / "c.json").write_text('{"video_id": "c"')
    with pytest.raises(ValueError, match=r"videos/c.json: not readable as JSON"):
        keys(StreamedPairs(str(root), (), **GRID), 10)


def test_where_no_pair_can_be_used_and_wrong_numbers_are_refused(store, tmp_path, capsys):
    data = bytearray((store / "shards" / "d.tar").read_bytes())
    (tmp_path / "d.tar").write_bytes(without_image(data))
    with pytest.raises(ValueError, match="no pairs that can be used in 1 shards, such as .*d.tar"):
        next(iter(StreamedPairs([str(tmp_path / "d.tar")], (), **GRID)))
    with pytest.raises(ValueError, match="buffer_pairs must be at least 1"):
        StreamedPairs(str(store), (), buffer_pairs=0, **GRID)
    with pytest.raises(ValueError, match="at least one shard"):
        StreamedPairs([], (), **GRID)
