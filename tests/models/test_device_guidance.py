"""Points chosen on the device of the network: what the batch has then, and that they can be drawn again."""

import copy

import numpy as np
import torch
from mmengine.dataset import default_collate

from cmp.datasets import Crop, PropagationDataset
from cmp.models import DeviceGuidance

POINTS = dict(strategies=("grid", "watershed"), grid_stride_px=20, nms_kernel=9, max_points=8)


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
    chosen = POINTS | dict(strategies=strategies)
    dataset = PropagationDataset(Drawn(), [Crop(36, random=True)], **chosen)
    return default_collate([dataset[i, 0] for i in range(3)])


def test_points_are_added_to_a_batch_without_them_and_one_with_them_is_returned_unchanged():
    bare, chosen = batch(), batch(("grid", "watershed"))
    assert set(chosen) - set(bare) == {"guidance", "mask"}
    for name, value in bare.items():  # the rest of a sample does not depend on where its points are chosen
        assert torch.equal(value, chosen[name]) if isinstance(value, torch.Tensor) else value == chosen[name]
    guided = DeviceGuidance(**POINTS)(bare)
    assert "guidance" not in bare
    assert {k: v.shape for k, v in guided.items() if k != "video"} == {
        k: v.shape for k, v in chosen.items() if k != "video"
    }
    assert torch.equal(guided["guidance"], guided["flow"] * guided["mask"])
    assert 1 <= guided["mask"].flatten(1).sum(dim=1).min() and guided["mask"].flatten(1).sum(dim=1).max() <= 8
    assert not (guided["mask"] * ~guided["valid"]).any()
    kept = DeviceGuidance(**POINTS)(chosen)
    assert torch.equal(kept["guidance"], chosen["guidance"]) and torch.equal(kept["mask"], chosen["mask"])


def test_points_follow_from_the_state_of_torchs_generator_alone():
    chooser, bare = DeviceGuidance(**POINTS), batch()
    masks = []
    for seed in (1, 2, 1):
        torch.manual_seed(seed)
        masks.append(chooser(bare)["mask"])
    again = copy.deepcopy(chooser)(bare)["mask"]  # the next draw after the last
    assert torch.equal(masks[0], masks[2]) and not torch.equal(masks[0], masks[1])
    assert not torch.equal(again, masks[2])
    assert chooser.state_dict() == {}
