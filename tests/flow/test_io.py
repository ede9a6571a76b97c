import io
import os
import struct
import zipfile
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from cmp.flow import DenseFlow, encode_flow, open_flow, read_flow, write_flow
from cmp.flow.io import open_flow_pair
from cmp.images import decode_gray8


def some_flow(height=5, width=7, bound=40.0, seed=0):
    return np.random.default_rng(seed).uniform(-bound, bound, (height, width, 2)).astype(np.float32)


def hole(flow):
    flow = flow.copy()
    flow[1, 2] = np.nan
    return flow


@pytest.mark.parametrize("name", ["a.flo", "a.npz"])
def test_float_formats_give_back_every_bit(tmp_path, name):
    flow = some_flow(bound=3000)
    write_flow(tmp_path / name, flow)
    back, valid = read_flow(tmp_path / name, return_valid=True)
    assert back.dtype == np.float32 and valid.all()
    np.testing.assert_array_equal(back, flow)


@pytest.mark.parametrize("name", ["a.flo", "a.npz", "a.png"])
def test_unknown_pixels_come_back_as_nan_and_not_valid(tmp_path, name):
    flow = hole(some_flow())
    write_flow(tmp_path / name, flow)
    back, valid = read_flow(tmp_path / name, return_valid=True)
    expected = np.ones((5, 7), bool)
    expected[1, 2] = False
    np.testing.assert_array_equal(valid, expected)
    np.testing.assert_array_equal(np.isnan(back).all(axis=2), ~expected)
    given = np.ones((5, 7), bool)
    given[3, 4] = given[1, 2] = False
    write_flow(tmp_path / name, flow, valid=given)
    np.testing.assert_array_equal(read_flow(tmp_path / name, return_valid=True)[1], given)


def test_a_flo_file_written_by_hand_is_read_width_first_and_x_first(tmp_path):
    values = [1.5, -2.0, 3.0, 4.0, 2e9, 0.0, 5.0, 6.0, 7.0, 8.0, 9.0, -10.0]
    (tmp_path / "hand.flo").write_bytes(struct.pack("<fii12f", 202021.25, 3, 2, *values))
    flow, valid = read_flow(tmp_path / "hand.flo", return_valid=True)
    assert flow.shape == (2, 3, 2)
    assert flow[0, 0].tolist() == [1.5, -2.0] and flow[1, 2].tolist() == [9.0, -10.0]
    assert np.isnan(flow[0, 2]).all() and valid.sum() == 5


def test_flo_and_opencv_read_each_other(tmp_path):
    flow = some_flow()
    write_flow(tmp_path / "ours.flo", flow)
    np.testing.assert_array_equal(cv2.readOpticalFlow(str(tmp_path / "ours.flo")), flow)
    cv2.writeOpticalFlow(str(tmp_path / "theirs.flo"), flow)
    np.testing.assert_array_equal(read_flow(tmp_path / "theirs.flo"), flow)


def test_kitti_png_follows_the_formula_with_red_as_x(tmp_path):
    bgr = np.zeros((2, 3, 3), np.uint16)
    bgr[0, 1] = (1, 32768 - 64, 32768 + 96)  # valid, y, x
    cv2.imwrite(str(tmp_path / "k.png"), bgr)
    flow, valid = read_flow(tmp_path / "k.png", return_valid=True)
    assert flow[0, 1].tolist() == [1.5, -1.0] and valid.sum() == 1 and valid[0, 1]


def test_kitti_png_is_exact_to_half_a_step_and_refuses_what_it_cannot_hold(tmp_path):
    flow = some_flow(bound=511)
    write_flow(tmp_path / "k.png", flow)
    assert np.abs(read_flow(tmp_path / "k.png") - flow).max() <= 1 / 128
    with pytest.raises(ValueError, match="511.98"):
        write_flow(tmp_path / "k.png", np.full((2, 3, 2), 512.0, np.float32))
    write_flow(tmp_path / "k.png", np.full((2, 3, 2), -512.0, np.float32))
    assert (read_flow(tmp_path / "k.png") == -512).all()


