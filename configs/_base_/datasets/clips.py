"""Clips of eight frames, every fifth of a video, of 64 x 64 px; the last fifth of the videos is kept for validation.

Another split, as UCF-101's: --cfg-options {train,val}_dataloader.dataset.val_list=testlist01.txt
Where the videos are: tools/train.py CONFIG --data VIDEOS_OR_FOLDERS, or `paths` of both datasets below.
"""

from mmengine.dataset import DefaultSampler, default_collate

from cmp.datasets import PairSampler
from cmp.datasets.clips import Clips

train_dataloader = dict(
    batch_size=16,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type=PairSampler),
    collate_fn=dict(type=default_collate),
    dataset=dict(
        type=Clips,
        paths=["data/videos"],
        num_frames=8,
        interval_frames=5,
        short_side_px=80,
        size_px=64,
        part="train",
        val_share=0.2,
        val_list=None,
        flip=True,
        least_change=1.0,
        max_clips=None,
        cache_dir="work_dirs/clip_cache",
    ),
)
val_dataloader = dict(
    batch_size=16,
    num_workers=1,
    persistent_workers=True,
    # A fixed shuffle: the first batch, of which pictures are made, then shows several videos.
    sampler=dict(type=DefaultSampler, shuffle=True, seed=0, round_up=False),
    collate_fn=dict(type=default_collate),
    dataset=dict(
        type=Clips,
        paths=["data/videos"],
        num_frames=8,
        interval_frames=5,
        short_side_px=80,
        size_px=64,
        part="val",
        val_share=0.2,
        val_list=None,
        least_change=1.0,
        max_clips=None,
        cache_dir="work_dirs/clip_cache",
    ),
)
