"""Sequences of twenty frames of 64 x 64 px in which two MNIST digits bounce; validation on 500 with test digits.

Digits: tools/train.py CONFIG --data FOLDER, or `paths` of both datasets below.
"""

from mmengine.dataset import DefaultSampler, default_collate

from cmp.datasets import EpochSampler
from cmp.datasets.bouncing_digits import BouncingDigits

VIDEOS = dict(
    type=BouncingDigits,
    paths=["data/mnist"],
    num_frames=20,
    canvas_hw=(64, 64),
    num_digits=2,
    speed_px=3.6,
    shrink=1,
    binarize=False,
)
train_dataloader = dict(
    batch_size=16,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type=EpochSampler),
    collate_fn=dict(type=default_collate),
    dataset=dict(VIDEOS, part="train", num_sequences=10_000),
)
val_dataloader = dict(
    batch_size=16,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type=DefaultSampler, shuffle=False, round_up=False),
    collate_fn=dict(type=default_collate),
    dataset=dict(VIDEOS, part="test", num_sequences=500),
)
