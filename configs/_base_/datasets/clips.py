"""Clips of eight frames, every fifth of a video, of 64 x 64 px; the last fifth of the videos is for validation.

Another split, such as UCF-101's: --cfg-options {train,val}_dataloader.dataset.val_list=testlist01.txt
Videos: tools/train.py CONFIG --data VIDEOS_OR_FOLDERS, or `paths` of both datasets below.
"""

from mmengine.dataset import DefaultSampler, default_collate

from cmp.datasets import EpochSampler
from cmp.datasets.clips import Clips

CLIPS = dict(
    type=Clips,
    paths=["data/videos"],
    num_frames=8,
    interval_frames=5,
    short_side_px=80,
    size_px=64,
    val_share=0.2,
    cache_dir="work_dirs/clip_cache",
)
train_dataloader = dict(
    batch_size=16,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type=EpochSampler),
    collate_fn=dict(type=default_collate),
    dataset=dict(CLIPS, part="train"),
)
val_dataloader = dict(
    batch_size=16,
    num_workers=1,
    persistent_workers=True,
    # A fixed shuffle: the first batch, of which sheets are drawn, then shows several videos.
    sampler=dict(type=DefaultSampler, shuffle=True, seed=0, round_up=False),
    collate_fn=dict(type=default_collate),
    dataset=dict(CLIPS, part="val"),
)
