"""Guides chosen where the model is: what a batch looks like behind it, and that they can be drawn again."""

import copy

import numpy as np
import torch
from mmengine.dataset import default_collate

from cmp.datasets import Crop, PropagationDataset
from cmp.models import DeviceGuidance

GUIDES = dict(strategies=("grid", "watershed"), grid_stride_px=20, nms_kernel=9, max_points=8)


class Drawn:
    pair_videos = ["a", "b", "c"]

    def __len__(self):
        return 3

    def read_pair(self, index):
        flow = np.zeros((40, 50, 2), np.float32)
        flow[10:30, 10 + index : 35] = 3, -2
        valid = np.ones((40, 50), bool)
        valid[:, :25] = index != 1
        return np.full((40, 50, 3), 7, np.uint8), flow, valid


def batch(strategies=None):
    chosen = GUIDES | dict(strategies=strategies)
    dataset = PropagationDataset(Drawn(), [Crop(36, random=True)], **chosen)
    return default_collate([dataset[i, 0] for i in range(3)])


def test_a_batch_without_guides_leaves_with_them_and_one_with_them_as_it_was():
    bare, chosen = batch(), batch(("grid", "watershed"))
    assert set(chosen) - set(bare) == {"guidance", "mask"}
    for name, value in bare.items():  # the rest of a sample does not depend on where its guides are chosen
        assert torch.equal(value, chosen[name]) if isinstance(value, torch.Tensor) else value == chosen[name]
    guided = DeviceGuidance(**GUIDES)(bare, True)
    assert "guidance" not in bare
    assert {k: v.shape for k, v in guided.items() if k != "video"} == {
        k: v.shape for k, v in chosen.items() if k != "video"
    }
    assert torch.equal(guided["guidance"], guided["flow"] * guided["mask"])
    assert 1 <= guided["mask"].flatten(1).sum(dim=1).min() and guided["mask"].flatten(1).sum(dim=1).max() <= 8
    assert not (guided["mask"] * ~guided["valid"]).any()
    kept = DeviceGuidance(**GUIDES)(chosen, False)
    assert torch.equal(kept["guidance"], chosen["guidance"]) and torch.equal(kept["mask"], chosen["mask"])


def test_guides_follow_from_the_state_of_torchs_generator_alone():
    preprocessor, bare = DeviceGuidance(**GUIDES), batch()
    masks = []
    for seed in (1, 2, 1):
        torch.manual_seed(seed)
        masks.append(preprocessor(bare, True)["mask"])
    again = copy.deepcopy(preprocessor)(bare, True)["mask"]  # the next draw after the last
    assert torch.equal(masks[0], masks[2]) and not torch.equal(masks[0], masks[1])
    assert not torch.equal(again, masks[2])
    assert preprocessor.state_dict() == {}
