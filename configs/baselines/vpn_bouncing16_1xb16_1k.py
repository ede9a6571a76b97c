"""Video pixel network, small, on binary films of two 7 px digits that bounce in 16 x 16 px: minutes on two CPU cores.

Run:     python tools/train.py THIS_FILE --data FOLDER_WITH_THE_DIGITS
         then: python tools/benchmark/video_pixels.py THIS_FILE CHECKPOINT FOLDER_WITH_THE_DIGITS
Source:  Kalchbrenner et al., ICML 2017; sizes, films and Adam are ours. `vpn_bouncing64_1xb16_300k.py` has the
         published sizes.
"""

from mmengine.config import read_base
from mmengine.dataset import DefaultSampler, default_collate
from torch.optim import Adam

from cmp.baselines.video_pixel_network import VideoPixelNetwork
from cmp.datasets import PairSampler
from cmp.datasets.bouncing_digits import BouncingDigits
from cmp.engine.loops import PairTrainLoop
from cmp.engine.step import PreciseOptimWrapper

with read_base():
    from .._base_.baseline import *

model = dict(
    type=VideoPixelNetwork,
    colours=1,
    levels=2,
    given=4,
    channels=16,
    encoder_dilations=(1, 2, 4),
    decoder_blocks=4,
    memory=32,
    memory_kernel=3,
    sampled=4,
)
films = dict(num_frames=8, canvas_hw=(16, 16), num_digits=2, speed_px=1.5, shrink=4, binarise=True, download=False)
train_dataloader = dict(
    batch_size=16,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type=PairSampler),
    collate_fn=dict(type=default_collate),
    dataset=dict(type=BouncingDigits, paths=["data/mnist"], part="train", num_films=10_000, **films),
)
val_dataloader = dict(
    batch_size=50,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type=DefaultSampler, shuffle=False, round_up=False),
    collate_fn=dict(type=default_collate),
    dataset=dict(type=BouncingDigits, paths=["data/mnist"], part="test", num_films=500, **films),
)
optim_wrapper = dict(
    type=PreciseOptimWrapper,
    precision="float32",
    optimizer=dict(type=Adam, lr=3e-3),
    clip_grad=None,
)
param_scheduler = []
train_cfg = dict(
    type=PairTrainLoop, max_iters=1000, val_interval=500, channels_last=False, accumulate_batches=1, max_skips_in_row=10
)
default_hooks.update(logger=dict(interval=50), checkpoint=dict(interval=250, max_keep_ckpts=2))
