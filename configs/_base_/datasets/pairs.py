"""Pairs for training and validation, as published: short side 416, a random crop in training, no augmentation.

Where the pairs are: tools/train.py CONFIG --data STORE, or `source.paths` of both datasets below.
"""

from mmengine.dataset import DefaultSampler, default_collate

from cmp.datasets import Crop, PairSampler, PropagationDataset, Resize, open_pairs

train_dataloader = dict(
    batch_size=10,
    num_workers=4,
    persistent_workers=True,
    prefetch_factor=4,  # batches that each worker is ahead; None where num_workers is 0
    pin_memory=True,
    sampler=dict(type=PairSampler),
    collate_fn=dict(type=default_collate),
    dataset=dict(
        type=PropagationDataset,
        source=dict(type=open_pairs, paths=["data/pairs"]),
        transforms=[dict(type=Resize, short_side_px=416), dict(type=Crop, size_px=320, random=True)],
        strategies=("grid", "watershed"),
        grid_stride_px=165,
        nms_kernel=67,
        max_points=None,
        part="train",
        val_share=0.02,
    ),
)
val_dataloader = dict(
    batch_size=10,
    num_workers=2,
    persistent_workers=True,
    # A fixed shuffle: a batch then holds several videos, which the control with a wrong image needs.
    sampler=dict(type=DefaultSampler, shuffle=True, seed=0, round_up=False),
    collate_fn=dict(type=default_collate),
    dataset=dict(
        type=PropagationDataset,
        source=dict(type=open_pairs, paths=["data/pairs"]),
        transforms=[dict(type=Resize, short_side_px=416), dict(type=Crop, size_px=320, random=False)],
        strategies=("grid", "watershed"),
        grid_stride_px=165,
        nms_kernel=67,
        max_points=None,
        part="val",
        val_share=0.02,
        max_pairs=2000,
    ),
)
