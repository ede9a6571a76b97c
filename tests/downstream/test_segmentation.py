import numpy as np
import pytest
import torch

from cmp.downstream.segmentation import SegmentationNet
from cmp.downstream.segmentation_metric import confusion_matrix, scores


def drawn(count=4, size_hw=(48, 64)):
    """Images with a bright disc and a striped box on noise, and their labels (0, 1, 2; a frame of 255)."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[: size_hw[0], : size_hw[1]]
    images, labels = [], []
    for _ in range(count):
        image = rng.integers(60, 120, (*size_hw, 3))
        label = np.zeros(size_hw, np.uint8)
        top, left = rng.integers(4, 20), rng.integers(4, 12)
        box = (y >= top) & (y < top + 22) & (x >= left) & (x < left + 22)
        disc = (y - rng.integers(14, 34)) ** 2 + (x - 48) ** 2 < 11**2
        image[box], label[box] = np.where(x[box] % 8 < 4, 20, 200)[:, None], 1
        image[disc], label[disc] = (230, 220, 90), 2
        label[:2] = label[-2:] = 255
        images.append(image.transpose(2, 0, 1).astype(np.uint8))
        labels.append(label)
    return torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(labels))


def train(model, image, label, steps, lr=2e-3):
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=lr)
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        model(image, label, mode="loss")["loss"].backward()
        optimizer.step()
    return model.eval()


def test_a_few_steps_learn_one_batch_by_heart_to_more_than_nine_tenths():
    torch.manual_seed(0)
    image, label = drawn()
    model = train(SegmentationNet("resnet18", 8, num_classes=3), image, label, steps=40)
    result = scores(confusion_matrix(label, model.predict(image), 3), "abc")
    assert result["miou"] > 90


def test_a_frozen_encoder_keeps_weights_and_statistics_while_its_head_learns():
    torch.manual_seed(0)
    image, label = drawn()
    model = SegmentationNet("resnet18", 8, num_classes=3, frozen=True)
    before = {key: value.clone() for key, value in model.encoder.state_dict().items()}
    head = model.head[-1].weight.detach().clone()
    first = model.train()(image, label, mode="loss")["loss"].item()
    train(model, image, label, steps=15, lr=1e-2)
    assert all(torch.equal(value, before[key]) for key, value in model.encoder.state_dict().items())
    assert not torch.equal(model.head[-1].weight, head)
    assert model(image, label, mode="loss")["loss"].item() < 0.7 * first
    assert [type(layer).__name__ for layer in model.head] == ["BatchNorm2d", "Conv2d"]
    assert model.head[-1].kernel_size == (1, 1) and not model.head[0].affine


def test_a_fine_tuned_net_has_a_gradient_in_every_parameter():
    for model in (SegmentationNet("resnet18", 8, 3, hidden_channels=16), SegmentationNet("alexnet_fcn", 32, 3)):
        image, label = drawn(2, (64, 96))
        model(image, label, mode="loss")["loss"].backward()
        assert [key for key, p in model.named_parameters() if p.grad is None] == []


def test_ignored_pixels_count_neither_in_the_loss_nor_alone():
    torch.manual_seed(0)
    image, label = drawn(2)
    model = SegmentationNet("resnet18", 8, num_classes=3).eval()
    with torch.no_grad():
        scored = model(image)  # (2, 3, 48, 64)
        logs = scored.log_softmax(1)
        places = [(b, y, x) for b in (0, 1) for y in range(2, 46) for x in range(64)]
        expected = [-logs[b, int(label[b, y, x]), y, x] for b, y, x in places]
        loss = model(image, label, mode="loss")["loss"]
        torch.testing.assert_close(loss, torch.stack(expected).mean())
        assert model(image, torch.full_like(label, 255), mode="loss")["loss"] == 0


class Bright(SegmentationNet):
    """Its scores are the grey value against 100: what scales and mirrorings must bring back to their places."""

    def forward(self, image, label=None, mode="tensor"):
        self.seen.append((tuple(image.shape[2:]), image[0, 0, 0, 0].item()))
        return torch.stack([torch.full_like(image[:, 0], 100), image[:, 0]], dim=1) / 10


def test_scales_and_mirrorings_come_back_to_the_image_s_own_pixels():
    model = Bright("resnet18", 8, num_classes=2)
    model.seen = []
    image = torch.zeros(1, 3, 20, 32, dtype=torch.uint8)
    image[..., :12, :8] = 200
    found = model.predict(image, scales=(0.5, 1, 1.5), flip=True)
    assert [size for size, _ in model.seen] == [(10, 16)] * 2 + [(20, 32)] * 2 + [(30, 48)] * 2
    assert [corner > 100 for _, corner in model.seen] == [True, False] * 3  # every second one is mirrored
    assert (found == (image[:, 0] > 100)).float().mean() > 0.98


def test_arguments_that_do_not_fit_each_other_are_refused():
    with pytest.raises(ValueError, match="hidden_channels must be 0"):
        SegmentationNet("resnet18", frozen=True, hidden_channels=8)
    with pytest.raises(ValueError, match="num_classes must be at least 2"):
        SegmentationNet("resnet18", num_classes=1)
    with pytest.raises(ValueError, match="scales must be positive"):
        SegmentationNet("resnet18", num_classes=2).predict(torch.zeros(1, 3, 32, 32), scales=(0,))