def test_zhan_et_als_pair_follows_their_rule(tmp_path):
    ramp = np.arange(256, dtype=np.uint8).reshape(8, 32)
    Image.fromarray(ramp).save(tmp_path / "x.png")
    Image.fromarray(ramp[::-1].copy()).save(tmp_path / "y.png")
    flow = read_flow((tmp_path / "x.png", tmp_path / "y.png"))
    np.testing.assert_allclose(flow[..., 0].ravel(), np.arange(256) / 255 * 100 - 50, atol=4e-6)
    np.testing.assert_array_equal(flow[..., 1], flow[::-1, :, 0])
    write_flow((tmp_path / "x2.png", tmp_path / "y2.png"), flow)  # the nearest byte: nothing drifts when written again
    np.testing.assert_array_equal(read_flow((tmp_path / "x2.png", tmp_path / "y2.png")), flow)


def test_a_window_of_a_pair_equals_that_of_the_decoded_field_bit_for_bit(tmp_path):
    coded = np.random.default_rng(0).integers(0, 256, (2, 24, 31), np.uint8)
    paths = tmp_path / "x.png", tmp_path / "y.jpg"
    for path, plane in zip(paths, coded):
        cv2.imwrite(str(path), plane)
    field, dense = open_flow_pair(paths), DenseFlow(read_flow(paths))
    assert field.shape == dense.shape
    np.testing.assert_array_equal(np.asarray(field), np.asarray(dense))
    for size_hw, rows, columns in [((36, 47), slice(5, 30), slice(0, 47)), ((13, 20), slice(0, 4), slice(11, 20))]:
        np.testing.assert_array_equal(field.window(size_hw, rows, columns), dense.window(size_hw, rows, columns))


