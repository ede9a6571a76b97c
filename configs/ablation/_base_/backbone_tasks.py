"""What grids that compare backbones share: the recipe of CMP, seeds, encoder, and three evaluations of a backbone."""

data = dict(pairs="data/pairs", camvid="data/camvid", cifar10="data/cifar10_subset")
seeds = [0, 1, 2]
encoder = "resnet18"

RECIPE = "configs/pretrain/cmp_r18_evidence_1xb16_800.py"
CAMVID = "configs/downstream/segmentation_camvid_r18_1xb8_200.py"
COMMON = {"model.output_stride": 16, "optim_wrapper.precision": "bfloat16", "train_cfg.channels_last": True}
LONGER = {"param_scheduler.0.end": 400, "train_cfg.max_iters": 400, "train_cfg.val_interval": 400}

evaluations = [
    dict(name="k-NN", task="knn", data="cifar10", options=dict(size=64)),
    dict(name="CamVid frozen", task="segmentation", data="camvid", config=CAMVID, options=COMMON, frozen=True),
    dict(name="CamVid fine-tuned", task="segmentation", data="camvid", config=CAMVID, options=COMMON | LONGER),
]
