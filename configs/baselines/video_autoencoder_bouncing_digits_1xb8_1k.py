"""Spatio-temporal video autoencoder on bouncing digits, small: the sixth frame from five; minutes on a CPU core.

Run:     python tools/train.py THIS_FILE --data FOLDER_WITH_THE_DIGITS
Source:  as video_autoencoder_bouncing_digits_1xb1_30k.py; size, likelihood, optimizer and schedule are ours: the
         likelihood depends on the brightness of a frame, which differences of neighboring pixels do not determine
"""

from mmengine.config import read_base
from mmengine.optim import CosineAnnealingLR, LinearLR
from torch.optim import Adam

from cmp.baselines.video_autoencoder import VideoAutoencoder
from cmp.engine.loops import ResumableTrainLoop
from cmp.engine.step import AutocastOptimWrapper

with read_base():
    from .._base_.datasets.bouncing_digits import *
    from .._base_.runtime import *
    from .._base_.validation.baselines import *

model = dict(
    type=VideoAutoencoder,
    image_channels=1,
    feature_channels=16,
    hidden_channels=16,
    kernel=5,
    flow_kernel=15,
    error="bernoulli",
    smoothness=1e-3,
    smoothness_threshold=1e-3,
)
FRAMES = dict(num_frames=6)
train_dataloader.update(batch_size=8, dataset=FRAMES)
val_dataloader.update(dataset=FRAMES)
optim_wrapper = dict(
    type=AutocastOptimWrapper,
    precision="float32",
    optimizer=dict(type=Adam, lr=2e-3),
    clip_grad=dict(type="norm", max_norm=1000.0),
)
param_scheduler = [
    dict(type=LinearLR, start_factor=0.02, by_epoch=False, begin=0, end=50),
    dict(type=CosineAnnealingLR, T_max=950, eta_min=0.0, by_epoch=False, begin=50, end=1000),
]
train_cfg = dict(type=ResumableTrainLoop, max_iters=1000, val_interval=500)
default_hooks.update(logger=dict(interval=50), checkpoint=dict(interval=250, max_keep_ckpts=2))
