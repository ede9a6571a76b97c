"""New thresholds on an old store: the same pairs as a store made with them, from the scores alone."""

import json
import shutil
import tarfile
from dataclasses import asdict

import cv2
import numpy as np
import pytest

from cmp.datasets.pair_store import (
    MEMBERS,
    PairStore,
    check_store,
    commit_record,
    discard_index,
    lock_store,
    read_about,
    read_manifest,
    read_records,
    sealed_json,
    shard_path,
)
from cmp.video import write_video
from data_prep import decisions
from data_prep.decisions import decide_record, refilter_store
from data_prep.job import prepare_folder
from data_prep.quality import drop_reasons
from data_prep.repair import repair_store
from data_prep.settings import PrepareSettings
from data_prep.thresholds import Thresholds

HEIGHT, WIDTH = 48, 64
pytestmark = pytest.mark.usefixtures("prepared_in_this_process")
STRICT = {"min_moving_share": 0.3, "max_beyond_share": 0.1}
LOOSE = dict(
    max_unexplained=2, max_appearance_jump=1, max_duplicate_change=-1, min_moving_share=0, max_beyond_share=1,
    max_inconsistent=1,
)  # fmt: skip


def texture(seed, width=WIDTH):
    small = np.random.default_rng(seed).integers(20, 235, (HEIGHT // 4, width // 4, 3), np.uint8)
    return cv2.resize(small, (width, HEIGHT), interpolation=cv2.INTER_CUBIC)


def slide(count, step, seed):
    wide = texture(seed, WIDTH + 96)
    return [wide[:, i * step : i * step + WIDTH] for i in range(count)]


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """A clip that moves, is cut, moves slowly in one corner and stops; one that stands still; one that is too short."""
    root = tmp_path_factory.mktemp("videos")
    corner = [texture(2).copy() for _ in range(8)]
    for i, frame in enumerate(corner):
        frame[8:28, 8 + i : 28 + i] = texture(3)[:20, :20]
    mixed = slide(8, 3, 0) + slide(6, 2, 1) + corner + [texture(4)] * 6
    write_video(root / "mixed.mp4", mixed, 20, crf=4)
    write_video(root / "still.mp4", [texture(5)] * 9, 20, crf=4)
    write_video(root / "short.mp4", slide(2, 2, 6), 20, crf=4)
    return root


def prepare(videos, out, **changes):
    settings = PrepareSettings(interval_frames=2, **{"stride_frames": 1, **changes})
    return prepare_folder(videos, out, settings, num_workers=1, show_progress=False)


@pytest.fixture(scope="module")
def made(videos, tmp_path_factory):
    """Stores made with the default, strict and loose thresholds; do not change them."""
    root = tmp_path_factory.mktemp("made")
    for name, limits in (("default", {}), ("strict", STRICT), ("loose", LOOSE)):
        prepare(videos, root / name, thresholds=Thresholds(**limits))
    return root


def samples(root):
    """Every member of every kept pair, by key."""
    store = PairStore(root)
    return {store.key_of(i): [store.read_member(i, m) for m in MEMBERS if store.has(i, m)] for i in range(len(store))}


def outcome_of(root):
    """What the records say, without where it lies."""
    hidden = ("shard", "sha256")
    records = {k: {n: v for n, v in r.items() if n not in hidden} for k, r in read_records(root).items()}
    for record in records.values():
        for row in record["samples"] + record["dropped"]:
            del row["members"], row["folder"]
    return records


def contents(root):
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file() and p.name != ".lock"}


def test_the_clips_hold_what_the_other_tests_need(made):
    counts = {name: len(PairStore(made / name)) for name in ("strict", "default", "loose")}
    assert 0 < counts["strict"] < counts["default"] < counts["loose"] == 26 + 7
    reasons = {reason for r in read_records(made / "default").values() for p in r["dropped"] for reason in p["reasons"]}
    assert reasons >= {"cut", "duplicate", "still"}
    statuses = {r["source"]["path"]: (r["status"], r["reason"]) for r in read_records(made / "default").values()}
    assert statuses["still.mp4"] == ("skipped", "all_duplicate") and statuses["short.mp4"] == ("skipped", "too_short")


@pytest.mark.parametrize("name, limits", [("strict", STRICT), ("loose", LOOSE)])
def test_a_refiltered_store_holds_the_pairs_of_one_made_with_those_thresholds(made, tmp_path, name, limits):
    out = shutil.copytree(made / "default", tmp_path / "store")
    shards = {path.name: path.read_bytes() for path in (out / "shards").iterdir()}
    before = samples(out)
    report = refilter_store(out, limits)
    after = samples(out)
    assert after == samples(made / name) and outcome_of(out) == outcome_of(made / name)
    assert read_about(out)["settings"] == read_about(made / name)["settings"]
    assert (report.pairs_before, report.pairs, report.lost) == (len(before), len(after), 0)
    assert report.back == len(after.keys() - before.keys()) and report.dropped_now == len(before.keys() - after.keys())
    assert {path.name: path.read_bytes() for path in (out / "shards").iterdir()} == shards
    assert [line["status"] for line in read_manifest(out)] == [line["status"] for line in read_manifest(made / name)]
    assert check_store(out) == []
    refilter_store(out, asdict(Thresholds()))  # and back
    assert contents(out) == contents(made / "default")


def test_thresholds_that_are_not_given_stay_and_none_given_changes_nothing(made, tmp_path):
    out = shutil.copytree(made / "strict", tmp_path / "store")
    assert refilter_store(out, {}).changed == 0 and contents(out) == contents(made / "strict")
    report = refilter_store(out, {"max_beyond_share": 0.5})
    assert report.thresholds == Thresholds(**STRICT | {"max_beyond_share": 0.5})


class Killed(BaseException):
    pass


@pytest.mark.parametrize("healer", ["refilter", "prepare", "repair"])
def test_a_refilter_killed_after_any_write_is_finished_by_whoever_comes_next(
    videos, made, tmp_path, monkeypatch, healer
):
    """Before store.json is written the next call has to be the same refilter, or a job with the old thresholds."""
    write = {"store.json": decisions.write_file, "record": decisions.commit_record, "finish": decisions.finish_store}
    moment, done = 0, False
    while not done:
        out = shutil.copytree(made / "default", tmp_path / f"{moment}")
        left = [moment]

        def step(name, after=False, left=left):
            def run(*args):
                if left[0] == 0:
                    raise Killed
                left[0] -= 1
                return write[name](*args)

            return run

        with monkeypatch.context() as patch:
            patch.setattr(decisions, "write_file", step("store.json"))
            patch.setattr(decisions, "commit_record", step("record"))
            patch.setattr(decisions, "finish_store", step("finish"))
            try:
                refilter_store(out, LOOSE)
                done = True
            except Killed:
                assert not (out / "index.npz").exists() and len(PairStore(out)) > 0  # unfinished, still readable
        expected = "loose" if moment else "default"
        if healer == "refilter":
            refilter_store(out, LOOSE)
            expected = "loose"
        elif healer == "prepare":
            prepare(videos, out, thresholds=Thresholds(**LOOSE if moment else {}))
        else:
            repair_store(out, videos, check_store(out), num_workers=1, show_progress=False)
        assert samples(out) == samples(made / expected) and outcome_of(out) == outcome_of(made / expected)
        assert check_store(out) == []
        moment += 1
    assert moment >= 4  # store.json, two records, the index


def test_a_store_that_forgets_dropped_pairs_is_smaller_and_says_what_it_cannot_bring_back(videos, made, tmp_path):
    out = tmp_path / "store"
    prepare(videos, out, forget_dropped=True)
    assert samples(out) == samples(made / "default")
    size = sum(path.stat().st_size for path in (out / "shards").iterdir())
    assert size < sum(path.stat().st_size for path in (made / "default" / "shards").iterdir())
    assert len(PairStore(out, rejected=True)) == 0
    report = refilter_store(out, LOOSE)
    assert report.back == 0 and report.lost == len(samples(made / "loose")) - len(samples(out)) > 0
    assert samples(out) == samples(made / "default") and report.reasons == {"forgotten": report.lost}
    assert {r["reason"] for r in read_records(out).values()} == {None, "all_forgotten", "too_short"}
    refilter_store(out, asdict(Thresholds()))
    assert outcome_of(out) == outcome_of(tmp_path / "store")
    refilter_store(out, STRICT)
    assert samples(out) == samples(made / "strict")


def test_plain_webdataset_reads_the_kept_pairs_and_tar_lists_all(made):
    webdataset = pytest.importorskip("webdataset")
    store, rejected = PairStore(made / "default"), PairStore(made / "default", rejected=True)
    shards = [str(path) for path in sorted((made / "default" / "shards").iterdir())]
    theirs = [s["__key__"] for s in webdataset.WebDataset(shards, shardshuffle=False, empty_check=False)]
    assert sorted(theirs) == sorted(store.key_of(i) for i in range(len(store)))
    names = [name for shard in shards for name in tarfile.open(shard).getnames()]
    keys = {name.rsplit("/", 1)[-1].split(".")[0] for name in names}
    assert keys == set(samples(made / "loose")) and len(names) == 3 * len(keys)
    hidden = {name.split("/")[1].split(".")[0] for name in names if name.startswith("__rejected__/")}
    assert hidden == {rejected.key_of(i) for i in range(len(rejected))}


def test_rejected_pairs_are_read_like_the_others(made):
    rejected, loose = PairStore(made / "default", rejected=True), samples(made / "loose")
    assert len(rejected) == len(loose) - len(samples(made / "default"))
    for position in range(len(rejected)):
        sample = rejected.read(position)
        assert (
            sample.flow.shape == (HEIGHT, WIDTH, 2)
            and rejected.read_member(position, "json") in loose[rejected.key_of(position)]
        )
        assert drop_reasons(sample.meta["quality"], Thresholds()) != []


def test_a_flipped_bit_of_a_rejected_pair_is_found_and_repaired(videos, made, tmp_path):
    out = shutil.copytree(made / "default", tmp_path / "store")
    rejected = PairStore(out, rejected=True)
    path = shard_path(out, rejected.video_of(0))
    data = bytearray(path.read_bytes())
    row = read_records(out)[rejected.video_of(0)]["dropped"][0]
    data[row["members"][2][0] + 5] ^= 4
    path.write_bytes(data)
    found = check_store(out)
    assert [damage.member for damage in found] == [f"__rejected__/{rejected.key_of(0)}.flow.bin"]
    repair_store(out, videos, found, num_workers=1, show_progress=False)
    assert contents(out) == contents(made / "default")


def test_a_refiltered_store_is_repaired_to_the_same_pairs_and_takes_new_videos(videos, made, tmp_path):
    out = shutil.copytree(made / "default", tmp_path / "store")
    refilter_store(out, LOOSE)
    next((out / "shards").glob("mixed-*.tar")).unlink()
    repair_store(out, videos, check_store(out), num_workers=1, show_progress=False)
    assert samples(out) == samples(made / "loose") and check_store(out) == []
    more = shutil.copytree(videos, tmp_path / "videos")
    write_video(more / "new.mp4", slide(6, 3, 9), 20, crf=4)
    report = prepare(more, out, thresholds=Thresholds(**LOOSE))
    assert (report.videos, report.pairs) == (1, 4) and check_store(out) == []


def test_a_pair_that_could_not_be_stored_stays_out_whatever_the_thresholds():
    row = {"frames": [0, 1], "quality": {}, "members": None, "folder": "", "reasons": ["bad_flow"]}
    record = {"video_id": "v", "status": "done", "samples": [], "dropped": [row]}
    judged = decide_record(record, Thresholds(**LOOSE))
    assert judged["dropped"] == [row] and (judged["status"], judged["reason"]) == ("skipped", "all_bad_flow")
    assert decide_record(judged, Thresholds()) == judged


def test_a_store_of_an_older_version_is_refused_before_anything_changes(made, tmp_path):
    out = shutil.copytree(made / "default", tmp_path / "store")
    with lock_store(out):
        record = next(r for r in read_records(out).values() if r["samples"])
        del record["samples"][0]["quality"]["inconsistent"]
        commit_record(out, record)
        discard_index(out)
    before = contents(out)
    with pytest.raises(ValueError, match="no score 'inconsistent'"):
        refilter_store(out, STRICT)
    assert contents(out) == before
    about = read_about(out)
    about["settings"]["thresholds"] = {"max_histogram_jump": 0.7}
    (out / "store.json").write_bytes(sealed_json(about, indent=1))
    with pytest.raises(ValueError, match="another version"):
        refilter_store(out, STRICT)
    with pytest.raises(FileNotFoundError, match="no pair store"):
        refilter_store(tmp_path / "nothing", STRICT)
    assert not (tmp_path / "nothing").exists() and json.loads((out / "store.json").read_text())["format"]


def test_a_store_without_the_score_of_uneven_light_is_judged_by_the_jump_alone(made, tmp_path):
    out = shutil.copytree(made / "default", tmp_path / "store")
    with lock_store(out):
        record = next(r for r in read_records(out).values() if len(r["samples"]) > 1)
        for row in [*record["samples"], *record["dropped"]]:
            del row["quality"]["uneven_light"]
        jumped = record["samples"][0]["frames"]
        record["samples"][0]["quality"]["appearance_jump"] = 0.3
        commit_record(out, record)
        discard_index(out)
    about = read_about(out)
    del about["settings"]["thresholds"]["max_uneven_light"]
    (out / "store.json").write_bytes(sealed_json(about, indent=1))
    refilter_store(out, {"max_duplicate_change": 2.5})
    judged = read_records(out)[record["video_id"]]
    assert jumped in [row["frames"] for row in judged["dropped"] if row["reasons"][0] == "cut"]
    assert read_about(out)["settings"]["thresholds"]["max_uneven_light"] == Thresholds().max_uneven_light
    refilter_store(out, {"max_appearance_jump": 0.4})
    assert jumped in [row["frames"] for row in read_records(out)[record["video_id"]]["samples"]]
