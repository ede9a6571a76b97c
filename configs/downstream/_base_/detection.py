"""What every detection run shares: the 1x schedule on COCO's folders.

"???" is given on the command line: tools/evaluate.py detection CONFIG BACKBONE DATA. The model's num_classes is the
number of categories in DATA's annotation files.
"""

from mmengine.dataset import DefaultSampler
from mmengine.optim import LinearLR, MultiStepLR
from torch.optim import SGD

from cmp.datasets import EpochSampler
from cmp.downstream.detection import CocoMetric, DetectionNet
from cmp.downstream.detection_data import CocoInstances, as_lists
from cmp.downstream.run import TaskValLoop
from cmp.engine.hooks import ProgressBar, WeightsOnlyCheckpointHook
from cmp.engine.loops import ResumableTrainLoop
from cmp.engine.step import AutocastOptimWrapper

DATA = dict(type=CocoInstances, root="???", images="{part}", annotations="annotations/instances_{part}.json")
model = dict(type=DetectionNet, encoder="resnet50", backbone="???", short_side_px=800, long_side_px=1333)
sync_bn = "torch"  # two images are too few for batch norm
train_dataloader = dict(
    batch_size=2,
    num_workers=4,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type=EpochSampler),
    collate_fn=dict(type=as_lists),
    dataset=dict(DATA, part="train2017", train=True, flip=0.5),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=2,
    sampler=dict(type=DefaultSampler, shuffle=False),
    collate_fn=dict(type=as_lists),
    dataset=dict(DATA, part="val2017"),
)
optim_wrapper = dict(
    type=AutocastOptimWrapper,
    precision="float32",
    optimizer=dict(type=SGD, lr=0.02, momentum=0.9, weight_decay=1e-4),
)
param_scheduler = [
    dict(type=LinearLR, start_factor=0.001, begin=0, end=1000, by_epoch=False),
    dict(type=MultiStepLR, milestones=[60000, 80000], gamma=0.1, by_epoch=False),
]
train_cfg = dict(type=ResumableTrainLoop, max_iters=90000, val_interval=90000)
val_cfg = dict(type=TaskValLoop)
val_evaluator = dict(type=CocoMetric, annotations="???")
custom_hooks = [dict(type=WeightsOnlyCheckpointHook), dict(type=ProgressBar)]
