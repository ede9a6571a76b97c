import numpy as np
import pytest
from PIL import Image

from cmp.datasets import (
    Color,
    Crop,
    Flip,
    FlowPair,
    PropagationDataset,
    Resize,
    ReverseFlow,
    ScaledCrop,
    ScaleFlow,
    TurnFlow,
)
from cmp.datasets.transforms import ResizedCrop
from cmp.flow import decode_flow, encode_flow, open_flow

HEIGHT, WIDTH = 23, 38


def rng(seed=0):
    return np.random.default_rng(seed)


def sliding_rectangle(u=5, v=-3):
    """A rectangle of pixels all different slides over a still image: the pair, and the second frame."""
    colors = rng().permutation(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH)
    first = np.stack((colors // 256, colors % 256, np.zeros_like(colors)), axis=2).astype(np.uint8)
    flow = np.zeros((HEIGHT, WIDTH, 2), np.float32)
    flow[6:15, 4:21] = u, v
    second = first.copy()
    second[6 + v : 15 + v, 4 + u : 21 + u] = first[6:15, 4:21]
    return FlowPair(first, flow, np.ones((HEIGHT, WIDTH), bool)), second


def assert_flow_leads_to(pair, second):
    """Every moving pixel of the first frame is found in the second where its flow says."""
    moving_yx = np.argwhere((pair.flow != 0).any(axis=2))
    assert len(moving_yx) == 9 * 17
    for y, x in moving_yx:
        u, v = pair.flow[y, x].astype(int)
        np.testing.assert_array_equal(second[y + v, x + u], pair.image[y, x])


def coordinates(height=HEIGHT, width=WIDTH):
    """A pair whose image and flow both say where a pixel was: red and v its row, green and u its column."""
    y, x = np.mgrid[:height, :width]
    image = np.stack((y, x, np.full_like(x, 7)), axis=2).astype(np.uint8)
    return FlowPair(image, np.stack((x, y), axis=2).astype(np.float32), np.ones((height, width), bool))


def test_a_mirrored_pairs_flow_leads_to_the_mirrored_second_frame():
    pair, second = sliding_rectangle()
    assert_flow_leads_to(pair, second)
    assert_flow_leads_to(Flip(probability=1.0)(pair, rng()), second[:, ::-1])


def test_flipping_negates_u_alone_and_twice_gives_the_pair_back():
    pair = coordinates()._replace(valid=np.arange(WIDTH) > np.zeros((HEIGHT, 1)))
    flip = Flip(probability=1.0)
    once = flip(pair, rng())
    np.testing.assert_array_equal(once.flow[3, 0], (-(WIDTH - 1), 3))
    assert not once.valid[:, -1].any() and once.valid[:, :-1].all()
    for before, after in zip(pair, flip(once, rng())):
        np.testing.assert_array_equal(before, after)


def test_augmentations_happen_with_their_probability():
    pair, _ = sliding_rectangle()
    for transform in (Flip, ReverseFlow):
        draws = rng()
        happened = [transform(0.25)(pair, draws).flow[..., 0].min() < 0 for _ in range(400)]
        assert 70 < sum(happened) < 130
        assert not any(transform(0.0)(pair, draws).flow[..., 0].min() < 0 for _ in range(20))


def test_reversed_flow_points_back_and_the_image_stays():
    pair, _ = sliding_rectangle()
    reversed_pair = ReverseFlow(1.0)(pair, rng())
    np.testing.assert_array_equal(reversed_pair.flow, -pair.flow)
    assert reversed_pair.image is pair.image


@pytest.mark.parametrize("height, width, short_side_px, size_hw", ((37, 53, 20, (20, 28)), (53, 37, 30, (42, 30))))
def test_resizing_scales_u_and_v_each_by_its_own_ratio(height, width, short_side_px, size_hw):
    flow = np.broadcast_to(np.float32([3, 4]), (height, width, 2))
    pair = FlowPair(np.full((height, width, 3), 9, np.uint8), flow, np.ones((height, width), bool))
    resized = Resize(short_side_px)(pair, rng())
    assert resized.image.shape == (*size_hw, 3) and resized.flow.shape == (*size_hw, 2)
    assert resized.valid.shape == size_hw and resized.valid.all()
    assert resized.image.dtype == np.uint8 and resized.flow.dtype == np.float32
    expected = np.broadcast_to(np.float32([3 * size_hw[1] / width, 4 * size_hw[0] / height]), (*size_hw, 2))
    np.testing.assert_allclose(resized.flow, expected, rtol=1e-6)
    assert abs(size_hw[1] / width - size_hw[0] / height) > 2e-3  # one ratio for both would be noticed


@pytest.mark.parametrize("short_side_px", (34, 51, 11))
def test_image_and_flow_stay_on_each_other_when_resized(short_side_px):
    pair, _ = sliding_rectangle(u=10)
    moving = pair.flow[..., 0] > 0
    pair = pair._replace(image=np.repeat(255 * moving[..., None], 3, axis=2).astype(np.uint8))
    resized = Resize(short_side_px)(pair, rng())
    half = 5 * resized.flow.shape[1] / WIDTH
    differ = (resized.image[..., 0] > 127) != (resized.flow[..., 0] > half)
    # Two filters agree where an edge is to within a pixel of it; a shift by one column would differ in 2 of its pixels.
    edge_px = 2 * (9 + 17) * short_side_px / HEIGHT
    assert differ.sum() < 0.2 * edge_px


@pytest.mark.parametrize("short_side_px", (11, 20, 34, 75))
def test_a_resized_image_is_pillows_bicubic_one_to_a_gray_level(short_side_px):
    noise = rng().integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    pair = coordinates()._replace(image=noise)
    before = noise.copy()
    resized = Resize(short_side_px)(pair, rng()).image
    size = resized.shape[1::-1]
    expected = np.asarray(Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC))
    differences = np.abs(resized.astype(int) - expected)
    assert differences.max() <= 1 and (differences > 0).mean() < 0.01
    np.testing.assert_array_equal(noise, before)


def test_a_resized_pixel_is_valid_only_where_all_it_was_made_from_is():
    pair = coordinates()
    valid = pair.valid.copy()
    valid[10, 20] = False
    resized = Resize(2 * HEIGHT)(pair._replace(valid=valid, flow=pair.flow * valid[..., None]), rng())
    # At twice the size a pixel is mixed of 2x2; the hole of 1 pixel touches 4 x 4 of them.
    assert (~resized.valid).sum() == 16 and not resized.valid[19:23, 39:43].any()
    assert (resized.flow[~resized.valid] == 0).all()
    # What is left is the ramp, as if there were no hole.
    whole = Resize(2 * HEIGHT)(pair, rng())
    np.testing.assert_allclose(resized.flow[resized.valid], whole.flow[resized.valid], rtol=1e-5)


def test_an_image_of_the_right_size_is_not_touched():
    pair = coordinates()
    assert Resize(HEIGHT)(pair, rng()) is pair


def test_a_random_crop_reaches_every_offset_the_last_too_and_keeps_image_on_flow():
    pair, draws, seen = coordinates(9, 12), rng(), set()
    for _ in range(400):
        crop = Crop(7, random=True)(pair, draws)
        y, x = crop.image[0, 0, :2].tolist()
        seen.add((y, x))
        np.testing.assert_array_equal(crop.flow[..., 0], crop.image[..., 1])
        np.testing.assert_array_equal(crop.flow[..., 1], crop.image[..., 0])
        assert crop.image.shape == (7, 7, 3) and crop.valid.all()
    assert seen == {(y, x) for y in range(3) for x in range(6)}


def test_a_center_crop_takes_the_middle():
    crop = Crop(7, random=False)(coordinates(9, 12), rng())
    assert crop.image[0, 0, :2].tolist() == [1, 2]


@pytest.mark.parametrize("random", (False, True))
def test_what_is_missing_is_padded_on_both_sides_and_is_not_valid(random):
    crop = Crop(14, random=random)(coordinates(9, 20), rng(3))
    assert crop.image.shape == (14, 14, 3) and crop.flow.shape == (14, 14, 2)
    assert crop.valid[2:11].all() and not crop.valid[:2].any() and not crop.valid[11:].any()
    assert (crop.image[~crop.valid] == 0).all() and (crop.flow[~crop.valid] == 0).all()
    np.testing.assert_array_equal(crop.image[2:11, 0, 0], np.arange(9))
    if not random:
        assert crop.image[2, 0, 1] == 3


# Enlarged and shrunk, hardly and much, upright too; 59 x 71 to 60 grows by less than a pixel in the crop's first rows.
@pytest.mark.parametrize(
    "height, width, short_side_px, size_px",
    ((36, 48, 42, 32), (48, 85, 41, 32), (71, 59, 60, 38), (59, 71, 59, 40), (90, 61, 31, 17), (37, 53, 23, 30)),
)
@pytest.mark.parametrize("random", (False, True))
def test_making_only_what_a_crop_needs_equals_resizing_and_cropping(height, width, short_side_px, size_px, random):
    for seed in range(6):
        draws = rng(seed)
        valid = draws.random((height, width)) < (0.97 if seed % 2 else 2)
        flow = draws.normal(0, 5, (height, width, 2)).astype(np.float32) * valid[..., None]
        pair = FlowPair(draws.integers(0, 256, (height, width, 3)).astype(np.uint8), flow, valid)
        resize, crop = Resize(short_side_px), Crop(size_px, random=random)
        expected = crop(resize(pair, rng(seed)), rng(seed))
        made = ResizedCrop(short_side_px, size_px, random=random)(pair, rng(seed))
        for part, other in zip(made, expected):
            assert part.dtype == other.dtype
        np.testing.assert_array_equal(made.image, expected.image)
        np.testing.assert_array_equal(made.valid, expected.valid)
        np.testing.assert_allclose(made.flow, expected.flow, rtol=0, atol=1e-6 * np.abs(flow).max())
        assert (made.flow[~made.valid] == 0).all()


@pytest.mark.parametrize("short_side_px, size_px", ((30, 25), (23, 15), (20, 30)))
def test_flow_may_come_without_being_decoded_where_it_is_resized_and_cropped(short_side_px, size_px):
    pair, _ = sliding_rectangle()
    coded = encode_flow(pair.flow)
    transform = ResizedCrop(short_side_px, size_px, random=True)  # also at its own size, and padded
    closed = transform(pair._replace(flow=open_flow(*coded)), rng())
    decoded = transform(pair._replace(flow=decode_flow(*coded)), rng())
    np.testing.assert_array_equal(closed.image, decoded.image)
    np.testing.assert_array_equal(closed.valid, decoded.valid)
    np.testing.assert_allclose(closed.flow, decoded.flow, rtol=0, atol=1e-5)
    assert np.abs(closed.flow).max() > 2


def test_a_dataset_applies_the_transforms_that_are_written_and_no_others():
    class One:
        pair_videos = ("a",)

        def __len__(self):
            return 1

        def read_pair(self, index):
            return coordinates()

    for given in ([Resize(20), Crop(12, random=True), Flip()], [ResizedCrop(20, 12, random=True)]):
        assert PropagationDataset(One(), given, strategies=None).transforms == given


@pytest.mark.parametrize("sizes, name", (((0, 5), "short_side_px"), ((5, 0), "size_px")))
def test_a_resized_crop_refuses_sizes_below_1(sizes, name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        ResizedCrop(*sizes, random=True)


def test_scaled_flow_is_the_flow_times_a_factor_of_the_range():
    pair, _ = sliding_rectangle()
    np.testing.assert_allclose(ScaleFlow(1.5, 1.5)(pair, rng()).flow, 1.5 * pair.flow, rtol=1e-6)
    draws = rng()
    factors = np.array([ScaleFlow(0.5, 2.0)(pair, draws).flow[7, 7, 0] / 5 for _ in range(300)])
    assert 0.5 <= factors.min() < 0.55 and 1.8 < factors.max() <= 2.0
    assert 120 < (factors < 1).sum() < 180  # as often slower as faster


class Halfway:
    """Stands for a generator: every uniform draw is the upper end of its range."""

    def uniform(self, low, high):
        return high


@pytest.mark.parametrize("degrees, turned", ((90, (3, 5)), (180, (-5, 3)), (-90, (-3, -5))))
def test_turned_flow_is_turned_by_a_matrix_through_all_quadrants(degrees, turned):
    pair, _ = sliding_rectangle(u=5, v=-3)
    result = TurnFlow(degrees)(pair, Halfway())
    np.testing.assert_allclose(result.flow[7, 7], turned, atol=1e-5)
    assert result.image is pair.image and result.flow.dtype == np.float32


def test_turning_keeps_lengths_and_stays_within_the_angle():
    pair, _ = sliding_rectangle()
    draws = rng()
    for _ in range(50):
        turned = TurnFlow(30)(pair, draws).flow[7, 7].astype(float)
        cosine = turned @ (5, -3) / 34
        assert np.hypot(*turned) == pytest.approx(34**0.5, rel=1e-5) and cosine >= np.cos(np.deg2rad(30)) - 1e-6


@pytest.mark.parametrize(
    "transform",
    (
        Resize(31),
        ResizedCrop(31, 9, random=True),
        Crop(7, random=True),
        Crop(50, random=False),
        Flip(1.0),
        ReverseFlow(1.0),
        ScaleFlow(),
        TurnFlow(),
        ScaledCrop(9),
        Color(),
    ),
)
def test_the_pair_that_comes_in_is_not_written_to(transform):
    pair, _ = sliding_rectangle()
    for part in pair:
        part.setflags(write=False)
    before = [part.copy() for part in pair]
    transform(pair, rng())
    for part, copy in zip(pair, before):
        np.testing.assert_array_equal(part, copy)


@pytest.mark.parametrize(
    "build",
    (
        lambda: Resize(0),
        lambda: Crop(0, random=True),
        lambda: ScaleFlow(0, 2),
        lambda: ScaleFlow(2, 1),
        lambda: ScaledCrop(0),
        lambda: ScaledCrop(8, 2, 1),
    ),
)
def test_arguments_out_of_range_are_refused(build):
    with pytest.raises(ValueError, match="got"):
        build()


def test_a_scaled_crop_keeps_image_on_flow_and_scales_motion_with_the_image():
    y, x = np.mgrid[:160, :200].astype(np.float32)
    image = np.stack((y, x, 0 * x), axis=2).astype(np.uint8)
    pair = FlowPair(image, np.stack((x, y), axis=2), np.ones(x.shape, bool))
    factors = []
    for seed in range(40):
        crop = ScaledCrop(64, low=0.5, high=2.0)(pair, rng(seed))
        assert crop.image.shape == (64, 64, 3) and crop.flow.shape == (64, 64, 2) and crop.valid.all()
        # A column's flow is its place in the source times the scale; places are 1 / scale apart from column to column.
        assert np.diff(crop.flow[..., 0], axis=1)[:, 4:-4] == pytest.approx(1, abs=1e-3)
        middle = slice(8, 56)
        rows, columns = (crop.image[middle, middle, i].astype(float) for i in (0, 1))
        scale = 47 / (columns[0, -1] - columns[0, 0])
        np.testing.assert_allclose(crop.flow[middle, middle, 0], columns * scale, rtol=0.03, atol=1 + 1.5 * scale)
        np.testing.assert_allclose(crop.flow[middle, middle, 1], rows * scale, rtol=0.03, atol=1 + 1.5 * scale)
        factors.append(1 / scale)
    assert min(factors) < 0.65 and 1.5 < max(factors) < 2.1


def test_a_scaled_crop_of_a_small_image_takes_its_short_side():
    crop = ScaledCrop(64, low=3.0, high=3.0)(coordinates(), rng())
    assert crop.image.shape == (64, 64, 3) and crop.valid.all()


def test_colors_change_and_motion_does_not():
    pair, changed = sliding_rectangle()[0], []
    for seed in range(30):
        new = Color()(pair, rng(seed))
        assert new.flow is pair.flow and new.valid is pair.valid
        assert new.image.dtype == np.uint8 and new.image.shape == pair.image.shape
        changed.append((new.image != pair.image).any())
    assert all(changed)
    same = Color(contrast=0, cast=0, brightness=0, gray_probability=0)(pair, rng())
    np.testing.assert_array_equal(same.image, pair.image)
    gray = Color(contrast=0, cast=0, brightness=0, gray_probability=1)(pair, rng()).image
    np.testing.assert_allclose(gray[..., 0], pair.image.mean(axis=2), atol=0.51)
    assert (gray == gray[..., :1]).all()
    ends = np.zeros_like(pair.image)
    ends[:10] = 255  # brighter than white is white, darker than black black: values do not wrap around
    for seed in range(10):
        new = Color(contrast=0, cast=0, brightness=200, gray_probability=0)(pair._replace(image=ends), rng(seed)).image
        offset = int(new[-1, 0, 0]) or int(new[0, 0, 0]) - 255
        np.testing.assert_array_equal(new[:10], 255 + min(offset, 0))
        np.testing.assert_array_equal(new[10:], max(offset, 0))
