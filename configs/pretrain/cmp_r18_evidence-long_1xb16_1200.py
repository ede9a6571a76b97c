"""The evidence's recipe for three times as long: what more steps do.

Run:     python tools/train.py THIS_FILE --data STORE
Expect:  docs/results.md
Source:  ours, as cmp_r18_evidence_1xb16_400.py.
"""

from mmengine.config import read_base

with read_base():
    from .cmp_r18_evidence_1xb16_400 import *

param_scheduler = [
    dict(type=LinearLR, start_factor=0.02, by_epoch=False, begin=0, end=100),
    dict(type=CosineAnnealingLR, T_max=1100, eta_min=0.0, by_epoch=False, begin=100, end=1200),
]
train_cfg.update(max_iters=1200, val_interval=600)
