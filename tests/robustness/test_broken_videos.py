"""Broken, lying and odd videos each get a record, stop nothing, and change nothing for the good clips.

The long runs print the figures of docs/robustness.md: pytest -m slow tests/robustness -rP
"""

import json
import os
import sys
import time
from pathlib import Path

import broken_videos
import numpy as np
import pytest
from broken_folder import SETTINGS, prepare_among_broken, table_of

from cmp.datasets.pair_store import PairStore, begin_store, check_store, lock_store, read_records
from cmp.video.find import VideoSource
from data_prep import pipeline
from data_prep.job import prepare_folder
from tools.browse_pairs import main as browse
from tools.prepare_flow import main as prepare
from tools.verify_store import main as verify


def test_forty_broken_videos_among_six_good_ones_each_get_a_record(tmp_path):
    outcomes, wrong = prepare_among_broken(tmp_path, 40, 6, seed=0, workers=2, stall_s=5)
    assert wrong == [] and sum(counts.total() for counts in outcomes.values()) == 40
    assert check_store(tmp_path / "among") == []


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", [0, 1])
def test_three_hundred_broken_videos_among_twenty_good_ones_each_get_a_record(tmp_path, seed):
    start = time.monotonic()
    outcomes, wrong = prepare_among_broken(tmp_path, 300, 20, seed=seed, workers=2, stall_s=20)
    print(table_of(outcomes))
    print(f"300 broken files among 20 good clips: {len(wrong)} wrong, {time.monotonic() - start:.0f} s")
    assert wrong == [] and sum(counts.total() for counts in outcomes.values()) == 300
    assert check_store(tmp_path / "among") == []


def test_broken_videos_are_the_same_for_the_same_seed(tmp_path):
    for folder, seed in (("a", 3), ("b", 3), ("c", 4)):
        broken_videos.write_broken(tmp_path / folder, len(broken_videos.KINDS), seed)

    def contents(folder):
        files = [path for path in sorted((tmp_path / folder).iterdir()) if path.is_file()]
        return {path.name: path.read_bytes() for path in files if path.stat().st_size < 1 << 30}

    assert len(contents("a")) > 25 and contents("a") == contents("b") != contents("c")


NAMES = [
    b"plain.mp4", b"--help.mp4", b"-rf", b"new\nline.mp4", "ü日本.mp4".encode(), b"bad\xff\xfe.mp4", b"tab\t.mp4",
    b"sub folder/-x.mp4", b"quote'\"<b>&.mp4", b"pct%03d.mp4", b"semi;co:lon|.mp4", b"esc\x1b[31m.mp4",
    b"x" * 240 + b".mp4",
]  # fmt: skip


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_file_names_of_any_bytes_go_through_every_output(tmp_path, capsys):
    clip = broken_videos.encode(".mp4", broken_videos.moving_frames(1))
    videos = tmp_path / "-videos \udcfe"
    for name in NAMES:
        path = Path(os.fsdecode(os.fsencode(videos) + b"/" + name))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(clip)
    broken = videos / os.fsdecode(b"text\xff\n\x1b.mp4")
    broken.write_text("text")
    out = tmp_path / "store \udcff\n"
    flags = ["--interval-frames", "2", "--pairs-per-video", "2", "--short-side", "32", "--workers", "1", "--quiet"]
    assert prepare([str(videos), str(out), *flags]) == 0
    captured = capsys.readouterr()
    assert "13 videos: wrote 12 videos, 24 pairs; skipped 0; failed 1 (unreadable 1)" in captured.out
    assert len(captured.err.splitlines()) == 1 and captured.err.isprintable() is False  # the line's end alone
    assert r"'text\udcff\n\x1b.mp4'" in captured.err and "\x1b" not in captured.err

    done = sorted(os.fsencode(r["source"]["path"]) for r in read_records(out).values() if r["status"] == "done")
    assert done == sorted(name for name in NAMES if name != b"-rf")
    manifest = (out / "manifest.jsonl").read_text("ascii").splitlines()
    assert len(manifest) == 13 and {json.loads(line)["source"]["path"] for line in manifest} >= {"new\nline.mp4"}
    store = PairStore(out)
    paths = {os.fsencode(store[position].meta["video"]["path"]) for position in range(len(store))}
    assert paths == set(done)
    assert verify([str(out), "--quiet"]) == 0
    page = tmp_path / "page.html"
    assert browse([str(out), str(page)]) in (0, None)
    html = page.read_text("utf-8")
    assert "&lt;b&gt;&amp;" in html and "<b>&" not in html


def test_whatever_opening_a_video_raises_costs_that_video_alone(tmp_path, monkeypatch):
    broken_videos.write_good(tmp_path / "videos", 2)
    data = (tmp_path / "videos" / "good_01.mkv").read_bytes()
    assert b"V_MPEG4/ISO/AVC" in data
    (tmp_path / "videos" / "strange.mkv").write_bytes(data.replace(b"V_MPEG4/ISO/AVC", b"V_MPEG4/ISO/XXX"))
    options = {"num_workers": 1, "show_progress": False}
    report = prepare_folder(tmp_path / "videos", tmp_path / "store", SETTINGS, **options)
    assert report.videos == 2 and report.failed == {"unreadable": 1}
    assert "no decoder" in report.failures[0][2]

    def strange(*args, **kwargs):
        raise AttributeError("no such thing")

    monkeypatch.setattr(pipeline, "open_video", strange)
    with lock_store(tmp_path / "other"):
        begin_store(tmp_path / "other", {}, {})
    source = VideoSource("strange.mkv", "file")
    pipeline.prepare_video(
        pipeline.VideoTask(str(tmp_path / "videos"), str(tmp_path / "other"), source, SETTINGS, ("auto",)),
        print,
    )
    [record] = read_records(tmp_path / "other").values()
    assert (record["status"], record["reason"]) == ("failed", "broke") and "no such thing" in record["detail"]


def test_pipes_devices_sockets_and_dangling_links_are_refused_without_being_opened(tmp_path):
    makers = [getattr(broken_videos, name) for name in ("pipe", "device", "unix_socket", "dangling_link")]
    (tmp_path / "videos").mkdir()
    for maker in makers:
        suffix, make = maker(np.random.default_rng(0))
        make(tmp_path / "videos" / f"{maker.__name__}{suffix}")
    report = prepare_folder(
        tmp_path / "videos", tmp_path / "store", SETTINGS, num_workers=1, stall_s=20, show_progress=False
    )
    assert report.failed == {"unreadable": 4}
    details = {path.split(".")[0]: detail for path, _, detail in report.failures}
    assert all("not a file" in details[name] for name in ("pipe", "device", "unix_socket"))
    again = prepare_folder(tmp_path / "videos", tmp_path / "store", SETTINGS, show_progress=False)
    assert again.earlier_videos == 4  # the parent looks at them too, and must not block
