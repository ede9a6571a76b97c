"""One reader of images: what each kind of file gives, worked out by hand, and what is refused."""

import io
import os
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from cmp import images
from cmp.images import decode_image, read_header, read_image, read_label, read_levels, turn

HEIGHT, WIDTH = 5, 7


def noise(height=HEIGHT, width=WIDTH, channels=3):
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), np.uint8)


def saved(image, format="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def png(values, bits, kind, chunks=b""):
    """A PNG written by hand: rows of packed bytes, `kind` 0 gray, 2 RGB, 3 palette."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    height, width = values.shape[:2]
    if bits == 16:
        rows = [values[y].astype(">u2").tobytes() for y in range(height)]
    elif bits == 8:
        rows = [values[y].tobytes() for y in range(height)]
    else:
        shown = ["".join(f"{v:0{bits}b}" for v in values[y]) for y in range(height)]
        rows = [int(row.ljust(-(-len(row) // 8) * 8, "0"), 2).to_bytes(-(-len(row) // 8), "big") for row in shown]
    data = b"".join(b"\0" + row for row in rows)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunks + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def test_eight_bit_colors_come_as_they_are_in_every_format():
    pixels = noise()
    for format, options in (("PNG", {}), ("BMP", {}), ("PPM", {}), ("TIFF", {}), ("WEBP", {"lossless": True})):
        np.testing.assert_array_equal(decode_image(saved(Image.fromarray(pixels), format, **options), "x"), pixels)
    smooth = cv2.resize(noise(4, 5), (WIDTH * 9, HEIGHT * 9), interpolation=cv2.INTER_CUBIC)
    near = decode_image(saved(Image.fromarray(smooth), "JPEG", quality=98, subsampling=0), "x")
    assert near.shape == smooth.shape and np.abs(near.astype(int) - smooth).mean() < 2  # channels in their order


def test_jpegs_give_what_pillow_gives_for_every_way_of_coding():
    smooth = cv2.resize(noise(6, 8), (67, 45), interpolation=cv2.INTER_CUBIC)
    for options in (
        {"subsampling": 0},
        {"subsampling": 1},
        {"subsampling": 2},
        {"progressive": True},
        {"restart_marker_blocks": 2},
    ):
        data = saved(Image.fromarray(smooth), "JPEG", **options)
        np.testing.assert_array_equal(decode_image(data, "x"), np.array(Image.open(io.BytesIO(data))))
    gray = saved(Image.fromarray(smooth[..., 0]), "JPEG")
    np.testing.assert_array_equal(decode_image(gray, "x")[..., 2], np.array(Image.open(io.BytesIO(gray))))


def test_gray_palette_and_one_bit():
    gray = noise()[..., 0]
    np.testing.assert_array_equal(decode_image(saved(Image.fromarray(gray)), "x"), np.repeat(gray[..., None], 3, 2))
    bits = gray > 127
    np.testing.assert_array_equal(decode_image(saved(Image.fromarray(bits)), "x")[..., 1], np.where(bits, 255, 0))
    indexed = Image.fromarray((gray % 3).astype(np.uint8), "L")
    indexed.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    colors = np.uint8([[10, 20, 30], [40, 50, 60], [70, 80, 90]])
    np.testing.assert_array_equal(decode_image(saved(indexed), "x"), colors[gray % 3])


def test_transparency_of_every_kind_is_laid_over_white():
    pixels = np.full((HEIGHT, WIDTH, 4), (200, 100, 0, 255), np.uint8)
    pixels[:, 3] = (200, 100, 0, 0)
    pixels[:, 4] = (200, 100, 0, 51)  # a fifth: 255 - 0.2 (255 - c)
    found = decode_image(saved(Image.fromarray(pixels)), "x")
    assert (found[:, 0] == (200, 100, 0)).all() and (found[:, 3] == 255).all()
    assert np.abs(found[:, 4].astype(int) - (244, 224, 204)).max() <= 1

    gray = decode_image(saved(Image.fromarray(pixels[..., 2:])), "x")  # LA: black
    assert (gray[:, 0] == 0).all() and (gray[:, 3] == 255).all()

    indexed = Image.fromarray(np.tile(np.uint8([0, 1, 2]), (HEIGHT, 1)))
    indexed.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    for options in ({"transparency": 1}, {"transparency": bytes([255, 0, 255])}):
        found = decode_image(saved(indexed, **options), "x")
        assert found[0].tolist() == [[10, 20, 30], [255, 255, 255], [70, 80, 90]]
    keyed = decode_image(saved(Image.fromarray(np.tile(np.uint8([[[9, 8, 7], [1, 2, 3]]]), (HEIGHT, 1, 1))),
                               transparency=(9, 8, 7)), "x")  # fmt: skip
    assert keyed[0].tolist() == [[255, 255, 255], [1, 2, 3]]


def test_inks_become_rgb():
    inks = Image.new("CMYK", (WIDTH, HEIGHT), (255, 0, 0, 0))  # cyan alone
    for format, options in (("TIFF", {}), ("JPEG", {"quality": 100})):
        found = decode_image(saved(inks, format, **options), "x")
        assert np.abs(found.astype(int) - (0, 255, 255)).max() <= 2


@pytest.mark.parametrize("largest, bits", ((200, 8), (900, 10), (4095, 12), (12000, 14), (40000, 16), (65535, 16)))
def test_sixteen_bit_grays_are_scaled_by_the_smallest_range_that_holds_them(largest, bits):
    values = np.random.default_rng(0).integers(0, largest + 1, (HEIGHT, WIDTH)).astype(np.uint16)
    values[2, 3] = largest
    expected = np.rint(values / (2**bits - 1) * 255)
    for format in ("PNG", "TIFF"):
        found = decode_image(saved(Image.fromarray(values), format), "x")
        np.testing.assert_array_equal(found, np.repeat(expected[..., None], 3, 2))
    # Two images of one sequence are scaled alike.
    halved = decode_image(saved(Image.fromarray(values)), "x", levels=images.Levels(0, 2 * (2**bits - 1)))
    np.testing.assert_array_equal(halved[..., 0], np.rint(values / (2 * (2**bits - 1)) * 255))


def test_sixteen_bit_colors_keep_their_high_bytes():
    values = np.random.default_rng(0).integers(0, 65536, (HEIGHT, WIDTH, 3))
    found = decode_image(png(values, 16, 2), "x")
    np.testing.assert_array_equal(found, values >> 8)


def test_floats_keep_zero_to_one_or_their_own_range_and_survive_what_is_not_finite(tmp_path):
    unit = np.float32([[0, 0.2, 0.4], [0.6, np.nan, np.inf], [-np.inf, 0.2, 0.2]])
    Image.fromarray(unit).save(tmp_path / "unit.tif")
    shown = [[0, 51, 102], [153, 0, 255], [0, 51, 51]]
    assert read_image(tmp_path / "unit.tif")[..., 0].tolist() == shown and read_levels(tmp_path / "unit.tif") == (0, 1)
    own = np.float32([[-100, 0, 155], [np.nan, np.inf, -np.inf]])
    Image.fromarray(own).save(tmp_path / "own.tif")
    assert read_image(tmp_path / "own.tif")[..., 1].tolist() == [[0, 100, 255], [0, 255, 0]]
    huge = np.float32([[-3.4e38, 0, 3.4e38]])
    Image.fromarray(huge).save(tmp_path / "huge.tif")
    assert read_image(tmp_path / "huge.tif")[..., 2].tolist() == [[0, 128, 255]]
    for value, expected in ((np.nan, 0), (np.inf, 255), (7.0, 0)):  # a constant has no range: black
        Image.fromarray(np.full((2, 3), value, np.float32)).save(tmp_path / "flat.tif")
        assert (read_image(tmp_path / "flat.tif") == expected).all()
    Image.fromarray(np.int32([[-10, 0, 90]])).save(tmp_path / "int.tif")
    assert read_image(tmp_path / "int.tif")[0, :, 0].tolist() == [0, 26, 255]


UPRIGHT = {  # of [[1, 2, 3], [4, 5, 6]], by the EXIF specification: where row 0 and column 0 are shown
    1: [[1, 2, 3], [4, 5, 6]],
    2: [[3, 2, 1], [6, 5, 4]],
    3: [[6, 5, 4], [3, 2, 1]],
    4: [[4, 5, 6], [1, 2, 3]],
    5: [[1, 4], [2, 5], [3, 6]],
    6: [[4, 1], [5, 2], [6, 3]],
    7: [[6, 3], [5, 2], [4, 1]],
    8: [[3, 6], [2, 5], [1, 4]],
}


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_turns_an_image_upright_unless_the_stored_pixels_are_asked_for(tmp_path, orientation):
    stored = np.uint8([[1, 2, 3], [4, 5, 6]])
    assert turn(stored, orientation).tolist() == UPRIGHT[orientation]
    large = np.kron(40 * stored, np.ones((16, 16), np.uint8))  # whole JPEG blocks
    exif = Image.Exif()
    exif[0x0112] = orientation
    for format in ("PNG", "TIFF", "WEBP", "JPEG"):
        options = {"lossless": True} if format == "WEBP" else {}
        (tmp_path / "image").write_bytes(saved(Image.fromarray(large).convert("RGB"), format, exif=exif, **options))
        found = read_image(tmp_path / "image")
        assert (np.rint(found[8::16, 8::16, 0] / 40)).astype(int).tolist() == UPRIGHT[orientation]
        assert read_header(tmp_path / "image").size_hw == found.shape[:2]
        plain = read_image(tmp_path / "image", upright=False)
        assert (np.rint(plain[8::16, 8::16, 0] / 40)).astype(int).tolist() == stored.tolist()


def test_odd_exif_data_changes_nothing():
    pixels = noise()
    for orientation in (0, 9, 60000):
        exif = Image.Exif()
        exif[0x0112] = orientation
        np.testing.assert_array_equal(decode_image(saved(Image.fromarray(pixels), exif=exif), "x"), pixels)
    start = b"Exif\0\0"
    entry = struct.pack(">HHI4s", 0x0112, 2, 4, b"6\0\0\0")  # text where a number should be
    loop = struct.pack(">HHII", 0x8769, 4, 1, 8)  # a sub-directory that is its own parent
    for broken in (b"", b"MM", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\0\x02" + entry + loop, os.urandom(50)):
        for format in ("PNG", "JPEG", "WEBP"):
            options = {"lossless": True} if format == "WEBP" else {}
            plain = decode_image(saved(Image.fromarray(pixels), format, **options), "x")
            data = saved(Image.fromarray(pixels), format, exif=start + broken, **options)
            np.testing.assert_array_equal(decode_image(data, "x"), plain)


CUT = (("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {}), ("WEBP", {}), ("TIFF", {}), ("PPM", {}),
       ("TIFF", {"compression": "tiff_lzw"}), ("TIFF", {"compression": "tiff_deflate"}))  # fmt: skip


@pytest.mark.parametrize("format, options", CUT)
def test_a_file_cut_anywhere_is_refused_by_name(format, options):
    data = saved(Image.fromarray(noise(23, 31)), format, **options)
    assert decode_image(data, "x").shape == (23, 31, 3)
    for length in (*range(0, len(data), 11), *range(len(data) - 12, len(data))):
        with pytest.raises(ValueError, match="^cut.jpg cannot be read as an image: "):
            decode_image(data[:length], "cut.jpg")


@pytest.mark.parametrize("format", ("BMP", "GIF"))
def test_a_file_cut_within_its_pixels_is_refused(format):
    data = saved(Image.fromarray(noise(23, 31)), format)
    for length in (*range(0, len(data) - 4, 11), len(data) - 5):  # what follows is filling and the end mark
        with pytest.raises(ValueError, match="^cut cannot be read"):
            decode_image(data[:length], "cut")


def interlaced(values, missing=0):
    """An interlaced 8-bit gray PNG without the last `missing` of its bytes before compression."""
    rows = b""
    for x, y, step_x, step_y in ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2)):
        rows += b"".join(b"\0" + row.tobytes() for row in values[y::step_y, x::step_x] if row.size)
    rows += b"".join(b"\0" + row.tobytes() for row in values[1::2])
    data = png(values, 8, 0)
    head = bytearray(data[:33])
    head[28] = 1
    head[29:33] = struct.pack(">I", zlib.crc32(bytes(head[12:29])))
    packed = zlib.compress(rows[: len(rows) - missing])
    chunk = struct.pack(">I", len(packed)) + b"IDAT" + packed + struct.pack(">I", zlib.crc32(b"IDAT" + packed))
    return bytes(head) + chunk + data[-12:]


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (9, 20), (40, 33)])
def test_a_png_whose_rows_end_early_is_refused_although_its_end_mark_is_there(size):
    values = np.random.default_rng(1).integers(1, 256, size, np.uint8)
    np.testing.assert_array_equal(decode_image(interlaced(values), "x")[..., 0], values)
    np.testing.assert_array_equal(decode_image(png(values, 8, 0), "x")[..., 0], values)
    with pytest.raises(ValueError, match="x cannot be read as an image: .*truncated"):
        decode_image(interlaced(values, missing=1), "x")
    data = png(values, 8, 0)
    taller = bytearray(data)
    taller[20:24] = struct.pack(">I", size[0] + 1)
    taller[29:33] = struct.pack(">I", zlib.crc32(bytes(taller[12:29])))
    for read in (decode_image, images.decode_gray8):
        with pytest.raises(ValueError, match="x cannot be read as .*: its rows are not all there"):
            read(bytes(taller), "x")


def test_a_progressive_jpeg_without_its_last_scans_is_refused():
    smooth = Image.fromarray(cv2.resize(noise(6, 8), (67, 45), interpolation=cv2.INTER_CUBIC))
    for image in (smooth, smooth.convert("L"), smooth.convert("CMYK")):
        data = saved(image, "JPEG", progressive=True, quality=90)
        assert decode_image(data, "x").shape == (45, 67, 3)
        scans = [start for marker, start, _ in images._jpeg_segments(data) if marker == 0xDA]
        assert len(scans) > 4
        for start in scans[1:]:
            with pytest.raises(ValueError, match="x cannot be read as an image: .*scans of a progressive JPEG"):
                decode_image(data[:start] + b"\xff\xd9", "x")
            for length in (3, 5):  # the header of a scan that is cut
                cut = data[: start + 2] + struct.pack(">H", length) + data[start + 4 :]
                with pytest.raises(ValueError, match="x cannot be read as an image"):
                    decode_image(cut, "x")


def test_a_jpeg_whose_second_half_never_arrived_is_refused_and_one_with_a_film_behind_it_is_read():
    data = saved(Image.fromarray(cv2.resize(noise(6, 8), (160, 120))), "JPEG")
    with pytest.raises(ValueError, match="truncated"):
        decode_image(data[: len(data) // 2] + bytes(len(data) // 2), "x")
    thumbnail = saved(Image.fromarray(noise(8, 8)), "JPEG")  # has an end mark of its own
    comment = b"\xff\xe5" + struct.pack(">H", len(thumbnail) + 2) + thumbnail
    with_thumbnail = data[:2] + comment + data[2:]
    np.testing.assert_array_equal(decode_image(with_thumbnail, "x"), decode_image(data, "x"))
    with pytest.raises(ValueError, match="truncated"):
        decode_image(with_thumbnail[: len(with_thumbnail) * 2 // 3], "x")
    film = np.random.default_rng(1).bytes(100_000)  # as phones append it
    np.testing.assert_array_equal(decode_image(data + film, "x"), decode_image(data, "x"))


DAMAGE = {
    "bytes are cut out": lambda data, at: data[:at] + data[at + 1000 :],
    "a block is zeroed": lambda data, at: data[:at] + bytes(512) + data[at + 512 :],
    "the rest is zeroed up to the end mark": lambda data, at: data[:at] + bytes(len(data) - at - 2) + data[-2:],
    "the rest is missing up to the end mark": lambda data, at: data[:at] + data[-2:],
    "bits are flipped": lambda data, at: (
        data[:at] + bytes(b ^ 64 if b < 128 else b for b in data[at : at + 64]) + data[at + 64 :]
    ),
    "bytes are added": lambda data, at: data[:-2] + data[at : at + 200].replace(b"\xff", b"\x7f") + data[-2:],
}
CODINGS = {
    "baseline": {},
    "progressive": {"progressive": True},
    "restart markers": {"restart_marker_rows": 1},
    "gray": {"mode": "L"},
    "inks": {"mode": "CMYK"},
    "EXIF": {"exif": b"Exif\0\0" + struct.pack("<2sHIHHHIIHI", b"II", 42, 8, 1, 0x0112, 3, 1, 6, 0, 0)},
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("coding", CODINGS)
def test_a_jpeg_that_libjpeg_reports_as_damaged_is_refused_although_its_end_mark_is_there(tmp_path, coding, damage):
    options = dict(CODINGS[coding])
    image = Image.fromarray(noise(96, 128)).convert(options.pop("mode", "RGB"))
    whole = saved(image, "JPEG", quality=90, **options)
    assert decode_image(whole, "whole").size
    path = tmp_path / "damaged.jpg"
    path.write_bytes(DAMAGE[damage](whole, len(whole) // 2))
    with pytest.raises(ValueError, match="damaged.jpg cannot be read as an image: the file is broken: "):
        read_image(path)
    if image.mode == "L":
        with pytest.raises(ValueError, match="damaged.jpg cannot be read as a label image: the file is broken"):
            read_label(path)


def _segment(data, marker):
    """The bytes of the first segment with this marker."""
    start = data.index(bytes((0xFF, marker)))
    return data[start : start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")]


ODDITIES = {
    "zeros before the end mark": lambda data: data[:-2] + bytes(13) + data[-2:],
    "one zero before the end mark": lambda data: data[:-2] + b"\0" + data[-2:],
    "equal bytes before the end mark": lambda data: data[:-2] + b"\xaa" * 700 + data[-2:],
    "bytes between the segments of the header": lambda data: data.replace(
        _segment(data, 0xDA), b"junk" + _segment(data, 0xDA)
    ),
    "bytes after the end mark": lambda data: data + bytes(range(256)) * 9,
    "another image after the end mark": lambda data: data + data,
    "an unknown JFIF version": lambda data: data.replace(b"JFIF\0\1", b"JFIF\0\7"),
    "a broken color profile": lambda data: data[:2] + b"\xff\xe2\0\x12ICC_PROFILE\0\5\2ab" + data[2:],
    "empty bytes before the end mark": lambda data: data[:-2] + b"\xff\xff\xff" + data[-2:],
}


@pytest.mark.parametrize("oddity", ODDITIES)
@pytest.mark.parametrize("coding", CODINGS)
def test_a_jpeg_with_an_oddity_that_costs_no_pixels_is_read(coding, oddity):
    options = dict(CODINGS[coding])
    image = Image.fromarray(noise(96, 128)).convert(options.pop("mode", "RGB"))
    whole = saved(image, "JPEG", quality=90, **options)
    odd = ODDITIES[oddity](whole)
    np.testing.assert_array_equal(decode_image(odd, "odd"), decode_image(whole, "whole"))


def test_a_baseline_jpeg_with_odd_scan_parameters_is_read_as_its_panorama_writers_meant_it():
    whole = saved(Image.fromarray(noise(96, 128)), "JPEG")
    scan = _segment(whole, 0xDA)
    odd = whole.replace(scan, scan[:-3] + b"\x05\0\0")
    np.testing.assert_array_equal(decode_image(odd, "odd"), decode_image(whole, "whole"))
    with pytest.raises(ValueError, match="libjpeg reports"):  # the correction does not hide damage
        decode_image(odd[:3000] + odd[3300:], "odd and damaged")


def test_no_jpeg_of_the_reference_data_is_refused_and_all_give_what_pillow_gives(shared_dir):
    paths = [path for path in sorted((shared_dir / "data").rglob("*.jp*g")) if "cifar10" not in str(path)]
    assert len(paths) > 900
    for path in paths[::8]:
        with Image.open(path) as image:
            np.testing.assert_array_equal(read_image(path, upright=False), np.asarray(image.convert("RGB")), str(path))


def test_a_jpeg_of_twelve_bits_is_refused_with_the_reason():
    whole = saved(Image.fromarray(noise(96, 128)), "JPEG")
    frame = _segment(whole, 0xC0)
    with pytest.raises(ValueError, match="deep.jpg cannot be read as an image: .*12 bits"):
        decode_image(whole.replace(frame, frame[:4] + b"\x0c" + frame[5:]), "deep.jpg")


def test_of_several_images_in_a_file_the_first_is_read(tmp_path):
    first, second = Image.fromarray(noise()), Image.fromarray(255 - noise())
    for format in ("TIFF", "GIF", "MPO"):
        data = saved(first, format, save_all=True, append_images=[second])
        alone = decode_image(saved(first, "JPEG" if format == "MPO" else format), "x")
        np.testing.assert_array_equal(decode_image(data, "x"), alone)
        (tmp_path / "x").write_bytes(data)
        assert read_header(tmp_path / "x", look_for_more=True).is_animated


@pytest.mark.parametrize("name", (b"not utf8 \xff\xfe.png", b"new\nline.png", "²٣ \u3000.png".encode(), b"n" * 250))
def test_a_file_name_may_hold_any_bytes(tmp_path, name):
    path = os.path.join(os.fsencode(tmp_path), name)
    with open(path, "wb") as file:
        file.write(saved(Image.fromarray(noise())))
    for given in (path, os.fsdecode(path)):
        np.testing.assert_array_equal(read_image(given), noise())
    with open(path, "wb") as file:
        file.write(b"text")
    with pytest.raises(ValueError, match="not an image in one of the formats JPEG") as caught:
        read_image(path)
    assert os.fsdecode(path) in str(caught.value)


def test_bounds_are_checked_before_anything_is_decoded(tmp_path, monkeypatch):
    (tmp_path / "i.png").write_bytes(saved(Image.fromarray(noise())))
    with pytest.raises(ValueError, match=r"i.png .* at most 34 pixels, got 5 x 7 \(height x width\): make it smaller"):
        read_image(tmp_path / "i.png", max_pixels=34)
    assert read_image(tmp_path / "i.png", max_pixels=35).shape == (5, 7, 3)
    size = (tmp_path / "i.png").stat().st_size
    assert read_image(tmp_path / "i.png", max_bytes=size).shape == (5, 7, 3)
    with pytest.raises(ValueError, match="i.png .* MiB are taken"):
        read_image(tmp_path / "i.png", max_bytes=size - 1)
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    for width, height in ((8193, 8192), (60000, 60000), (2**31 - 1, 2**31 - 1)):
        claims = png(np.zeros((1, 1), np.uint8), 8, 0)
        claims = claims[:16] + struct.pack(">II", width, height) + claims[24:]
        claims = claims[:29] + struct.pack(">I", zlib.crc32(claims[12:29])) + claims[33:]
        for read in (read_image, read_label, read_levels, read_header):
            (tmp_path / "bomb.png").write_bytes(claims)
            with pytest.raises(ValueError, match=r"bomb.png .*at most 67108864 pixels"):
                read(tmp_path / "bomb.png")


def test_what_is_not_an_ordinary_file_is_refused_without_opening_it(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "pipe.png", tmp_path, "/dev/zero"):
        with pytest.raises(ValueError, match=f"{path} .*not an ordinary file"):
            read_image(path)
    with pytest.raises(FileNotFoundError, match="none.png"):
        read_image(tmp_path / "none.png")


def test_labels_are_the_stored_numbers(tmp_path):
    ids = np.random.default_rng(0).integers(0, 4, (HEIGHT, WIDTH)).astype(np.uint8)
    indexed = Image.fromarray(ids)
    indexed.putpalette([9, 9, 9, 9, 9, 9, 200, 100, 50, 0, 0, 0])  # colors that collide
    files = {
        "gray": saved(Image.fromarray(ids)),
        "palette": saved(indexed),
        "transparent": saved(indexed, transparency=2),
        "tiff": saved(Image.fromarray(ids), "TIFF"),
        "gray of 2 bits": png(ids, 2, 0),
        "gray of 4 bits": png(ids, 4, 0),
    }
    for name, data in files.items():
        (tmp_path / "label.png").write_bytes(data)
        found = read_label(tmp_path / "label.png")
        assert found.dtype == np.uint8 and found.tolist() == ids.tolist(), name
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "label.png").write_bytes(saved(indexed, exif=exif))
    assert read_label(tmp_path / "label.png").tolist() == np.rot90(ids, -1).tolist()
    for image in (Image.fromarray(noise()), Image.fromarray(ids.astype(np.uint16)), Image.fromarray(ids > 1)):
        image.save(tmp_path / "label.png")
        with pytest.raises(ValueError, match="label.png cannot be read as a label image: .* mode"):
            read_label(tmp_path / "label.png")
    (tmp_path / "label.png").write_bytes(files["palette"][:-30])
    with pytest.raises(ValueError, match="label.png cannot be read as a label image: the file is broken"):
        read_label(tmp_path / "label.png")
