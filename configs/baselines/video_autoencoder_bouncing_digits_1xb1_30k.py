"""Spatio-temporal video autoencoder on bouncing digits: the twentieth frame from nineteen; published size.

Run:     python tools/train.py THIS_FILE --data FOLDER_WITH_THE_DIGITS
Expect:  not run by us
Source:  Patraucean et al., ICLR 2016 workshop, by its code, viorik/ConvLSTM; differs in: the smoothness penalty is on,
         as in the paper (its demo comments it out), and digits are mirrored exactly at walls
"""

from mmengine.config import read_base
from torch.optim import RMSprop

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
    feature_channels=32,
    hidden_channels=45,
    kernel=7,
    flow_kernel=15,
    error="gradient",
    smoothness=1e-3,
    smoothness_threshold=1e-3,
)
train_dataloader.update(batch_size=1)
optim_wrapper = dict(
    type=AutocastOptimWrapper,
    precision="float32",
    optimizer=dict(type=RMSprop, lr=1e-4),
    clip_grad=dict(type="value", clip_value=50.0),
)
param_scheduler = []
train_cfg = dict(type=ResumableTrainLoop, max_iters=30_000, val_interval=5000)
default_hooks.update(logger=dict(interval=100), checkpoint=dict(interval=1000, max_keep_ckpts=2))
