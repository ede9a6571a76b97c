"""Which pretext is worth most: CMP beside five other systems that pretrain the same ResNet-18 on the same videos.

Run:     python tools/ablate.py THIS_FILE OUT --data pairs=STORE videos=VIDEOS camvid=CAMVID cifar10=CIFAR10
Expect:  docs/baselines.md
Source:  ours. All arms take 400 steps of 16 samples. CMP has crops of 128 px and the recipe that was found for it; the
         others have frames of 96 px (128 in the variational autoencoder) and one recipe, which was tuned for none but
         has CMP's rate for the encoder.
"""

data = dict(pairs="data/pairs", videos="data/videos", camvid="data/camvid", cifar10="data/cifar10_subset")
seeds = [0, 1, 2]
encoder = "resnet18"

CAMVID = "configs/downstream/segmentation_camvid_r18_1xb8_200.py"
COMMON = {"model.output_stride": 16, "optim_wrapper.precision": "bfloat16", "train_cfg.channels_last": True}
LONGER = {"param_scheduler.0.end": 400, "train_cfg.max_iters": 400, "train_cfg.val_interval": 400}
LENGTH = {
    "train_cfg.max_iters": 400,
    "train_cfg.val_interval": 400,
    "param_scheduler.0.end": 40,
    "param_scheduler.1.begin": 40,
    "param_scheduler.1.end": 400,
    "param_scheduler.1.T_max": 360,
}


def system(name: str, config: str) -> dict:
    return dict(name=name, config=f"configs/baselines/{config}.py", data="videos", guided=None, options=LENGTH)


arms = [
    dict(name="random"),
    dict(name="CMP", config="configs/pretrain/cmp_r18_evidence_1xb16_800.py", guided=None, options=LENGTH),
    system("local motion", "local-motion_r18_clips_1xb16_1k"),
    system("video autoencoder", "video-autoencoder_r18_clips_1xb16_1k"),
    system("frame prediction", "skip_autoencoder_r18_clips_1xb16_1k"),
    system("visual dynamics", "visual_dynamics_r18_clips_1xb16_1k"),
    system("variational autoencoder", "vae_r18_clips_1xb16_1k"),
]
evaluations = [  # as in evidence.py
    dict(name="k-NN", task="knn", data="cifar10", options=dict(size=64)),
    dict(name="CamVid frozen", task="segmentation", data="camvid", config=CAMVID, options=COMMON, frozen=True),
    dict(name="CamVid fine-tuned", task="segmentation", data="camvid", config=CAMVID, options=COMMON | LONGER),
]
