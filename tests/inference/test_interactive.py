import io
import struct
import zlib

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from cmp.flow import FlowQuantizer
from cmp.inference import MotionPropagator
from cmp.inference.arrows import MAX_ARROWS
from cmp.inference.discover import segment_from_pokes
from cmp.inference.interactive import (
    Motion,
    draw_confidence,
    draw_moving_part,
    find_moving_part,
    move_scene,
    open_scene,
    read_shown_image,
)
from cmp.models import CMP, DirectFlow, DiscreteLoss, MotionEncoder, PropagationDecoder, RegressionLoss, ResNet
from tests.inference.test_arrows import Counted


def noise(height, width, channels=3):
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), np.uint8)


def network(quantizer=FlowQuantizer, loss=DiscreteLoss):
    torch.manual_seed(0)
    parts = dict(type=ResNet, depth=18), dict(type=MotionEncoder), dict(type=PropagationDecoder)
    return MotionPropagator(CMP(*parts, dict(type=quantizer), dict(type=loss), init="default"))


def test_a_small_picture_is_read_as_it_is_but_for_an_odd_row_and_column(tmp_path):
    picture = noise(33, 47)
    Image.fromarray(picture).save(tmp_path / "a.png")
    assert np.array_equal(read_shown_image(tmp_path / "a.png"), picture[:32, :46])


def test_a_large_picture_is_shrunk_to_its_longer_side(tmp_path):
    Image.fromarray(noise(200, 400)).save(tmp_path / "a.webp")
    assert read_shown_image(tmp_path / "a.webp", long_side_px=100).shape == (50, 100, 3)


