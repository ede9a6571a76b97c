"""Films of twenty frames of 64 x 64 px in which two MNIST digits bounce; validated on 500 films of test digits.

Where the digits are: tools/train.py CONFIG --data FOLDER, or `paths` of both datasets below.
"""

from mmengine.dataset import DefaultSampler, default_collate

from cmp.datasets import PairSampler
from cmp.datasets.bouncing_digits import BouncingDigits

train_dataloader = dict(
    batch_size=16,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type=PairSampler),
    collate_fn=dict(type=default_collate),
    dataset=dict(
        type=BouncingDigits,
        paths=["data/mnist"],
        part="train",
        num_frames=20,
        canvas_hw=(64, 64),
        num_digits=2,
        speed_px=3.6,
        shrink=1,
        binarise=False,
        num_films=10_000,
        download=False,
    ),
)
val_dataloader = dict(
    batch_size=16,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type=DefaultSampler, shuffle=False, round_up=False),
    collate_fn=dict(type=default_collate),
    dataset=dict(
        type=BouncingDigits,
        paths=["data/mnist"],
        part="test",
        num_frames=20,
        canvas_hw=(64, 64),
        num_digits=2,
        speed_px=3.6,
        shrink=1,
        binarise=False,
        num_films=500,
        download=False,
    ),
)
