"""Spatio-temporal video autoencoder on bouncing digits, small: the sixth frame from five; minutes on a CPU core.

Run:     python tools/train.py THIS_FILE --data FOLDER_WITH_THE_DIGITS
Source:  as video-autoencoder_bouncing-digits_1xb1_30k.py; size, likelihood, optimizer and schedule are ours: the
         likelihood tells how bright a frame is, which differences of neighbours leave open
"""

from mmengine.config import read_base
from mmengine.optim import CosineAnnealingLR, LinearLR
from torch.optim import Adam

from cmp.baselines.video_autoencoder import VideoAutoencoder
from cmp.engine.loops import PairTrainLoop
from cmp.engine.step import PreciseOptimWrapper

with read_base():
    from .._base_.baseline import *
    from .._base_.datasets.bouncing_digits import *

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
    image_encoder=None,
)
train_dataloader.update(batch_size=8, dataset=dict(num_frames=6))
val_dataloader.update(dataset=dict(num_frames=6))
optim_wrapper = dict(
    type=PreciseOptimWrapper,
    precision="float32",
    optimizer=dict(type=Adam, lr=2e-3),
    clip_grad=dict(type="norm", max_norm=1000.0),
)
param_scheduler = [
    dict(type=LinearLR, start_factor=0.02, by_epoch=False, begin=0, end=50),
    dict(type=CosineAnnealingLR, T_max=950, eta_min=0.0, by_epoch=False, begin=50, end=1000),
]
train_cfg = dict(
    type=PairTrainLoop,
    max_iters=1000,
    val_interval=500,
    channels_last=False,
    accumulate_batches=1,
    max_skips_in_row=10,
)
default_hooks.update(logger=dict(interval=50), checkpoint=dict(interval=250, max_keep_ckpts=2))
