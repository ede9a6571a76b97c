"""Does pretraining work? Random initialization, flow from the image alone (Walker et al.), and CMP, over three seeds.

Run:     python tools/ablate.py THIS_FILE OUT --data pairs=STORE camvid=CAMVID cifar10=CIFAR10
Expect:  docs/results.md
Source:  ours, small enough for an hour and a half of two CPU cores; the questions are those of Zhan et al., CVPR 2019.
"""

from mmengine.config import read_base

with read_base():
    from ._base_.backbone_tasks import *

arms = [
    dict(name="CMP", config=RECIPE),
    dict(
        name="no guidance",
        config=RECIPE,
        guided=False,
        # The image alone cannot know whether the clip runs backwards.
        options={"train_dataloader.dataset.max_points": 0, "train_dataloader.dataset.transforms.4.probability": 0.0},
    ),
    dict(name="random"),
]
evaluations.insert(0, dict(name="propagation", task="propagation", data="pairs", config=RECIPE))
