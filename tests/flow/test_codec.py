import json
import zlib

import cv2
import numpy as np
import pytest

from cmp.flow import CODECS, HalfSizeFlow, decode_flow, encode_flow, open_flow, read_flow
from cmp.flow import codec as codec_module


def smooth_flow(height=45, width=61, seed=0, bound=12.0):
    """A field as smooth as an estimator's: a few coarse random vectors, enlarged."""
    coarse = np.random.default_rng(seed).uniform(-bound, bound, (5, 6, 2)).astype(np.float32)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def doubled_flow(height, width, seed=0):
    """Exactly what half of the resolution can hold."""
    small = np.random.default_rng(seed).normal(0, 4, ((height + 1) // 2, (width + 1) // 2, 2)).astype(np.float32)
    small = cv2.GaussianBlur(small, (0, 0), 1.0)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)


# What the codec's own step allows: half a step along each axis, and a little for float rounding.
LARGEST_ERROR_PX = {"png16": 1 / 128, "float32": 0.0}


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("size", [(45, 61), (46, 60), (1, 1), (1, 7), (6, 1), (2, 3)])
def test_a_round_trip_stays_within_the_measured_error_for_odd_sizes_too(codec, size):
    flow = smooth_flow(*size)
    before = flow.copy()
    payload, header = encode_flow(flow, codec)
    np.testing.assert_array_equal(flow, before)
    assert isinstance(payload, bytes)
    header = json.loads(json.dumps(header, allow_nan=False))
    back = decode_flow(payload, header)
    assert back.dtype == np.float32 and back.shape == flow.shape
    error = np.hypot(*(back - flow).astype(np.float64).reshape(-1, 2).T)
    assert header["max_error_px"] == pytest.approx(error.max(), abs=1e-6)
    assert header["mean_error_px"] == pytest.approx(error.mean(), abs=1e-6)
    if codec in LARGEST_ERROR_PX:
        assert np.abs(back - flow).max() <= LARGEST_ERROR_PX[codec] + 1e-6
    if codec == "float16":
        assert (np.abs(back - flow) <= np.abs(flow) / 2048 + 1e-6).all()
    if codec == "half16" and min(size) > 40:
        assert error.mean() < 0.08
    if codec == "jpeg8":
        assert error.mean() < 1.0


@pytest.mark.parametrize("codec", CODECS)
def test_the_same_flow_gives_the_same_bytes(codec):
    flow = smooth_flow()
    views = flow, flow.copy(), np.asfortranarray(flow), flow.astype(np.float64)
    assert len({encode_flow(view, codec)[0] for view in views}) == 1


@pytest.mark.parametrize("size", [(46, 60), (47, 61)])
def test_half16_gives_back_a_bilinearly_doubled_field_to_its_step(size):
    flow = doubled_flow(*size)
    _, header = encode_flow(flow)
    assert header["codec"] == "half16" and header["step_px"] == 1 / 16
    assert header["mean_error_px"] < 0.03
    assert header["max_error_px"] < 0.5


@pytest.mark.parametrize("size", [(12, 17), (9, 10), (1, 1)])
def test_every_window_of_half_the_size_is_that_of_the_whole_bit_for_bit(size):
    # Large values of either sign: differences wrap around, and have to wrap back from any corner.
    flow = np.random.default_rng(0).uniform(-2000, 2000, (*size, 2)).astype(np.float32)
    field = open_flow(*encode_flow(flow))
    assert isinstance(field, HalfSizeFlow) and field.shape == flow.shape
    height, width = field.small_shape[:2]
    whole = field.small(slice(0, height), slice(0, width))
    assert whole.shape == field.small_shape and (np.abs(whole).max() > 1500 or size == (1, 1))
    for top, left in np.ndindex(height, width):
        for bottom, right in np.ndindex(height - top, width - left):
            window = slice(top, top + bottom + 1), slice(left, left + right + 1)
            np.testing.assert_array_equal(field.small(*window), whole[window])


def test_half16_puts_a_constant_field_exactly_where_it_was():
    flow = np.full((33, 50, 2), (3.0625, -7.5), np.float32)
    payload, header = encode_flow(flow)
    assert header["max_error_px"] == 0 and len(payload) < 60


def test_float32_gives_back_every_bit():
    flow = np.random.default_rng(0).standard_normal((9, 11, 2)).astype(np.float32) * np.float32(1e30)
    flow[0, 0] = (-0.0, np.finfo(np.float32).tiny)
    payload, header = encode_flow(flow, "float32")
    assert decode_flow(payload, header).tobytes() == flow.tobytes()


@pytest.mark.parametrize("codec", CODECS)
def test_the_bound_in_the_header_is_kept_beyond_it_flow_is_refused_or_clipped_as_stated(codec):
    flow = np.zeros((6, 8, 2), np.float32)
    bound = encode_flow(flow, codec)[1]["bound_px"]
    at_bound = np.full((6, 8, 2), (bound, -bound), np.float32)
    payload, header = encode_flow(at_bound, codec)
    assert header["max_error_px"] <= 1e-3
    if codec == "float32":
        return
    if codec == "jpeg8":
        payload, header = encode_flow(at_bound * 1.5, codec)
        np.testing.assert_allclose(decode_flow(payload, header), at_bound, atol=1e-4)
        assert header["max_error_px"] == pytest.approx(25 * 2**0.5, abs=1e-3)
    else:
        with pytest.raises(ValueError, match="holds up to"):
            encode_flow(at_bound * 1.01, codec)


@pytest.mark.parametrize("codec", CODECS)
def test_what_is_not_finite_is_refused(codec):
    for bad in (np.nan, np.inf):
        flow = np.zeros((4, 5, 2), np.float32)
        flow[1, 2, 0] = bad
        with pytest.raises(ValueError, match="finite"):
            encode_flow(flow, codec)


@pytest.mark.parametrize("codec", CODECS)
def test_a_payload_that_is_cut_too_long_or_of_another_size_is_refused(codec):
    payload, header = encode_flow(smooth_flow(), codec)
    payloads = [b"", payload[:1], payload[: len(payload) // 2], payload[:-1], payload + b"\0", b"\xff" * len(payload)]
    for broken in payloads:
        with pytest.raises(ValueError):
            decode_flow(broken, header)
    for size in ({"height": 61, "width": 47}, {"height": 8}, {"width": 63}):
        with pytest.raises(ValueError):
            decode_flow(payload, {**header, **size})


@pytest.mark.parametrize("codec", ["half16", "float16", "float32"])
def test_a_flipped_bit_does_not_pass_for_another_flow(codec):
    payload, header = encode_flow(smooth_flow(), codec)
    for place in range(0, len(payload), max(1, len(payload) // 40)):
        broken = bytearray(payload)
        broken[place] ^= 0x10
        try:
            back = decode_flow(bytes(broken), header)
        except ValueError:
            continue
        np.testing.assert_array_equal(back, decode_flow(payload, header))  # one of the few bits that carry nothing


def test_a_header_that_makes_no_sense_is_refused():
    payload, header = encode_flow(smooth_flow())
    changes = [
        {"codec": "zip"},
        {"height": 0},
        {"width": -3},
        {"height": 4.0},
        {"height": True},
        {"height": 2**20, "width": 2**20},
    ]
    for change in changes:
        with pytest.raises(ValueError):
            decode_flow(payload, {**header, **change})
    with pytest.raises(ValueError, match="lacks height"):
        decode_flow(payload, {"codec": "half16", "width": 3})


def test_what_is_not_flow_is_refused():
    for flow in (np.zeros((3, 4), np.float32), np.zeros((3, 4, 2), int), np.zeros((0, 4, 2), np.float32)):
        with pytest.raises(ValueError, match="flow must"):
            encode_flow(flow)
    with pytest.raises(ValueError, match="codec must be one of half16"):
        encode_flow(smooth_flow(), "h264")


def test_a_png16_payload_is_a_kitti_flow_file(tmp_path):
    flow = smooth_flow()
    payload, header = encode_flow(flow, "png16")
    (tmp_path / "k.png").write_bytes(payload)
    np.testing.assert_array_equal(read_flow(tmp_path / "k.png"), decode_flow(payload, header))


def test_half16_of_real_dis_flow_is_small_and_close(shared_dir):
    """The default's promise on a 480 x 360 pair: 0.035 px in the mean, 0.75 px at the 99.9th percentile."""
    folder = shared_dir / "data/frames_bmx-trees/images"
    frames = [cv2.resize(cv2.imread(str(folder / f"{i:05d}.jpg"), 0), (480, 360)) for i in (10, 14)]
    flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(*frames, None)
    payload, header = encode_flow(flow)
    error = np.linalg.norm(decode_flow(payload, header) - flow, axis=2)
    assert len(payload) <= 45_000  # a shaking camera and leaves: a hard clip; the mean over videos is 26 kB
    assert error.mean() <= 0.035 and np.quantile(error, 0.999) <= 0.75


@pytest.mark.parametrize("codec", ("half16", "float16", "float32"))
def test_flow_is_the_same_where_the_faster_inflate_is_missing(codec, monkeypatch):
    pytest.importorskip("isal")
    flow = np.random.default_rng(0).normal(0, 9, (37, 52, 2)).astype(np.float32)
    payload, header = encode_flow(flow, codec)
    fast = decode_flow(payload, header)
    cut = payload[:-9]
    for inflate in (codec_module.inflate, zlib):
        monkeypatch.setattr(codec_module, "inflate", inflate)
        np.testing.assert_array_equal(decode_flow(payload, header), fast)
        with pytest.raises(ValueError, match="flow payload is"):
            decode_flow(cut, header)
