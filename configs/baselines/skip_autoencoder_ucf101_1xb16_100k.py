"""Skip autoencoder on UCF-101, 32 to 512 channels, four frames of 160 px to the next, every fifth frame. Not run here.

Run:     python tools/train.py THIS_FILE --data UCF-101
Expect:  not measured
Source:  a project on UCF-101 after Mathieu, Couprie and LeCun, ICLR 2016, on frames of 160 x 240: here squares are cut
         out of them. Optimizer and length are not public.
"""

from mmengine.config import read_base

from cmp.baselines.skip_autoencoder import SkipAutoencoder

with read_base():
    from .._base_.baseline import *
    from .._base_.datasets.clips import *
    from .._base_.schedules.adam_100k import *

model = dict(type=SkipAutoencoder, given=4, trained=1, widths=(32, 64, 128, 256, 512))
train_dataloader.update(num_workers=4, dataset=dict(num_frames=5, short_side_px=160, size_px=160, val_share=0.1))
val_dataloader.update(num_workers=2, dataset=dict(short_side_px=160, size_px=160, val_share=0.1, max_clips=2000))
default_hooks.update(logger=dict(interval=100), checkpoint=dict(interval=5000, max_keep_ckpts=2))
