"""Pairs as the published AlexNet recipes take them: short side 416, crops of 384 px, batches of 12, at most 150 points.

Another split, and where the pairs are: see pairs.py.
"""

from mmengine.dataset import DefaultSampler, default_collate

from cmp.datasets import EpochSampler, PropagationDataset, ResizedCrop, open_pairs

BATCH_SIZE = 12
CROP = dict(type=ResizedCrop, short_side_px=416, size_px=384)
PAIRS = dict(
    type=PropagationDataset,
    source=dict(type=open_pairs, paths=["data/pairs"]),
    strategies=("grid", "watershed"),
    grid_stride_px=80,
    nms_kernel=41,
    max_points=150,
    val_share=0.02,
)
train_dataloader = dict(
    batch_size=BATCH_SIZE,
    num_workers=4,
    persistent_workers=True,
    prefetch_factor=4,
    pin_memory=True,
    sampler=dict(type=EpochSampler),
    collate_fn=dict(type=default_collate),
    dataset=dict(PAIRS, transforms=[dict(CROP, random=True)], part="train"),
)
val_dataloader = dict(
    batch_size=BATCH_SIZE,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type=DefaultSampler, shuffle=True, seed=0, round_up=False),  # see pairs.py
    collate_fn=dict(type=default_collate),
    dataset=dict(PAIRS, transforms=[dict(CROP, random=False)], part="val", max_pairs=2000),
)
