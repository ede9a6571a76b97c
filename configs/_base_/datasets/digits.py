"""The MNIST digits, each pixel 1 with its grey value as probability: drawn anew in training, once for validation.

Where the digits are: tools/train.py CONFIG --data FOLDER, or `paths` of both datasets below.
"""

from mmengine.dataset import DefaultSampler, default_collate

from cmp.datasets import PairSampler
from cmp.datasets.digits import Digits

train_dataloader = dict(
    batch_size=100,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type=PairSampler),
    collate_fn=dict(type=default_collate),
    dataset=dict(type=Digits, paths=["data/mnist"], part="train", binarise="random", max_digits=None, download=False),
)
val_dataloader = dict(
    batch_size=500,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type=DefaultSampler, shuffle=False, round_up=False),
    collate_fn=dict(type=default_collate),
    dataset=dict(type=Digits, paths=["data/mnist"], part="test", binarise="fixed", max_digits=None, download=False),
)
