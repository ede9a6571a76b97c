"""Stores from untrusted sources: what is wrong gives one line that names it, and no name leads out of a store."""

import contextlib
import io
import json
import os
import re
import shutil
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from cmp.datasets import PropagationDataset, open_pairs
from cmp.datasets.pair_store import (
    PairStore,
    check_store,
    discard_index,
    finish_store,
    lock_store,
    read_about,
    read_manifest,
    read_records,
    sealed_json,
)
from cmp.video import write_video
from data_prep.browse import report_html
from data_prep.decisions import refilter_store
from data_prep.job import prepare_folder
from data_prep.parts import Part, merge_parts
from data_prep.repair import repair_store
from data_prep.settings import PrepareSettings
from tools.evaluate import main as evaluate
from tools.merge_stores import main as merge
from tools.train import main as train
from tools.verify_store import main as verify

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = PrepareSettings(interval_frames=2, pairs_per_video=3, short_side_px=24)
pytestmark = pytest.mark.usefixtures("prepared_in_this_process")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Videos in two folders, the store of them, and the same as parts of an array job; do not change them."""
    root = tmp_path_factory.mktemp("made")
    for seed, name in enumerate(("a/v 1.mp4", "a/v 2.mp4", "b/v 1.mp4")):
        (root / "videos" / name).parent.mkdir(parents=True, exist_ok=True)
        ground = cv2.resize(np.random.default_rng(seed).integers(0, 255, (10, 30, 3), np.uint8), (102, 56))
        write_video(root / "videos" / name, (ground[:, 3 * i : 3 * i + 72] for i in range(10)), 25)
    (root / "videos" / "text.mp4").write_text("not a video")
    prepare(root, root / "store")
    for index in range(2):
        prepare(root, root / "array", part=Part(index, 2))
    return root


def prepare(made, out, **options):
    return prepare_folder(made / "videos", out, SETTINGS, num_workers=1, show_progress=False, **options)


@pytest.fixture(autouse=True)
def small_recipe(monkeypatch):
    """The page of a store finds K and G on crops of 384 px; small crops are read in the same way."""
    monkeypatch.setattr("data_prep.browse._RECIPES", (("small", 24, 16, 5, 8),))


@pytest.fixture
def store(made, tmp_path):
    return Path(shutil.copytree(made / "store", tmp_path / "store"))


@pytest.fixture
def array(made, tmp_path):
    return Path(shutil.copytree(made / "array", tmp_path / "array"))


def done_record(store):
    return next(path for path in sorted((store / "videos").glob("*.json")) if json.loads(path.read_text())["samples"])


def contents(root):
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file() and p.name != ".lock"}


def without(*keys):
    def change(record):
        for key in keys[:-1]:
            record = record[key]
        del record[keys[-1]]

    return change


def put(value, *keys):
    def change(record):
        for key in keys[:-1]:
            record = record[key]
        record[keys[-1]] = value

    return change


ROW = ("samples", 0)
CHANGES = {
    "no status": (without("status"), "status"),
    "no reason": (without("reason"), "has no reason"),
    "no detail": (without("detail"), "has no detail"),
    "no samples": (without("samples"), "has no samples"),
    "no dropped": (without("dropped"), "has no dropped"),
    "no shard": (without("shard"), "has no shard"),
    "no source": (without("source"), "has no source"),
    "no path": (without("source", "path"), "source.path"),
    "no bytes": (without("shard", "bytes"), "shard.bytes"),
    "no hash": (without("shard", "sha256"), "shard.sha256"),
    "no frames": (without(*ROW, "frames"), "samples[0].frames"),
    "no members": (without(*ROW, "members"), "samples[0].members"),
    "no folder": (without(*ROW, "folder"), "samples[0].folder"),
    "no quality": (without(*ROW, "quality"), "samples[0].quality"),
    "list": (lambda record: record.update(samples={"a": 1}), "samples"),
    "text": (put("x", "samples"), "samples"),
    "numbers": (put([1, 2], "samples"), "samples[0]"),
    "null shard": (put(None, "shard"), "shard"),
    "text shard": (put("x.tar", "shard"), "shard"),
    "reasons": (put([dict(frames=[0, 1], quality={}, members=None, folder="", reasons=[])], "dropped"), "reasons"),
    "float frame": (put([0.5, 2], *ROW, "frames"), "frames"),
    "true frame": (put([True, 2], *ROW, "frames"), "frames"),
    "negative frame": (put([-4, 2], *ROW, "frames"), "frames"),
    "huge frame": (put([0, 10**30], *ROW, "frames"), "frames"),
    "huge offset": (put(10**30, *ROW, "members", 0, 0), "first.jpg"),
    "wrapping offset": (put(2**63 - 9, *ROW, "members", 0, 0), "first.jpg"),
    "beyond the shard": (put(10**9, *ROW, "members", 0, 0), "first.jpg"),
    "huge size": (put(2**40, *ROW, "members", 2, 1), "flow.bin"),
    "infinite size": (put(float("inf"), *ROW, "members", 2, 1), "flow.bin"),
    "no flow": (put([0, -1, 0], *ROW, "members", 2), "flow.bin"),
    "four members": (lambda record: record["samples"][0]["members"].pop(), "members"),
    "checksum": (put(2**33, *ROW, "members", 2, 2), "flow.bin"),
    "score": (put("high", *ROW, "quality", "mean_flow_px"), "quality"),
    "huge score": (put(10**400, *ROW, "quality", "moving_share"), "quality"),
    "leads out": (put("../../x", *ROW, "folder"), "folder"),
    "other id": (put("../../x", "video_id"), "video id"),
    "number": (put(7, "video_id"), "video id"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_sealed_record_that_is_wrong_is_named_by_every_command(made, store, capsys, name):
    change, said = CHANGES[name]
    path = done_record(store)
    record = json.loads(path.read_text())
    change(record)
    path.write_bytes(sealed_json(record))
    assert verify([str(store), "--quiet"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and lines[0].startswith(f"videos/{path.name}: agrees with its checksum, but is not") and (
        said in lines[0]
    )  # fmt: skip
    for call in (
        lambda: refilter_store(store, {"min_moving_share": 0.5}),
        lambda: prepare(made, store),
        lambda: read_records(store, whole=True),
    ):
        with pytest.raises(ValueError) as error:
            call()
        assert path.name in str(error.value) and said in str(error.value) and "\n" not in str(error.value)
    [problem] = left_out(store)
    assert str(path) in problem and said in problem and "\n" not in problem


def left_out(store):
    """The lines of the page's problems. The page shows the other videos all the same."""
    problems = []
    page = report_html(store, num_pictures=100, num_read=100, problems=problems)
    paths = {json.loads(path.read_text())["source"]["path"] for path in intact_records(store, problems)}
    assert len(paths) >= 3 and all(path in page for path in paths)
    return problems


