"""Local motion on own videos with a ResNet-18 that sees the frames, three frames of 96 px, 1,000 steps of 16.

Run:     python tools/train.py THIS_FILE --data VIDEOS_OR_FOLDERS
         then: python tools/export_backbone.py work_dirs/THIS_CONFIG/iter_1000.pth OUT --format torchvision
Source:  ours: encoder, optimizer and length are what CMP's quick start is compared with. Motion is
         told and the third frame rebuilt on the encoder's cells of 4 px, by shifts of up to 3 of them.
"""

from mmengine.config import read_base
from mmengine.optim import CosineAnnealingLR, LinearLR
from torch.optim import AdamW

from cmp.baselines.local_motion import LocalMotion
from cmp.engine.loops import PairTrainLoop
from cmp.engine.step import PreciseOptimWrapper
from cmp.models import PyramidResNet

with read_base():
    from .._base_.baseline import *
    from .._base_.datasets.clips import *

model = dict(
    type=LocalMotion,
    max_shift=3,
    image_channels=3,
    width=32,
    levels=4,
    supervised=False,
    two_sided=False,
    disappear="map",
    image_encoder=dict(type=PyramidResNet, depth=18, top_stride=4, out_channels=64),
)
train_dataloader.update(dataset=dict(num_frames=3, short_side_px=120, size_px=96))
val_dataloader.update(dataset=dict(num_frames=3, short_side_px=120, size_px=96, max_clips=160))
optim_wrapper = dict(
    type=PreciseOptimWrapper,
    precision="bfloat16",  # "float32" where the CPU or GPU has no arithmetic for it
    optimizer=dict(type=AdamW, lr=1e-3, weight_decay=0.01),
    clip_grad=None,
)
param_scheduler = [
    dict(type=LinearLR, start_factor=0.02, by_epoch=False, begin=0, end=50),
    dict(type=CosineAnnealingLR, T_max=950, eta_min=0.0, by_epoch=False, begin=50, end=1000),
]
train_cfg = dict(
    type=PairTrainLoop,
    max_iters=1000,
    val_interval=1000,
    channels_last=False,
    accumulate_batches=1,
    max_skips_in_row=10,
)
default_hooks.update(logger=dict(interval=50), checkpoint=dict(interval=250, max_keep_ckpts=2))
