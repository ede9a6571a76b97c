"""Variational autoencoder on binarised MNIST: 500 hidden units, 20 numbers, ten epochs; a minute on two CPU cores.

Run:     python tools/train.py THIS_FILE --data FOLDER_WITH_THE_DIGITS
Source:  Kingma and Welling, ICLR 2014, figure 2, which shows curves over 10^5 to 10^8 digits and no numbers. Adam
         instead of Adagrad and its wider start are ours; `vae-adagrad_mnist_1xb100_1m.py` has theirs.
"""

from mmengine.config import read_base
from torch.optim import Adam

from cmp.baselines.vae import VAE
from cmp.engine.loops import PairTrainLoop
from cmp.engine.step import PreciseOptimWrapper

with read_base():
    from .._base_.baseline import *
    from .._base_.datasets.digits import *

model = dict(
    type=VAE,
    image_shape=(1, 28, 28),
    latent=20,
    hidden=500,
    likelihood="bernoulli",
    init_std=0.1,
    importance_draws=50,
)
optim_wrapper = dict(type=PreciseOptimWrapper, precision="float32", optimizer=dict(type=Adam, lr=1e-3))
param_scheduler = []
train_cfg = dict(
    type=PairTrainLoop,
    max_iters=6000,
    val_interval=6000,
    channels_last=False,
    accumulate_batches=1,
    max_skips_in_row=10,
)
default_hooks.update(logger=dict(interval=500), checkpoint=dict(interval=2000, max_keep_ckpts=2))
