"""Video pixel network at the published size on grey Moving MNIST: 20 frames of 64 x 64 px, 10 given. Not run here.

Run:     python tools/train.py THIS_FILE --data FOLDER_WITH_THE_DIGITS
Source:  Kalchbrenner et al., ICML 2017: 8 and 12 blocks of 128 channels, memory of 256, RMSprop at 3e-4. Batch and
         length are ours; films are made as they are needed (`BouncingDigits`), and are not the published test set.
         A step of 16 films is gathered from 8 parts of 2, whose layers keep some 30 GB, by counting.
"""

from mmengine.config import read_base
from torch.optim import RMSprop

with read_base():
    from .vpn_bouncing16_1xb16_1k import *

model.update(given=10, channels=128, encoder_dilations=(1,) * 8, decoder_blocks=12, memory=256)
films = dict(num_frames=20, canvas_hw=(64, 64), speed_px=3.6, shrink=1, binarise=False)
train_dataloader.update(batch_size=2, dataset=dict(films))
val_dataloader.update(batch_size=8, dataset=dict(films, num_films=1000))
optim_wrapper = dict(
    type=PreciseOptimWrapper, precision="float32", optimizer=dict(type=RMSprop, lr=3e-4), clip_grad=None
)
train_cfg.update(max_iters=300_000, val_interval=10_000, accumulate_batches=8)
default_hooks.update(logger=dict(interval=100), checkpoint=dict(interval=5000, max_keep_ckpts=3))
