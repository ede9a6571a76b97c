"""What every segmentation run shares. Everything here is ours: the paper states no fine-tuning settings.

"???" is given on the command line: tools/evaluate.py segmentation CONFIG BACKBONE DATA.
"""

from mmengine.dataset import DefaultSampler, default_collate
from mmengine.optim import PolyLR
from torch.optim import SGD

from cmp.datasets import EpochSampler
from cmp.downstream.run import TaskValLoop
from cmp.downstream.segmentation import SegmentationNet
from cmp.downstream.segmentation_data import SegmentationDataset
from cmp.downstream.segmentation_metric import SegmentationMetric
from cmp.engine.hooks import ProgressBar, WeightsOnlyCheckpointHook
from cmp.engine.loops import ResumableTrainLoop
from cmp.engine.step import AutocastOptimWrapper

model = dict(type=SegmentationNet, encoder="resnet50", output_stride=8, hidden_channels=512, backbone="???")
train_dataloader = dict(
    num_workers=4,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type=EpochSampler),
    collate_fn=dict(type=default_collate),
    dataset=dict(type=SegmentationDataset, root="???", scale_range=(0.5, 2.0), crop_hw=(480, 480), flip=0.5),
)
val_dataloader = dict(
    batch_size=1,  # images have different sizes
    num_workers=2,
    sampler=dict(type=DefaultSampler, shuffle=False),
    collate_fn=dict(type=default_collate),
    dataset=dict(type=SegmentationDataset, root="???"),
)
optim_wrapper = dict(
    type=AutocastOptimWrapper,
    precision="float32",
    optimizer=dict(type=SGD, lr=0.01, momentum=0.9, weight_decay=1e-4),
)
param_scheduler = [dict(type=PolyLR, power=0.9, eta_min=0.0, begin=0, end=20000, by_epoch=False)]
train_cfg = dict(type=ResumableTrainLoop, max_iters=20000, val_interval=20000)
val_cfg = dict(type=TaskValLoop, scales=(1.0,), flip=False)
val_evaluator = dict(type=SegmentationMetric)
custom_hooks = [dict(type=WeightsOnlyCheckpointHook), dict(type=ProgressBar)]
# What --frozen changes: a linear head alone is trained.
frozen = {"model.frozen": True, "model.hidden_channels": 0, "optim_wrapper.optimizer.lr": 0.1}
