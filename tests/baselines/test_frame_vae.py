from math import pi

import pytest
import torch
import torch.nn.functional as F

from cmp.baselines.drawing.grid import image_grid
from cmp.baselines.frame_vae import FrameVAE
from cmp.baselines.gaussian_kl import gaussian_kl
from cmp.export.backbone import read_backbone
from cmp.models.backbones import ImageFeatures

ENCODER = dict(type="PyramidResNet", depth=18, top_stride=4, out_channels=8)


def small(size_px=32):
    torch.manual_seed(0)
    return FrameVAE(ENCODER, size_px=size_px, latent=4, width=32)


def clips(batch=3, side=32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (batch, 2, 3, side, side), dtype=torch.uint8, generator=generator)


def test_the_reconstruction_term_is_minus_the_log_density_of_the_first_frames_colors():
    model, frames = small().eval(), clips()
    torch.manual_seed(5)
    terms = model.bound_terms(frames)
    torch.manual_seed(5)
    mean, log_variance = model.encode(frames[:, 0])
    decoded = model.decode(mean + (0.5 * log_variance).exp() * torch.randn(3, 4))
    density = torch.distributions.Normal(decoded, (0.5 * model.log_variance).exp()).log_prob(frames[:, 0] / 255)
    torch.testing.assert_close(terms["reconstruction"], -density.flatten(1).sum(1))
    torch.testing.assert_close(terms["kl"], gaussian_kl(mean, log_variance))
    torch.manual_seed(5)
    measures = model(mode="predict", frames=frames, video=None)
    torch.testing.assert_close(measures["elbo"], density.flatten(1).sum(1) - terms["kl"])
    torch.manual_seed(5)
    losses = model(mode="loss", frames=frames, video=None)
    torch.testing.assert_close(losses["loss"], -measures["elbo"].mean())
    torch.testing.assert_close(losses["kl"], terms["kl"].mean())
    for psnr, decoded_frame, frame in zip(measures["psnr"], decoded, frames[:, 0]):
        assert psnr.item() == pytest.approx(-10 * ((decoded_frame - frame / 255) ** 2).mean().log10().item(), rel=1e-4)


def test_with_no_error_to_speak_of_the_best_variance_is_the_mean_square_error():
    model, frames = small().eval(), clips()
    error = model.bound_terms(frames)["squared_error"].mean().item()
    with torch.no_grad():
        model.log_variance.fill_(torch.tensor(error).log())
        torch.manual_seed(0)
        best = model.bound_terms(frames)["reconstruction"].mean().item()
        assert best == pytest.approx(0.5 * 3 * 32 * 32 * (torch.tensor(2 * pi * error).log().item() + 1), rel=0.05)
        for change in (-1.0, 2.0):
            model.log_variance.add_(change)
            assert model.bound_terms(frames)["reconstruction"].mean() > best


@torch.no_grad()
def test_a_frame_is_made_by_doubling_4_x_4_cells_with_a_relu_before_each_doubling_and_the_last_layer():
    model, z = small(16).eval(), torch.randn(2, 4, generator=torch.Generator().manual_seed(0))
    first = model.decoder[0]
    x = F.linear(z, first.weight, first.bias).view(2, 32, 4, 4)
    *narrow, last = (layer for layer in model.decoder if isinstance(layer, torch.nn.Conv2d))
    for layer in narrow:
        x = F.conv2d(x.relu().repeat_interleave(2, 2).repeat_interleave(2, 3), layer.weight, padding=1)
        x = x / (1 + 1e-5) ** 0.5  # batch norm before training
    expected = F.conv2d(x.relu(), last.weight, last.bias, padding=1).sigmoid()
    assert len(narrow) == 2
    torch.testing.assert_close(model.decode(z), expected)


def test_every_parameter_gets_a_gradient():
    model = small()
    model(mode="loss", frames=clips())["loss"].backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


class TwoLayers(torch.nn.Module):
    """A small image encoder that learns quickly."""

    channels, strides = dict(top=16), dict(top=4)

    def __init__(self):
        super().__init__()
        self.stem, self.top = torch.nn.Conv2d(3, 16, 3, 2, 1), torch.nn.Conv2d(16, 16, 3, 2, 1)

    def forward(self, image):
        return ImageFeatures(self.top(self.stem(image).relu()).relu())


def test_one_batch_is_learned_by_heart(monkeypatch):
    monkeypatch.setattr("cmp.baselines.frame_vae.build_image_encoder", lambda _: TwoLayers())
    model = small(16)
    colors = torch.tensor([[30, 200, 90], [220, 40, 160]], dtype=torch.uint8)
    frames = colors[:, None, :, None, None].repeat(1, 2, 1, 16, 16)
    frames[0, :, :, :8] = 128
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        terms = model.bound_terms(frames)
        terms["squared_error"].mean().backward()
        optimizer.step()
    assert terms["squared_error"].max() < 0.005  # the same color all over each frame: 0.02


def test_the_encoder_is_taken_out_of_a_checkpoint_with_what_its_input_wants(tmp_path):
    model = small()
    torch.save(dict(state_dict=model.state_dict(), meta=dict(cmp=model.describe(), iter=7)), tmp_path / "iter_7.pth")
    backbone = read_backbone(tmp_path / "iter_7.pth")
    assert backbone.name == "resnet18" and backbone.metadata["mean"] == "[123.675, 116.28, 103.53]"
    assert backbone.metadata["pretrained_with"] == "variational autoencoder of frames"
    assert all(torch.equal(value, model.image_encoder.state_dict()[key]) for key, value in backbone.weights.items())
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected, found = model.image_encoder.eval()(image), backbone.encoder(image)
    torch.testing.assert_close(found[-1], expected.stage4)


def test_pictures_are_the_same_each_time_as_wide_as_the_batch_and_samples_of_the_prior():
    model = small().eval()
    torch.nn.init.normal_(model.decoder[-1].weight)  # so that samples differ to the eye
    first, second = (model.pictures(frames=clips()) for _ in range(2))
    assert all((first[name] == second[name]).all() for name in first)
    assert first["reconstructions"].shape == (2 * (32 + 2) + 2, 3 * (32 + 2) + 2, 3)
    samples = model.decode(torch.randn((16, 4), generator=torch.Generator().manual_seed(0)))
    assert (first["samples"] == image_grid(samples, columns=8)).all() and samples.std(dim=0).max() > 0.05


def test_what_does_not_fit_is_refused():
    for size_px in (4, 30, 48):
        with pytest.raises(ValueError, match=f"4 times a power of two, got {size_px}"):
            FrameVAE(ENCODER, size_px=size_px)
    for name in ("latent", "width"):
        with pytest.raises(ValueError, match="latent and width must be at least 1, got .*0"):
            FrameVAE(ENCODER, **{name: 0})
    with pytest.raises(ValueError, match=r"\(B, T, 3, 32, 32\), got \(3, 2, 3, 64, 64\)"):
        small().loss(clips(side=64))
