"""Skip autoencoder on UCF-101, 32 to 512 channels, 160 x 240 px, four frames to the next. Not run here.

Run:     python tools/train.py THIS_FILE --data UCF-101
Expect:  not measured
Source:  a project on UCF-101 after Mathieu, Couprie and LeCun, ICLR 2016, every fifth frame. It does not state how it
         made frames of 160 x 240 px from 240 x 320: here they are cropped from 180 x 240. Optimizer and length are not
         public.
"""

from mmengine.config import read_base

from cmp.baselines.skip_autoencoder import SkipAutoencoder

with read_base():
    from .._base_.datasets.clips import *
    from .._base_.runtime import *
    from .._base_.schedules.adam_100k import *
    from .._base_.validation.baselines import *

model = dict(type=SkipAutoencoder, given=4, trained=1, widths=(32, 64, 128, 256, 512))
FRAMES = dict(short_side_px=180, size_px=(160, 240), val_share=0.1)
train_dataloader.update(num_workers=4, dataset=dict(FRAMES, num_frames=5))
val_dataloader.update(num_workers=2, dataset=dict(FRAMES, max_clips=2000))
default_hooks.update(logger=dict(interval=100), checkpoint=dict(interval=5000, max_keep_ckpts=2))
