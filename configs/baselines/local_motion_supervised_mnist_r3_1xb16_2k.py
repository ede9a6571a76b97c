"""Local motion of MNIST digits, supervised, from two frames, with few channels and steps: minutes on a CPU core.

Run:     python tools/train.py THIS_FILE --data FOLDER_WITH_THE_DIGITS
Source:  as local_motion_mnist_r3_1xb64_10k.py; size, steps and learning rates are ours.
"""

from mmengine.config import read_base
from mmengine.optim import CosineAnnealingLR, LinearLR

with read_base():
    from .._base_.datasets.moving_digits import *
    from .._base_.models.local_motion import *
    from .._base_.runtime import *
    from .._base_.schedules.adam_100k import *
    from .._base_.validation.baselines import *

model.update(width=16, supervised=True, two_sided=False, disappear="none")
train_dataloader.update(batch_size=16)
optim_wrapper.update(optimizer=dict(lr=5e-3))
# Down to 0 because of batch norm: its averages lag behind weights that still move.
param_scheduler = [
    dict(type=LinearLR, start_factor=0.02, by_epoch=False, begin=0, end=100),
    dict(type=CosineAnnealingLR, T_max=1900, eta_min=0.0, by_epoch=False, begin=100, end=2000),
]
train_cfg.update(max_iters=2000, val_interval=1000)
default_hooks.update(logger=dict(interval=100), checkpoint=dict(interval=1000, max_keep_ckpts=2))
