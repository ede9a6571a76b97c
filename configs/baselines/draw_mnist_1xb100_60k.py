"""DRAW with attention on binarized MNIST, published size: 64 strokes, latent size 100, LSTMs of 256. Not run here.

Run:     python tools/train.py THIS_FILE --data FOLDER_WITH_THE_DIGITS
         without attention: --cfg-options model.read_size=None model.write_size=None
Source:  Gregor et al., ICML 2015; learning rate and 100 epochs as in jbornschein/draw; batch and clipping are ours.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.datasets.digits import *
    from .._base_.models.draw import *
    from .._base_.runtime import *
    from .._base_.schedules.adam_100k import *
    from .._base_.validation.baselines import *

model.update(strokes=64, hidden=256, latent=100, read_size=2, write_size=5)
optim_wrapper.update(optimizer=dict(lr=3e-4), clip_grad=dict(max_norm=10.0))
train_cfg.update(max_iters=60_000, val_interval=6000)
default_hooks.update(logger=dict(interval=100), checkpoint=dict(interval=2000, max_keep_ckpts=3))
