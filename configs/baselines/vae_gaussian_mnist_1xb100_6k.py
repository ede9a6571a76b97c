"""Variational autoencoder with Gaussian pixels on gray MNIST: 200 hidden units, latent size 20; a minute on two cores.

Run:     python tools/train.py THIS_FILE --data FOLDER_WITH_THE_DIGITS
Source:  Kingma and Welling, ICLR 2014: their network for gray faces. Digits instead of faces, noise of one gray level,
         Adam and larger initial weights are ours.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.datasets.digits import *
    from .._base_.models.vae import *
    from .._base_.runtime import *
    from .._base_.schedules.adam_100k import *
    from .._base_.validation.baselines import *

model.update(hidden=200, likelihood="gaussian", gray_levels=256)
train_dataloader.update(dataset=dict(binarize="none"))
val_dataloader.update(dataset=dict(binarize="none"))
train_cfg.update(max_iters=6000, val_interval=6000)
default_hooks.update(logger=dict(interval=500), checkpoint=dict(interval=2000, max_keep_ckpts=2))
