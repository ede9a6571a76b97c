"""Visual Dynamics with a ResNet-18 as image encoder, pairs of frames of 96 px, 1,000 steps: to compare encoders.

Run:     python tools/train.py THIS_FILE --data VIDEOS
Source:  ours: encoder, optimizer and length are the same for all systems in the comparison; the rest after Xue et al.,
         2016.
"""

from mmengine.config import read_base

from cmp.baselines.visual_dynamics import VisualDynamics
from cmp.models import PyramidResNet

with read_base():
    from .._base_.datasets.clips import *
    from .._base_.runtime import *
    from .._base_.schedules.adamw_encoder_1k import *
    from .._base_.validation.baselines import *

model = dict(
    type=VisualDynamics,
    latent=32,
    stored=1000,
    beta=0.02,
    maps=32,
    motion_widths=(24, 24, 32, 32, 64),
    motion_pools=(2, 2, 2, 2, 2),
    kernel_width=32,
    decoder_width=64,
    image_encoder=dict(type=PyramidResNet, depth=18, top_stride=4, out_channels=64),
)
FRAMES = dict(num_frames=2, short_side_px=120, size_px=96)
train_dataloader.update(dataset=FRAMES)
val_dataloader.update(dataset=FRAMES)
default_hooks.update(logger=dict(interval=50), checkpoint=dict(interval=500, max_keep_ckpts=2))
