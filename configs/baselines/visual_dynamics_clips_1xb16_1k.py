"""Visual Dynamics on pairs of frames of 64 px, a quarter of its widths, 1,000 steps; minutes on two CPU cores.

Run:     python tools/train.py THIS_FILE --data VIDEOS
Source:  Xue et al., NIPS 2016; a latent size of 32 instead of 3,200, and beta, are ours.
"""

from mmengine.config import read_base

from cmp.baselines.visual_dynamics import VisualDynamics

with read_base():
    from .._base_.datasets.clips import *
    from .._base_.runtime import *
    from .._base_.schedules.adamw_1k import *
    from .._base_.validation.baselines import *

model = dict(
    type=VisualDynamics,
    latent=32,
    stored=1000,
    beta=0.02,
    maps=16,
    motion_widths=(24, 24, 32, 32, 64, 64),
    motion_pools=(2, 2, 2, 2, 2, 2),
    image_widths=(16, 32, 32),
    kernel_width=32,
    decoder_width=32,
)
FRAMES = dict(num_frames=2)
train_dataloader.update(dataset=FRAMES)
val_dataloader.update(dataset=FRAMES)
default_hooks.update(logger=dict(interval=50), checkpoint=dict(interval=500, max_keep_ckpts=2))
