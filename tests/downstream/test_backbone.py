import pytest
import torch

from cmp.downstream.backbone import load_encoder
from cmp.models import BareEncoder, ResNet

IMAGE = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(1))
PUBLISHED = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


@pytest.fixture
def file(tmp_path):
    """An image encoder alone with an unusual mean and no std."""
    torch.manual_seed(0)
    encoder = ResNet(18)
    weights = {f"image_encoder.{key}": value for key, value in encoder.state_dict().items()}
    torch.save(dict(state_dict=weights, meta=dict(mean=[1, 2, 3])), tmp_path / "a.pth")
    return tmp_path / "a.pth"


def test_a_file_gives_its_weights_at_the_stride_asked_for_and_its_mean_or_the_published_one(file):
    encoder, mean, std = load_encoder(str(file), "resnet18", 8)
    assert encoder.training and (mean, std) == ((1, 2, 3), PUBLISHED[1])
    whole = ResNet(18, output_stride=8).eval()
    content = torch.load(file, weights_only=True)["state_dict"]
    whole.load_state_dict({key.removeprefix("image_encoder."): value for key, value in content.items()})
    with torch.no_grad():
        assert torch.equal(encoder.eval()(IMAGE)[-1], whole(IMAGE).stage4)
    assert load_encoder(str(file))[0].name == "resnet18"


def test_random_draws_the_encoder_that_was_named(file):
    torch.manual_seed(3)
    encoder, mean, std = load_encoder("random", "resnet18", 16)
    torch.manual_seed(3)
    expected = BareEncoder("resnet18", 16).state_dict()
    assert (mean, std) == PUBLISHED
    assert all(torch.equal(value, expected[key]) for key, value in encoder.state_dict().items())
    with pytest.raises(ValueError, match="needs a name"):
        load_encoder("random")


def test_the_head_of_a_task_is_drawn_alike_whatever_the_weights_of_its_encoder(file):
    after = []
    for backbone in ("random", str(file)):
        torch.manual_seed(5)
        load_encoder(backbone, "resnet18", 8)
        after.append(torch.rand(4))
    assert torch.equal(*after)


def test_other_encoders_and_missing_files_are_refused(file, tmp_path):
    with pytest.raises(ValueError, match="a.pth contains a resnet18, but the encoder asked for is a resnet50"):
        load_encoder(str(file), "resnet50", 32)
    with pytest.raises(FileNotFoundError):
        load_encoder(str(tmp_path / "nothing.pth"), "resnet18", 32)
    with pytest.raises(ValueError, match="got 'vgg'"):
        load_encoder("random", "vgg")
