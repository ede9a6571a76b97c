"""Every flipped bit is found and named, and a repair ends with the bytes of an undamaged store."""

import importlib.util
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from cmp.datasets.pair_store import PairStore, check_store, read_records
from cmp.video import write_video
from data_prep.job import prepare_folder
from data_prep.settings import PrepareSettings

TOOL = Path(__file__).resolve().parents[2] / "tools" / "verify_store.py"
pytestmark = pytest.mark.usefixtures("prepared_in_this_process")


@pytest.fixture(scope="module")
def main():
    spec = importlib.util.spec_from_file_location("verify_store", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Folder of three clips and a broken one, and their store; do not change them."""
    root = tmp_path_factory.mktemp("made")
    (root / "videos").mkdir()
    for seed, name in enumerate(("a.mp4", "b b.mp4", "ü.mp4")):
        noise = np.random.default_rng(seed).integers(0, 255, (10, 30, 3), np.uint8)
        ground = cv2.resize(noise, (102, 56))
        write_video(root / "videos" / name, (ground[:, 3 * i : 3 * i + 72] for i in range(10)), 25)
    (root / "videos" / "text.mp4").write_text("not a video")
    settings = PrepareSettings(interval_frames=2, pairs_per_video=2, short_side_px=24)
    prepare_folder(root / "videos", root / "store", settings, num_workers=1, show_progress=False)
    return root


@pytest.fixture
def store(made, tmp_path):
    return Path(shutil.copytree(made / "store", tmp_path / "store"))


def contents(root):
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file() and p.name != ".lock"}


def flip(path, bit):
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def test_a_whole_store_is_whole(made, main, capsys):
    assert check_store(made / "store") == []
    assert main([str(made / "store"), "--quiet"]) == 0
    assert capsys.readouterr().out.endswith("store: whole\n")


def test_any_flipped_bit_is_found_in_the_file_where_it_is(store):
    rng = np.random.default_rng(0)
    files = [path for path in store.rglob("*") if path.is_file() and path.name != ".lock"]
    assert len(files) == 10  # store.json, manifest, index, 4 records, 3 shards
    for path in files:
        size = path.stat().st_size
        for bit in [0, 8 * size - 1, *rng.integers(0, 8 * size, 25).tolist()]:
            flip(path, bit)
            found = check_store(store)
            assert found and str(path.relative_to(store)) in [damage.file for damage in found], (path.name, bit)
            flip(path, bit)
    assert check_store(store) == []


def test_a_damaged_member_is_named_with_its_shard(store, main, capsys):
    pairs = PairStore(store)
    record = read_records(store)[pairs.video_of(0)]
    offset, size, _ = record["samples"][0]["members"][2]
    flip(store / "shards" / f"{pairs.video_of(0)}.tar", 8 * (offset + size // 2))
    assert main([str(store), "--quiet"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"shards/{pairs.video_of(0)}.tar: member {pairs.key_of(0)}.flow.bin: its checksum differs"
    assert len(lines) == 2


def test_damage_beside_the_content_is_placed_too(store):
    pairs = PairStore(store)
    record = read_records(store)[pairs.video_of(0)]
    offset, size, _ = next(member for member in record["samples"][0]["members"] if member[1] % 512)
    shard = store / "shards" / f"{pairs.video_of(0)}.tar"
    header, padding, end = offset - 400, offset + size, shard.stat().st_size - 1000
    for place, expected in ((header, "tar header or padding"), (padding, "tar header or padding"), (end, "end mark")):
        flip(shard, 8 * place)
        (found,) = check_store(store)
        assert expected in found.problem and found.member.startswith("" if place == end else pairs.key_of(0))
        flip(shard, 8 * place)


def test_a_repair_does_only_the_damaged_videos_and_ends_with_the_same_bytes(made, store, main, capsys):
    videos = sorted(read_records(store))
    done = [video_id for video_id, record in read_records(store).items() if record["status"] == "done"]
    flip(store / "shards" / f"{done[0]}.tar", 9000)
    flip(store / "videos" / f"{done[1]}.json", 77)
    flip(store / "store.json", 800)
    untouched = store / "shards" / f"{done[2]}.tar"
    before = untouched.stat().st_ino
    assert main([str(store), "--repair", str(made / "videos"), "--quiet", "--workers", "1"]) == 0
    assert "2 videos done again" in capsys.readouterr().out
    assert contents(store) == contents(made / "store") and len(videos) == 4
    assert untouched.stat().st_ino == before


@pytest.mark.parametrize("name", ["index.npz", "manifest.jsonl"])
def test_what_is_derived_is_mended_without_doing_a_video_again(made, store, main, capsys, name):
    flip(store / name, 3001)
    assert main([str(store), "--repair", str(made / "videos"), "--quiet"]) == 0
    assert "0 videos done again" in capsys.readouterr().out
    assert contents(store) == contents(made / "store")


def test_missing_records_and_cut_shards_are_mended_too(made, store, main):
    done = [video_id for video_id, record in read_records(store).items() if record["status"] == "done"]
    (store / "videos" / f"{done[0]}.json").unlink()
    (store / "shards" / f"{done[1]}.tar").write_bytes((store / "shards" / f"{done[1]}.tar").read_bytes()[:-600])
    (store / "shards" / f"{done[2]}.tar").unlink()
    assert main([str(store), "--repair", str(made / "videos"), "--quiet", "--workers", "2"]) == 0
    assert contents(store) == contents(made / "store")


def test_a_repair_without_the_video_changes_nothing(store, main, tmp_path, capsys):
    (tmp_path / "other").mkdir()
    flip(next((store / "shards").iterdir()), 9000)
    before = contents(store)
    assert main([str(store), "--repair", str(tmp_path / "other"), "--quiet"]) == 2
    assert "nothing was changed" in capsys.readouterr().err and contents(store) == before
    assert main([str(tmp_path / "other"), "--quiet"]) == 2
    assert "no pair store" in capsys.readouterr().err
