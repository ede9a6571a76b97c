"""Multi-scale prediction with discriminators on clips of 64 px, 1,000 steps; minutes on two CPU cores.

Run:     python tools/train.py THIS_FILE --data VIDEOS
Source:  Mathieu, Couprie and LeCun, ICLR 2016; an eighth of its widths and fewer layers. Its adversarial weight, 0.05,
         is relative to sums over a frame; here L2 and GDL are means over values, so it is smaller.
"""

from mmengine.config import read_base

from cmp.baselines.multi_scale import MultiScalePredictor

with read_base():
    from .._base_.datasets.clips import *
    from .._base_.runtime import *
    from .._base_.schedules.adamw_1k import *
    from .._base_.validation.baselines import *

model = dict(
    type=MultiScalePredictor,
    given=4,
    trained=1,
    widths=((16, 32, 16), (16, 32, 16), (16, 32, 32, 16), (16, 32, 32, 16)),
    kernels=((3, 3, 3, 3), (5, 3, 3, 5), (5, 3, 3, 3, 5), (7, 3, 3, 3, 7)),
    adversarial=0.001,
    size_px=64,
    discriminator_widths=((16,), (16, 32), (16, 32, 32), (16, 32, 32)),
    discriminator_kernels=((3,), (3, 3), (5, 5, 5), (7, 5, 5)),
    discriminator_units=((64,), (64,), (64,), (64,)),
)
optim_wrapper.update(paramwise_cfg=dict(custom_keys={"discriminators": dict(lr_mult=0.5)}))
default_hooks.update(logger=dict(interval=50), checkpoint=dict(interval=500, max_keep_ckpts=2))
