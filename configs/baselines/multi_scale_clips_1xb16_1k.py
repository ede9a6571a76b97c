"""Multi-scale prediction without discriminators on clips of 64 px, 1,000 steps; minutes on two CPU cores.

Run:     python tools/train.py THIS_FILE --data VIDEOS
Source:  Mathieu, Couprie and LeCun, ICLR 2016; an eighth of its widths and fewer layers.
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
)
default_hooks.update(logger=dict(interval=50), checkpoint=dict(interval=500, max_keep_ckpts=2))
