"""COCO 2017, Mask R-CNN with FPN on ResNet-50, 1x: the paper's third protocol. 90k steps on 8 GPUs x 2 images.

Run:     torchrun --nproc-per-node 8 tools/evaluate.py detection THIS_FILE BACKBONE COCO_DIR
Expect:  not measured here; the paper reports 32.3 box / 29.8 mask AP for CMP on 1.26 M pairs, 19.7 / 18.8 for a
         random start
Source:  Zhan et al. 2019 state Mask R-CNN with FPN on COCO 2017 and AP. Ours, because the paper's are not known: the
         1x schedule as detectron2 and torchvision have it (0.02, drops after 60k and 80k steps, warm-up over 1000),
         nothing frozen, batch norms in training over all processes, torchvision's heads.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.runtime import *
    from ._base_.detection import *

default_hooks.update(checkpoint=dict(interval=5000, max_keep_ckpts=2))
