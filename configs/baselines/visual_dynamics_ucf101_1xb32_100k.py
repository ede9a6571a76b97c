"""Visual Dynamics at the published widths, pairs of frames of 128 px, latent size 3,200. Not run here.

Run:     python tools/train.py THIS_FILE --data UCF-101
Expect:  not measured
Source:  Xue et al., NIPS 2016: widths, kernels, Adam with 0.001, batch 32. It doubles beta during training; here beta
         is constant. Its data sets were of exercises and sprites.
"""

from mmengine.config import read_base

from cmp.baselines.visual_dynamics import VisualDynamics

with read_base():
    from .._base_.datasets.clips import *
    from .._base_.runtime import *
    from .._base_.schedules.adam_100k import *
    from .._base_.validation.baselines import *

model = dict(
    type=VisualDynamics,
    latent=3200,
    beta=0.001,
    maps=32,
    motion_widths=(96, 96, 128, 128, 256, 256),
    motion_pools=(4, 2, 2, 2, 2, 2),
    image_widths=(64, 64, 64),
    kernel_width=128,
    decoder_width=128,
    stored=1000,
)
FRAMES = dict(num_frames=2, short_side_px=128, size_px=128, val_share=0.1)
train_dataloader.update(batch_size=32, num_workers=4, dataset=FRAMES)
val_dataloader.update(num_workers=2, dataset=dict(FRAMES, max_clips=2000))
default_hooks.update(logger=dict(interval=100), checkpoint=dict(interval=5000, max_keep_ckpts=2))
