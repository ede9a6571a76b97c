"""MNIST digits in constant motion of at most 3 px a frame before still noise; validated on 2,000 test digits.

Where the digits are: tools/train.py CONFIG --data FOLDER, or `paths` of both datasets below. Another range:
max_shift_px of both datasets and the model's max_shift.
"""

from mmengine.dataset import DefaultSampler, default_collate

from cmp.datasets import PairSampler
from cmp.datasets.moving_digits import MovingDigits

train_dataloader = dict(
    batch_size=64,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type=PairSampler),
    collate_fn=dict(type=default_collate),
    dataset=dict(
        type=MovingDigits, paths=["data/mnist"], part="train", max_shift_px=3, max_digits=None, download=False
    ),
)
val_dataloader = dict(
    batch_size=64,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type=DefaultSampler, shuffle=False, round_up=False),
    collate_fn=dict(type=default_collate),
    dataset=dict(type=MovingDigits, paths=["data/mnist"], part="test", max_shift_px=3, max_digits=2000, download=False),
)
