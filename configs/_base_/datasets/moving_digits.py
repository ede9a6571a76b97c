"""MNIST digits in constant motion of at most 3 px per frame in front of static noise; validation on 2,000 test digits.

Digits: tools/train.py CONFIG --data FOLDER, or `paths` of both datasets below. For another range of motion change
max_shift_px of both datasets and max_shift of the model.
"""

from mmengine.dataset import DefaultSampler, default_collate

from cmp.datasets import EpochSampler
from cmp.datasets.moving_digits import MovingDigits

DIGITS = dict(type=MovingDigits, paths=["data/mnist"], max_shift_px=3)
train_dataloader = dict(
    batch_size=64,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type=EpochSampler),
    collate_fn=dict(type=default_collate),
    dataset=dict(DIGITS, part="train"),
)
val_dataloader = dict(
    batch_size=64,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type=DefaultSampler, shuffle=False, round_up=False),
    collate_fn=dict(type=default_collate),
    dataset=dict(DIGITS, part="test", max_digits=2000),
)