def test_a_picture_is_turned_upright_and_what_is_transparent_is_white(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    stripes = np.zeros((20, 30, 3), np.uint8)
    stripes[:, :15] = 255  # the left half is bright, so that upright the top is
    Image.fromarray(stripes).save(tmp_path / "turned.png", exif=exif)
    upright = read_shown_image(tmp_path / "turned.png")
    assert upright.shape == (30, 20, 3) and (upright[:15] == 255).all() and not upright[15:].any()

    glass = noise(20, 30, 4)
    glass[..., 3] = 0
    Image.fromarray(glass).save(tmp_path / "glass.png")
    assert (read_shown_image(tmp_path / "glass.png") == 255).all()


def test_sixteen_bit_greys_keep_their_shades(tmp_path):
    ramp = np.tile(np.linspace(0, 4095, 32).astype(np.uint16), (20, 1))
    Image.fromarray(ramp).save(tmp_path / "deep.png")
    row = read_shown_image(tmp_path / "deep.png")[0, :, 0].astype(int)
    assert row[0] == 0 and row[-1] == 255 and (np.diff(row) > 0).all()


def bomb(width, height):
    """A PNG of a few bytes that claims to be huge."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def as_bytes(format, picture):
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format=format)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content, message",
    (
        (b"not a picture at all", "not an image in one of the formats JPEG, PNG"),
        (b"", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
        (as_bytes("PNG", noise(64, 64))[:3000], "the file is broken"),
        (as_bytes("JPEG", noise(64, 64))[:2000], "the file is broken"),
        (bomb(9000, 9000), "at most 40000000 pixels, got 9000 x 9000"),
        (bomb(60000, 60000), "at most 40000000 pixels"),
        (as_bytes("PNG", noise(64, 10)), "at least 16 px .* got 10 x 64"),
        (as_bytes("BMP", noise(900, 900)), "at most 2 MiB are taken, got 2.32 MiB"),
    ),
    ids=("text", "empty", "postscript", "cut png", "cut jpeg", "large", "huge", "narrow", "heavy"),
)
def test_a_bad_file_is_refused_by_its_name_and_not_by_its_folder(tmp_path, content, message):
    (tmp_path / "bad.png").write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_shown_image(tmp_path / "bad.png", max_bytes=2 << 20)
    assert str(caught.value).startswith("bad.png: ") and str(tmp_path) not in str(caught.value)


def test_too_many_arrows_are_refused_before_any_is_looked_at():
    with pytest.raises(ValueError, match=f"at most {MAX_ARROWS}, got 3000000"):
        move_scene(None, None, Counted(3_000_000), Counted(3_000_000))
    many = np.zeros((MAX_ARROWS + 1, 2))
    with pytest.raises(ValueError, match=f"at most {MAX_ARROWS}, got {MAX_ARROWS + 1}"):
        draw_moving_part(None, None, Motion(many, many + 1, None, None))


def test_a_scene_answers_as_the_propagator_does():
    propagator, image = network(), noise(48, 70)
    points, vectors = np.array([[5.0, 40.0]]), np.array([[7.0, -2.0]])
    motion = move_scene(propagator, open_scene(propagator, image), points, vectors)
    flow, confidence = propagator.predict(image, points, vectors, return_confidence=True)
    assert np.array_equal(motion.flow, flow[0].permute(1, 2, 0).numpy())
    assert np.array_equal(motion.confidence, confidence[0, 0].numpy())


def test_the_network_sees_the_image_at_the_size_it_was_trained_at_and_flow_has_the_size_that_is_shown():
    """Twice as small: the network gets half the vectors at half the positions, and its flow is doubled."""
    propagator, image = network(), np.repeat(np.repeat(noise(24, 36), 2, axis=0), 2, axis=1)
    scene = open_scene(propagator, image, trained_px=24)
    assert np.array_equal(scene.small, image[::2, ::2]) and scene.image is image
    points, vectors = np.array([[10.5, 40.5], [60.5, 4.5]]), np.array([[8.0, -6.0], [0, 0]])
    motion = move_scene(propagator, scene, points, vectors)
    flow, confidence = propagator.predict(scene.small, [[5, 20], [30, 2]], [[4, -3], [0, 0]], return_confidence=True)
    assert motion.flow.shape == (48, 72, 2) and motion.confidence.shape == (48, 72)
    # Bilinear, with centers of pixels at half: pixels 2 i + 1 and 2 i + 2 mix i and i + 1 by 3 to 1.
    left, right = 2 * flow[0, :, :, 7], 2 * flow[0, :, :, 8]
    rows = (0.75 * left + 0.25 * right)[:, 3] * 0.75 + (0.75 * left + 0.25 * right)[:, 4] * 0.25
    np.testing.assert_allclose(motion.flow[7, 15], rows.numpy(), rtol=1e-4, atol=1e-4)
    assert motion.confidence.mean() == pytest.approx(float(confidence.mean()), abs=0.01)
    mask = draw_moving_part(propagator, scene, motion)
    assert mask.shape == image.shape and (mask != image).any()


def test_a_network_without_bins_has_no_confidence():
    propagator = network(DirectFlow, RegressionLoss)
    scene = open_scene(propagator, noise(32, 48))
    motion = move_scene(propagator, scene, np.array([[5.0, 9.0]]), np.array([[7.0, -2.0]]))
    assert motion.confidence is None and motion.flow.shape == (32, 48, 2)


def test_the_mask_is_clicked_by_the_arrows_and_held_by_the_still_points(monkeypatch):
    from cmp.inference import interactive

    def halves(propagator, image, clicks_xy, negative_xy, *, encoded):
        assert encoded is scene.encoded
        asked.append((clicks_xy.tolist(), negative_xy.tolist()))
        mask = np.zeros(image.shape[:2], bool)
        mask[:, :24] = True
        return mask.astype(np.float32), mask

    asked = []
    monkeypatch.setattr(interactive, "segment_from_clicks", halves)
    propagator, image = network(), noise(32, 48)
    scene = open_scene(propagator, image)
    points = np.array([[5.0, 9.0], [40.0, 20.0]])
    picture = draw_moving_part(propagator, scene, move_scene(propagator, scene, points, np.array([[7.0, 0], [0, 0]])))
    assert asked == [([[5.0, 9.0]], [[40.0, 20.0]])]
    assert (picture[:, :20] != image[:, :20]).any(axis=2).mean() > 0.9
    assert np.array_equal(picture[:10, 30:], image[:10, 30:])
    still = move_scene(propagator, scene, points, np.zeros((2, 2)))
    assert draw_moving_part(propagator, scene, still) is None


def test_a_pixel_with_an_arrow_and_a_still_point_belongs_to_the_mask():
    propagator, image = network(), noise(32, 48)
    scene = open_scene(propagator, image)
    points, vectors = np.array([[5.0, 9.0], [5.2, 8.9], [40.0, 20.0]]), np.array([[7.0, 0], [0, 0], [0, 0]])
    twice = draw_moving_part(propagator, scene, move_scene(propagator, scene, points, vectors))
    once = draw_moving_part(propagator, scene, move_scene(propagator, scene, points[[0, 2]], vectors[[0, 2]]))
    assert np.array_equal(twice, once)


def test_confidence_has_the_same_colours_in_every_picture():
    picture = draw_confidence(np.array([[0.0, 0.5, 1.0]], np.float32))
    alone = draw_confidence(np.full((2, 3), 0.5, np.float32))
    assert (alone == picture[0, 1]).all()
    dark, bright = picture[0, 0].astype(int), picture[0, 2].astype(int)
    assert dark[2] > dark[1] and bright[0] > bright[2] and bright.sum() > 2 * dark.sum()  # blue; yellow
    assert cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).argmax() == 2
    with pytest.raises(ValueError, match=r"confidence must be floating \(H, W\)"):
        draw_confidence(np.zeros((2, 3, 1)))


def test_the_mask_of_pokes_is_what_moves_along_with_the_arrows():
    propagator, image = network(), noise(32, 48)
    scene = open_scene(propagator, image)
    points, vectors = np.array([[20.0, 12.0], [40.0, 20.0]]), np.array([[7.0, 0], [0, 0]])
    motion = move_scene(propagator, scene, points, vectors)
    expected = segment_from_pokes(propagator, image, points[:1], points[1:]).mask
    mask = find_moving_part(propagator, scene, motion, method="pokes")
    assert mask.any() and np.array_equal(mask, expected)
    with pytest.raises(ValueError, match="method must be one of .*, got 'taps'"):
        find_moving_part(propagator, scene, motion, method="taps")