def intact_records(store, problems):
    return [path for path in (store / "videos").glob("*.json") if not any(path.name in line for line in problems)]


def test_such_a_record_is_repaired_and_read_by_nobody_without_an_index(made, store, capsys):
    for number, path in enumerate(sorted((store / "videos").glob("*.json"))[:2]):
        record = json.loads(path.read_text())
        del record[("samples", "source")[number]]
        path.write_bytes(sealed_json(record))
    assert verify([str(store), "--quiet", "--repair", str(made / "videos"), "--workers", "1"]) == 0
    assert "2 videos done again" in capsys.readouterr().out and contents(store) == contents(made / "store")
    path = done_record(store)
    record = json.loads(path.read_text())
    record["samples"][0]["members"][0][0] = 10**30
    path.write_bytes(sealed_json(record))
    (store / "index.npz").unlink()
    with pytest.raises(ValueError, match=f"{path.name}: not a video record.*first.jpg"):
        open_pairs(str(store))


@pytest.mark.parametrize("content", [b"[" * 10**5, b"[]", b"7", b"\xff", b'{"video_id": ' + b"9" * 5000 + b"}", b""])
def test_what_is_not_a_record_is_named_too(made, store, capsys, content):
    path = done_record(store)
    path.write_bytes(content)
    assert verify([str(store), "--quiet"]) == 1
    assert capsys.readouterr().out.startswith(f"videos/{path.name}: damaged")
    with pytest.raises(ValueError, match=f"{path.name}: not a video record"):
        prepare(made, store)
    [problem] = left_out(store)
    assert f"{path}: not a video record" in problem
    (store / "store.json").write_bytes(content)
    assert verify([str(store), "--quiet"]) == 1
    assert "store.json: damaged" in capsys.readouterr().out
    with pytest.raises(ValueError, match="store.json"):
        open_pairs(str(store))


