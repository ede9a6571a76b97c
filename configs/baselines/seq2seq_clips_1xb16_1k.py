"""ConvLSTM sequence to sequence on clips of 64 px, four frames to four, 1,000 steps; minutes on two CPU cores.

Run:     python tools/train.py THIS_FILE --data VIDEOS
Source:  a project on UCF-101 after Mathieu, Couprie and LeCun, ICLR 2016; the small width is ours.
"""

from mmengine.config import read_base

from cmp.baselines.seq2seq import ConvLSTMSeq2Seq

with read_base():
    from .._base_.datasets.clips import *
    from .._base_.runtime import *
    from .._base_.schedules.adamw_1k import *
    from .._base_.validation.baselines import *

model = dict(type=ConvLSTMSeq2Seq, given=4, trained=4, width=24, kernel=5)
default_hooks.update(logger=dict(interval=50), checkpoint=dict(interval=500, max_keep_ckpts=2))
