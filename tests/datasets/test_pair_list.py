import os
import pickle

import cv2
import numpy as np
import pytest
from PIL import Image

from cmp.datasets import PairList, PropagationDataset, open_pairs
from cmp.flow import FlowField, write_flow

HEIGHT, WIDTH = 12, 17


def frame(seed=0):
    return np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)


def flow(seed=0):
    return np.random.default_rng(seed).uniform(-20, 20, (HEIGHT, WIDTH, 2)).astype(np.float32)


@pytest.fixture
def folder(tmp_path):
    """Two videos, one with a .flo and one with Zhan et al.'s two JPEGs; the second frames do not exist."""
    for video in ("a", "b"):
        (tmp_path / "frames" / video).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / "frames" / video / "0.png"), frame()[..., ::-1])
    write_flow(tmp_path / "a.flo", flow())
    write_flow((tmp_path / "b_x.jpg", tmp_path / "b_y.jpg"), np.full_like(flow(), 10))
    lines = ["frames/a/0.png frames/a/1.png a.flo", "", "frames/b/0.png frames/b/1.png b_x.jpg b_y.jpg"]
    (tmp_path / "list.txt").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_both_forms_of_a_line_are_read(folder):
    pairs = PairList(folder / "list.txt")
    assert len(pairs) == 2
    image, read, valid = pairs.read_pair(0)
    np.testing.assert_array_equal(image, frame())
    np.testing.assert_array_equal(read, flow())
    assert valid.shape == (HEIGHT, WIDTH) and valid.dtype == bool and valid.all()
    image, read, valid = pairs.read_pair(1)
    assert isinstance(read, FlowField) and read.shape == (HEIGHT, WIDTH, 2)
    assert np.abs(np.asarray(read) - 10).max() < 1 and np.asarray(read).dtype == np.float32


def test_unknown_pixels_of_a_kitti_flow_are_not_valid(folder):
    known = np.random.default_rng(0).random((HEIGHT, WIDTH)) < 0.5
    write_flow(folder / "k.png", flow(), valid=known)
    (folder / "k.txt").write_text("frames/a/0.png frames/a/1.png k.png\n")
    np.testing.assert_array_equal(PairList(folder / "k.txt").read_pair(0)[2], known)


def test_the_video_of_a_pair_is_the_folder_of_its_first_frame(folder):
    assert list(PairList(folder / "list.txt").pair_videos) == [str(folder / "frames" / v) for v in "ab"]