@pytest.mark.parametrize("key, value", [("settings", None), ("settings", [1]), ("about", "x"), ("about", None)])
def test_a_sealed_store_json_that_lacks_its_parts_is_named(made, store, capsys, key, value):
    content = json.loads((store / "store.json").read_text())
    content.pop(key) if value is None else content.update({key: value})
    (store / "store.json").write_bytes(sealed_json(content, indent=1))
    assert verify([str(store), "--quiet"]) == 1
    assert f"store.json: damaged: {key} must be an object" in capsys.readouterr().out
    for call in (lambda: open_pairs(str(store)), lambda: report_html(store), lambda: refilter_store(store, {}),
                 lambda: prepare(made, store)):  # fmt: skip
        with pytest.raises(ValueError, match=f"store.json: {key} must be an object"):
            call()


@pytest.mark.parametrize(
    "key, value, said",
    [
        ("short_side_px", "24", "settings of another version"),
        ("interval_frames", 10**400, "store.json"),
        ("thresholds", {"max_unexplained": 10**400}, "store.json"),
        ("thresholds", [1], "store.json"),
        ("estimator", "files:/etc", "came from files"),
        ("estimator", ["dis-medium"], "store.json"),
    ],
)
def test_settings_that_a_repair_cannot_use_are_named(made, store, key, value, said):
    content = json.loads((store / "store.json").read_text())
    content["settings"][key] = value
    (store / "store.json").write_bytes(sealed_json(content, indent=1))
    done_record(store).unlink()
    with pytest.raises(ValueError, match=f"store.json: .*{said}|{said}"):
        repair_store(store, made / "videos", check_store(store), num_workers=1, show_progress=False)
    if key == "thresholds":
        with pytest.raises(ValueError, match="thresholds of another version"):
            refilter_store(store, {"min_moving_share": 0.5})


def changed_index(store, **changes):
    with np.load(store / "index.npz") as archive:
        index = dict(archive)
    index |= {name: change(index[name]) if callable(change) else change for name, change in changes.items()}
    np.savez(store / "index.npz", **{name: array for name, array in index.items() if array is not None})


@pytest.mark.parametrize(
    "changes, said",
    [
        (dict(video=None), "has no 'video'"),
        (dict(frames=lambda a: a.astype(float)), "frames is float64"),
        (dict(offset=lambda a: a.astype(str)), "offset is <U"),
        (dict(offset=lambda a: a.astype(np.uint64) + np.uint64(2**63)), "offset has numbers from"),
        (dict(offset=lambda a: a + (2**63 - 1 - a.max())), "offset has numbers from"),
        (dict(size=lambda a: a.astype(np.int64) + 2**31, shard_bytes=lambda a: a + 2**40), "at most 1073741824"),
        (dict(video=np.int32(0)), "video is int32 of shape"),
        (dict(video=lambda a: a[:, None]), "video is int32 of shape"),
        (dict(video_ids=lambda a: np.arange(len(a))), "video_ids is int64"),
        (dict(video_ids=lambda a: a[:, None]), "video_ids is <U"),
        (dict(video_ids=lambda a: np.array(["../../x"] * len(a))), "not a video id"),
        (dict(frames=lambda a: a - 10**6), "frames has numbers from"),
        (dict(members=np.int64(3)), "another version"),
        (dict(format_version=np.arange(3)), ""),
        (dict(shard_bytes=lambda a: a.astype(bool)), "shard_bytes is bool"),
    ],
)
def test_an_index_of_wrong_types_and_huge_numbers_is_named(store, changes, said):
    changed_index(store, **changes)
    with pytest.raises(ValueError, match=rf"index\.npz: not a valid index \(.*{said}"):
        open_pairs(str(store))


def test_an_index_that_lies_about_its_size_or_is_compressed_is_refused(store):
    whole = (store / "index.npz").read_bytes()
    for name, compression in (("offset.npy", zipfile.ZIP_STORED), ("size.npy", zipfile.ZIP_DEFLATED)):
        with zipfile.ZipFile(io.BytesIO(whole)) as old, zipfile.ZipFile(store / "index.npz", "w", compression) as new:
            for member in old.namelist():
                data = old.read(member)
                new.writestr(member, data[:-64] if member == name and not compression else data)
        with pytest.raises(ValueError, match=r"index\.npz: damaged \(.*(follow|compressed)"):
            open_pairs(str(store))


