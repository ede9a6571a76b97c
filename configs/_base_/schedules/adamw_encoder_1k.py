"""AdamW as in adamw_1k, with the image encoder's rate that CMP was found to need (docs/results.md)."""

from mmengine.config import read_base

with read_base():
    from .adamw_1k import *

optim_wrapper.update(paramwise_cfg=dict(custom_keys=dict(image_encoder=dict(lr_mult=0.5))))  # 5e-4
