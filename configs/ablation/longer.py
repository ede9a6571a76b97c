"""Does more of the same help? The evidence's recipe for three times as long, beside no network; one seed.

Run:     python tools/ablate.py THIS_FILE OUT --data pairs=STORE camvid=CAMVID cifar10=CIFAR10
Expect:  docs/results.md
Source:  ours.
"""

from mmengine.config import read_base

with read_base():
    from .evidence import *

seeds = [0]
arms = [dict(name="CMP, 1200 steps", config="configs/pretrain/cmp_r18_evidence-long_1xb16_1200.py")]
