"""Which videos a folder holds, and when a video is still the same."""

import os
import re

import pytest
from PIL import Image

from cmp.video.find import VIDEO_SUFFIXES, VideoSource, find_videos, fingerprint, nothing_found


def touch(path, data=b"x"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def test_videos_and_folders_of_frames_are_found_below_and_other_files_ignored(tmp_path):
    videos = "b.MP4 a.mkv deep/er/c.avi notes.txt .hidden.mp4 .cache/d.mp4 mixed/v.mov"
    images = "deep/thumb1.jpg frames/1.jpg frames/2.PNG single/1.jpg mixed/1.jpg mixed/2.jpg"
    for name in (videos + " " + images).split():
        touch(tmp_path / name)
    found = [(source.path, source.kind) for source in find_videos(tmp_path)]
    files = [(name, "file") for name in ("a.mkv", "b.MP4", "deep/er/c.avi")]
    assert found == [*files, ("frames", "frames"), ("mixed/v.mov", "file")]
    assert find_videos(tmp_path / "frames") == [VideoSource(".", "frames")]
    assert find_videos(tmp_path / "single") == []


def test_animated_gifs_are_videos_and_still_ones_hide_no_frames(tmp_path):
    images = [Image.new("RGB", (8, 6), color) for color in ("red", "blue")]
    for folder in ("still", "moving", "broken"):
        for number in range(2):
            touch(tmp_path / folder / f"{number}.webp")
    images[0].save(tmp_path / "still" / "logo.gif")
    images[0].save(tmp_path / "moving" / "a.GIF", save_all=True, append_images=images[1:])
    touch(tmp_path / "broken" / "b.gif")
    found = [(source.path, source.kind) for source in find_videos(tmp_path)]
    assert found == [("broken/b.gif", "file"), ("moving/a.GIF", "file"), ("still", "frames")]


@pytest.mark.parametrize("suffix", ["webp", "bmp", "tif", "tiff", "ppm", "pgm"])
def test_two_images_of_any_format_make_a_folder_of_frames(tmp_path, suffix):
    for number in range(2):
        touch(tmp_path / "f" / f"{number}.{suffix}")
    assert find_videos(tmp_path) == [VideoSource("f", "frames")]


def test_the_message_for_nothing_found_lists_all_endings():
    message = nothing_found("here")
    assert message.startswith("here: contains no videos;")
    assert all(f"{suffix}" in message for suffix in (*VIDEO_SUFFIXES, ".jpg", ".webp", ".ppm"))


def test_the_store_inside_the_folder_and_links_in_circles_are_not_entered(tmp_path):
    touch(tmp_path / "a.mp4")
    touch(tmp_path / "store" / "b.mp4")
    os.symlink(tmp_path, tmp_path / "circle")
    touch(tmp_path.parent / f"{tmp_path.name}-elsewhere" / "c.mp4")
    os.symlink(tmp_path.parent / f"{tmp_path.name}-elsewhere", tmp_path / "link")
    assert [s.path for s in find_videos(tmp_path, leave_out=tmp_path / "store")] == ["a.mp4", "link/c.mp4"]


def test_ids_are_safe_short_and_different(tmp_path):
    paths = ["a.mp4", "a.mkv", "sub/a.mp4", "Ünïcode 日本.mp4", "日本.mp4", "new\nline.mp4", "..mp4", "-.mp4"]
    paths += ["x" * 200 + ".mp4", os.fsdecode(b"not utf8 \xff.mp4")]
    ids = [VideoSource(path, "file").video_id for path in paths]
    assert len(set(ids)) == len(paths)
    assert all(re.fullmatch("[A-Za-z0-9_-]{1,64}", video_id) for video_id in ids)
    assert ids[0].startswith("a-") and ids[3].startswith("Unicode-") and ids[4].startswith("video-")


def test_a_fingerprint_changes_with_size_head_and_tail(tmp_path):
    path, source = tmp_path / "v.mp4", VideoSource("v.mp4", "file")
    data = bytearray(300_000)
    prints = []
    for change in (None, 5, 299_990):
        if change is not None:
            data[change] ^= 1
        path.write_bytes(data)
        prints.append(fingerprint(tmp_path, source)["sha256_ends"])
    assert len(set(prints)) == 3 and fingerprint(tmp_path, source)["bytes"] == 300_000
    touch(tmp_path / "f" / "1.jpg")
    touch(tmp_path / "f" / "2.jpg")
    before = fingerprint(tmp_path, VideoSource("f", "frames"))
    touch(tmp_path / "f" / "3.jpg")
    assert fingerprint(tmp_path, VideoSource("f", "frames")) != before


def test_a_folder_that_is_none_is_refused(tmp_path):
    touch(tmp_path / "a.mp4")
    with pytest.raises(FileNotFoundError, match="absent"):
        find_videos(tmp_path / "absent")
    with pytest.raises(NotADirectoryError, match="a.mp4"):
        find_videos(tmp_path / "a.mp4")