def shard_with(store, member, data):
    """Put other bytes in the place of a member of the first sample, with records and index that agree."""
    path = done_record(store)
    record = json.loads(path.read_text())
    shard = store / "shards" / f"{path.stem}.tar"
    size, offset = len(data), shard.stat().st_size
    with open(shard, "ab") as file:
        file.write(data)
    import hashlib
    import zlib

    names = ["first.jpg", "second.jpg", "flow.bin", "guides.npy", "json"]
    record["samples"][0]["members"][names.index(member)] = [offset, size, zlib.crc32(data)]
    record["shard"] = {"bytes": offset + size, "sha256": hashlib.sha256(shard.read_bytes()).hexdigest()}
    path.write_bytes(sealed_json(record))
    discard_index(store)
    finish_store(store)
    return PairStore(store).videos.index(path.stem)


def test_evaluation_and_training_name_a_damaged_member_in_one_line(store, tmp_path, capfd):
    for shard in (store / "shards").glob("*.tar"):
        shard.write_bytes(bytes(shard.stat().st_size))
    config = str(ROOT / "configs/pretrain/cmp_r18_quickstart_1xb16_300.py")
    assert evaluate(["propagation", config, "none", "--data", str(store)]) == 2
    said = [line for line in capfd.readouterr().err.splitlines() if line.startswith(("evaluate.py", "Trace", "Value"))]
    assert len(said) == 1 and ".json is damaged: its checksum differs" in said[0]
    changed_index(store, video=None)
    assert evaluate(["propagation", config, "none", "--data", str(store)]) == 2
    assert train([config, "--data", str(store), "--work-dir", str(tmp_path / "run")]) == 2
    said = [
        line for line in capfd.readouterr().err.splitlines() if line.startswith(("evaluate.py", "train.py", "Trace"))
    ]
    assert len(said) == 2 and all("index.npz: not a valid index (has no 'video')" in line for line in said)


def test_a_pipe_in_the_place_of_a_shard_blocks_nothing(store):
    shard = sorted((store / "shards").glob("*.tar"))[0]
    shard.unlink()
    os.mkfifo(shard)
    with pytest.raises(ValueError, match=f"{shard.name}: member .*: the shard has 0 bytes instead of"):
        PairStore(store).read(0)


@pytest.mark.parametrize(
    "member, data",
    [
        ("json", b"[]"),
        ("json", b"{}"),
        ("json", b"[" * 10**5),
        ("json", b'{"flow": {"codec": ["half16"], "height": 24, "width": 31}}'),
        ("json", b'{"flow": {"codec": "half16", "height": 1' + b"0" * 99 + b', "width": 31}}'),
        ("flow.bin", b"x"),
        ("first.jpg", b"x"),
    ],
)
def test_a_member_that_is_not_what_it_should_be_is_named_with_its_shard(store, member, data):
    with contextlib.suppress(IndexError):
        shard_with(store, member, data)
    source = PairStore(store)
    with pytest.raises(ValueError, match=r"shards/.*\.tar: member .*-00000001-00000003\.\w+.*"):
        source.read(0)
    problems = left_out(store)
    assert problems and all(re.search(r"shards/.*\.tar: member .*-00000001-00000003", line) for line in problems)
    with pytest.raises(ValueError, match=r"\.tar: member"):
        PropagationDataset(source, [], grid_stride_px=8, nms_kernel=3)[0]


@pytest.mark.parametrize("key", ["times_s", "frames", "video", "quality", "estimator"])
@pytest.mark.parametrize("value", [None, "x", [1], 10**400])
def test_the_page_names_a_sample_whose_description_lacks_what_it_shows(store, key, value):
    meta = json.loads(PairStore(store).read_member(0, "json"))
    meta.pop(key) if value is None else meta.update({key: value})
    shard_with(store, "json", json.dumps(meta).encode())
    [problem] = left_out(store)
    assert re.search(rf"shards/.*\.tar: member .*-00000001-00000003\.json has no valid {key}", problem)


