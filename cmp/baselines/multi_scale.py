"""Multi-scale video prediction: the next frame from coarse to fine, with or without discriminators to please.

Legend: B batch, T frames, H W pixels. Frames have values -1..1.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from cmp.baselines.frame_prediction import FramePredictor, picture_loss, roll_out

FRACTIONS = (16, 4, 2, 1)  # 4, 16, 32 and 64 px of 64: NOT powers of one factor


class MultiScalePredictor(FramePredictor):
    """A generator at each of four sizes, a 16th, a quarter, a half and all of the frame.

    A generator sees the given frames at its size and what the one before made, enlarged, and predicts what is to be
    added to that before the last tanh. With `adversarial` a discriminator at each size tells given frames with the true
    next one from the same with a made one.

    All learn at the same time, from one backward pass of the sum of all terms: the generators' adversarial term sees
    the discriminators' weights as constants, the discriminators' term sees the made frames as constants. Give the
    discriminators a learning rate of their own by `optim_wrapper.paramwise_cfg` under the key "discriminators".

    Args:
        given, trained: see `FramePredictor`. Adversarial terms are of the first predicted frame.
        widths, kernels: of each generator, coarsest first: channels of its layers but the last, and all kernels.
        adversarial: weight of the adversarial term; 0 builds no discriminators.
        size_px: side of the square frames in training, a multiple of 16; only discriminators are bound to it.
        judge_widths, judge_kernels, judge_units: of each discriminator: channels and kernels of its convolutions,
            without padding, and the units of its layers above, before the last with one logit. At half and full size
            the convolutions' maps are halved by max-pooling before them.

    Raises:
        ValueError: a list does not have four entries, or kernels do not fit widths.

    Source: Mathieu, Couprie and LeCun, ICLR 2016; sizes and numbers of maps as in its table. L2 and GDL are means over
    values here and not sums, on which the adversarial weight depends.
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
        size_px: int = 64,
        judge_widths: Sequence[Sequence[int]] = ((64,), (64, 128, 128), (128, 256, 256), (128, 256, 512, 128)),
        judge_kernels: Sequence[Sequence[int]] = ((3,), (3, 3, 3), (5, 5, 5), (7, 7, 5, 5)),
        judge_units: Sequence[Sequence[int]] = ((512, 256), (1024, 512), (1024, 512), (1024, 512)),
    ) -> None:
        super().__init__(given, trained)
        plain = [
            [list(part) for part in parts] for parts in (widths, kernels, judge_widths, judge_kernels, judge_units)
        ]
        names = ("widths", "kernels", "judge_widths", "judge_kernels", "judge_units")
        self._arguments = dict(given=given, trained=trained, adversarial=adversarial, size_px=size_px)
        self._arguments |= dict(zip(names, plain))
        if any(len(parts) != len(FRACTIONS) for parts in plain):
            raise ValueError(f"{', '.join(names)} want {len(FRACTIONS)} entries each")
        channels = [3 * given + (3 if i else 0) for i in range(len(FRACTIONS))]
        self.generators = nn.ModuleList(map(_generator, channels, widths, kernels))
        self.adversarial, self.size_px = adversarial, size_px
        if adversarial:
            parts = (FRACTIONS, judge_widths, judge_kernels, judge_units)
            judges = [_discriminator(3 * given + 3, size_px // f, f <= 2, w, k, u) for f, w, k, u in zip(*parts)]
            self.discriminators = nn.ModuleList(judges)

    def predict(self, frames: torch.Tensor, count: int) -> torch.Tensor:
        """See `FramePredictor`; frames of any size, padded by their edge to a multiple of 16 px."""
        height, width = frames.shape[3:]
        missing = (0, -width % FRACTIONS[0], 0, -height % FRACTIONS[0])
        padded = F.pad(frames.flatten(1, 2), missing, mode="replicate").unflatten(1, frames.shape[1:3])
        predicted = roll_out(lambda given: self.pyramid(given)[-1], padded, count)
        return predicted[..., :height, :width]

    def pyramid(self, frames: torch.Tensor) -> list[torch.Tensor]:
        """The frame after (B, given, 3, H, W) at all sizes, coarsest first; H and W multiples of 16."""
        made = []
        for fraction, generator in zip(FRACTIONS, self.generators):
            seen = _shrunk(frames.flatten(1, 2), fraction)
            if not made:
                made.append(generator(seen).tanh())
                continue
            guess = F.interpolate(made[-1], size=seen.shape[2:], mode="bilinear", align_corners=False)
            made.append((guess + generator(torch.cat((seen, guess), dim=1))).tanh())
        return made

    def loss(self, frames: torch.Tensor, **_) -> dict[str, torch.Tensor]:
        """L2 plus GDL, summed over the sizes, and the adversarial terms.

        `discriminator_accuracy`: how often the finest discriminator is right; 0.5 where it is fooled.
        """
        given, target = self.divide(frames, self.trained)
        if self.adversarial and tuple(frames.shape[3:]) != (self.size_px, self.size_px):
            raise ValueError(f"discriminators judge frames of size_px = {self.size_px}, got {tuple(frames.shape[3:])}")
        losses = {"loss_l2": 0.0, "loss_gdl": 0.0}
        seen = given
        for t in range(target.shape[1]):
            made = self.pyramid(seen)
            true = [_shrunk(target[:, t], fraction) for fraction in FRACTIONS]
            for one, other in zip(made, true):
                l2, gdl = picture_loss(one, other)
                losses["loss_l2"] = losses["loss_l2"] + l2 / target.shape[1]
                losses["loss_gdl"] = losses["loss_gdl"] + gdl / target.shape[1]
            if t == 0 and self.adversarial:
                losses |= self._adversarial_terms(given, made, true)
            seen = torch.cat((seen[:, 1:], made[-1][:, None]), dim=1)
        return losses

    def describe(self) -> dict:
        return {"system": "multi-scale prediction", **self._arguments}

    def _adversarial_terms(
        self, given: torch.Tensor, made: Sequence[torch.Tensor], true: Sequence[torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        fooling, judging = 0.0, 0.0
        for fraction, judge, fake, real in zip(FRACTIONS, self.discriminators, made, true):
            seen = _shrunk(given.flatten(1, 2), fraction)
            constants = {name: weight.detach() for name, weight in judge.named_parameters()}
            fooled = torch.func.functional_call(judge, constants, (torch.cat((seen, fake), dim=1),))
            fooling = fooling + F.softplus(-fooled).mean()  # cross-entropy of "true"
            of_fake = judge(torch.cat((seen, fake.detach()), dim=1))
            of_real = judge(torch.cat((seen, real), dim=1))
            judging = judging + (F.softplus(of_fake).mean() + F.softplus(-of_real).mean()) / 2
        right = ((of_fake < 0).float().mean() + (of_real > 0).float().mean()) / 2
        return {
            "loss_adversarial": self.adversarial * fooling,
            "loss_discriminator": judging,
            "discriminator_accuracy": right,
        }


def _shrunk(frames: torch.Tensor, fraction: int) -> torch.Tensor:
    """(B, C, H, W) to (B, C, H / fraction, W / fraction), by means over squares."""
    return frames if fraction == 1 else F.avg_pool2d(frames, fraction)


def _generator(in_channels: int, widths: Sequence[int], kernels: Sequence[int]) -> nn.Sequential:
    if len(kernels) != len(widths) + 1:
        raise ValueError(f"want one more kernel than widths, got {list(kernels)} for {list(widths)}")
    channels, layers = [in_channels, *widths, 3], []
    for a, b, kernel in zip(channels, channels[1:], kernels):
        layers += [nn.Conv2d(a, b, kernel, padding=kernel // 2), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers[:-1])


def _discriminator(
    in_channels: int, side_px: int, pooled: bool, widths: Sequence[int], kernels: Sequence[int], units: Sequence[int]
) -> nn.Sequential:
    if len(kernels) != len(widths):
        raise ValueError(f"want as many kernels as widths, got {list(kernels)} for {list(widths)}")
    channels, layers = [in_channels, *widths], []
    for a, b, kernel in zip(channels, channels[1:], kernels):
        layers += [nn.Conv2d(a, b, kernel), nn.LeakyReLU(0.2, inplace=True)]
        side_px -= kernel - 1
    if pooled:
        layers.append(nn.MaxPool2d(2))
        side_px //= 2
    if side_px < 1:
        raise ValueError(f"kernels {list(kernels)} leave nothing of a frame")
    sizes = [channels[-1] * side_px**2, *units]
    layers.append(nn.Flatten())
    for a, b in zip(sizes, units):
        layers += [nn.Linear(a, b), nn.LeakyReLU(0.2, inplace=True)]
    layers.append(nn.Linear(sizes[-1], 1))
    return nn.Sequential(*layers)
