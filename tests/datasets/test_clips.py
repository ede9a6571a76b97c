"""Clips of videos: the right frames, held out by video, cut alike, from a cache that survives what may happen to it."""

import multiprocessing
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from cmp.datasets import clip_cache
from cmp.datasets.clips import Clips, clip_changes
from cmp.video import open_video, write_video

HEIGHT, WIDTH = 36, 48
SMALL = dict(num_frames=3, interval_frames=4, short_side_px=18, size_px=16, cache_threads=2)


def moving_frames(count, seed):
    """A bright square that slides over smooth ground."""
    ground = cv2.resize(np.random.default_rng(seed).integers(0, 160, (4, 6, 3), np.uint8), (WIDTH, HEIGHT))
    frames = np.repeat(ground[None], count, axis=0)
    for number, frame in enumerate(frames):
        x = 2 * number % (WIDTH - 12)
        frame[10:22, x : x + 12] = 255
    return frames


def write_avi(path, frames):
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 25, (WIDTH, HEIGHT))
    for frame in frames:
        writer.write(frame[..., ::-1])
    writer.release()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Six videos of 30 frames in two classes, as UCF-101 lies."""
    folder = tmp_path_factory.mktemp("videos")
    for number in range(6):
        name = "Archery" if number < 3 else "Bowling"
        write_avi(folder / name / f"v_{name}_g{number:02}_c01.avi", moving_frames(30, number))
    return folder


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def resized_frames(path):
    with open_video(path) as reader:
        frames = [frame.image for frame in reader.read(range(reader.num_frames))]
    return np.stack([cv2.resize(frame, (24, 18), interpolation=cv2.INTER_AREA) for frame in frames])


def test_a_clip_holds_the_frames_at_the_interval_resized_and_cut_in_the_middle(folder, cache_dir):
    clips = Clips([str(folder)], training=False, cache_dir=cache_dir, **SMALL)
    assert len(clips.videos) == 6 and not clips.left_out and "Archery" in clips.videos[0]
    for index in (0, len(clips) - 1):
        sample = clips[index]
        whole = resized_frames(clips.videos[sample["video"]])
        expected = whole[sample["start"] :: 4][:3, 1:17, 4:20].transpose(0, 3, 1, 2)
        assert np.array_equal(sample["frames"], expected) and sample["frames"].dtype == torch.uint8


def test_videos_frame_folders_and_files_are_found_by_their_paths(folder, cache_dir, tmp_path):
    for number, frame in enumerate(moving_frames(12, 9)):
        (tmp_path / "deep" / "frames").mkdir(parents=True, exist_ok=True)
        Image.fromarray(frame).save(tmp_path / "deep" / "frames" / f"{number}.png")
    file = next((folder / "Bowling").glob("*.avi"))
    clips = Clips([str(tmp_path), str(file)], training=False, cache_dir=cache_dir, **SMALL)
    assert sorted(clips.videos) == sorted([str(tmp_path / "deep" / "frames"), str(file)])
    mine = clips.videos.index(str(tmp_path / "deep" / "frames"))
    sample = next(clip for clip in clips if clip["video"] == mine)
    small = [cv2.resize(f, (24, 18), interpolation=cv2.INTER_AREA) for f in moving_frames(12, 9)[sample["start"] :: 4]]
    assert np.array_equal(sample["frames"], np.stack(small[:3])[:, 1:17, 4:20].transpose(0, 3, 1, 2))


def test_whole_videos_are_held_out_whatever_the_clips_length(folder, cache_dir):
    parts = {}
    for num_frames in (2, 7):
        options = {**SMALL, "num_frames": num_frames}
        train, val = (Clips([str(folder)], part=p, cache_dir=cache_dir, **options) for p in ("train", "val"))
        assert not set(train.videos) & set(val.videos) and len(train.videos) + len(val.videos) == 6
        parts[num_frames] = val.videos
    assert parts[2] == parts[7] and len(parts[2]) == 2 and "g05" in parts[2][-1]
    half = Clips([str(folder)], part="val", val_share=0.5, cache_dir=cache_dir, **SMALL)
    assert half.videos == sorted(map(str, (folder / "Bowling").glob("*.avi")))


def test_videos_are_in_the_order_of_their_names_whatever_the_order_of_the_paths(folder, cache_dir):
    names = sorted(map(str, folder.rglob("*.avi")))
    for paths, expected in (
        ([str(folder / "Bowling"), str(folder / "Archery")], names),
        ([names[4], names[1]], [names[1], names[4]]),
    ):
        assert Clips(paths, cache_dir=cache_dir, **SMALL).videos == expected


def test_a_list_may_name_the_videos_that_are_held_out_as_ucf_101s_do(folder, cache_dir, tmp_path):
    names = [f"{name}/v_{name}_g{g:02}_c01.avi" for name, g in (("Archery", 1), ("Bowling", 3))]
    (tmp_path / "testlist01.txt").write_text(f"\ufeff# split 1\r\n{folder / names[0]}\r\n./{names[1]} 2\n\n")
    parts = {
        part: Clips([str(folder)], part=part, val_list=tmp_path / "testlist01.txt", cache_dir=cache_dir, **SMALL)
        for part in ("train", "val", "all")
    }
    assert [str(Path(path).relative_to(folder)) for path in parts["val"].videos] == names[:2]
    assert sorted(parts["train"].videos + parts["val"].videos) == sorted(parts["all"].videos)
    assert len(parts["train"].videos) == 4 and not parts["train"].left_out
    (tmp_path / "other.txt").write_text("v_Archery_g01\nArchery\n")
    with pytest.raises(ValueError, match="other.txt: no line matches any of the 6 videos .the first is .*c01.avi"):
        Clips([str(folder)], part="val", val_list=tmp_path / "other.txt", cache_dir=cache_dir, **SMALL)
    with pytest.raises(FileNotFoundError, match="absent.txt"):
        Clips([str(folder)], part="val", val_list=tmp_path / "absent.txt", cache_dir=cache_dir, **SMALL)


def test_a_line_that_names_no_video_is_an_error_before_any_video_is_decoded(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "videos")
    (tmp_path / "videos" / "broken.avi").write_bytes(b"no video at all")
    lines = ["broken.avi", "v_Archery_g01_c01.avi 1", "Bowling/v_Bowling_g03_c01.avi,2"]
    (tmp_path / "list.txt").write_text("\n".join(lines))
    options = dict(part="train", val_list=tmp_path / "list.txt", cache_dir=tmp_path / "cache", **SMALL)
    with pytest.raises(ValueError, match=r"list\.txt:3: 'Bowling/v_.*c01.avi,2': does not match any of the 7 videos"):
        Clips([str(tmp_path / "videos")], **options)
    assert not (tmp_path / "cache").exists()
    (tmp_path / "list.txt").write_text("\n".join(lines[:2]))  # a broken video is a video
    assert len(Clips([str(tmp_path / "videos")], **options).videos) == 5


def test_a_list_names_videos_however_their_folder_was_written(folder, cache_dir, tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate((tmp_path / "link" / "Archery", folder / "Archery")):
        (tmp_path / "list.txt").write_text(f"{name}/v_Archery_g0{number}_c01.avi\n")
        clips = Clips(["link"], part="val", val_list="list.txt", cache_dir=cache_dir, **SMALL)
        assert clips.videos == [f"link/Archery/v_Archery_g0{number}_c01.avi"]


def test_a_video_named_twice_is_one_video(folder, cache_dir):
    file = folder / "Bowling" / "v_Bowling_g04_c01.avi"
    clips = Clips([str(folder), str(file), f"{folder}/./Archery"], cache_dir=cache_dir, **SMALL)
    assert len(clips.videos) == 6


def test_where_videos_are_divided_no_frame_is_in_both_parts(folder, cache_dir):
    paths = [str(folder / "Archery")]
    options = {**SMALL, "num_frames": 2, "least_change": 0}
    train, val = (Clips(paths, part=part, cache_dir=cache_dir, **options) for part in ("train", "val"))
    assert train.videos == val.videos and len(val.videos) == 3
    seen = {
        (s["video"], s["start"] + step)
        for e in range(20)
        for i in range(len(train))
        for s in [train[i, e]]
        for step in (0, 4)
    }
    kept = {(s["video"], s["start"] + step) for s in val for step in (0, 4)}
    assert kept and max(frame for _, frame in seen) < min(frame for _, frame in kept)
    with pytest.raises(
        ValueError, match="contains no clips; left out: .*no moving clip of 9 frames lies within its frames 24 to 29"
    ):
        Clips(paths, part="val", cache_dir=cache_dir, **{**options, "num_frames": 3})


def test_training_reaches_every_start_and_both_mirror_images_and_depends_on_epoch_and_index_alone(folder, cache_dir):
    make = lambda seed=0: Clips([str(folder / "Archery")], cache_dir=cache_dir, seed=seed, **SMALL)  # noqa: E731
    clips = make()
    draws = [clips[i, epoch] for epoch in range(60) for i in range(len(clips))]
    starts = {draw["start"] for draw in draws}
    assert starts == set(range(30 - 8))
    again = make()[2, 41]
    assert all(torch.equal(torch.as_tensor(again[key]), torch.as_tensor(clips[2, 41][key])) for key in again)
    other = make(seed=1)
    assert any(not torch.equal(other[0, epoch]["frames"], clips[0, epoch]["frames"]) for epoch in range(4))


def test_all_frames_are_cut_and_mirrored_alike(cache_dir, tmp_path):
    still = np.repeat(moving_frames(1, 3), 14, axis=0)
    write_video(tmp_path / "still.mp4", still, 25)
    clips = Clips([str(tmp_path)], cache_dir=cache_dir, **{**SMALL, "least_change": 0})
    whole = resized_frames(tmp_path / "still.mp4")[0].transpose(2, 0, 1)
    windows = {
        (y, x, mirrored): whole[:, y : y + 16, x : x + 16][:, :, :: -1 if mirrored else 1]
        for y in range(3)
        for x in range(9)
        for mirrored in (False, True)
    }
    seen = set()
    for epoch in range(200):
        frames = clips[0, epoch]["frames"].numpy().astype(int)
        assert np.abs(frames - frames[:1]).max() <= 6  # what the codec makes of equal frames
        errors = {key: np.abs(frames[0] - window).max() for key, window in windows.items()}
        seen.add(min(errors, key=errors.get))
        assert min(errors.values()) <= 6
    assert seen == set(windows)
    never = Clips([str(tmp_path)], cache_dir=cache_dir, flip=False, **{**SMALL, "least_change": 0})
    frames = [never[0, epoch]["frames"][0].numpy().astype(int) for epoch in range(30)]
    assert all(min(np.abs(f - w).max() for (_, _, m), w in windows.items() if not m) <= 6 for f in frames)


def test_the_change_of_a_clip_is_the_mean_change_between_its_frames():
    gray = np.zeros((6, 2, 3), np.uint8)
    gray[2], gray[4] = 12, 6
    gray[3, 0, 0] = 60
    assert clip_changes(gray, 3, 2).tolist() == [(12 + 6) / 2, (10 + 10) / 2]
    assert clip_changes(gray, 2, 1).tolist() == [0, 12, 18, 14, 6]


def test_clips_in_which_nothing_moves_are_dropped(cache_dir, tmp_path):
    frames = moving_frames(30, 4)
    frames[10:] = frames[10]
    write_video(tmp_path / "stops.mp4", frames, 25)
    write_video(tmp_path / "still.mp4", np.repeat(frames[:1], 30, axis=0), 25)
    clips = Clips([str(tmp_path)], cache_dir=cache_dir, **SMALL)
    assert [line.split(":")[0] for line in clips.left_out] == [str(tmp_path / "still.mp4")]
    assert "hardly moves" in clips.left_out[0] and clips.videos == [str(tmp_path / "stops.mp4")]
    starts = {clips[i, epoch]["start"] for i in range(len(clips)) for epoch in range(40)}
    assert starts == set(range(10))


def test_a_broken_or_short_video_is_named_and_left_out(folder, cache_dir, tmp_path, caplog):
    shutil.copytree(folder, tmp_path / "videos")
    (tmp_path / "videos" / "Archery" / "broken.avi").write_bytes(b"no video at all")
    write_video(tmp_path / "videos" / "short.mp4", moving_frames(8, 0), 25)
    clips = Clips([str(tmp_path / "videos")], cache_dir=cache_dir, **SMALL)
    assert len(clips.videos) == 6 and len(clips.left_out) == 2
    assert "broken.avi" in clips.left_out[0] and "short.mp4: has 8 frames, a clip needs 9" in clips.left_out[1]
    assert all(line in caplog.text for line in clips.left_out)
    with pytest.raises(ValueError, match="contains no clips; left out: .*broken.avi"):
        Clips([str(tmp_path / "videos" / "Archery" / "broken.avi")], cache_dir=cache_dir, **SMALL)


def test_a_second_run_decodes_nothing_and_a_damaged_or_outdated_entry_is_made_again(folder, tmp_path, monkeypatch):
    cache, videos = tmp_path / "cache", tmp_path / "videos"
    shutil.copytree(folder / "Archery", videos)
    build = lambda: Clips([str(videos)], cache_dir=cache, **SMALL)  # noqa: E731
    first = [sample["frames"] for sample in build()]
    opened = []
    monkeypatch.setattr(clip_cache, "open_video", lambda path: opened.append(path.name) or open_video(path))
    same = lambda: all(torch.equal(a, b["frames"]) for a, b in zip(first, build()))  # noqa: E731
    assert same() and not opened
    frames, about = sorted(cache.glob("*.rgb")), sorted(cache.glob("*.npz"))
    frames[0].write_bytes(frames[0].read_bytes()[:-1])
    about[1].write_bytes(b"PK\x03\x04 broken")
    frames[2].unlink()
    assert same() and len(opened) == 3
    assert same() and len(opened) == 3
    write_avi(videos / "v_Archery_g00_c01.avi", moving_frames(30, 77))
    assert not same() and len(opened) == 4
    changed = videos / "v_Archery_g01_c01.avi"
    changed.write_bytes(changed.read_bytes()[:-1] + b"?")
    build()
    assert len(opened) == 5


def test_frames_kept_at_one_size_are_not_taken_for_another(folder, tmp_path):
    for short_side_px in (18, 30):
        options = {**SMALL, "short_side_px": short_side_px}
        clips = Clips([str(folder / "Archery")], training=False, cache_dir=tmp_path, **options)
        with open_video(clips.videos[0]) as reader:
            frame = next(reader.read([clips[0]["start"]])).image
        size_wh = (short_side_px * WIDTH // HEIGHT, short_side_px)
        small = cv2.resize(frame, size_wh, interpolation=cv2.INTER_AREA)
        y, x = (short_side_px - 16) // 2, (size_wh[0] - 16) // 2
        assert np.array_equal(clips[0]["frames"][0], small[y : y + 16, x : x + 16].transpose(2, 0, 1))


def test_frames_after_one_that_is_missing_are_not_used_and_that_is_said(tmp_path, caplog):
    (tmp_path / "frames").mkdir()
    for number, frame in enumerate(moving_frames(14, 9)):
        Image.fromarray(frame).save(tmp_path / "frames" / f"{number:02}.png")
    (tmp_path / "frames" / "10.png").write_bytes(b"not an image")
    clips = Clips([str(tmp_path)], cache_dir=tmp_path / "cache", **SMALL)
    assert {clips[0, epoch]["start"] for epoch in range(20)} == {0, 1} and len(clips) == 1
    assert f"{tmp_path / 'frames'}: 10 of 14 frames are used (10.png cannot be read as an image" in caplog.text


def build_elsewhere(arguments):
    path, cache_dir = arguments
    clips = Clips([path], cache_dir=cache_dir, **SMALL)
    return [sample["frames"].numpy() for sample in clips]


def test_processes_may_fill_one_cache_at_once(folder, tmp_path):
    with multiprocessing.get_context("fork").Pool(2) as pool:
        one, two = pool.map(build_elsewhere, [(str(folder), str(tmp_path / "cache"))] * 2, chunksize=1)
    assert len(one) == len(two) and all(np.array_equal(a, b) for a, b in zip(one, two))
    assert sorted({path.suffix for path in (tmp_path / "cache").iterdir()}) == [".npz", ".rgb"]


def test_cache_files_made_by_earlier_versions_are_read_and_not_made_again(folder, tmp_path, monkeypatch):
    Clips([str(folder)], cache_dir=tmp_path / "cache", **SMALL)
    entries = list((tmp_path / "cache").glob("*.npz"))
    assert len(entries) == 6 and all(sorted(np.load(path).files) == ["grey", "shape"] for path in entries)
    monkeypatch.setattr(clip_cache, "_decode", None)
    Clips([str(folder)], cache_dir=tmp_path / "cache", **SMALL)


def test_at_most_max_clips_are_used_spread_over_the_videos(folder, cache_dir):
    clips = Clips([str(folder)], max_clips=3, cache_dir=cache_dir, **SMALL)
    assert len(clips) == 3 and [clips[i]["video"] for i in range(3)] == [0, 2, 5]


def test_a_crop_may_have_another_height_than_width(folder, cache_dir):
    options = {**SMALL, "size_px": (14, 22), "cache_dir": cache_dir}
    clips = Clips([str(folder)], training=False, **options)
    assert clips.size_hw == (14, 22)
    sample = clips[len(clips) - 1]
    whole = resized_frames(clips.videos[sample["video"]])
    assert np.array_equal(sample["frames"], whole[sample["start"] :: 4][:3, 2:16, 1:23].transpose(0, 3, 1, 2))
    clips, places = Clips([str(folder)], flip=False, **options), set()
    for epoch in range(60):
        sample = clips[0, epoch]
        frame = resized_frames(clips.videos[0])[sample["start"]]
        cut = sample["frames"][0].permute(1, 2, 0).numpy()
        places |= {(y, x) for y in range(5) for x in range(3) if np.array_equal(frame[y : y + 14, x : x + 22], cut)}
    assert places == {(y, x) for y in range(5) for x in range(3)}


def test_videos_that_are_smaller_than_the_crop_are_left_out(folder, cache_dir, tmp_path):
    for number, frame in enumerate(moving_frames(12, 9)):  # a portrait video, 24 x 18 px when it is resized
        (tmp_path / "portrait").mkdir(exist_ok=True)
        Image.fromarray(np.ascontiguousarray(frame.swapaxes(0, 1))).save(tmp_path / "portrait" / f"{number}.png")
    clips = Clips([str(folder), str(tmp_path)], cache_dir=cache_dir, **{**SMALL, "size_px": [14, 22]})
    assert len(clips.videos) == 6
    why = "has frames of 24 x 18 px, smaller than the crop of 14 x 22 px"
    assert clips.left_out == [f"{tmp_path / 'portrait'}: {why}"]


def test_a_list_drops_categories_and_videos_before_they_are_decoded_or_split(folder, cache_dir, tmp_path):
    list_path = tmp_path / "drop.txt"
    list_path.write_text("# hardly any motion\nArchery\nBowling/v_Bowling_g04_c01.avi\n")
    options = dict(drop_list=list_path, cache_dir=tmp_path / "cache", val_share=0.5, **SMALL)
    parts = {part: Clips([str(folder)], part=part, **options) for part in ("train", "val", "all")}
    assert [Path(path).name[11:13] for path in parts["all"].videos] == ["03", "05"]
    assert all(len(parts[part].videos) == 2 for part in ("train", "val"))  # so few that each is divided
    assert len({path.name for path in (tmp_path / "cache").iterdir()}) == 4  # two files for each of two videos
    names = [f"{name}/v_{name}_g0{number}_c01.avi" for number, name in enumerate(["Archery"] * 3 + ["Bowling"] * 3)]
    assert parts["all"].left_out == [f"{folder / names[n]}: named in {list_path}" for n in (0, 1, 2, 4)]
    for text, message in (
        ("Archer\n", "drop.txt: no line matches any of the 6 videos"),
        ("Archery\nBowling\n", "drop.txt: names all 6 videos"),
        (
            f"{folder.name}\n",
            "drop.txt: no line matches any of the 6 videos",
        ),  # the folder that is searched is no category
    ):
        list_path.write_text(text)
        with pytest.raises(ValueError, match=message):
            Clips([str(folder)], **options)


def test_categories_with_little_motion_are_dropped_in_both_parts_by_their_mean_change(cache_dir, tmp_path):
    for number, category in enumerate(("Moves", "Moves", "Rests", "Rests", "Mixed", "Mixed")):
        frames = moving_frames(30, number)
        if category == "Rests" or number == 5:
            frames[6:] = frames[6]  # the first clips still move, the others do not
        write_avi(tmp_path / category / f"{number}.avi", frames)
    options = dict(least_change=0, cache_dir=cache_dir, **SMALL)
    clips = Clips([str(tmp_path)], **options)
    expected = {}
    for category in ("Mixed", "Moves", "Rests"):
        means = []
        for path in sorted((tmp_path / category).iterdir()):
            with open_video(path) as reader:
                frames = [frame.image for frame in reader.read(range(30))]
            gray = [
                cv2.cvtColor(cv2.resize(frame, (43, 32), interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)
                for frame in frames
            ]
            steps = [np.abs(gray[t + 4].astype(int) - gray[t]).mean() for t in range(26)]
            means.append(np.mean([(steps[t] + steps[t + 4]) / 2 for t in range(22)]))
        expected[str(tmp_path / category)] = pytest.approx(np.mean(means), rel=0.02)
    assert clips.category_changes == expected
    moves, mixed, rests = (clips.category_changes[str(tmp_path / name)] for name in ("Moves", "Mixed", "Rests"))
    assert moves > mixed > rests
    for part in ("train", "val"):
        held = Clips([str(tmp_path)], part=part, val_share=0.5, least_category_change=(rests + mixed) / 2, **options)
        assert held.videos and not any("Rests" in path for path in held.videos)
        dropped = [line for line in held.left_out if "its category hardly moves" in line]
        assert len(dropped) == 2 and all(f"{rests:.2f} gray levels" in line for line in dropped)
    with pytest.raises(ValueError, match="contains no clips; left out: .*its category hardly moves"):
        Clips([str(tmp_path)], least_category_change=255, **options)


def test_a_clip_of_real_video_in_ucf_101s_layout_is_what_the_reader_gives(shared_dir, tmp_path):
    (tmp_path / "ApplyEyeMakeup").mkdir()
    path = tmp_path / "ApplyEyeMakeup" / "v_ApplyEyeMakeup_g01_c01.avi"
    shutil.copy(shared_dir / "data" / "videos" / "mmaction2_test.avi", path)
    options = dict(num_frames=4, interval_frames=5, short_side_px=60, size_px=60, cache_dir=tmp_path / "cache")
    clips = Clips([str(tmp_path)], training=False, **options)
    sample = clips[len(clips) - 1]
    with open_video(path) as reader:
        frames = [f.image for f in reader.read(range(sample["start"], sample["start"] + 16, 5))]
    small = np.stack([cv2.resize(frame, (80, 60), interpolation=cv2.INTER_AREA) for frame in frames])
    assert np.array_equal(sample["frames"], small[:, :, 10:70].transpose(0, 3, 1, 2))


def test_arguments_that_make_no_sense_are_refused(folder, cache_dir, tmp_path):
    for arguments, message in (
        (dict(part="test"), "part must be"),
        (dict(size_px=19), "size_px must lie between"),
        (dict(size_px=(19, 24)), "size_px must lie between"),
        (dict(size_px=(16, 0)), "size_px must lie between"),
        (dict(size_px=(16, 16, 3)), "one whole number, or a height and a width"),
        (dict(size_px=15.5), "one whole number, or a height and a width"),
        (dict(least_change=-1), "must be at least 0 gray levels"),
        (dict(least_category_change=float("nan")), "must be at least 0 gray levels"),
        (dict(num_frames=1), "at least 2 frames"),
        (dict(max_clips=0), "max_clips must be"),
    ):
        with pytest.raises(ValueError, match=message):
            Clips([str(folder)], cache_dir=cache_dir, **{**SMALL, **arguments})
    with pytest.raises(FileNotFoundError, match="absent: no such video"):
        Clips([str(tmp_path / "absent")], cache_dir=cache_dir)
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(ValueError, match="notes.txt: neither"):
        Clips([str(tmp_path / "notes.txt")], cache_dir=cache_dir)
    with pytest.raises(ValueError, match="contains no videos; looked, also in subfolders, for files ending in .mp4"):
        Clips([str(tmp_path)], cache_dir=cache_dir)
