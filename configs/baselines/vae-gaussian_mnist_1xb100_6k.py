"""Variational autoencoder with Gaussian pixels on grey MNIST: 200 hidden units, 20 numbers; a minute on two CPU cores.

Run:     python tools/train.py THIS_FILE --data FOLDER_WITH_THE_DIGITS
Source:  Kingma and Welling, ICLR 2014: the network they have for grey faces. Digits instead of those, noise of one grey
         level, Adam and its wider start are ours.
"""

from mmengine.config import read_base

with read_base():
    from .vae_mnist_1xb100_6k import *

model.update(hidden=200, likelihood="gaussian", grey_levels=256)
train_dataloader.update(dataset=dict(binarise="none"))
val_dataloader.update(dataset=dict(binarise="none"))