def test_a_linked_shard_is_one_line_in_verify_and_is_repaired_in_the_store_alone(made, store, tmp_path, capsys):
    shards = sorted((store / "shards").glob("*.tar"))
    outside = tmp_path / "outside.tar"
    shards[0].rename(outside)
    before = outside.read_bytes()
    shards[0].symlink_to(outside)
    shards[1].unlink()
    shards[1].symlink_to(tmp_path / "nowhere")
    record = store / "videos" / f"{shards[2].stem}.json"
    record.rename(tmp_path / "record.json")
    record.symlink_to(tmp_path / "record.json")
    assert verify([str(store), "--quiet"]) == 1
    lines = capsys.readouterr().out.splitlines()
    for name in (f"shards/{shards[0].name}", f"shards/{shards[1].name}", f"videos/{record.name}"):
        assert len([line for line in lines if line.startswith(f"{name}: is a link")]) == 1
    assert verify([str(store), "--quiet", "--repair", str(made / "videos"), "--workers", "1"]) == 0
    assert outside.read_bytes() == before and contents(store) == contents(made / "store")
    assert not any(path.is_symlink() for path in store.rglob("*"))


def test_foreign_files_are_one_line_each_and_stay(made, store, tmp_path, capsys):
    foreign = ["shards/notes.txt", "shards/a b.tar", "videos/copy of x.json", "videos/.DS_Store", "shards/folder.tar/x",
               "videos/folder.json/x", "shards/ü.tar"]  # fmt: skip
    for name in foreign:
        (store / name).parent.mkdir(exist_ok=True)
        (store / name).write_text("mine")
    os.mkfifo(store / "shards" / "pipe.tar")
    assert verify([str(store), "--quiet"]) == 1
    lines = capsys.readouterr().out.splitlines()
    named = sorted(line.split(": ")[0] for line in lines[:-1])
    assert named == sorted([name.removesuffix("/x") for name in foreign] + ["shards/pipe.tar"])
    (store / "videos" / "copy of x.json").unlink()
    shutil.rmtree(store / "videos" / "folder.json")
    with lock_store(store):
        discard_index(store)
        finish_store(store)
    left = [name for name in foreign if not name.startswith(("videos/copy", "videos/folder"))]
    assert all((store / name).read_text() == "mine" for name in left)


@pytest.mark.parametrize("folder", ["shards", "videos", ".tmp", "parts"])
def test_no_writer_follows_a_linked_folder_out_of_a_store(made, store, tmp_path, folder):
    outside = tmp_path / "outside"
    if (store / folder).exists():
        (store / folder).rename(outside)
    else:
        outside.mkdir()
    (outside / "precious.tar").write_text("mine")
    (store / folder).symlink_to(outside)
    before = contents(outside)
    writers = (
        lambda: prepare(made, store),
        lambda: refilter_store(store, {"min_moving_share": 0.5}),
        lambda: repair_store(store, made / "videos", [], num_workers=1, show_progress=False),
        lambda: merge_parts(store),
    )
    for call in writers:
        with pytest.raises(ValueError, match=rf"{folder}: is a link \(to .*outside"):
            call()
    assert contents(outside) == before
    if folder in ("shards", "videos"):
        assert f"{folder}: is a link" in "\n".join(map(str, check_store(store)))


