"""Variational autoencoder on binarized MNIST as published: Adagrad, small initial weights, weight decay; 10^8 digits.

Not run to its end here.

Run:     python tools/train.py THIS_FILE --data FOLDER_WITH_THE_DIGITS
         the first 6,000 steps, a minute on two CPU cores: --cfg-options train_cfg.max_iters=6000
Source:  Kingma and Welling, ICLR 2014: 500 hidden units, batches of 100, a learning rate from 0.01, 0.02 and 0.1, and a
         prior N(0, 1) on the weights: a decay of one over the number of digits for a loss that is a mean over digits.
         Binarizing the digits again in each epoch, and a latent size of 20 from the paper's 3 to 200, are ours.
"""

from mmengine.config import read_base
from torch.optim import Adagrad

with read_base():
    from .._base_.datasets.digits import *
    from .._base_.models.vae import *
    from .._base_.runtime import *
    from .._base_.schedules.adam_100k import *
    from .._base_.validation.baselines import *

model.update(init_std=0.01)
optim_wrapper.update(optimizer=dict(type=Adagrad, lr=0.02, weight_decay=1 / 60_000))
train_cfg.update(max_iters=1_000_000, val_interval=50_000)
default_hooks.update(logger=dict(interval=500), checkpoint=dict(interval=2000, max_keep_ckpts=2))
