"""Local motion of MNIST digits of at most 3 px a frame, without labels, from four frames; the published size."""

from mmengine.config import read_base
from torch.optim import Adam

from cmp.baselines.local_motion import LocalMotion
from cmp.engine.loops import PairTrainLoop
from cmp.engine.step import PreciseOptimWrapper

with read_base():
    from .baseline import *
    from .datasets.moving_digits import *

model = dict(
    type=LocalMotion,
    max_shift=3,
    image_channels=1,
    width=64,
    levels=5,
    supervised=False,
    two_sided=True,
    disappear="map",
    image_encoder=None,
)
optim_wrapper = dict(type=PreciseOptimWrapper, precision="float32", optimizer=dict(type=Adam, lr=1e-3))
param_scheduler = []
train_cfg = dict(
    type=PairTrainLoop,
    max_iters=10_000,
    val_interval=2000,
    channels_last=False,
    accumulate_batches=1,
    max_skips_in_row=10,
)
default_hooks.update(logger=dict(interval=100), checkpoint=dict(interval=1000, max_keep_ckpts=2))
