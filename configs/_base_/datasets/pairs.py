"""Pairs for training and validation, two percent of the videos held out; a recipe adds crops and guidance points.

Another split: --cfg-options {train,val}_dataloader.dataset.val_list=videos.txt, a file that names the held-out videos.
Where the pairs are: tools/train.py CONFIG --data STORE, or `source.paths` of both datasets below.
"""

from mmengine.dataset import DefaultSampler, default_collate

from cmp.datasets import EpochSampler, PropagationDataset, open_pairs

PAIRS = dict(
    type=PropagationDataset,
    source=dict(type=open_pairs, paths=["data/pairs"]),
    strategies=("grid", "watershed"),
    val_share=0.02,
)
train_dataloader = dict(
    num_workers=4,
    persistent_workers=True,
    prefetch_factor=4,  # batches that each worker is ahead; None where num_workers is 0
    pin_memory=True,
    sampler=dict(type=EpochSampler),
    collate_fn=dict(type=default_collate),
    dataset=dict(PAIRS, part="train"),
)
val_dataloader = dict(
    num_workers=2,
    persistent_workers=True,
    # A fixed shuffle: a batch then contains several videos, which the control with a wrong image needs.
    sampler=dict(type=DefaultSampler, shuffle=True, seed=0, round_up=False),
    collate_fn=dict(type=default_collate),
    dataset=dict(PAIRS, part="val", max_pairs=2000),
)
