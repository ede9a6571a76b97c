"""Videos and stores at addresses: the same bytes as on one machine, one batch of videos on the disk at a time."""

import functools
import http.server
import shutil
import sys
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest

from cmp.addresses import is_address, open_address
from cmp.cli.prepare import main
from cmp.datasets.pair_store import PairStore, StoreWriteError, check_store
from cmp.video import write_video
from data_prep.job import prepare_folder
from data_prep.remote import prepare_addresses
from data_prep.remote_store import RemoteStore
from data_prep.remote_videos import DownloadError, RemoteVideos
from data_prep.settings import PrepareSettings

fsspec = pytest.importorskip("fsspec")
SETTINGS = PrepareSettings(interval_frames=2, pairs_per_video=2)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    root = tmp_path_factory.mktemp("videos")
    (root / "in").mkdir()
    ground = cv2.resize(np.random.default_rng(0).integers(0, 255, (10, 30, 3), np.uint8), (102, 56))
    for number, name in enumerate(("a.mp4", "in/b b.mp4")):
        write_video(root / name, (ground[:, (2 + number) * i :][:, :72] for i in range(8)), 25)
    (root / "text.mp4").write_text("not a video")
    (root / "notes.txt").write_text("not a video either")
    return root


@pytest.fixture(scope="module")
def expected(videos, tmp_path_factory):
    """The files of a store that was made locally."""
    root = tmp_path_factory.mktemp("expected") / "store"
    prepare_folder(videos, root, SETTINGS, num_workers=1, show_progress=False)
    return files(root)


def files(root):
    return {
        str(p.relative_to(root)): p.read_bytes() for p in Path(root).rglob("*") if p.is_file() and p.name != ".lock"
    }


@pytest.fixture
def memory(videos):
    """fsspec's memory file system with the videos."""
    system = fsspec.filesystem("memory")
    system.store.clear()
    system.pseudo_dirs[:] = [""]
    system.put(f"{videos}/", "/bucket/videos/", recursive=True)
    yield system
    system.store.clear()


def files_at(system, root):
    return {path.removeprefix(f"{root}/"): system.cat_file(path) for path in system.find(root)}


def prepare(videos, out, **options):
    return prepare_addresses(str(videos), str(out), SETTINGS, **{"num_workers": 2, "show_progress": False, **options})


def test_a_store_from_and_at_addresses_has_the_bytes_of_a_local_one(memory, expected, tmp_path):
    report = prepare("memory://bucket/videos", "memory://bucket/store", spool_dir=tmp_path)
    assert files_at(memory, "/bucket/store") == expected
    assert (report.found, report.videos, report.pairs, report.failed) == (3, 2, 4, {"unreadable": 1})
    assert list(tmp_path.iterdir()) == []  # no video and no shard stays
    report = prepare("memory://bucket/videos", "memory://bucket/store")
    assert (report.earlier_videos, report.videos, report.store_pairs) == (3, 0, 4)


def test_a_local_folder_takes_the_store_and_a_local_folder_gives_the_videos(memory, videos, expected, tmp_path):
    prepare("memory://bucket/videos", tmp_path / "store")
    assert files(tmp_path / "store") == expected and check_store(tmp_path / "store") == []
    prepare(videos, f"file://{tmp_path}/other")
    assert files(tmp_path / "other") == expected


def test_a_job_that_was_stopped_goes_on_where_it_was(memory, expected, monkeypatch):
    put, calls, downloaded = RemoteStore.put_video, [], []

    def stop_at_second(self, folder, record):
        calls.append(record["video_id"])
        if len(calls) == 2:
            raise StoreWriteError("the network is gone")
        put(self, folder, record)

    monkeypatch.setattr(RemoteStore, "put_video", stop_at_second)
    with pytest.raises(StoreWriteError, match="network is gone"):
        prepare("memory://bucket/videos", "memory://bucket/store", num_workers=1)
    left = files_at(memory, "/bucket/store")
    assert "index.npz" not in left and len([name for name in left if name.startswith("videos/")]) == 1
    monkeypatch.setattr(RemoteStore, "put_video", put)
    download = RemoteVideos.download

    def note(self, video, folder, **limits):
        downloaded.append(video.source.video_id)
        return download(self, video, folder, **limits)

    monkeypatch.setattr(RemoteVideos, "download", note)
    prepare("memory://bucket/videos", "memory://bucket/store")
    assert files_at(memory, "/bucket/store") == expected
    assert len(downloaded) == 2 and calls[0] not in downloaded


