"""Which pretraining task gives the best encoder: CMP and six other systems, the same ResNet-18, the same videos.

Run:     python tools/ablate.py THIS_FILE OUT --data pairs=STORE videos=VIDEOS camvid=CAMVID cifar10=CIFAR10
Expect:  docs/baselines.md
Source:  ours. All arms take 400 steps of 16 samples. CMP has crops of 128 px and the recipe that was tuned for it; the
         others have frames of 96 px (128 in the variational autoencoder) and one recipe, which was not tuned and has
         CMP's learning rate for the encoder.
"""

from mmengine.config import read_base

with read_base():
    from ._base_.backbone_tasks import *

data.update(videos="data/videos")
LENGTH = {
    "train_cfg.max_iters": 400,
    "train_cfg.val_interval": 400,
    "param_scheduler.0.end": 40,
    "param_scheduler.1.begin": 40,
    "param_scheduler.1.end": 400,
    "param_scheduler.1.T_max": 360,
}

arms = [
    dict(name="random"),
    dict(name="CMP", config=RECIPE, guided=None, options=LENGTH),
    *(
        dict(name=name, config=f"configs/baselines/{config}.py", data="videos", guided=None, options=LENGTH)
        for name, config in (
            ("local motion", "local_motion_r18_clips_1xb16_1k"),
            ("video autoencoder", "video_autoencoder_r18_clips_1xb16_1k"),
            ("frame prediction", "skip_autoencoder_r18_clips_1xb16_1k"),
            ("recurrent prediction", "seq2seq_r18_clips_1xb16_1k"),
            ("visual dynamics", "visual_dynamics_r18_clips_1xb16_1k"),
            ("variational autoencoder", "vae_r18_clips_1xb16_1k"),
        )
    ),
]
