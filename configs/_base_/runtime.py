"""What every run shares: how it starts, logs and saves."""

from mmengine.hooks import CheckpointHook, DistSamplerSeedHook, IterTimerHook, LoggerHook, ParamSchedulerHook
from mmengine.hooks import RuntimeInfoHook
from mmengine.visualization import LocalVisBackend, TensorboardVisBackend, Visualizer

default_scope = None
launcher = "none"
env_cfg = dict(
    cudnn_benchmark=True,
    mp_cfg=dict(opencv_num_threads=1),
    dist_cfg=dict(backend="nccl", timeout=600),  # s that a process may keep the others waiting; then the run ends
)
randomness = dict(seed=0)
log_processor = dict(
    by_epoch=False,
    window_size=20,
    log_with_hierarchy=True,  # train/loss is not val/loss
    mean_pattern=r"^(?!val/).*(loss|time|grad_norm)",  # means over the window; a validation is logged as it is
)
log_level = "INFO"
compile = False  # True or torch.compile's arguments; the first steps then take minutes
sync_bn = None  # "torch": batch norm over the pairs of all processes, on GPUs; the published runs had it per GPU
resume = False
load_from = None

default_hooks = dict(
    runtime_info=dict(type=RuntimeInfoHook),
    timer=dict(type=IterTimerHook),
    logger=dict(type=LoggerHook, interval=50, log_metric_by_epoch=False),
    param_scheduler=dict(type=ParamSchedulerHook),
    checkpoint=dict(type=CheckpointHook, by_epoch=False, interval=1000, max_keep_ckpts=3, save_last=True),
    sampler_seed=dict(type=DistSamplerSeedHook),
)
visualizer = dict(type=Visualizer, vis_backends=[dict(type=LocalVisBackend), dict(type=TensorboardVisBackend)])
