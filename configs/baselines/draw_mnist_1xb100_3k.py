"""DRAW with attention on binarized MNIST, small: 10 strokes, latent size 10, LSTMs of 128; minutes on two CPU cores.

Run:     python tools/train.py THIS_FILE --data FOLDER_WITH_THE_DIGITS
Source:  Gregor et al., ICML 2015. Fewer strokes, therefore wider windows (5 x 5 for reading, too), smaller LSTMs, fewer
         steps and the learning rate are ours; `draw_mnist_1xb100_60k.py` has the published sizes.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.datasets.digits import *
    from .._base_.models.draw import *
    from .._base_.runtime import *
    from .._base_.schedules.adam_100k import *
    from .._base_.validation.baselines import *

optim_wrapper.update(optimizer=dict(lr=2e-3), clip_grad=dict(max_norm=10.0))
train_cfg.update(max_iters=3000, val_interval=1000)
default_hooks.update(logger=dict(interval=50), checkpoint=dict(interval=1000, max_keep_ckpts=2))
