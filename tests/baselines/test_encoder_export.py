"""A ResNet that was trained inside a frame predictor or Visual Dynamics is taken out as CMP's is."""

import json

import pytest
import torch

from cmp.baselines.seq2seq import ConvLSTMSeq2Seq
from cmp.baselines.skip_autoencoder import SkipAutoencoder
from cmp.baselines.visual_dynamics import VisualDynamics
from cmp.export.backbone import read_backbone
from cmp.models import PyramidResNet
from cmp.models.cmp import PUBLISHED_MEAN, PUBLISHED_STD

ENCODER = dict(type=PyramidResNet, depth=18, top_stride=4, out_channels=8)
SYSTEMS = [
    lambda: SkipAutoencoder(given=2, widths=(4, 4), image_encoder=ENCODER),
    lambda: ConvLSTMSeq2Seq(given=2, trained=1, width=4, kernel=3, image_encoder=ENCODER),
    lambda: VisualDynamics(
        latent=2, kernel_width=2, motion_widths=(4,), motion_pools=(4,), stored=2, image_encoder=ENCODER
    ),
]


@pytest.mark.parametrize("build", SYSTEMS)
def test_the_encoder_is_taken_out_of_a_checkpoint_with_what_its_input_is(build, tmp_path):
    model = build()
    meta = json.loads(json.dumps(model.describe()))  # plain values only
    torch.save({"state_dict": model.state_dict(), "meta": {"cmp": meta, "iter": 7}}, tmp_path / "iter_7.pth")
    backbone = read_backbone(tmp_path / "iter_7.pth")
    assert backbone.name == "resnet18" and backbone.metadata["pretrained_with"] == meta["system"]
    assert json.loads(backbone.metadata["mean"]) == list(PUBLISHED_MEAN)
    assert json.loads(backbone.metadata["std"]) == list(PUBLISHED_STD)
    own = model.image_encoder.state_dict()
    assert all(torch.equal(value, own[key]) for key, value in backbone.weights.items())


@pytest.mark.parametrize("build", SYSTEMS)
def test_the_encoder_sees_frames_as_they_are_normalized_for_export(build):
    model = build().eval()
    seen = []
    model.image_encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    frames = torch.randint(0, 256, (2, 3, 3, 32, 32), dtype=torch.uint8)
    model.loss(frames)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (PUBLISHED_MEAN, PUBLISHED_STD))
    expected = (frames[:, : seen[0].shape[0] // 2].flatten(0, 1) - mean) / std
    torch.testing.assert_close(seen[0], expected, atol=1e-4, rtol=0)
