"""Does pretraining work? Random initialisation, flow from the image alone (Walker et al.), and CMP, over three seeds.

Run:     python tools/ablate.py THIS_FILE OUT --data pairs=STORE camvid=CAMVID cifar10=CIFAR10
Expect:  docs/results.md
Source:  ours, small enough for an hour and a half of one CPU core; the questions are those of Zhan et al., CVPR 2019.
"""

data = dict(pairs="data/pairs", camvid="data/camvid", cifar10="data/cifar10_subset")
seeds = [0, 1, 2]
encoder = "resnet18"

RECIPE = "configs/pretrain/cmp_r18_evidence_1xb16_400.py"
CAMVID = "configs/downstream/segmentation_camvid_r18_1xb8_200.py"
COMMON = {"model.output_stride": 16, "optim_wrapper.precision": "bfloat16", "train_cfg.channels_last": True}

arms = [
    # Where there is time, leave pretraining_seed out: then every seed pretrains anew.
    dict(name="CMP", config=RECIPE, pretraining_seed=0),
    dict(
        name="no guidance",
        config=RECIPE,
        pretraining_seed=0,
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
    dict(name="CamVid fine-tuned", task="segmentation", data="camvid", config=CAMVID, options=COMMON),
]