def test_a_damaged_record_a_cut_shard_and_a_changed_video_are_done_again(memory, expected):
    prepare("memory://bucket/videos", "memory://bucket/store")
    shard, other = sorted(memory.find("/bucket/store/shards"))
    memory.pipe_file(shard, memory.cat_file(shard)[:-1])
    record = other.replace("shards", "videos").replace(".tar", ".json")
    memory.pipe_file(record, memory.cat_file(record)[:-9])
    report = prepare("memory://bucket/videos", "memory://bucket/store")
    assert report.videos == 2 and files_at(memory, "/bucket/store") == expected
    memory.pipe_file("/bucket/videos/text.mp4", b"other text")
    assert prepare("memory://bucket/videos", "memory://bucket/store").earlier_videos == 2


def test_a_video_beyond_the_bound_costs_only_itself_and_is_tried_again(memory, expected, videos):
    bound = (videos / "a.mp4").stat().st_size - 1
    report = prepare("memory://bucket/videos", "memory://bucket/store", max_video_bytes=bound)
    reasons = dict.fromkeys(("a.mp4", "in/b b.mp4"), "too_large")
    lost = {path: reason for path, reason, _ in report.failures if reason == "too_large"}
    assert lost.items() <= reasons.items() and "a.mp4" in lost and report.failed["unreadable"] == 1
    prepare("memory://bucket/videos", "memory://bucket/store")
    assert files_at(memory, "/bucket/store") == expected


def test_a_download_is_cut_off_at_the_bound_whatever_the_listing_says(memory, tmp_path):
    listed = RemoteVideos("memory://bucket/videos")
    video = next(video for video in listed.find() if video.source.path == "a.mp4")
    unknown = type(video)(video.source, None)
    with pytest.raises(DownloadError, match="more than 10 bytes"):
        listed.download(unknown, tmp_path, max_bytes=10)
    other = type(video)(video.source, video.size + 1)
    with pytest.raises(DownloadError, match=f"{video.size} of {video.size + 1} bytes came"):
        listed.download(other, tmp_path, max_bytes=1 << 30)
    memory.rm("/bucket/videos/a.mp4")
    with pytest.raises(DownloadError):
        listed.download(video, tmp_path, max_bytes=1 << 30)
    assert not (tmp_path / "a.mp4").exists()
    assert listed.download(listed.find()[0], tmp_path, max_bytes=1 << 30) > 0


def test_names_of_a_listing_that_lead_elsewhere_are_left_out(memory, monkeypatch):
    remote = RemoteVideos("memory://bucket/videos")
    names = ["/bucket/videos/../a.mp4", "/bucket/videos//a.mp4", "/other/a.mp4", "/bucket/videos/.h/a.mp4",
             "/bucket/videos/x\\..\\a.mp4", "/bucket/videos/./a.mp4", "/bucket/videos/good/a.mp4"]  # fmt: skip
    monkeypatch.setattr(type(memory), "find", lambda self, *_, **__: {name: {"size": 3} for name in names})
    assert [video.source.path for video in remote.find()] == ["good/a.mp4"]


