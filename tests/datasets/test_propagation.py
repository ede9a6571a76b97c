import itertools

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from cmp.datasets import Crop, Flip, PropagationDataset, Resize
from cmp.datasets.propagation import choose_other_videos
from cmp.flow import encode_flow, open_flow

HEIGHT, WIDTH = 40, 57
GUIDES = dict(grid_stride_px=16, nms_kernel=5)


class Drawn:
    """Pairs drawn from their index: a rectangle moves over noise, and the flow of some pixels is unknown (NaN)."""

    def __init__(self, count=12, num_videos=6, unknown=False):
        self.pair_videos = [f"video{i * num_videos // count}" for i in range(count)]
        self.unknown = unknown

    def __len__(self):
        return len(self.pair_videos)

    def read_pair(self, index):
        rng = np.random.default_rng(index)
        image = rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
        flow = np.zeros((HEIGHT, WIDTH, 2), np.float32)
        flow[10:30, 12:40] = 1 + index, -3.5
        valid = np.ones((HEIGHT, WIDTH), bool)
        if self.unknown:
            valid[:, : WIDTH // 2] = False
            flow[~valid] = np.nan
        return image, flow, valid


def crops(source=None, **arguments):
    transforms = [Resize(36), Crop(32, random=True), Flip(0.5)]
    return PropagationDataset(source or Drawn(), transforms, **{**GUIDES, **arguments})


def assert_same(first, second):
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]) if isinstance(value, torch.Tensor) else value == second[name], name


def test_a_sample_is_what_its_docstring_says():
    source = Drawn()
    sample = PropagationDataset(source, [], **GUIDES)[3]
    image, flow, _ = source.read_pair(3)
    described = {
        "image": ((3, HEIGHT, WIDTH), torch.uint8),
        "flow": ((2, HEIGHT, WIDTH), torch.float32),
        "valid": ((1, HEIGHT, WIDTH), torch.bool),
        "guidance": ((2, HEIGHT, WIDTH), torch.float32),
        "mask": ((1, HEIGHT, WIDTH), torch.float32),
    }
    assert {k: (tuple(v.shape), v.dtype) for k, v in sample.items() if isinstance(v, torch.Tensor)} == described
    assert sample["index"] == 3 and sample["video"] == "video1" and set(sample) == {*described, "index", "video"}
    np.testing.assert_array_equal(sample["image"].permute(1, 2, 0), image)
    np.testing.assert_array_equal(sample["flow"].permute(1, 2, 0), flow)
    assert sample["valid"].all()


def test_point_counts_keep_a_random_few_of_the_points_each_count_equally_often():
    whole, few = crops(), crops(point_counts=(0, 1, 3, None))
    kept = []
    for index, epoch in itertools.product(range(12), range(20)):
        every, some = whole[index, epoch]["mask"], few[index, epoch]["mask"]
        assert (every >= some).all()
        kept.append("all" if torch.equal(every, some) else int(some.sum()))
    shares = {count: kept.count(count) / len(kept) for count in set(kept)}
    assert set(shares) == {0, 1, 3, "all"}
    assert all(abs(share - 1 / 4) < 0.08 for share in shares.values()), shares


def test_several_sets_of_points_share_an_image_and_its_flow():
    one, three = crops(point_counts=(2,)), crops(point_counts=(2,), sets_per_image=3)
    first, sample = one[4, 7], three[4, 7]
    assert torch.equal(first["image"], sample["image"]) and torch.equal(first["flow"], sample["flow"])
    assert sample["guidance"].shape == (3, 2, 32, 32) and sample["mask"].shape == (3, 1, 32, 32)
    assert torch.equal(sample["guidance"], sample["flow"] * sample["mask"])
    assert torch.equal(sample["mask"][0], first["mask"])
    assert sample["mask"].flatten(1).sum(1).tolist() == [2, 2, 2]
    assert not torch.equal(sample["mask"][0], sample["mask"][1])
    with pytest.raises(ValueError, match="sets_per_image must be at least 1, got 0"):
        crops(sets_per_image=0)


@pytest.mark.parametrize("counts", ((), (1, -1)))
def test_other_point_counts_are_refused(counts):
    with pytest.raises(ValueError, match="point_counts must be numbers of at least 0, or None for all"):
        crops(point_counts=counts)


