"""Files that lie about their size are refused before memory is taken for what they claim."""

import os
import struct
import tracemalloc
import zipfile
import zlib

import numpy as np
import pytest

from cmp.flow import read_flow
from cmp.flow.bounded import read_npz, read_plain_file
from cmp.flow.io import MAX_FILE_BYTES, parse_kitti_png

KEPT_BYTES = 4 << 20  # far below what the files claim


@pytest.fixture(autouse=True)
def little_memory():
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < KEPT_BYTES, f"{peak / 2**20:.0f} MiB were taken"


def header(shape, descr="<f4", version=1, length=118):
    text = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (length - 1 - len(text)) + b"\n"
    return b"\x93NUMPY" + bytes((version, 0)) + struct.pack("<H" if version == 1 else "<I", len(text)) + text


def zipped(tmp_path, compression=zipfile.ZIP_STORED, **entries):
    with zipfile.ZipFile(tmp_path / "bad.npz", "w", compression) as archive:
        for key, data in entries.items():
            archive.writestr(f"{key}.npy", data)
    return tmp_path / "bad.npz"


@pytest.mark.parametrize(
    "data, said",
    [
        (header((4096, 4096, 2)) + bytes(64), "134217728 bytes, and 64 follow"),
        (header((4096, 4096, 2), length=9000) + bytes(64), "134217728 bytes, and 64 follow"),
        (header((1, 1, 2), "|V100000000") + bytes(8), "200000000 bytes, and 8 follow"),
        (header((1, 1, 2)) + bytes(80), "8 bytes, and 80 follow"),
        (header((1, 1, 2)) + bytes(7), "8 bytes, and 7 follow"),
        (header((2**62, 2**62, 2)) + bytes(8), "and 8 follow"),
        (header((2**62,), "<U0"), ", 0 bytes, and 0 follow"),
        (b"\x93NUMPY\x02\x00" + struct.pack("<I", 10**8) + b"{" + b" " * 2000, "claims 100000000 bytes, at most 10000"),
        (b"\x93NUMPY\x01\x00", "EOF"),
        (b"", "EOF"),
    ],
)  # fmt: skip
def test_an_array_whose_header_lies_is_refused(tmp_path, data, said):
    tracemalloc.reset_peak()
    path = zipped(tmp_path, flow=data)
    for read in (lambda: read_npz(path, "bad"), lambda: read_flow(path)):
        with pytest.raises(ValueError, match=f"bad.*{said}"):
            read()


def test_what_is_compressed_is_bounded_by_a_number_or_refused(tmp_path):
    path = zipped(tmp_path, zipfile.ZIP_DEFLATED, flow=header((1024, 1024, 8)) + bytes(1 << 25))
    assert path.stat().st_size < 1 << 16
    tracemalloc.reset_peak()
    with pytest.raises(ValueError, match=r'bad: .*"flow": 33554560 bytes of arrays are more than the 1000000'):
        read_npz(path, "bad", max_bytes=10**6)
    with pytest.raises(ValueError, match='"flow" is compressed'):
        read_npz(path, "bad")
    with pytest.raises(ValueError, match="bad.npz.*floating"):  # eight channels
        read_flow(path)
    path = zipped(tmp_path, zipfile.ZIP_BZIP2, flow=header((1, 1, 2)) + bytes(8))
    with pytest.raises(ValueError, match='"flow" is compressed'):
        read_npz(path, "bad", max_bytes=10**6)
    spaces = zipped(tmp_path, zipfile.ZIP_DEFLATED, flow=header((1, 1, 2), version=2, length=1 << 24) + bytes(8))
    tracemalloc.reset_peak()
    with pytest.raises(ValueError, match=r"bad\.npz.*claims 16777216 bytes, at most 10000"):
        read_flow(spaces)


def test_a_zip_that_lies_about_its_entries_is_refused(tmp_path):
    whole = bytearray(zipped(tmp_path, zipfile.ZIP_DEFLATED, flow=header((8, 8, 2)) + bytes(512)).read_bytes())
    place = whole.index(b"PK\x01\x02")
    struct.pack_into("<I", whole, place + 24, 1 << 30)  # its size in the directory
    (tmp_path / "bad.npz").write_bytes(whole)
    tracemalloc.reset_peak()
    with pytest.raises(ValueError, match=r"bad\.npz: .*claims 1073741824 bytes, more than the file can hold"):
        read_flow(tmp_path / "bad.npz")


def test_arrays_are_read_as_numpy_wrote_them(tmp_path):
    arrays = {"a": np.arange(6, dtype=np.int64).reshape(2, 3), "b": np.asfortranarray(np.eye(3, 2)),
              "c": np.array(["ü", "xyz"]), "d": np.float32(3), "e": np.zeros((0, 2), np.uint32)}  # fmt: skip
    for save, bound in ((np.savez, None), (np.savez, 10**5), (np.savez_compressed, 10**5)):
        save(tmp_path / "good.npz", **arrays)
        read = read_npz(tmp_path / "good.npz", "good", max_bytes=bound)
        assert read.keys() == arrays.keys()
        for key, array in arrays.items():
            np.testing.assert_array_equal(read[key], array)
            assert read[key].dtype == array.dtype
    assert read_npz((tmp_path / "good.npz").read_bytes(), "good", keys=("c", "none"), max_bytes=999).keys() == {"c"}


def test_a_flow_file_of_a_terabyte_and_what_is_not_a_file_are_refused_unread(tmp_path):
    for name in ("bad.flo", "bad.png", "bad.npz"):
        with open(tmp_path / name, "wb") as file:
            file.truncate(1 << 40)
        tracemalloc.reset_peak()
        with pytest.raises(ValueError, match=rf"{name}: has 1099511627776 bytes, at most {MAX_FILE_BYTES} are read"):
            read_flow(tmp_path / name)
        (tmp_path / name).unlink()
        os.mkfifo(tmp_path / name)
        with pytest.raises(ValueError, match=rf"{name}: is a pipe \(FIFO\), not a file"):
            read_flow(tmp_path / name)
    with pytest.raises(IsADirectoryError):
        read_plain_file(tmp_path, 9)


def test_a_png_that_claims_more_pixels_than_its_bytes_can_hold_is_not_decoded(monkeypatch):
    head = b"IHDR" + struct.pack(">IIBBBBB", 8192, 8192, 16, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))
    data += b"\0\0\0\0IEND\xaeB`\x82"
    monkeypatch.setattr("cv2.imdecode", lambda *_: pytest.fail("decoded"))
    with pytest.raises(ValueError, match="lie: claims 8192 x 8192 pixels, more than its 45 bytes can hold"):
        parse_kitti_png(data, "lie")


def test_a_flow_of_zeros_is_not_taken_for_a_lie(tmp_path):
    from cmp.flow import write_flow

    for name in ("good.png", "good.npz"):
        write_flow(tmp_path / name, np.zeros((211, 300, 2), np.float32))
        assert not read_flow(tmp_path / name).any()
