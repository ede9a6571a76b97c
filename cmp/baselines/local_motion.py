"""Local motion: a class of shift for every pixel, learned from labels or from rebuilding a frame out of its neighbours.

Legend: B batch, T frames, C channels, H W pixels, h w cells of the motion map (pixels, or the image encoder's strides),
r the largest shift in cells, K = (2r + 1)^2 shifts, row by row: y slowest, both from -r.
"""

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from cmp.baselines.baseline import Baseline, scale_to_unit
from cmp.baselines.image_encoder import build_image_encoder, describe_image_encoder, normalise_frames
from cmp.baselines.sheet import picture_grid
from cmp.flow import flow_to_color


class LocalMotion(Baseline):
    """A U-Net that reads two frames and says where each cell of the second goes in the third.

    Without labels it learns by making the third frame: each cell is spread over the shifts by their shares and added up
    where it arrives. With `two_sided` one more frame pair, the fourth and the fifth, is read from the other side by the
    same network, and the two frames made are blended by how much arrived from where.

    Args:
        max_shift: r.
        image_channels: C; 3 with an image encoder.
        width: channels of every layer.
        levels: how often the U-Net halves its map.
        supervised: learn from the labels `forward` (and `backward`), not from rebuilding.
        two_sided: read five frames, not three.
        disappear: how a cell may be said to go nowhere (be covered): "none", by a "map" beside the shifts, or as one
            more "class" of theirs.
        image_encoder: None: the network sees the pixels. Or a dict, see `build_image_encoder`: it sees each frame's
            features, and rebuilds frames averaged over the encoder's stride.

    Raises:
        ValueError: an argument is out of range, or a disappearance would not be learned, for the labels have none.

    Source: experiments exp012 and exp012-1 of yangyi02/video_motion_mnist. Theirs runs the network once for each side,
    so that batch norm takes the sides apart, and sums the loss over the batch; both are averaged here.
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
                f"labels say nothing of disappearing: supervised needs disappear='none', got {disappear!r}"
            )
        if image_encoder is not None and image_channels != 3:
            raise ValueError(f"an image encoder reads 3 channels, got image_channels={image_channels}")
        self._description = dict(
            max_shift=max_shift, image_channels=image_channels, width=width, levels=levels, supervised=supervised
        )
        self._description |= dict(two_sided=two_sided, disappear=disappear)
        if image_encoder is not None:
            self._description |= describe_image_encoder(image_encoder)
        self.max_shift, self.supervised, self.two_sided, self.disappear = max_shift, supervised, two_sided, disappear
        self.num_shifts = (2 * max_shift + 1) ** 2

        self.image_encoder = None if image_encoder is None else build_image_encoder(image_encoder)
        seen = image_channels if image_encoder is None else self.image_encoder.channels["top"]
        self.unet = UNet(2 * seen, width, levels)
        outputs = self.num_shifts + (disappear == "class")
        self.motion_head = nn.Conv2d(self.unet.out_channels, outputs, 3, padding=1)
        self.disappear_head = nn.Conv2d(self.unet.out_channels, 1, 3, padding=1) if disappear == "map" else None
        self.blend = nn.Conv2d(2, 1, 1) if two_sided and not supervised else None

    def loss(
        self,
        frames: torch.Tensor,
        forward: torch.Tensor | None = None,
        backward: torch.Tensor | None = None,
        max_shift_px: torch.Tensor | None = None,
        **_,
    ) -> dict[str, torch.Tensor]:
        """Cross-entropy of the shifts, or the absolute error of the frames made; both summed over the sides.

        Args:
            frames: (B, T, C, H, W), uint8 or floats 0..1.
            forward, backward: (B, h, w) int64 in 0..K-1; labels of the second frame and, if two_sided, of the fourth.
            max_shift_px: (B,) int64, of the shifts that the labels tell apart, where known.

        Raises:
            ValueError: labels are missing, or of another range of shifts than r.
        """
        self._check_range(max_shift_px)
        frames = scale_to_unit(frames)
        if self.supervised:
            if forward is None or (self.two_sided and backward is None):
                raise ValueError("supervised learning needs the labels 'forward' and, if two-sided, 'backward'")
            logits = self.logits(frames)[0]
            losses = [F.cross_entropy(side, label) for side, label in zip(logits, (forward, backward))]
            return {"loss": sum(losses)}
        made, target = self.rebuild(frames), self._cells(frames[:, 2])
        errors = {f"{name}_error": (made[name] - target).abs().flatten(1).sum(1).mean() for name in self._made_names()}
        return {"loss": sum(errors.values()), **errors}

    def measure(
        self,
        frames: torch.Tensor,
        forward: torch.Tensor | None = None,
        backward: torch.Tensor | None = None,
        max_shift_px: torch.Tensor | None = None,
        **_,
    ) -> dict[str, torch.Tensor]:
        """With labels, shares of cells whose likeliest shift is the labelled one; without, errors of the frame made.

        `accuracy`: over all cells; `accuracy_moving`: over those labelled to move; `accuracy_still`: what saying that
        nothing moves would get over all. Means of both sides. That a cell may go nowhere is left out of the choice.
        `error`: mean absolute difference of the (blended) frame made from the third frame, 0..1; `error_copy`: that of
        the second frame; `shift`: mean length of the expected shifts, in cells. Arguments: see `loss`.
        """
        self._check_range(max_shift_px)
        frames = scale_to_unit(frames)
        if forward is not None:
            still = self.num_shifts // 2
            labels = torch.stack((forward, backward)[: len(self._sides())]).flatten(2)  # (sides, B, hw)
            right = (self.shares(frames).argmax(2).flatten(2) == labels).float()
            moving = right.masked_fill(labels == still, torch.nan).transpose(0, 1).flatten(1).nanmean(1)
            return {
                "accuracy": right.mean((0, 2)),
                "accuracy_moving": moving,
                "accuracy_still": (labels == still).float().mean((0, 2)),
            }
        made, target = self.rebuild(frames), self._cells(frames[:, 2])
        return {
            "error": (made[self._made_names()[0]] - target).abs().flatten(1).mean(1),
            "error_copy": (self._cells(frames[:, 1]) - target).abs().flatten(1).mean(1),
            "shift": made["flow"][0].norm(dim=1).flatten(1).mean(1),
        }

    def logits(self, frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Both heads' outputs from frames 0..1: (sides, B, K or K + 1, h, w) and, with a map, (sides, B, 1, h, w)."""
        if frames.ndim != 5 or frames.shape[1] < (5 if self.two_sided else 3):
            least = 5 if self.two_sided else 3
            raise ValueError(f"frames must be (B, at least {least}, C, H, W), got {tuple(frames.shape)}")
        pairs = self._sides()
        used = [index for pair in pairs for index in pair]
        seen = frames[:, used].transpose(0, 1).flatten(0, 1)  # (frames used x B, C, H, W)
        if self.image_encoder is not None:
            seen = self.image_encoder(normalise_frames(255 * seen)).top
        seen = seen.unflatten(0, (len(pairs), 2, len(frames))).transpose(1, 2)  # (sides, B, 2, channels, h, w)
        features = self.unet(seen.flatten(2, 3).flatten(0, 1))
        sides = (len(pairs), len(frames))
        gone = None if self.disappear_head is None else self.disappear_head(features).unflatten(0, sides)
        return self.motion_head(features).unflatten(0, sides), gone

    def shares(self, frames: torch.Tensor) -> torch.Tensor:
        """How much of each cell goes by each shift: (sides, B, K, h, w) float32; what they lack to 1 disappears."""
        logits, gone = self.logits(frames)
        shares = logits.float().softmax(2)[:, :, : self.num_shifts]
        return shares if gone is None else shares * (1 - gone.float().sigmoid())

    def rebuild(self, frames: torch.Tensor) -> dict[str, torch.Tensor]:
        """The third frame out of the others, frames 0..1.

        Returns:
            `forward` and, if two-sided, `backward` and `blend`: (B, C, h, w) each; `attention` (B, 1, h, w): the
            forward side's weight in the blend; `disappear` (sides, B, 1, h, w); `flow` (sides, B, 2, h, w): the
            expected shift, x then y, cells.
        """
        shares = self.shares(frames)
        made, coverage = {}, []
        for name, (_, source), share in zip(("forward", "backward"), self._sides(), shares):
            image = self._cells(frames[:, source])
            arrived = spread(torch.cat((image, torch.ones_like(image[:, :1])), dim=1), share, self.max_shift)
            made[name] = arrived[:, :-1]
            coverage.append(arrived[:, -1:])
        if self.blend is not None:
            made["attention"] = self.blend(torch.cat(coverage, dim=1)).float().sigmoid()
            made["blend"] = made["backward"] + made["attention"] * (made["forward"] - made["backward"])
        whole = shares.sum(2, keepdim=True)
        steps = torch.arange(-self.max_shift, self.max_shift + 1, device=shares.device, dtype=shares.dtype)
        shifts = torch.stack((steps.repeat(len(steps)), steps.repeat_interleave(len(steps))))  # (2, K) x, y
        flow = torch.einsum("sbkhw,ck->sbchw", shares, shifts) / whole.clamp(min=1e-6)
        return {**made, "disappear": 1 - whole, "flow": flow}

    def pictures(
        self, frames: torch.Tensor, forward: torch.Tensor | None = None, backward: torch.Tensor | None = None, **_
    ) -> dict[str, np.ndarray]:
        """`motion`: a row a sample: frames 1, 2, 3; the labels as flow, if any; then for each side expected flow and
        what disappears; then, unless supervised, the frames made and the forward side's weight (attention)."""
        frames = scale_to_unit(frames)
        made = self.rebuild(frames)
        columns = [self._cells(frames[:, index]) for index in range(3)]
        if forward is not None:
            steps = torch.stack((forward % (2 * self.max_shift + 1), forward // (2 * self.max_shift + 1)), dim=1)
            columns.append(self._painted(steps - self.max_shift))
        for flow, gone in zip(made["flow"], made["disappear"]):
            columns.append(self._painted(flow))
            columns += [] if self.disappear == "none" else [gone]
        if not self.supervised:
            columns += [made[name] for name in ("forward", "backward", "blend", "attention") if name in made]
        columns = [column.detach().float().cpu().expand(-1, 3, -1, -1) for column in columns]
        scale = max(1, 64 // columns[0].shape[3])
        sheet = torch.stack(columns, dim=1).flatten(0, 1)
        return {"motion": picture_grid(F.interpolate(sheet, scale_factor=scale), columns=len(columns))}

    def describe(self) -> dict:
        return {"system": "local motion", **self._description}

    def _sides(self) -> tuple[tuple[int, int], ...]:
        """Which frames each side reads; the second of them is moved."""
        return ((0, 1), (4, 3)) if self.two_sided else ((0, 1),)

    def _check_range(self, max_shift_px: torch.Tensor | None) -> None:
        if max_shift_px is not None and bool((max_shift_px != self.max_shift).any()):
            found = sorted(set(max_shift_px.tolist()))
            raise ValueError(f"max_shift is {self.max_shift}, but labels are of shifts up to {found} px")

    def _made_names(self) -> tuple[str, ...]:
        return ("blend", "forward", "backward") if self.two_sided else ("forward",)

    def _cells(self, image: torch.Tensor) -> torch.Tensor:
        """(B, C, h, w): the picture that the motion map moves."""
        return image if self.image_encoder is None else F.avg_pool2d(image, self.image_encoder.strides["top"])

    def _painted(self, flow: torch.Tensor) -> torch.Tensor:
        """Flow (B, 2, h, w) as RGB (B, 3, h, w), 0..1."""
        flow = flow.detach().float().permute(0, 2, 3, 1).cpu().numpy()
        painted = np.stack([flow_to_color(one, max_flow_px=2**0.5 * self.max_shift) for one in flow])
        return torch.from_numpy(painted).permute(0, 3, 1, 2) / 255


class UNet(nn.Module):
    """Convolutions on a map that is halved and brought back, with a short cut at every size.

    Args:
        in_channels: of the input.
        width: channels of every layer.
        levels: how often the map is halved.

    Attributes:
        out_channels: of the output: the last two maps of full size and of coming back, side by side.
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
        """(B, in_channels, h, w) to (B, out_channels, h, w); both sides at least 2^levels.

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
    """Move every pixel by all shifts at once, a share of it by each, and add up what arrives.

    Args:
        image: (B, C, h, w).
        shares: (B, K, h, w), K = (2 max_shift + 1)^2 shifts row by row: y slowest, both from -max_shift.
        max_shift: px.

    Returns:
        (B, C, h, w); what leaves the picture is gone.

    Source: the bank of one-hot kernels of yangyi02/video_motion_mnist, one for each shift; `fold` adds the same up.
    """
    side = 2 * max_shift + 1
    batch, channels, height, width = image.shape
    if shares.shape != (batch, side * side, height, width):
        raise ValueError(f"shares must be {(batch, side * side, height, width)}, got {tuple(shares.shape)}")
    moved = image[:, :, None] * shares[:, None]  # (B, C, K, h, w)
    return F.fold(moved.flatten(1, 2).flatten(2), (height, width), side, padding=max_shift)


def _layer(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1), nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)
    )
