"""ConvLSTM sequence to sequence on UCF-101, four frames of 64 px to four, every fifth frame. Not run here.

Run:     python tools/train.py THIS_FILE --data UCF-101
Expect:  not measured
Source:  a project on UCF-101 after Mathieu, Couprie and LeCun, ICLR 2016: batch 16, 64 px, four to four. Its width,
         kernels, optimizer and length are not public.
"""

from mmengine.config import read_base

from cmp.baselines.seq2seq import ConvLSTMSeq2Seq

with read_base():
    from .._base_.datasets.clips import *
    from .._base_.runtime import *
    from .._base_.schedules.adam_100k import *
    from .._base_.validation.baselines import *

model = dict(type=ConvLSTMSeq2Seq, given=4, trained=4, width=64, kernel=5)
FRAMES = dict(short_side_px=64, size_px=64, val_share=0.1)
train_dataloader.update(num_workers=4, dataset=FRAMES)
val_dataloader.update(num_workers=2, dataset=dict(FRAMES, max_clips=2000))
default_hooks.update(logger=dict(interval=100), checkpoint=dict(interval=5000, max_keep_ckpts=2))
