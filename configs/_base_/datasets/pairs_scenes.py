"""Pairs of many clips, several of which may show one scene: few points, as users give them; all scenes equally often.

The clips of one scene are in one folder of the prepared videos. Short side 128, crops of 96 px at several scales, and
two sets of points per encoded image. Another split, and where the pairs are: see pairs.py.
"""

from mmengine.dataset import DefaultSampler, default_collate

from cmp.datasets import Color, Crop, EpochSampler, Flip, PropagationDataset, Resize, ReverseFlow, ScaledCrop
from cmp.datasets import open_pairs

SHORT_SIDE_PX, CROP_PX = 128, 96
PAIRS = dict(
    type=PropagationDataset,
    source=dict(type=open_pairs, paths=["data/pairs"]),
    strategies=("grid", "watershed"),
    grid_stride_px=64,
    nms_kernel=15,
    max_points=None,
    val_share=0.1,
)
train_dataloader = dict(
    batch_size=16,
    num_workers=1,
    persistent_workers=True,
    prefetch_factor=None,
    sampler=dict(type=EpochSampler, balance_folders=True),
    collate_fn=dict(type=default_collate),
    dataset=dict(
        PAIRS,
        transforms=[
            dict(type=Resize, short_side_px=SHORT_SIDE_PX),
            dict(type=ScaledCrop, size_px=CROP_PX, low=0.6, high=1.4),
            dict(type=Color),
            dict(type=Flip, probability=0.5),
            dict(type=ReverseFlow, probability=0.5),
        ],
        part="train",
        point_counts=(0, 1, 1, 2, 2, 3, 4, 6, 8, None, None, None),
        sets_per_image=2,
    ),
)
val_dataloader = dict(
    batch_size=32,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type=DefaultSampler, shuffle=True, seed=0, round_up=False),  # see pairs.py
    collate_fn=dict(type=default_collate),
    dataset=dict(
        PAIRS,
        transforms=[dict(type=Resize, short_side_px=SHORT_SIDE_PX), dict(type=Crop, size_px=CROP_PX, random=False)],
        part="val",
        max_pairs=480,
    ),
)
