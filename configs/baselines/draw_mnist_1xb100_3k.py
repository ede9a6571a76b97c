"""DRAW with attention on binarised MNIST, small: 10 strokes of 10 numbers, LSTMs of 128; minutes on two CPU cores.

Run:     python tools/train.py THIS_FILE --data FOLDER_WITH_THE_DIGITS
Source:  Gregor et al., ICML 2015. Fewer strokes, so wider windows (5 x 5 to read, too), smaller LSTMs, fewer steps and
         their rate are ours; `draw_mnist_1xb100_60k.py` has the published sizes.
"""

from mmengine.config import read_base
from torch.optim import Adam

from cmp.baselines.draw import DRAW
from cmp.engine.loops import PairTrainLoop
from cmp.engine.step import PreciseOptimWrapper

with read_base():
    from .._base_.baseline import *
    from .._base_.datasets.digits import *

model = dict(type=DRAW, image_shape=(1, 28, 28), strokes=10, hidden=128, latent=10, read_size=5, write_size=5)
optim_wrapper = dict(
    type=PreciseOptimWrapper,
    precision="float32",
    optimizer=dict(type=Adam, lr=2e-3),
    clip_grad=dict(max_norm=10.0),
)
param_scheduler = []
train_cfg = dict(
    type=PairTrainLoop,
    max_iters=3000,
    val_interval=1000,
    channels_last=False,
    accumulate_batches=1,
    max_skips_in_row=10,
)
default_hooks.update(logger=dict(interval=50), checkpoint=dict(interval=1000, max_keep_ckpts=2))
