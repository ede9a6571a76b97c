"""Video pixel network, small, on binary clips of two 7 px digits that bounce in 16 x 16 px: minutes on two CPU cores.

Run:     python tools/train.py THIS_FILE --data FOLDER_WITH_THE_DIGITS
         then: python tools/benchmark/video_pixels.py THIS_FILE CHECKPOINT FOLDER_WITH_THE_DIGITS
Source:  Kalchbrenner et al., ICML 2017; sizes, clips and Adam are ours. `vpn_bouncing64_1xb16_300k.py` has the
         published sizes.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.datasets.bouncing_digits import *
    from .._base_.models.vpn import *
    from .._base_.runtime import *
    from .._base_.schedules.adam_100k import *
    from .._base_.validation.baselines import *

SMALL = dict(num_frames=8, canvas_hw=(16, 16), speed_px=1.5, shrink=4, binarize=True)
train_dataloader.update(dataset=SMALL)
val_dataloader.update(batch_size=50, dataset=SMALL)
optim_wrapper.update(optimizer=dict(lr=3e-3))
train_cfg.update(max_iters=1000, val_interval=500)
default_hooks.update(logger=dict(interval=50), checkpoint=dict(interval=250, max_keep_ckpts=2))
