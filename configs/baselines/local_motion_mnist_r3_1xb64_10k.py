"""Local motion of MNIST digits, learned without labels by rebuilding a frame from the four around it; published size.

Run:     python tools/train.py THIS_FILE --data FOLDER_WITH_THE_DIGITS
Expect:  not run by us. Published: 94 % of all pixels (92 % at a learning rate of 0.01)
Source:  experiment exp012-1 of yangyi02/video_motion_mnist; differs in: batch norm averages over both sides.
         Options for the other settings (--cfg-options):
         disappear as a class (published: 97 %):  model.disappear=class
         from three frames, one side:             model.two_sided=False
         supervised by four (published: 99 %):    model.supervised=True model.disappear=none
         supervised by two (published: 98 %):     model.supervised=True model.disappear=none model.two_sided=False
         another range, here 5 px:                model.max_shift=5 train_dataloader.dataset.max_shift_px=5
                                                  val_dataloader.dataset.max_shift_px=5
"""

from mmengine.config import read_base

with read_base():
    from .._base_.datasets.moving_digits import *
    from .._base_.models.local_motion import *
    from .._base_.runtime import *
    from .._base_.schedules.adam_100k import *
    from .._base_.validation.baselines import *

train_cfg.update(max_iters=10_000, val_interval=2000)
default_hooks.update(logger=dict(interval=100), checkpoint=dict(interval=1000, max_keep_ckpts=2))
