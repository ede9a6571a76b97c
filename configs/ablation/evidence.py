"""Does pretraining work? Random initialisation, flow from the image alone (Walker et al.), and CMP, over three seeds.

Run:     python tools/ablate.py THIS_FILE OUT --data pairs=STORE camvid=CAMVID cifar10=CIFAR10
Expect:  docs/results.md
Source:  ours, small enough for an hour and a half of two CPU cores; the questions are those of Zhan et al., CVPR 2019.
"""

data = dict(pairs="data/pairs", camvid="data/camvid", cifar10="data/cifar10_subset")
seeds = [0, 1, 2]
encoder = "resnet18"

RECIPE = "configs/pretrain/cmp_r18_evidence_1xb16_800.py"
CAMVID = "configs/downstream/segmentation_camvid_r18_1xb8_200.py"
COMMON = {"model.output_stride": 16, "optim_wrapper.precision": "bfloat16", "train_cfg.channels_last": True}
LONGER = {"param_scheduler.0.end": 400, "train_cfg.max_iters": 400, "train_cfg.val_interval": 400}

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
evaluations = [
    dict(name="propagation", task="propagation", data="pairs", config=RECIPE),
    dict(name="k-NN", task="knn", data="cifar10", options=dict(size=64)),
    dict(name="CamVid frozen", task="segmentation", data="camvid", config=CAMVID, options=COMMON, frozen=True),
    dict(name="CamVid fine-tuned", task="segmentation", data="camvid", config=CAMVID, options=COMMON | LONGER),
]
