import pytest
import torch

from cmp.baselines.image_encoder import build_image_encoder, describe_image_encoder, normalize_frames
from cmp.baselines.local_motion import LocalMotion
from cmp.baselines.video_autoencoder import VideoAutoencoder
from cmp.export.backbone import read_backbone
from cmp.models import CMP, PyramidResNet

WANTED = dict(depth=18, top_stride=8, out_channels=5)


@pytest.mark.parametrize("kind", [PyramidResNet, "PyramidResNet", "cmp.models.backbones.resnet.PyramidResNet"])
def test_an_encoder_is_built_and_described_by_its_class_or_name(kind):
    encoder = build_image_encoder(dict(type=kind, **WANTED))
    assert type(encoder) is PyramidResNet and encoder.strides["top"] == 8 and encoder.channels["top"] == 5
    described = describe_image_encoder(dict(type=kind, **WANTED))
    assert described["image_encoder"] == dict(type="PyramidResNet", **WANTED)
    assert type(build_image_encoder(described["image_encoder"])) is PyramidResNet


def test_frames_are_normalized_as_described():
    frames = torch.randint(0, 256, (2, 3, 4, 5), dtype=torch.uint8)
    described = describe_image_encoder(dict(type=PyramidResNet))
    for channel, (mean, std) in enumerate(zip(described["mean"], described["std"])):
        expected = (frames[:, channel].double() - mean) / std
        torch.testing.assert_close(normalize_frames(frames)[:, channel].double(), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(normalize_frames(frames.float()), normalize_frames(frames))


@pytest.mark.parametrize("kind", [CMP, "Linear", None])
def test_what_is_no_image_encoder_is_refused(kind):
    with pytest.raises(ValueError, match="image_encoder needs a 'type' of .*'PyramidResNet'"):
        build_image_encoder(dict(type=kind))


@pytest.mark.parametrize("system", [LocalMotion, VideoAutoencoder])
def test_the_encoder_is_taken_out_of_a_baselines_checkpoint(system, tmp_path):
    model = system(image_channels=3, image_encoder=dict(type=PyramidResNet, **WANTED))
    meta = dict(iter=7, cmp=model.describe())
    torch.save(dict(state_dict=model.state_dict(), meta=meta), tmp_path / "model.pth")
    backbone = read_backbone(tmp_path / "model.pth")
    own = model.image_encoder.state_dict()
    assert backbone.name == "resnet18" and len(backbone.weights) > 100
    assert all(torch.equal(value, own[key]) for key, value in backbone.weights.items())
    assert backbone.metadata["pretrained_with"] == model.describe()["system"]
    assert backbone.metadata["mean"] == "[123.675, 116.28, 103.53]" and backbone.metadata["pretraining_stride"] == "32"
