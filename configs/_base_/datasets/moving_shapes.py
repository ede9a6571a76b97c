"""Pairs of frames of a shape whose form determines the axis of its motion, 32 x 32 px; validation on 500 other pairs.

The pairs are drawn, so no data is needed (--data is not used).
"""

from mmengine.dataset import DefaultSampler, default_collate

from cmp.datasets import EpochSampler
from cmp.datasets.moving_shapes import MovingShapes

SHAPES = dict(type=MovingShapes, paths=[], canvas_px=32, max_shift_px=4)
train_dataloader = dict(
    batch_size=32,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type=EpochSampler),
    collate_fn=dict(type=default_collate),
    dataset=dict(SHAPES, part="train", num_sequences=100_000),
)
val_dataloader = dict(
    batch_size=32,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type=DefaultSampler, shuffle=False, round_up=False),
    collate_fn=dict(type=default_collate),
    dataset=dict(SHAPES, part="test", num_sequences=500),
)