@pytest.mark.parametrize("quality, progressive", [(95, 0), (30, 1)])
def test_gray_jpegs_give_the_bytes_that_pillow_gives(quality, progressive):
    image = cv2.GaussianBlur(np.random.default_rng(1).integers(0, 256, (45, 70), np.uint8), (0, 0), 2)
    options = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_PROGRESSIVE, progressive]
    data = cv2.imencode(".jpg", image, options)[1].tobytes()
    np.testing.assert_array_equal(decode_gray8(data, "x.jpg"), np.array(Image.open(io.BytesIO(data))))
    with pytest.raises(ValueError, match="x.jpg"):
        decode_gray8(data[: len(data) // 2], "x.jpg")


def test_a_jpeg_pair_keeps_smooth_flow_to_its_step_and_clips_at_fifty(tmp_path):
    y, x = np.mgrid[:48, :64].astype(np.float32)
    flow = np.stack((x - 20, 30 - 0.5 * y), axis=2)
    pair = tmp_path / "x.jpg", tmp_path / "y.jpg"
    write_flow(pair, flow)
    assert np.abs(read_flow(pair) - flow).max() < 1.0
    write_flow(pair, np.full((8, 16, 2), (80, -80), np.float32))
    np.testing.assert_allclose(read_flow(pair), np.full((8, 16, 2), (50, -50)), atol=1e-5)
    with pytest.raises(ValueError, match="unknown"):
        write_flow(pair, hole(flow))


def broken_flo(good):
    width, height = 7, 5
    head = struct.pack("<fii", 202021.25, width, height)
    assert good.startswith(head)
    return {
        "empty": b"",
        "cut": good[:-1],
        "only a head": head,
        "too long": good + b"\0",
        "wrong magic": b"PIEX" + good[4:],
        "2^31 pixels": struct.pack("<fii", 202021.25, 2**16, 2**15) + good[12:],
        "negative": struct.pack("<fii", 202021.25, -7, -5) + good[12:],
        "zero": struct.pack("<fii", 202021.25, 0, 5),
    }


def broken_png(good):
    huge_head = b"IHDR" + struct.pack(">IIBBBBB", 2**16, 2**15, 16, 2, 0, 0, 0)
    middle = len(good) // 2
    return {
        "empty": b"",
        "cut": good[: len(good) // 2],
        "end cut": good[:-3],
        "too long": good + b"\0",
        "wrong magic": b"X" + good[1:],
        "2^31 pixels": good[:12] + huge_head + struct.pack(">I", zlib.crc32(huge_head)) + good[33:],
        "8 bit": cv2.imencode(".png", np.zeros((5, 7, 3), np.uint8))[1].tobytes(),
        "16 bit gray": cv2.imencode(".png", np.zeros((5, 7), np.uint16))[1].tobytes(),
        "middle missing": good[:middle] + good[middle + 20 :],
    }


@pytest.mark.parametrize("name, breakages", [("bad.flo", broken_flo), ("bad.png", broken_png)])
def test_a_broken_file_is_refused_by_name(tmp_path, name, breakages):
    path = tmp_path / name
    write_flow(path, some_flow())
    for what, data in breakages(path.read_bytes()).items():
        path.write_bytes(data)
        with pytest.raises(ValueError, match=name):
            read_flow(path)
            pytest.fail(f"{what} was read")


def test_a_broken_npz_is_refused_by_name(tmp_path):
    path = tmp_path / "bad.npz"
    flow = some_flow()
    cases = {
        "other key": dict(motion=flow),
        "shape": dict(flow=flow[..., 0]),
        "dtype": dict(flow=flow.astype(np.int32)),
        "empty": dict(flow=flow[:0]),
        "valid shape": dict(flow=flow, valid=np.ones((4, 7), bool)),
        "valid dtype": dict(flow=flow, valid=np.ones((5, 7), np.uint8)),
    }
    for what, arrays in cases.items():
        np.savez(path, **arrays)
        with pytest.raises(ValueError, match="bad.npz"):
            read_flow(path)
            pytest.fail(f"{what} was read")
    np.savez(path, flow=np.array([object()]))
    with pytest.raises(ValueError, match="bad.npz"):
        read_flow(path)
    np.savez(path, flow=flow)
    whole = path.read_bytes()
    for data in (b"", whole[: len(whole) // 2], b"PK" + b"\0" * 50):
        path.write_bytes(data)
        with pytest.raises(ValueError, match="bad.npz"):
            read_flow(path)


def test_an_npz_that_claims_terabytes_is_refused_before_memory_is_asked_for(tmp_path):
    head = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1048576, 1048576, 2), }"
    head += b" " * (118 - 1 - len(head)) + b"\n"
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w") as archive:
        archive.writestr("flow.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head)
    with pytest.raises(ValueError, match="bomb.npz"):
        read_flow(tmp_path / "bomb.npz")


def test_a_broken_pair_is_refused_by_name(tmp_path):
    x, y = tmp_path / "x.jpg", tmp_path / "y.jpg"
    write_flow((x, y), some_flow(24, 40))
    whole = y.read_bytes()
    for data in (b"", b"hello", whole[: len(whole) // 2]):
        y.write_bytes(data)
        with pytest.raises(ValueError, match="y.jpg"):
            read_flow((x, y))
    Image.fromarray(np.zeros((24, 40, 3), np.uint8)).save(y)
    with pytest.raises(ValueError, match="y.jpg.*gray"):
        read_flow((x, y))
    Image.fromarray(np.zeros((40, 24), np.uint8)).save(y)
    with pytest.raises(ValueError, match="y.jpg"):
        read_flow((x, y))
    y.unlink()
    with pytest.raises(FileNotFoundError, match="y.jpg"):
        read_flow((x, y))


def test_paths_that_make_no_sense_are_refused(tmp_path):
    flow = some_flow()
    for path in ("a.txt", "a", "a.jpg"):
        with pytest.raises(ValueError, match="a"):
            read_flow(tmp_path / path)
        with pytest.raises(ValueError, match="a"):
            write_flow(tmp_path / path, flow)
    with pytest.raises(FileNotFoundError, match="none.flo"):
        read_flow(tmp_path / "none.flo")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        write_flow(tmp_path / "nowhere" / "a.flo", flow)
    for pair in (("x.flo", "y.flo"), ("x.jpg",), ("x.jpg", "x.jpg")):
        with pytest.raises(ValueError, match="x.flo|got 1|x.jpg"):
            write_flow(tuple(tmp_path / name for name in pair), flow)


def test_writing_refuses_what_is_not_flow_and_leaves_nothing_behind(tmp_path):
    good = some_flow()
    marked = np.ones((5, 7), bool)
    for flow, valid in (
        (good[..., 0], None),
        (good.astype(int), None),
        (good[:0], None),
        (hole(good), marked),
        (good, ~marked[1:]),
    ):
        with pytest.raises(ValueError):
            write_flow(tmp_path / "a.flo", flow, valid=valid)
    assert os.listdir(tmp_path) == []


def test_a_write_that_fails_keeps_the_old_file_and_leaves_no_temporary_one(tmp_path, monkeypatch):
    write_flow(tmp_path / "a.flo", some_flow(seed=1))

    def fail(*_):
        raise OSError("disk gone")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk gone"):
        write_flow(tmp_path / "a.flo", some_flow(seed=2))
    assert os.listdir(tmp_path) == ["a.flo"]
    np.testing.assert_array_equal(read_flow(tmp_path / "a.flo"), some_flow(seed=1))


def test_writing_does_not_change_the_input(tmp_path):
    flow = hole(some_flow())
    before = flow.copy()
    for name in ("a.flo", "a.png", "a.npz"):
        write_flow(tmp_path / name, flow)
    np.testing.assert_array_equal(flow, before)


def test_every_ground_truth_flo_agrees_with_opencv(shared_dir):
    paths = sorted((shared_dir / "data/flow").rglob("*.flo"))
    assert len(paths) >= 8
    for path in paths:
        raw = cv2.readOpticalFlow(str(path))
        flow, valid = read_flow(path, return_valid=True)
        np.testing.assert_array_equal(valid, (np.abs(raw) <= 1e9).all(axis=2))
        np.testing.assert_array_equal(flow[valid], raw[valid])


def test_kitti_ground_truth_has_the_known_share_and_length_and_is_kept_by_writing(shared_dir, tmp_path):
    shares = {}
    for path in sorted((shared_dir / "data/flow/kitti/flow_gt").glob("*.png")):
        flow, valid = read_flow(path, return_valid=True)
        shares[path.stem] = valid.mean(), np.linalg.norm(flow[valid], axis=1).mean()
        write_flow(tmp_path / path.name, flow)
        again, valid_again = read_flow(tmp_path / path.name, return_valid=True)
        np.testing.assert_array_equal(valid_again, valid)
        np.testing.assert_array_equal(again, flow)
    assert all(0.15 < share < 0.23 for share, _ in shares.values())
    assert round(shares["sample2015_10"][1]) == 51


@pytest.mark.parametrize("damaged", [0, 1])
@pytest.mark.parametrize(
    "damage",
    [
        lambda data, at: data[:at] + bytes(512) + data[at + 512 :],
        lambda data, at: data[:at] + data[at + 700 :],
        lambda data, at: data[:at] + data[-2:],
    ],
    ids=["zeroed", "cut out", "second half missing"],
)
def test_a_pair_whose_jpeg_is_damaged_in_its_middle_is_refused_by_name(tmp_path, damage, damaged):
    pair = tmp_path / "flow_x.jpg", tmp_path / "flow_y.jpg"
    write_flow(pair, some_flow(96, 128))
    assert read_flow(pair).shape == (96, 128, 2)
    data = pair[damaged].read_bytes()
    pair[damaged].write_bytes(damage(data, len(data) // 2))
    with pytest.raises(
        ValueError, match=f"{pair[damaged].name} cannot be read as an 8-bit gray image: .*libjpeg reports"
    ):
        read_flow(pair)


def test_a_jpeg8_payload_that_is_damaged_in_its_middle_is_refused():
    payload, meta = encode_flow(some_flow(96, 128), "jpeg8")
    at = len(payload) // 4
    with pytest.raises(ValueError, match="libjpeg reports"):
        open_flow(payload[:at] + bytes(512) + payload[at + 512 :], meta).dense()
