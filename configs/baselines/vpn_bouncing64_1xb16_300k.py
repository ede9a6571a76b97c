"""Video pixel network at the published size on gray Moving MNIST: 20 frames of 64 x 64 px, 10 given. Not run here.

Run:     python tools/train.py THIS_FILE --data FOLDER_WITH_THE_DIGITS
Source:  Kalchbrenner et al., ICML 2017: 8 and 12 blocks of 128 channels, memory of 256, RMSprop at 3e-4. Batch and
         length are ours; clips are generated during training (`BouncingDigits`), and are not the published test set.
         A step of 16 clips is accumulated from 8 batches of 2, whose activations take about 30 GB, as calculated.
"""

from mmengine.config import read_base
from torch.optim import RMSprop

with read_base():
    from .._base_.datasets.bouncing_digits import *
    from .._base_.models.vpn import *
    from .._base_.runtime import *
    from .._base_.schedules.adam_100k import *
    from .._base_.validation.baselines import *

model.update(given=10, channels=128, encoder_dilations=(1,) * 8, decoder_blocks=12, memory=256)
train_dataloader.update(batch_size=2)
val_dataloader.update(batch_size=8, dataset=dict(num_sequences=1000))
optim_wrapper.update(optimizer=dict(type=RMSprop, lr=3e-4))
train_cfg.update(max_iters=300_000, val_interval=10_000, accumulate_batches=8)
default_hooks.update(logger=dict(interval=100), checkpoint=dict(interval=5000, max_keep_ckpts=3))
