"""CMP for minutes on a CPU: ResNet-18 with a feature pyramid, 128 px crops, 300 steps of 16 pairs in one process.

Run:     bash tools/quickstart.sh [VIDEO_DIR], or python tools/train.py THIS_FILE --data STORE
Expect:  EPE on held-out pairs 0.94 px (2.36 with guidance dropped) on the three sample clips, 1.42 (3.37) on a
         folder of 57 clips; four minutes on two CPU cores that others use too, with torch 2.15
Source:  ours. The published recipe needs days: after 800 steps of 8 pairs it predicts almost no motion and hardly uses
         its guidance points. What is changed so that minutes show learning (docs/results.md tells how it was found):
         points are spread by attention over image features, so that they reach a cell through what looks like it, and
         reach the last layer by a shortcut; predictions obey their points; bins are finer near zero; a ResNet-18 with a
         pyramid (stride 4) for a dilated ResNet-50 (stride 8); AdamW with warm-up and cosine and a separate rate for
         the encoder; more points per area; frames of short side 160, crops of several scales, flips, colors, reversed
         motion, every clip drawn equally often.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.datasets.pairs_small import *
    from .._base_.models.cmp_r18 import *
    from .._base_.runtime import *
    from .._base_.schedules.adamw_300 import *
    from .._base_.validation.propagation import *

default_hooks.update(logger=dict(interval=20), checkpoint=dict(interval=100, max_keep_ckpts=2))