def test_other_settings_and_other_files_at_the_address_are_refused(memory, tmp_path):
    prepare("memory://bucket/videos", "memory://bucket/store")
    before = files_at(memory, "/bucket/store")
    other = PrepareSettings(interval_frames=3, pairs_per_video=2)
    with pytest.raises(ValueError, match="^memory://bucket/store: begun with other settings: interval_frames was 2"):
        prepare_addresses("memory://bucket/videos", "memory://bucket/store", other, show_progress=False)
    with pytest.raises(ValueError, match="memory://bucket/videos: not empty and not a pair store"):
        prepare("memory://bucket/videos", "memory://bucket/videos")
    assert files_at(memory, "/bucket/store") == before
    with pytest.raises(OSError, match="memory://bucket/none"):
        prepare("memory://bucket/none", tmp_path / "store")


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


def test_videos_come_from_a_web_server(videos, expected, tmp_path):
    pytest.importorskip("aiohttp", reason="no aiohttp: pip install aiohttp")
    folder = tmp_path / "served"
    shutil.copytree(videos, folder)
    (folder / "in" / "b b.mp4").rename(folder / "in" / "b.mp4")  # a space would be %20 in the paths of the store
    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        report = prepare(f"http://127.0.0.1:{server.server_port}", tmp_path / "store")
        server.shutdown()
    assert (report.found, report.videos, report.failed) == (3, 2, {"unreadable": 1})
    made = files(tmp_path / "store")
    same = [name for name in expected if name.startswith(("shards/a", "videos/a", "store.json"))]
    assert len(same) == 3 and all(made[name] == expected[name] for name in same)
    assert len(PairStore(tmp_path / "store")) == 4


@pytest.mark.slow
def test_videos_and_store_are_in_an_object_store(videos, expected, monkeypatch):
    moto = pytest.importorskip("moto.server", reason="no moto: pip install 'moto[server]' s3fs")
    pytest.importorskip("s3fs", reason="no s3fs: pip install s3fs")
    server = moto.ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    system = fsspec.filesystem("s3", skip_instance_cache=True)
    try:
        system.mkdir("bucket")
        system.put(f"{videos}/", "bucket/videos/", recursive=True)
        report = prepare("s3://bucket/videos", "s3://bucket/store")
        assert report.pairs == 4 and files_at(system, "bucket/store") == expected
        assert prepare("s3://bucket/videos", "s3://bucket/store").earlier_videos == 3
    finally:
        server.stop()


def test_missing_packages_and_unknown_addresses_are_named(monkeypatch):
    with pytest.raises(ValueError, match="nowhere://x: Protocol not known"):
        open_address("nowhere://x")
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)  # looked up before
    with pytest.raises(ModuleNotFoundError, match="s3://bucket/x: .*pip install s3fs"):
        open_address("s3://bucket/x")
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'cmp-motion\[stream\]'"):
        open_address("memory://x")


def test_the_command_takes_addresses_and_refuses_what_needs_local_folders(memory, expected, capsys, tmp_path):
    flags = ["--interval-frames", "2", "--pairs-per-video", "2", "--workers", "2", "--quiet"]
    assert main(["memory://bucket/videos", "memory://bucket/store", *flags, "--spool-dir", str(tmp_path)]) == 0
    assert "4 pairs in memory://bucket/store" in capsys.readouterr().out
    assert files_at(memory, "/bucket/store") == expected
    for more, words in (
        (["--dry-run"], "--dry-run needs local folders, got 'memory://bucket/videos'"),
        (["--task-index", "0", "--num-tasks", "2"], "--task-index needs local folders"),
        (["--max-video-gb", "0"], "--max-video-gb must be above 0"),
        (["--spool-dir", "none"], "--spool-dir: none: no such folder"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(["memory://bucket/videos", str(tmp_path / "store"), *more])
        assert stopped.value.code == 2 and words in capsys.readouterr().err
    assert main(["nowhere://x", str(tmp_path / "store")]) == 2
    assert "nowhere://x" in capsys.readouterr().err and not (tmp_path / "store").exists()


def test_what_an_address_is():
    assert is_address("s3://bucket/x") and is_address("filecache::s3://bucket/x") and not is_address("videos/x")
    assert not is_address(Path("s3://bucket")) and not is_address("C:/videos") and not is_address(None)
