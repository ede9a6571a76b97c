"""Variational autoencoder on binarized MNIST: 500 hidden units, latent size 20, ten epochs; a minute on two CPU cores.

Run:     python tools/train.py THIS_FILE --data FOLDER_WITH_THE_DIGITS
Source:  Kingma and Welling, ICLR 2014, figure 2, which shows curves over 10^5 to 10^8 digits and no numbers. Adam
         instead of Adagrad and larger initial weights are ours; `vae_adagrad_mnist_1xb100_1m.py` has theirs.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.datasets.digits import *
    from .._base_.models.vae import *
    from .._base_.runtime import *
    from .._base_.schedules.adam_100k import *
    from .._base_.validation.baselines import *

train_cfg.update(max_iters=6000, val_interval=6000)
default_hooks.update(logger=dict(interval=500), checkpoint=dict(interval=2000, max_keep_ckpts=2))
