"""What each part of CMP does to propagation: kernel K and stride G of the points, loss, propagation nets, bins.

Run:     python tools/ablate.py THIS_FILE OUT --data pairs=STORE
Expect:  docs/results.md
Source:  the questions are those of Zhan et al., CVPR 2019. Fewer steps than the evidence. All arms are evaluated on
         the same pairs and points, those of the recipe.
"""

data = dict(pairs="data/pairs")
seeds = [0, 1, 2]

RECIPE = "configs/pretrain/cmp_r18_evidence_1xb16_800.py"
SHORT = {
    "train_cfg.max_iters": 200,
    "train_cfg.val_interval": 200,
    "param_scheduler.0.end": 20,
    "param_scheduler.1.begin": 20,
    "param_scheduler.1.T_max": 180,
    "param_scheduler.1.end": 200,
    "val_dataloader.dataset.max_pairs": 16,  # evaluated below
    "model.guide_reach_px": None,  # what the networks themselves say
}
KERNEL, STRIDE = "train_dataloader.dataset.nms_kernel", "train_dataloader.dataset.grid_stride_px"
REGRESSION = {
    "model.quantizer": dict(type="cmp.models.DirectFlow"),
    "model.loss": dict(type="cmp.models.RegressionLoss", kind="smooth_l1", ignore_invalid=True),
}

arms = [
    dict(name=name, config=RECIPE, options={**SHORT, **options})
    for name, options in [
        ("CMP: K 15, G 64, nets 1 2 4, quadratic bins, attention", {}),
        ("the same, predictions obey their points", {"model.guide_reach_px": 12.0}),
        ("points spread by nearness alone", {"model.motion_encoder.fill": "nearest"}),
        ("K 31", {KERNEL: 31}),
        ("K 9", {KERNEL: 9}),
        ("G 128", {STRIDE: 128}),
        ("nets 1", {"model.decoder.strides": [1]}),
        ("nets 1 2", {"model.decoder.strides": [1, 2]}),
        ("linear bins", {"model.quantizer.spacing": "linear"}),
        ("regression", REGRESSION),
    ]
]
evaluations = [dict(name="propagation", task="propagation", data="pairs", config=RECIPE)]