def test_guidance_is_the_flow_at_the_mask_and_zero_elsewhere():
    for sample in (crops()[index, 5] for index in range(12)):
        assert set(sample["mask"].unique().tolist()) == {0.0, 1.0}
        assert torch.equal(sample["guidance"], sample["flow"] * sample["mask"])
        assert 4 <= sample["mask"].sum() < 60  # the grid's 2 x 2, and what the rectangle proposes
        assert sample["guidance"].any()


def test_points_are_cut_at_the_most_that_is_allowed():
    assert crops(max_points=3)[0]["mask"].sum() <= 3


def test_where_flow_is_unknown_it_is_zero_not_valid_and_no_point():
    for index in range(6):
        sample = PropagationDataset(Drawn(unknown=True), [], **GUIDES)[index]
        assert not sample["valid"][..., : WIDTH // 2].any() and sample["valid"][..., WIDTH // 2 :].all()
        assert (sample["flow"][..., : WIDTH // 2] == 0).all() and sample["flow"].any()
        assert not (sample["mask"].bool() & ~sample["valid"]).any() and sample["mask"].any()


def test_a_source_may_leave_flow_undecoded_whatever_comes_first():
    class Coded(Drawn):
        def read_pair(self, index):
            image, flow, valid = super().read_pair(index)
            return image, open_flow(*encode_flow(flow)), valid

    class Decoded(Coded):
        def read_pair(self, index):
            image, flow, valid = super().read_pair(index)
            return image, np.asarray(flow), valid

    for transforms in ([], [Flip(0.5)], [Crop(64, random=True)], [Resize(36), Crop(32, random=True)]):
        coded, decoded = (PropagationDataset(source, transforms, **GUIDES) for source in (Coded(), Decoded()))
        for index in range(4):
            first, second = coded[index], decoded[index]
            torch.testing.assert_close(first.pop("flow"), second["flow"], rtol=0, atol=2e-5)
            torch.testing.assert_close(first.pop("guidance"), second["guidance"], rtol=0, atol=2e-5)
            assert_same(first, {name: second[name] for name in first})


def test_padding_gets_no_point():
    sample = PropagationDataset(Drawn(), [Crop(64, random=False)], **GUIDES)[0]
    assert (~sample["valid"]).sum() == 64 * 64 - HEIGHT * WIDTH
    assert not (sample["mask"].bool() & ~sample["valid"]).any()


def test_a_sample_follows_from_seed_epoch_and_index_alone():
    dataset = crops(seed=4)
    sample = dataset[7, 2]
    for index in (3, 0):
        dataset[index, 1]
    torch.manual_seed(1)
    assert_same(sample, dataset[7, 2])
    assert_same(sample, crops(seed=4)[7, 2])
    assert_same(dataset[7], dataset[7, 0])


def test_another_epoch_or_seed_gives_another_crop():
    assert not torch.equal(crops()[7, 0]["image"], crops()[7, 1]["image"])
    assert not torch.equal(crops()[7, 0]["image"], crops(seed=1)[7, 0]["image"])


def test_pairs_of_one_epoch_are_not_cropped_alike():
    class Same(Drawn):
        def read_pair(self, index):
            return super().read_pair(0)

    images = [crops(Same())[index]["image"] for index in range(12)]
    assert sum(torch.equal(images[0], image) for image in images) < 4


def test_the_number_of_workers_does_not_change_a_sample():
    order = [(index, epoch) for epoch in (0, 1) for index in (4, 0, 9, 11, 2)]
    loaded = [
        list(DataLoader(crops(), sampler=order, batch_size=2, num_workers=workers, collate_fn=lambda batch: batch))
        for workers in (0, 2)
    ]
    batches = [[sample for batch in batches for sample in batch] for batches in loaded]
    for item, alone, worked in zip(order, *batches, strict=True):
        assert_same(alone, worked)
        assert_same(alone, crops()[item])


def test_parts_share_no_video_and_positions_are_the_sources():
    parts = {part: crops(part=part, val_share=0.34) for part in ("train", "val", "all")}
    assert len(parts["train"]) == 8 and len(parts["val"]) == 4 and len(parts["all"]) == 12
    videos = {part: {dataset[i]["video"] for i in range(len(dataset))} for part, dataset in parts.items()}
    assert videos["val"] == {"video4", "video5"} and videos["train"] == {f"video{i}" for i in range(4)}
    assert [len(dataset.video_names) for dataset in parts.values()] == [4, 2, 6]
    assert parts["val"][1]["index"] == 9
    # The same pair is the same sample in every part.
    assert_same(parts["val"][1], parts["all"][9])


def test_max_pairs_are_spread_evenly_over_the_part():
    assert [crops(max_pairs=4)[i]["index"] for i in range(4)] == [0, 4, 7, 11]
    assert len(crops(max_pairs=100)) == 12


def test_source_and_transforms_may_be_dicts():
    dataset = PropagationDataset(dict(type=Drawn, count=5), [dict(type=Crop, size_px=20, random=False)], **GUIDES)
    assert len(dataset) == 5 and dataset[0]["image"].shape == (3, 20, 20)


@pytest.mark.parametrize(
    "arguments, message",
    (
        (dict(part="test"), "'train', 'val' or 'all'"),
        (dict(max_pairs=0), "max_pairs"),
        (dict(part="val", val_share=1.5), "val_share"),
    ),
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        crops(**arguments)


def test_an_empty_part_is_refused():
    with pytest.raises(ValueError, match="'val' of 2 pairs is empty"):
        crops(Drawn(count=2, num_videos=1), part="val")


def test_the_wrong_image_of_a_pair_is_that_of_the_same_place_in_the_next_video():
    assert choose_other_videos(np.array([0, 0, 1, 1, 1, 2])).tolist() == [2, 3, 5, 5, 5, 0]
    assert choose_other_videos(np.array([1, 0, 1, 0])).tolist() == [1, 0, 3, 2]  # in whatever order pairs come
    rng = np.random.default_rng(0)
    ids = rng.permutation(np.repeat(np.arange(5), 7))
    assert (ids[choose_other_videos(ids)] != ids).all()


def test_a_held_out_sample_brings_the_image_of_a_pair_of_another_video():
    val = crops(part="val", val_share=0.4, other_images=True)
    assert [sample["video"] for sample in val] == ["video4"] * 2 + ["video5"] * 2
    for one, other in ((0, 2), (1, 3), (2, 0), (3, 1)):  # as that pair's own sample has it
        assert torch.equal(val[one]["other_image"], val[other]["image"])
    for batch_size in (1, 3):
        loader = DataLoader(val, batch_size=batch_size, num_workers=batch_size - 1)
        joined = torch.cat([batch["other_image"] for batch in loader])
        assert torch.equal(joined, torch.stack([sample["other_image"] for sample in val]))
    assert "other_image" not in crops()[0]
    assert torch.equal(crops(other_images=True)[0]["other_image"], crops()[2]["image"])
    with_it, without = crops(other_images=True)[5], crops()[5]
    assert_same({name: with_it[name] for name in without}, without)  # nothing else changes
    alone = crops(Drawn(num_videos=1), part="val", val_share=0.4, other_images=True)
    assert len(alone) and "other_image" not in alone[0]


def test_a_wrong_image_is_of_another_scene_where_folders_tell_scenes_apart():
    class InFolders(Drawn):
        def names_for_lists(self):
            folders = dict(video0="kitchen", video1="kitchen", video2="street", video3="street", video4="street")
            return {video: (f"{folder}/{video}.mp4", video) for video, folder in folders.items()}

    dataset = crops(InFolders(), other_images=True)
    assert dataset.scene_ids.tolist() == [0] * 4 + [1] * 6 + [2] * 2  # video5 lies in no folder
    places = dataset.others.tolist()
    assert all(dataset.scene_ids[one] != dataset.scene_ids[other] for one, other in enumerate(places))
    alone = crops(InFolders(), part="train", val_share=0.7, other_images=True)  # two videos of the kitchen
    assert alone.scene_ids.tolist() == [0] * 4 and alone.others.tolist() == [2, 3, 0, 1]


def test_a_wrong_image_of_another_size_is_brought_to_the_size_of_the_right_one():
    class Sizes(Drawn):
        def read_pair(self, index):
            return tuple(value[: HEIGHT - index] for value in super().read_pair(index))

    sample = PropagationDataset(Sizes(), [], other_images=True, **GUIDES)[0]
    assert sample["other_image"].shape == sample["image"].shape == (3, HEIGHT, WIDTH)
