"""Skip autoencoder that predicts the change to the last frame, clips of 64 px, 1,000 steps; minutes on two CPU cores.

Run:     python tools/train.py THIS_FILE --data VIDEOS
Source:  a project on UCF-101 after Mathieu, Couprie and LeCun, ICLR 2016; the widths and the residual form are ours. It
         starts from the last frame, which the other systems do not reach in so few steps.
"""

from mmengine.config import read_base

from cmp.baselines.skip_autoencoder import SkipAutoencoder

with read_base():
    from .._base_.datasets.clips import *
    from .._base_.runtime import *
    from .._base_.schedules.adamw_1k import *
    from .._base_.validation.baselines import *

model = dict(type=SkipAutoencoder, given=4, trained=1, residual=True, widths=(16, 32, 64, 128, 256))
default_hooks.update(logger=dict(interval=50), checkpoint=dict(interval=500, max_keep_ckpts=2))