def test_a_cut_shard_stops_the_merge_and_nothing_changes(array, capsys):
    shard = sorted(array.glob("parts/*/shards/*.tar"))[0]
    whole = shard.read_bytes()
    for data in (whole[:-1], whole[: len(whole) // 2], b"", whole + b"\0"):
        shard.write_bytes(data)
        before = contents(array)
        assert merge([str(array)]) == 2
        said = capsys.readouterr().err
        assert f"{shard.name}: missing or cut; run task" in said and f"({len(data)} of {len(whole)} bytes)" in said
        assert contents(array) == before
    shard.write_bytes(whole)
    assert merge([str(array)]) == 0


def test_links_foreign_files_and_wrong_records_stop_the_merge_with_a_line_each(array, tmp_path, capsys):
    shards = sorted(array.glob("parts/*/shards/*.tar"))
    outside = tmp_path / "outside.tar"
    shards[0].rename(outside)
    shards[0].symlink_to(outside)
    part = shards[0].parents[1]
    for name in (
        part / "shards" / "notes.txt",
        part / "readme",
        array / "parts" / "plan.txt",
        array / "parts" / "one-of-two",
    ):
        name.write_text("mine")
    before = contents(array)
    assert merge([str(array)]) == 2
    lines = capsys.readouterr().err.splitlines()
    for name in ("notes.txt", "readme", "plan.txt", "one-of-two", f"{shards[0].name}: is a link"):
        assert len([line for line in lines if name in line]) == 1
    assert len(lines) == 5 and contents(array) == before
    for name in (
        part / "shards" / "notes.txt",
        part / "readme",
        array / "parts" / "plan.txt",
        array / "parts" / "one-of-two",
    ):
        name.unlink()
    shards[0].unlink()
    shutil.copy(outside, shards[0])
    record = shards[0].parents[1] / "videos" / f"{shards[0].stem}.json"
    good = record.read_bytes()
    content = json.loads(good)
    del content["samples"]
    record.write_bytes(sealed_json(content))
    assert merge([str(array)]) == 2
    assert f"{record.name}: not a video record (has no samples)" in capsys.readouterr().err
    record.write_bytes(good)
    part.rename(tmp_path / "part")
    part.symlink_to(tmp_path / "part")
    assert merge([str(array)]) == 2
    assert f"{part}: is a link" in capsys.readouterr().err and (tmp_path / "part" / "store.json").exists()


@pytest.mark.parametrize("name", ["00000-of-00000", "00007-of-00002", "00000-of-999999999"])
def test_a_part_that_cannot_be_is_named(array, capsys, name):
    (array / "parts" / name).mkdir()
    assert merge([str(array)]) == 2
    assert f"{name}: not a part of an array job" in capsys.readouterr().err


def test_a_manifest_of_other_lines_is_named(store):
    (store / "manifest.jsonl").write_text('{"video_id": "a"}\n[1]\n')
    with pytest.raises(ValueError, match=r"manifest\.jsonl:2: must be a JSON object"):
        read_manifest(store)


def pairs_of(source, part, path, **more):
    dataset = PropagationDataset(source, [], grid_stride_px=8, nms_kernel=3, part=part, val_list=path, **more)
    return sorted(dataset.positions.tolist())


def test_a_list_names_the_held_out_videos_of_a_store_by_their_paths(store, tmp_path):
    source, path = PairStore(store), tmp_path / "val.txt"
    of = {name: [i for i, video in enumerate(source.pair_videos) if records_path(store, video) == name]
          for name in ("a/v 1.mp4", "a/v 2.mp4", "b/v 1.mp4")}  # fmt: skip
    assert [len(positions) for positions in of.values()] == [3, 3, 3]
    finished = (True, False)
    for index in finished:
        if not index:
            discard_index(store)
        path.write_text("\ufeff# held out\r\n./a//v 2.mp4 7\r\n\r\ntext.mp4\r\n")  # the last has no pairs
        assert pairs_of(source, "val", path) == of["a/v 2.mp4"]
        assert pairs_of(source, "train", path) == sorted(of["a/v 1.mp4"] + of["b/v 1.mp4"])
        path.write_text("v 1.mp4\n")
        assert pairs_of(source, "train", path) == of["a/v 2.mp4"]
        path.write_text(f"{source.pair_videos[0]}\n")
        assert pairs_of(source, "val", path) == of[records_path(store, source.pair_videos[0])]
        path.write_text("a\\v 1.mp4\n# b\na/v 3.mp4\n")
        with pytest.raises(ValueError, match=r"val\.txt:3: 'a/v 3\.mp4': does not match any of the 4 videos"):
            pairs_of(source, "train", path)


def records_path(store, video):
    return json.loads((store / "videos" / f"{video}.json").read_text())["source"]["path"]


def test_a_list_names_the_videos_of_joined_stores(store, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(store, other)
    path = tmp_path / "val.txt"
    path.write_text("b/v 1.mp4\n")
    joined = open_pairs([str(store), str(other)])
    held_out = pairs_of(joined, "val", path)
    assert len(held_out) == 6 and {joined.pair_videos[i].rpartition("/")[2].split(":")[0] for i in held_out} == {
        "store", "other"
    }  # fmt: skip
    assert all(records_path(store, joined.pair_videos[i].rpartition(":")[2]) == "b/v 1.mp4" for i in held_out)
    assert read_about(store)["settings"]["short_side_px"] == 24
