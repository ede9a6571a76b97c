"""The MNIST digits, each pixel 1 with its gray value as probability: drawn again in each epoch, once for validation.

Digits: tools/train.py CONFIG --data FOLDER, or `paths` of both datasets below.
"""

from mmengine.dataset import DefaultSampler, default_collate

from cmp.datasets import EpochSampler
from cmp.datasets.digits import Digits

train_dataloader = dict(
    batch_size=100,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type=EpochSampler),
    collate_fn=dict(type=default_collate),
    dataset=dict(type=Digits, paths=["data/mnist"], part="train", binarize="random"),
)
val_dataloader = dict(
    batch_size=500,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type=DefaultSampler, shuffle=False, round_up=False),
    collate_fn=dict(type=default_collate),
    dataset=dict(type=Digits, paths=["data/mnist"], part="test", binarize="fixed"),
)
