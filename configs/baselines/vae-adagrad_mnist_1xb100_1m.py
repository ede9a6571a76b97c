"""Variational autoencoder on binarised MNIST as published: Adagrad, a narrow start, weight decay; 10^8 digits.

Not run to its end here.

Run:     python tools/train.py THIS_FILE --data FOLDER_WITH_THE_DIGITS
         the first 6,000 steps, a minute on two CPU cores: --cfg-options train_cfg.max_iters=6000
Source:  Kingma and Welling, ICLR 2014: 500 hidden units, batches of 100, a rate out of 0.01, 0.02 and 0.1, and weights
         from a prior N(0, 1): a decay of one over the number of digits for a loss that is their mean. The digits drawn
         anew each epoch, and 20 numbers out of the paper's 3 to 200, are ours.
"""

from mmengine.config import read_base
from torch.optim import Adagrad

with read_base():
    from .vae_mnist_1xb100_6k import *

model.update(init_std=0.01)
optim_wrapper.update(optimizer=dict(type=Adagrad, lr=0.02, weight_decay=1 / 60_000))
train_cfg.update(max_iters=1_000_000, val_interval=50_000)
