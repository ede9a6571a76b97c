"""Files are written whole or not at all, and no output destroys an input."""

import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from cmp import files
from cmp.checkpoints.convert import _save_whole
from cmp.datasets.pair_store import ShardWriter
from cmp.files import NewFile, check_paths, remove_leftovers, staging_folder, write_file
from cmp.flow import write_flow
from cmp.video.writers import write_png, write_video


@pytest.fixture
def small_disk(tmp_path):
    """An empty file system of 256 KiB; skips where mounting is not allowed."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_file_appears_whole_with_its_content_and_no_other(tmp_path):
    path = tmp_path / "a.bin"
    with NewFile(path) as file:
        file.write(b"12345678")
        file.seek(2)
        file.write(b"ab")
        assert not path.exists()
    assert path.read_bytes() == b"12ab5678" and os.listdir(tmp_path) == ["a.bin"]
    write_file(path, "ä\n")
    assert path.read_bytes() == "ä\n".encode() and os.listdir(tmp_path) == ["a.bin"]
    umask = os.umask(0)
    os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask  # not the private mode of tempfile


def test_an_error_leaves_the_file_that_was_there_and_nothing_else(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"before")
    for error in (RuntimeError("no"), KeyboardInterrupt()):
        with pytest.raises(type(error)), NewFile(path) as file:
            file.write(b"half")
            raise error
        assert path.read_bytes() == b"before" and os.listdir(tmp_path) == ["a.bin"]


def test_the_content_is_on_the_disk_before_the_file_has_its_name(tmp_path, monkeypatch):
    sizes, plain = [], os.fsync

    def listen(descriptor):
        sizes.append((os.fstat(descriptor).st_size, os.listdir(tmp_path)))
        plain(descriptor)

    monkeypatch.setattr(os, "fsync", listen)
    write_file(tmp_path / "a", b"x" * 5000)
    (size, names), (_, after) = sizes  # the file, then its folder
    assert size == 5000 and names != ["a"] and after == ["a"]


def test_a_full_disk_is_named_with_the_bytes_that_are_needed(small_disk):
    write_file(small_disk / "old", b"kept")
    with pytest.raises(OSError) as caught:
        write_file(small_disk / "old", bytes(1_000_000))
    assert caught.value.errno == errno.ENOSPC
    assert str(caught.value).startswith(f"{small_disk / 'old'}: cannot be written (No space left on device); ")
    assert "it needs 1,000,000 bytes, " in str(caught.value)
    assert os.listdir(small_disk) == ["old"] and (small_disk / "old").read_bytes() == b"kept"


def test_a_checkpoint_that_does_not_fit_is_named_with_its_whole_size(small_disk, tmp_path):
    content = {"state_dict": {str(i): torch.zeros(40_000) for i in range(10)}}
    with NewFile(tmp_path / "whole.pth") as file:
        torch.save(content, file)
    size = (tmp_path / "whole.pth").stat().st_size
    with pytest.raises(OSError, match=rf"c\.pth: cannot be written \(No space.*needs {size:,} bytes"):
        with NewFile(small_disk / "c.pth") as file:
            torch.save(content, file)
    assert os.listdir(small_disk) == []


def test_a_writer_that_asks_to_is_stopped_at_the_first_failure(small_disk):
    written = 0
    with pytest.raises(OSError, match="No space left"):
        with NewFile(small_disk / "long", stop_at_once=True) as file:
            for _ in range(1000):
                file.write(bytes(1 << 20))
                written += 1
    assert written <= 1 and os.listdir(small_disk) == []


def test_what_a_library_makes_of_a_full_disk_is_replaced_by_what_happened(small_disk):
    with pytest.raises(OSError, match=r"x: cannot be written \(No space left"):
        with NewFile(small_disk / "x", stop_at_once=True) as file:
            try:
                file.write(bytes(4 << 20))
            except OSError as error:
                raise RuntimeError("unexpected pos 64 vs 0") from error


def test_a_limit_of_file_sizes_and_a_failing_sync_are_full_disks_too(tmp_path, monkeypatch):
    code = f"from cmp.files import write_file; write_file({str(tmp_path / 'a')!r}, bytes(50_000))"
    limited = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))  # noqa: E731
    ran = subprocess.run([sys.executable, "-c", code], preexec_fn=limited, capture_output=True, text=True)
    assert "a: cannot be written (File too large); it needs 50,000 bytes" in ran.stderr
    assert os.listdir(tmp_path) == []

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="needs 3 bytes"):
        write_file(tmp_path / "a", b"abc")
    assert os.listdir(tmp_path) == []


def test_leftovers_of_killed_writers_go_and_a_file_in_the_making_stays(tmp_path):
    code = (
        "import os, signal, sys; from cmp.files import NewFile\n"
        f"with NewFile({str(tmp_path / 'iter_4.pth')!r}) as file:\n"
        "    file.write(bytes(9)); file.flush(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    (tmp_path / "iter_2.pth").write_bytes(b"")
    with NewFile(tmp_path / "iter_6.pth") as file:
        file.write(b"new")
        remove_leftovers(tmp_path, "iter_*")
        assert not left.exists()
    assert sorted(os.listdir(tmp_path)) == ["iter_2.pth", "iter_6.pth"]


def test_places_that_take_no_file_are_named(tmp_path):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name, kind, message in (
        ("none/a", FileNotFoundError, "none/a: no such folder"),
        ("folder", IsADirectoryError, "folder: is a folder"),
        ("pipe", OSError, "pipe: is not a regular file"),
    ):
        with pytest.raises(kind, match=message):
            write_file(tmp_path / name, b"")
    write_file(tmp_path / ("é" * 120 + ".txt"), b"long")  # 244 bytes: no room for more in the name
    assert sorted(os.listdir(tmp_path)) == ["folder", "pipe", "é" * 120 + ".txt"]


def test_a_staging_folder_goes_and_its_errors_name_the_final_file(small_disk):
    with pytest.raises(OSError) as caught, staging_folder(small_disk / "out.onnx") as folder:
        write_file(folder / "out.onnx", bytes(1 << 20))
    assert str(caught.value).startswith(f"{small_disk / 'out.onnx'}: cannot be written")
    assert os.listdir(small_disk) == []


@pytest.fixture
def paths(tmp_path, monkeypatch):
    """A file and its other names."""
    monkeypatch.chdir(tmp_path)
    Path("in.png").write_bytes(b"picture")
    Path("sub").mkdir()
    os.symlink("in.png", "soft.png")
    os.link("in.png", "hard.png")
    os.symlink("sub", "alias")
    Path("sub/data.bin").write_bytes(b"")
    return tmp_path


@pytest.mark.parametrize("other", ["in.png", "./in.png", "sub/../in.png", "soft.png", "hard.png", None])
def test_an_output_that_is_an_input_by_any_name_is_refused(paths, other):
    other = other or str(paths / "in.png")
    with pytest.raises(ValueError, match="OUT would overwrite IMAGE, which is read; choose another OUT"):
        check_paths(reads={"--tracks": None, "IMAGE": "in.png"}, writes={"OUT": other})
    check_paths(reads={"IMAGE": "in.png"}, writes={"OUT": "other.png"})


def test_outputs_in_folders_that_are_read_are_refused(paths):
    for path in ("sub/new.html", "alias/new.html", "sub/data.bin"):
        with pytest.raises(ValueError, match="OUT lies in STORE"):
            check_paths(reads={"STORE": "sub"}, writes={"OUT": path})
    for path in ("sub", "alias", "sub/new/deep", "alias/new"):
        with pytest.raises(ValueError, match="OUT is or lies in DATA"):
            check_paths(reads={"DATA": ["sub"]}, folders={"OUT": path})
    check_paths(reads={"DATA": "sub"}, folders={"OUT": "subway"}, writes={"PAGE": "sub.html"})
    check_paths(reads={"DATA": "sub"}, folders={"OUT": "."})  # a folder around the data destroys nothing
    with pytest.raises(NotADirectoryError, match="in.png is not one"):
        check_paths(reads={}, folders={"OUT": "in.png/deep"})
    with pytest.raises(ValueError, match="OUT and --uncovered must be two files"):
        check_paths(reads={}, writes={"OUT": "new.gif", "--uncovered": "sub/../new.gif"})


@pytest.mark.parametrize(
    "address, advice",
    (
        ("s3://bucket/clip.mp4", "mount the bucket"),
        ("gs://bucket/clip.mp4", "gcsfuse"),
        ("https://example.org/net.pth", "download it first"),
        ("HTTP://example.org/net.pth", "download it first"),
        ("hdfs://host/x", "copy the data to a local folder"),
        (Path("s3://bucket/clip.mp4"), "mount the bucket"),  # a Path has lost one slash
    ),
)
def test_an_address_is_not_a_path_and_the_way_to_get_it_is_named(paths, address, advice):
    with pytest.raises(ValueError, match=advice):
        check_paths(reads={"IMAGE": address})
    with pytest.raises(ValueError, match="OUT must be a local path"):
        check_paths(reads={}, writes={"OUT": address})
    for name in ("in.png", "C:/photo.png", "a:b/c"):
        check_paths(reads={"IMAGE": name})


def test_memory_views_and_arrays_can_be_written(tmp_path):
    array = np.arange(12, dtype=np.int32).reshape(3, 4)
    with NewFile(tmp_path / "a") as file:
        file.write(array.data)
    assert (tmp_path / "a").read_bytes() == array.tobytes()


NOISE = np.random.default_rng(0).integers(0, 256, (320, 420, 3), np.uint8)  # does not compress


@pytest.mark.parametrize(
    "name, write",
    (
        ("a.flo", lambda path: write_flow(path, np.zeros((320, 420, 2), np.float32))),
        ("a.png", lambda path: write_png(path, NOISE)),
        ("a.gif", lambda path: write_video(path, [NOISE] * 2 + [NOISE[::-1]] * 9, 10)),
        ("a.mp4", lambda path: write_video(path, [NOISE, NOISE[::-1], NOISE[:, ::-1], 255 - NOISE], 10)),
        ("a.pth", lambda path: _save_whole(path, {"a": torch.zeros(100_000)})),
        ("s/shards/v.tar", lambda path: put_in_store(path.parents[1])),
    ),
)
def test_every_writer_names_the_file_on_a_full_disk_and_leaves_nothing(small_disk, name, write):
    (small_disk / "s" / "shards").mkdir(parents=True)
    with pytest.raises(OSError) as caught:
        write(small_disk / name)
    message = str(caught.value)
    assert message.startswith(f"{small_disk / name}: cannot be written (No space left on device); it needs ")
    assert "bytes" in message
    assert [path for path in small_disk.rglob("*") if path.is_file()] == []


def put_in_store(root):
    with ShardWriter(root, "v") as shard:
        shard.add(0, 1, {"first.jpg": bytes(400_000), "flow.bin": b"", "json": b"{}"})
        shard.close()