def test_paths_start_at_the_root_that_is_given(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "list.txt"
    elsewhere.write_bytes((folder / "list.txt").read_bytes())
    np.testing.assert_array_equal(PairList(elsewhere, root=folder).read_pair(0)[1], flow())
    with pytest.raises(FileNotFoundError, match="0.png"):
        PairList(elsewhere).read_pair(0)


def test_a_folder_is_one_video_however_its_lines_are_written(folder):
    ways = ("frames/a", "./frames/a", "frames//a", "frames/b/../a", "frames\\a", f"{folder}/frames/a")
    lines = [f"{way}/0.png x a.flo" for way in ways] + ["frames\\a\\0.png x .\\a.flo"]
    (folder / "ways.txt").write_text("\ufeff# seven\r\n" + "\r\n".join(lines), "utf-8")
    pairs = PairList(folder / "ways.txt")
    assert len(pairs) == 7 and set(pairs.pair_videos) == {str(folder / "frames" / "a")}
    for index in range(7):
        np.testing.assert_array_equal(pairs.read_pair(index)[1], flow())


@pytest.mark.parametrize("odd", ["\u3000", "\u00a0", "\u202f", "\u0085", "\u2028", "\x0b", "\x1c"])
def test_odd_blanks_are_parts_of_names_and_a_backslash_may_be(folder, odd):
    for name in (f"x{odd}y", "x\\y"):
        (folder / f"{name}.png").write_bytes((folder / "frames/a/0.png").read_bytes())
        write_flow(folder / f"{name}.flo", flow(1))
        (folder / "odd.txt").write_bytes(f"frames/a/0.png z a.flo\n{name}.png z {name}.flo\n".encode())
        pairs = PairList(folder / "odd.txt")
        assert len(pairs) == 2
        np.testing.assert_array_equal(pairs.read_pair(1)[1], flow(1))


def test_a_line_whose_files_are_missing_is_named_by_its_number(folder):
    (folder / "typo.txt").write_text(
        "# two\nframes/a/O.png x a.flo\nframes/a/0.png x b.flo\nframes/a/0.png x a_x.jpg b_.jpg"
    )
    for index, said in enumerate((r"O\.png .*typo\.txt:2", r"b\.flo .*typo\.txt:3", r"a_x\.jpg .*typo\.txt:4")):
        with pytest.raises(FileNotFoundError, match=said):
            PairList(folder / "typo.txt").read_pair(index)
    pairs = open_pairs([str(folder / "list.txt"), str(folder / "typo.txt")])
    with pytest.raises(FileNotFoundError, match=r"O\.png .*:2\); .*b\.flo .*:3\); .*a_x\.jpg .*:4\); .*b_y?\.jpg"):
        PropagationDataset(pairs, [], grid_stride_px=8, nms_kernel=3)
    PropagationDataset(pairs, [], grid_stride_px=8, nms_kernel=3, max_pairs=1)  # the first alone


def test_a_list_survives_pickling_for_workers(folder):
    pairs = pickle.loads(pickle.dumps(PairList(folder / "list.txt")))
    np.testing.assert_array_equal(pairs.read_pair(0)[1], flow())


@pytest.mark.parametrize("line", ("a.png b.png", "a.png b.png x.jpg y.jpg z.jpg"))
def test_a_line_of_neither_form_is_named_with_its_file(folder, line):
    (folder / "bad.txt").write_text(f"frames/a/0.png frames/a/1.png a.flo\n\n{line}\n")
    with pytest.raises(ValueError, match=rf"bad\.txt:3: want .* got {len(line.split())} entries"):
        PairList(folder / "bad.txt")


def test_a_missing_or_empty_list_is_named(folder):
    with pytest.raises(FileNotFoundError, match=r"none\.txt"):
        PairList(folder / "none.txt")
    (folder / "empty.txt").write_text("\n \n")
    with pytest.raises(ValueError, match=r"empty\.txt lists no pairs"):
        PairList(folder / "empty.txt")


def test_missing_broken_and_unfitting_files_are_named(folder):
    (folder / "broken.png").write_bytes(b"not an image")
    cv2.imwrite(str(folder / "small.png"), frame()[:-1])
    (folder / "cut.flo").write_bytes((folder / "a.flo").read_bytes()[:-5])
    lines = ("none.png x a.flo", "broken.png x a.flo", "small.png x a.flo", "frames/a/0.png x cut.flo")
    (folder / "bad.txt").write_text("\n".join([*lines, "frames/a/0.png x none.flo"]))
    pairs = PairList(folder / "bad.txt")
    names = ("none.png", "broken.png", "small.png is 17x11", "cut.flo", "none.flo")
    for i, name in enumerate(names):
        with pytest.raises(FileNotFoundError if name.startswith("none") else ValueError, match=name):
            pairs.read_pair(i)


def test_the_image_is_not_turned_by_its_exif_data_as_its_flow_belongs_to_the_stored_pixels(folder):
    exif = Image.Exif()
    for orientation in (3, 6):
        exif[0x0112] = orientation
        Image.fromarray(frame()).save(folder / "turned.png", exif=exif)
        (folder / "l.txt").write_text("turned.png x a.flo\n")
        image, read, _ = PairList(folder / "l.txt").read_pair(0)
        np.testing.assert_array_equal(image, frame())
        np.testing.assert_array_equal(read, flow())


def test_a_cut_image_is_refused_and_any_file_name_is_read(folder):
    smooth = cv2.resize(frame()[:4, :5], (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    data = cv2.imencode(".jpg", smooth)[1].tobytes()
    (folder / "cut.jpg").write_bytes(data[: len(data) * 3 // 4])
    (folder / "hole.jpg").write_bytes(data[: len(data) * 3 // 4] + bytes(len(data) // 4))
    name = b"odd\xff.png"
    with open(os.path.join(os.fsencode(folder), name), "wb") as file:
        file.write((folder / "frames/a/0.png").read_bytes())
    (folder / "l.txt").write_bytes(b"cut.jpg x a.flo\nhole.jpg x a.flo\n" + name + b" x a.flo\n")
    pairs = PairList(folder / "l.txt")
    for i, cut in enumerate(("cut.jpg", "hole.jpg")):
        with pytest.raises(ValueError, match=f"{cut} cannot be read as an image: the file is broken"):
            pairs.read_pair(i)
    np.testing.assert_array_equal(pairs.read_pair(2)[0], frame())
