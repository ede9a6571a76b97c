"""Local motion of MNIST digits, supervised, from two frames; narrow and short: minutes on a CPU core.

Run:     python tools/train.py THIS_FILE --data FOLDER_WITH_THE_DIGITS
Source:  as local-motion_mnist-r3_1xb64_10k.py; size, steps and learning rate are ours.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.local_motion_mnist import *

model.update(width=16, supervised=True, two_sided=False, disappear="none")
train_dataloader.update(batch_size=16)
optim_wrapper.update(optimizer=dict(lr=2e-3))
train_cfg.update(max_iters=2000, val_interval=1000)
