"""Pairs for minutes on a CPU: short side 160, crops of 128 px at several scales, and a point every 64 px.

Another split, and where the pairs are: see pairs.py.
"""

from mmengine.dataset import DefaultSampler, default_collate

from cmp.datasets import Color, Crop, EpochSampler, Flip, PropagationDataset, Resize, ReverseFlow, ScaledCrop
from cmp.datasets import open_pairs

SHORT_SIDE_PX, CROP_PX = 160, 128
PAIRS = dict(
    type=PropagationDataset,
    source=dict(type=open_pairs, paths=["data/pairs"]),
    strategies=("grid", "watershed"),
    grid_stride_px=64,
    nms_kernel=15,
    max_points=None,
    val_share=0.2,
)
train_dataloader = dict(
    batch_size=16,
    num_workers=1,
    persistent_workers=True,
    prefetch_factor=None,
    sampler=dict(type=EpochSampler, balance_videos=True),
    collate_fn=dict(type=default_collate),
    dataset=dict(
        PAIRS,
        transforms=[
            dict(type=Resize, short_side_px=SHORT_SIDE_PX),
            dict(type=ScaledCrop, size_px=CROP_PX, low=0.7, high=1.3),
            dict(type=Color),
            dict(type=Flip, probability=0.5),
            dict(type=ReverseFlow, probability=0.5),
        ],
        part="train",
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
        # Two steps as in training, not a ResizedCrop: the same two options then change the sizes of both.
        transforms=[
            dict(type=Resize, short_side_px=SHORT_SIDE_PX),
            dict(type=Crop, size_px=CROP_PX, random=False),
        ],
        part="val",
        max_pairs=160,
    ),
)
