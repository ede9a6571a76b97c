"""Local motion: classifies the shift of every pixel, learned from labels or by rebuilding a frame from its neighbors.

Legend: B batch, T frames, C channels, H W pixels, h w cells of the motion map (pixels, or cells of the image
encoder), r the largest shift in cells, K = (2r + 1)^2 shifts, row by row: y slowest, both from -r.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from cmp.baselines.baseline import Baseline, scale_to_unit
from cmp.baselines.drawing.local_motion import draw_motion, draw_occlusion
from cmp.baselines.image_encoder import build_image_encoder, describe_image_encoder, normalize_frames


class LocalMotion(Baseline):
    """A U-Net that reads two frames and predicts where each cell of the second frame is in the third.

    Without labels it learns by rebuilding the third frame: each cell of the second is distributed over the shifts by
    their predicted shares, and the values that arrive at a cell are added up. With `two_sided` the same network also
    reads the fifth and fourth frames, backwards, and the two rebuilt frames are blended by how much arrived from each
    side.

    Args:
        max_shift: r.
        image_channels: C; 3 with an image encoder.
        width: channels of every layer.
        levels: number of times that the U-Net halves its map.
        supervised: learn from the labels `forward` (and `backward`) instead of rebuilding.
        two_sided: read five frames instead of three.
        disappear: how the model predicts that a cell is covered in the third frame: "none", by a separate "map", or as
            one more "class" besides the shifts.
        image_encoder: None: the network reads pixels. Or a dict, see `build_image_encoder`: the network reads each
            frame's features, and rebuilds frames averaged over cells of the encoder's stride.

    Raises:
        ValueError: an argument is out of range, or a supervised model should predict disappearance, which labels lack.

    Source: experiments exp012 and exp012-1 of yangyi02/video_motion_mnist. It runs the network once per
    side, so batch norm averages over each side separately, and sums the loss over the batch; here batch norm averages
    over both sides, and the loss is a mean over the batch.
    """

    def __init__(
        self,
        *,
        max_shift: int = 3,
        image_channels: int = 1,
        width: int = 64,
        levels: int = 5,
        supervised: bool = False,
        two_sided: bool = True,
        disappear: str = "map",
        image_encoder: Mapping | None = None,
    ) -> None:
        super().__init__()
        if min(max_shift, width, levels) < 1 or image_channels not in (1, 3):
            raise ValueError(
                "max_shift, width and levels must be at least 1 and image_channels 1 or 3, "
                f"got {max_shift}, {width}, {levels}, {image_channels}"
            )
        if disappear not in ("none", "map", "class"):
            raise ValueError(f"disappear must be 'none', 'map' or 'class', got {disappear!r}")
        if supervised and disappear != "none":
            raise ValueError(
                f"labels do not mark disappearing cells: supervised needs disappear='none', got {disappear!r}"
            )
        if image_encoder is not None and image_channels != 3:
            raise ValueError(f"an image encoder reads 3 channels, got image_channels={image_channels}")
        self._description: dict[str, Any] = dict(
            max_shift=max_shift, image_channels=image_channels, width=width, levels=levels, supervised=supervised
        )
        self._description |= dict(two_sided=two_sided, disappear=disappear)
        if image_encoder is not None:
            self._description |= describe_image_encoder(image_encoder)
        self.max_shift, self.supervised, self.two_sided, self.disappear = max_shift, supervised, two_sided, disappear
        self.num_shifts = (2 * max_shift + 1) ** 2

        self.image_encoder = None if image_encoder is None else build_image_encoder(image_encoder)
        inputs = image_channels if self.image_encoder is None else self.image_encoder.channels["top"]
        self.unet = UNet(2 * inputs, width, levels)
        outputs = self.num_shifts + (disappear == "class")
        self.motion_head = nn.Conv2d(self.unet.out_channels, outputs, 3, padding=1)
        self.disappear_head = nn.Conv2d(self.unet.out_channels, 1, 3, padding=1) if disappear == "map" else None
        self.blend = nn.Conv2d(2, 1, 1) if two_sided and not supervised else None

    @property
    def loss_unit(self) -> str:
        """What the loss is, with its unit."""
        if self.supervised:
            return "cross-entropy of the shifts, nats (sides summed)"
        return "absolute error of the frame made (values 0..1, sides summed)"

    def loss(
        self,
        frames: torch.Tensor,
        forward: torch.Tensor | None = None,
        backward: torch.Tensor | None = None,
        max_shift_px: torch.Tensor | None = None,
        **_,
    ) -> dict[str, torch.Tensor]:
        """Compute the cross-entropy of the shifts, or the absolute error of the rebuilt frames; summed over the sides.

        Args:
            frames: (B, T, C, H, W), uint8 or floats 0..1.
            forward, backward: (B, h, w) int64 in 0..K-1: labels of the second frame and, if two_sided, of the fourth.
            max_shift_px: (B,) int64: the largest shift that the labels can express; None skips the check.

        Raises:
            ValueError: labels are missing, or their largest shift is not r.
        """
        self._check_range(max_shift_px)
        frames = scale_to_unit(frames)
        if self.supervised:
            if forward is None or (self.two_sided and backward is None):
                raise ValueError("supervised learning needs the labels 'forward' and, if two-sided, 'backward'")
            logits = self.logits(frames)[0]
            losses = [F.cross_entropy(side, label) for side, label in zip(logits, (forward, backward))]
            return {"loss": sum(losses)}
        rebuilt, target = self.rebuild(frames), self.to_cells(frames[:, 2])
        errors = {
            f"{name}_error": (rebuilt[name] - target).abs().flatten(1).sum(1).mean() for name in self._rebuilt_names()
        }
        return {"loss": sum(errors.values()), **errors}

    def measure(
        self,
        frames: torch.Tensor,
        forward: torch.Tensor | None = None,
        backward: torch.Tensor | None = None,
        max_shift_px: torch.Tensor | None = None,
        covered: torch.Tensor | None = None,
        visible_side: torch.Tensor | None = None,
        **_,
    ) -> dict[str, torch.Tensor]:
        """Measure the accuracy of the shifts if labels are given, else the error of the rebuilt frame.

        With labels, the share of cells whose most likely shift is the labeled one, mean of both sides: `accuracy` over
        all cells; `accuracy_moving` over those labeled to move; `accuracy_still`: over all cells, if every cell were
        predicted not to move. Disappearance does not count as a choice.
        With `covered` (B, 2, h, w) bool, if the model predicts disappearance: `disappear_auc`: the probability that a
        cell that is covered in the third frame has a higher predicted disappearance than one that is not, mean of the
        sides.
        With `visible_side` (B, h, w), if it blends: `attention_right`: of the cells that are visible from one side only
        (1: forward, -1: backward), the share in which the blend prefers that side. NaN for samples without such cells.
        Without labels: `error`: mean absolute difference of the rebuilt (blended) frame from the third frame, values
        0..1; `error_copy`: the same for the second frame; `shift`: mean length of the expected shifts, cells.
        Arguments: see `loss`.
        """
        self._check_range(max_shift_px)
        frames = scale_to_unit(frames)
        if forward is not None:
            still = self.num_shifts // 2
            labels = torch.stack((forward, backward)[: len(self._sides())]).flatten(2)  # (sides, B, hw)
            shares = self.shares(frames)
            right = (shares.argmax(2).flatten(2) == labels).float()
            moving = right.masked_fill(labels == still, torch.nan).transpose(0, 1).flatten(1).nanmean(1)
            measures = {
                "accuracy": right.mean((0, 2)),
                "accuracy_moving": moving,
                "accuracy_still": (labels == still).float().mean((0, 2)),
            }
            if covered is not None and self.disappear != "none":
                gone = 1 - shares.sum(2)
                sides = [ranked_above(gone[side], covered[:, side]) for side in range(len(gone))]
                measures["disappear_auc"] = torch.stack(sides).nanmean(0)
            if visible_side is not None and self.blend is not None:
                attention = self.rebuild(frames, shares)["attention"][:, 0]
                prefers = torch.where(visible_side > 0, attention, 1 - attention) > 0.5
                prefers = prefers.float().masked_fill(visible_side == 0, torch.nan)
                measures["attention_right"] = prefers.flatten(1).nanmean(1)
            return measures
        rebuilt, target = self.rebuild(frames), self.to_cells(frames[:, 2])
        return {
            "error": (rebuilt[self._rebuilt_names()[0]] - target).abs().flatten(1).mean(1),
            "error_copy": (self.to_cells(frames[:, 1]) - target).abs().flatten(1).mean(1),
            "shift": rebuilt["flow"][0].norm(dim=1).flatten(1).mean(1),
        }

    def logits(self, frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Compute the outputs of both heads from frames 0..1.

        Returns:
            Logits of the shifts (sides, B, K or K + 1, h, w); logits of disappearance (sides, B, 1, h, w), None unless
            disappear is "map".

        Raises:
            ValueError: there are too few frames.
        """
        if frames.ndim != 5 or frames.shape[1] < (5 if self.two_sided else 3):
            least = 5 if self.two_sided else 3
            raise ValueError(f"frames must be (B, at least {least}, C, H, W), got {tuple(frames.shape)}")
        pairs = self._sides()
        used = [index for pair in pairs for index in pair]
        inputs = frames[:, used].transpose(0, 1).flatten(0, 1)  # (frames used x B, C, H, W)
        if self.image_encoder is not None:
            inputs = self.image_encoder(normalize_frames(255 * inputs)).top
        inputs = inputs.unflatten(0, (len(pairs), 2, len(frames))).transpose(1, 2)  # (sides, B, 2, channels, h, w)
        features = self.unet(inputs.flatten(2, 3).flatten(0, 1))
        sides = (len(pairs), len(frames))
        gone = None if self.disappear_head is None else self.disappear_head(features).unflatten(0, sides)
        return self.motion_head(features).unflatten(0, sides), gone

    def shares(self, frames: torch.Tensor) -> torch.Tensor:
        """Predict the share of each cell that moves by each shift: (sides, B, K, h, w) float32.

        What the shares of a cell lack to 1 disappears.
        """
        logits, gone = self.logits(frames)
        shares = logits.float().softmax(2)[:, :, : self.num_shifts]
        return shares if gone is None else shares * (1 - gone.float().sigmoid())

    def rebuild(self, frames: torch.Tensor, shares: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        """Rebuild the third frame from the others, frames 0..1; shares: those of these frames, if already computed.

        Returns:
            `forward` and, if two-sided, `backward` and `blend`: (B, C, h, w) each; `attention` (B, 1, h, w): the
            forward side's weight in the blend; `disappear` (sides, B, 1, h, w): the share of each cell that is
            covered; `flow` (sides, B, 2, h, w): the expected shift, x then y, cells.
        """
        shares = self.shares(frames) if shares is None else shares
        rebuilt, coverage = {}, []
        for name, (_, source), share in zip(("forward", "backward"), self._sides(), shares):
            image = self.to_cells(frames[:, source])
            arrived = spread(torch.cat((image, torch.ones_like(image[:, :1])), dim=1), share, self.max_shift)
            rebuilt[name] = arrived[:, :-1]
            coverage.append(arrived[:, -1:])
        if self.blend is not None:
            rebuilt["attention"] = self.blend(torch.cat(coverage, dim=1)).float().sigmoid()
            rebuilt["blend"] = rebuilt["backward"] + rebuilt["attention"] * (rebuilt["forward"] - rebuilt["backward"])
        total = shares.sum(2, keepdim=True)
        steps = torch.arange(-self.max_shift, self.max_shift + 1, device=shares.device, dtype=shares.dtype)
        shifts = torch.stack((steps.repeat(len(steps)), steps.repeat_interleave(len(steps))))  # (2, K) x, y
        flow = torch.einsum("sbkhw,ck->sbchw", shares, shifts) / total.clamp(min=1e-6)
        return {**rebuilt, "disappear": 1 - total, "flow": flow}

    def pictures(
        self,
        frames: torch.Tensor,
        forward: torch.Tensor | None = None,
        backward: torch.Tensor | None = None,
        covered: torch.Tensor | None = None,
        visible_side: torch.Tensor | None = None,
        **_,
    ) -> dict[str, np.ndarray]:
        """Draw frames, motion, disappearance, rebuilt frames and attention; see `draw_motion` and `draw_occlusion`."""
        frames = scale_to_unit(frames)
        return draw_motion(self, frames, forward) | draw_occlusion(self, frames, covered, visible_side)

    def describe(self) -> dict:
        return {"system": "local motion", **self._description}

    def _sides(self) -> tuple[tuple[int, int], ...]:
        """Return the two frames that each side reads; the second of them is moved."""
        return ((0, 1), (4, 3)) if self.two_sided else ((0, 1),)

    def _check_range(self, max_shift_px: torch.Tensor | None) -> None:
        if max_shift_px is not None and bool((max_shift_px != self.max_shift).any()):
            found = sorted(set(max_shift_px.tolist()))
            raise ValueError(f"max_shift is {self.max_shift}, but the labels express shifts up to {found} px")

    def _rebuilt_names(self) -> tuple[str, ...]:
        return ("blend", "forward", "backward") if self.two_sided else ("forward",)

    def to_cells(self, image: torch.Tensor) -> torch.Tensor:
        """Average images (B, C, H, W) over the cells of the motion map: (B, C, h, w)."""
        return image if self.image_encoder is None else F.avg_pool2d(image, self.image_encoder.strides["top"])


class UNet(nn.Module):
    """Halves a map several times and restores its size, with skip connections at every size.

    Args:
        in_channels: of the input.
        width: channels of every layer.
        levels: number of times that the map is halved.

    Attributes:
        out_channels: of the output, which concatenates the first map of full size and the upsampled one.
    """

    def __init__(self, in_channels: int, width: int, levels: int) -> None:
        super().__init__()
        self.start = nn.Sequential(
            nn.Conv2d(in_channels, width, 3, padding=1), nn.BatchNorm2d(width), *_layer(width, width)
        )
        self.down = nn.ModuleList(_layer(width, width) for _ in range(levels))
        self.up = nn.ModuleList(_layer(2 * width, width) for _ in range(levels - 1))
        self.out_channels = 2 * width

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute (B, out_channels, h, w) from (B, in_channels, h, w); h and w at least 2^levels.

        Raises:
            ValueError: a side is too small.
        """
        if min(x.shape[2:]) < 2 ** len(self.down):
            raise ValueError(
                f"a U-Net of {len(self.down)} levels needs sides of at least {2 ** len(self.down)}, "
                f"got {tuple(x.shape[2:])}"
            )
        maps = [self.start(x)]
        for layer in self.down:
            maps.append(layer(F.max_pool2d(maps[-1], 2)))
        x = maps.pop()
        for layer in (*self.up, nn.Identity()):
            finer = maps.pop()
            x = F.interpolate(x, size=finer.shape[2:], mode="bilinear", align_corners=False)
            x = layer(torch.cat((x, finer), dim=1))
        return x


def spread(image: torch.Tensor, shares: torch.Tensor, max_shift: int) -> torch.Tensor:
    """Move a share of every pixel by each shift, and add up what arrives at each position.

    Args:
        image: (B, C, h, w).
        shares: (B, K, h, w), K = (2 max_shift + 1)^2 shifts row by row: y slowest, both from -max_shift.
        max_shift: px.

    Returns:
        (B, C, h, w); shares that move out of the image are lost.

    Source: yangyi02/video_motion_mnist convolves with one one-hot kernel per shift; `fold` computes the same sum.
    """
    side = 2 * max_shift + 1
    batch, channels, height, width = image.shape
    if shares.shape != (batch, side * side, height, width):
        raise ValueError(f"shares must be {(batch, side * side, height, width)}, got {tuple(shares.shape)}")
    moved = image[:, :, None] * shares[:, None]  # (B, C, K, h, w)
    return F.fold(moved.flatten(1, 2).flatten(2), (height, width), side, padding=max_shift)


def ranked_above(values: torch.Tensor, marked: torch.Tensor) -> torch.Tensor:
    """Compute the probability that a marked cell has a higher value than another one; equal values count half.

    Args:
        values: (B, h, w). marked: (B, h, w) bool.

    Returns:
        (B,), NaN where all cells are marked, or none: the area under the ROC curve.
    """
    out = []
    for value, mark in zip(values, marked):
        higher = value[mark][:, None] - value[~mark]
        out.append(((higher > 0).float() + 0.5 * (higher == 0)).mean())
    return torch.stack(out)


def _layer(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1), nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)
    )
