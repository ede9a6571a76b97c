"""Multi-scale video prediction: predicts the next frame from coarse to fine, with or without discriminators.

Legend: B batch, T frames, H W pixels. Frames have values -1..1.
"""

from collections.abc import Sequence
from math import prod

import torch
import torch.nn.functional as F
from torch import nn

from cmp.baselines.frame_prediction import FramePredictor, roll_out

FRACTIONS = (16, 4, 2, 1)  # divisors of the frame size: 4, 16, 32 and 64 px of 64; the first step is 4, the others 2


class MultiScalePredictor(FramePredictor):
    """Predicts the next frame with one generator per size: a 16th, a quarter, a half and the whole of the frame.

    Each generator reads the given frames at its size and the enlarged prediction of the coarser generator, and predicts
    what is added to the latter before a tanh. With `adversarial` above 0, a discriminator at each size classifies
    whether the frame after the given ones is true or predicted.

    All networks learn from one backward pass of the sum of all terms: the generators' adversarial term treats the
    discriminators' weights as constants, the discriminators' term treats the predicted frames as constants. Set a
    separate learning rate for the discriminators by `optim_wrapper.paramwise_cfg` under the key "discriminators".

    Args:
        given, trained, gdl_weight, gdl_exponent: see `FramePredictor`. Adversarial terms use the first predicted frame.
        widths, kernels: for each generator, coarsest first: channels of its layers but the last, and all kernels, px.
        adversarial: weight of the adversarial term; 0 builds no discriminators.
        size_px: side of the square frames in training, or their height and width; only needed by discriminators.
            Coarser sizes are rounded down.
        discriminator_widths, discriminator_kernels: for each discriminator: channels and kernels, px, of its
            convolutions, which are not padded. At half and full size max-pooling halves their last map.
        discriminator_units: for each discriminator: units of its linear layers, before a last one with one logit.

    Raises:
        ValueError: a list does not have four entries, or kernels do not fit widths or the frames.

    Source: Mathieu, Couprie and LeCun, ICLR 2016; sizes and numbers of maps as in its table. L2 and GDL are means over
    values here, not sums; the meaning of the adversarial weight depends on that.
    """

    def __init__(
        self,
        *,
        given: int = 4,
        trained: int = 1,
        widths: Sequence[Sequence[int]] = (
            (128, 256, 128),
            (128, 256, 128),
            (128, 256, 512, 256, 128),
            (128, 256, 512, 256, 128),
        ),
        kernels: Sequence[Sequence[int]] = ((3, 3, 3, 3), (5, 3, 3, 5), (5, 3, 3, 3, 3, 5), (7, 5, 5, 5, 5, 7)),
        adversarial: float = 0.0,
        size_px: int | Sequence[int] = 64,
        discriminator_widths: Sequence[Sequence[int]] = ((64,), (64, 128, 128), (128, 256, 256), (128, 256, 512, 128)),
        discriminator_kernels: Sequence[Sequence[int]] = ((3,), (3, 3, 3), (5, 5, 5), (7, 7, 5, 5)),
        discriminator_units: Sequence[Sequence[int]] = ((512, 256), (1024, 512), (1024, 512), (1024, 512)),
        gdl_weight: float = 1.0,
        gdl_exponent: float = 1.0,
    ) -> None:
        super().__init__(given, trained, gdl_weight, gdl_exponent)
        size_px = list(size_px) if isinstance(size_px, Sequence) else size_px
        height_and_width = size_px if isinstance(size_px, list) else [size_px, size_px]
        if len(height_and_width) != 2 or min(height_and_width) < FRACTIONS[0]:
            raise ValueError(
                f"size_px must be one side or a height and a width, at least {FRACTIONS[0]} px, got {size_px}"
            )
        plain = [
            [list(part) for part in parts]
            for parts in (widths, kernels, discriminator_widths, discriminator_kernels, discriminator_units)
        ]
        names = ("widths", "kernels", "discriminator_widths", "discriminator_kernels", "discriminator_units")
        self._arguments |= dict(adversarial=adversarial, size_px=size_px)
        self._arguments |= dict(zip(names, plain))
        if any(len(parts) != len(FRACTIONS) for parts in plain):
            raise ValueError(f"{', '.join(names)} want {len(FRACTIONS)} entries each")
        channels = [3 * given + (3 if i else 0) for i in range(len(FRACTIONS))]
        self.generators = nn.ModuleList(map(_generator, channels, widths, kernels))
        self.adversarial, self.size_hw = adversarial, tuple(height_and_width)
        if adversarial:
            parts = (FRACTIONS, discriminator_widths, discriminator_kernels, discriminator_units)
            built = [
                _discriminator(3 * given + 3, [side // f for side in self.size_hw], f <= 2, w, k, u)
                for f, w, k, u in zip(*parts)
            ]
            self.discriminators = nn.ModuleList(built)

    def predict(self, frames: torch.Tensor, count: int) -> torch.Tensor:
        """Predict frames of any size; see `FramePredictor`. Padding to a multiple of 16 px repeats the edge pixels."""
        height, width = frames.shape[3:]
        missing = (0, -width % FRACTIONS[0], 0, -height % FRACTIONS[0])
        padded = F.pad(frames.flatten(1, 2), missing, mode="replicate").unflatten(1, frames.shape[1:3])
        predicted = roll_out(lambda given: self.pyramid(given)[-1], padded, count)
        return predicted[..., :height, :width]

    def pyramid(self, frames: torch.Tensor) -> list[torch.Tensor]:
        """Predict the frame after (B, given, 3, H, W) at all sizes, coarsest first; H and W at least 16 px.

        Coarser sizes are rounded down; the last rows or columns are missing there if H or W is not a multiple of 16.
        """
        predicted = []
        for fraction, generator in zip(FRACTIONS, self.generators):
            given = _shrunk(frames.flatten(1, 2), fraction)
            if not predicted:
                predicted.append(generator(given).tanh())
                continue
            coarse = F.interpolate(predicted[-1], size=given.shape[2:], mode="bilinear", align_corners=False)
            predicted.append((coarse + generator(torch.cat((given, coarse), dim=1))).tanh())
        return predicted

    @property
    def loss_unit(self) -> str:
        """What the loss is, with its unit."""
        terms = ", adversarial and discriminator terms" if self.adversarial else ""
        return f"{super().loss_unit}, summed over sizes{terms}"

    def loss(self, frames: torch.Tensor, **_) -> dict[str, torch.Tensor]:
        """Compute L2 and weighted GDL, summed over the sizes, and the adversarial terms; the sum is minimized.

        `discriminator_accuracy`: the share of frames that the finest discriminator classifies correctly; 0.5 is chance.

        Raises:
            ValueError: there are discriminators, and the frames do not have size_px.
        """
        given, target = self.divide(frames, self.trained)
        if self.adversarial and tuple(frames.shape[3:]) != self.size_hw:
            size_px = self._arguments["size_px"]
            raise ValueError(f"discriminators need frames of size_px = {size_px}, got {tuple(frames.shape[3:])}")
        losses = {}
        current = given
        for t in range(target.shape[1]):
            predicted = self.pyramid(current)
            true = [_shrunk(target[:, t], fraction) for fraction in FRACTIONS]
            for one, other in zip(predicted, true):
                for name, term in self.frame_losses(one, other).items():
                    losses[name] = losses.get(name, 0.0) + term / target.shape[1]
            if t == 0 and self.adversarial:
                losses |= self._adversarial_terms(given, predicted, true)
            current = torch.cat((current[:, 1:], predicted[-1][:, None]), dim=1)
        return losses

    def describe(self) -> dict:
        return {"system": "multi-scale prediction", **self._arguments}

    def _adversarial_terms(
        self, given: torch.Tensor, predicted: Sequence[torch.Tensor], true: Sequence[torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        generator_loss, discriminator_loss = 0.0, 0.0
        for fraction, discriminator, fake, real in zip(FRACTIONS, self.discriminators, predicted, true):
            condition = _shrunk(given.flatten(1, 2), fraction)
            constants = {name: weight.detach() for name, weight in discriminator.named_parameters()}
            logits = torch.func.functional_call(discriminator, constants, (torch.cat((condition, fake), dim=1),))
            generator_loss = generator_loss + F.softplus(-logits).mean()  # cross-entropy with the class "true"
            of_fake = discriminator(torch.cat((condition, fake.detach()), dim=1))
            of_real = discriminator(torch.cat((condition, real), dim=1))
            discriminator_loss = discriminator_loss + (F.softplus(of_fake).mean() + F.softplus(-of_real).mean()) / 2
        accuracy = ((of_fake < 0).float().mean() + (of_real > 0).float().mean()) / 2
        return {
            "loss_adversarial": self.adversarial * generator_loss,
            "loss_discriminator": discriminator_loss,
            "discriminator_accuracy": accuracy,
        }


def _shrunk(frames: torch.Tensor, fraction: int) -> torch.Tensor:
    """Shrink (B, C, H, W) to (B, C, H / fraction, W / fraction) by averaging over squares."""
    return frames if fraction == 1 else F.avg_pool2d(frames, fraction)


def _generator(in_channels: int, widths: Sequence[int], kernels: Sequence[int]) -> nn.Sequential:
    if len(kernels) != len(widths) + 1:
        raise ValueError(f"want one more kernel than widths, got {list(kernels)} for {list(widths)}")
    channels, layers = [in_channels, *widths, 3], []
    for a, b, kernel in zip(channels, channels[1:], kernels):
        layers += [nn.Conv2d(a, b, kernel, padding=kernel // 2), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers[:-1])


def _discriminator(
    in_channels: int,
    sides_px: Sequence[int],
    pooled: bool,
    widths: Sequence[int],
    kernels: Sequence[int],
    units: Sequence[int],
) -> nn.Sequential:
    if len(kernels) != len(widths):
        raise ValueError(f"want as many kernels as widths, got {list(kernels)} for {list(widths)}")
    channels, layers = [in_channels, *widths], []
    for a, b, kernel in zip(channels, channels[1:], kernels):
        layers += [nn.Conv2d(a, b, kernel), nn.LeakyReLU(0.2, inplace=True)]
    sides = [(side - sum(kernel - 1 for kernel in kernels)) // (2 if pooled else 1) for side in sides_px]
    if pooled:
        layers.append(nn.MaxPool2d(2))
    if min(sides) < 1:
        raise ValueError(f"kernels {list(kernels)} are too large for the frames: no pixels remain")
    sizes = [channels[-1] * prod(sides), *units]
    layers.append(nn.Flatten())
    for a, b in zip(sizes, units):
        layers += [nn.Linear(a, b), nn.LeakyReLU(0.2, inplace=True)]
    layers.append(nn.Linear(sizes[-1], 1))
    return nn.Sequential(*layers)
