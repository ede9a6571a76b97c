"""Pokes: move one or a few points of an image, keep others still, and read what the network expects to move along.

One image is encoded once and decoded for many pokes. All maps have the network's own resolution (cells);
`MotionPropagator.upsample_cells` brings what is made of them to the image's size.

Legend: S pokes, N clicks, M still points, H W image pixels, h w cells.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from cmp.inference.propagator import EncodedImage, MotionPropagator
from cmp.pixels import nearest_pixel

GOLDEN_ANGLE = math.pi * (3 - math.sqrt(5))
SETS_AT_ONCE = 64  # pokes whose points are on the pixel grid at the same time


@dataclass(frozen=True)
class PokeRule:
    """How points are poked. Lengths are shares of the image's short side, so that the rule is the same at every size.

    Args:
        num_directions: directions of the pokes, evenly spaced, the first to the right.
        lengths: of the pokes; each direction is poked with each.
        num_places: places that are poked: the click, and others near it.
        near: the others are at most this far from the click.
        moving: a pixel moves if it moves by more than this share of the poke's length.
        border_points: still points on each side of the image, evenly spaced, corners included: what is poked is taken
            to be smaller than the image. 0: none.
        still_gap: still points of the border that are nearer than this to a click are left out.

    Raises:
        ValueError: a count or a share is out of range.
    """

    num_directions: int = 4
    lengths: tuple[float, ...] = (0.025,)
    num_places: int = 3
    near: float = 0.02
    moving: float = 0.5
    border_points: int = 4
    still_gap: float = 0.075

    def __post_init__(self) -> None:
        for name, least in (("num_directions", 1), ("num_places", 1), ("border_points", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")
        if self.border_points == 1:
            raise ValueError("border_points must be 0 or at least 2, the corners of a side, got 1")
        if not self.lengths or not all(0 < length <= 1 for length in self.lengths):
            raise ValueError(f"lengths must be above 0 and at most 1, at least one, got {self.lengths}")
        for name in ("near", "moving", "still_gap"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in 0..1, got {getattr(self, name)}")

    @property
    def num_pokes(self) -> int:
        """S: pokes of one click or one set of clicks."""
        return self.num_directions * len(self.lengths) * self.num_places


class Pokes(NamedTuple):
    """S sets of points for the network: those that are poked and those that stay."""

    points_xy: list[np.ndarray]  # S arrays (P, 2) px
    vectors_xy: list[np.ndarray]  # S arrays (P, 2) px; 0 where a point stays
    poke_xy: np.ndarray  # (S, 2) float64 px: the motion of the poked points of each set


class Response(NamedTuple):
    """What the network expects under S pokes, in cells."""

    flow: torch.Tensor  # (S, 2, h, w) float32 px: the expected displacement
    moving: torch.Tensor  # (S, h, w) float32 in 0..1: the probability of moving along, see PokeRule.moving
    along: torch.Tensor  # (S, h, w) float32: displacement along the poke, as a share of its length


def make_pokes(clicks_xy: np.ndarray, still_xy: np.ndarray, size_hw: tuple[int, int], rule: PokeRule) -> Pokes:
    """Make the pokes of one object: all clicks move together.

    The places near the click are on a spiral (sunflower), so that they are spread evenly and are always the same.

    Args:
        clicks_xy: (N, 2) px (x, y), N at least 1.
        still_xy: (M, 2) px that stay, on top of the rule's points on the border. M may be 0.
        size_hw: of the image, px.
        rule: see there.

    Points that fall on one pixel: a poked point counts, and a still one on it is left out.
    """
    height, width = size_hw
    short = min(size_hw)
    border = border_points(size_hw, rule.border_points)
    gaps = np.hypot(*(border[:, None] - clicks_xy[None]).transpose(2, 0, 1)).min(axis=1, initial=np.inf)
    still = nearest_pixel(np.concatenate((border[gaps >= rule.still_gap * short], still_xy)), within=(width, height))
    points, vectors, poke = [], [], []
    for place in range(rule.num_places):
        radius = rule.near * short * math.sqrt(place / max(rule.num_places - 1, 1))
        angle = place * GOLDEN_ANGLE
        poked = nearest_pixel(clicks_xy + radius * np.array([math.cos(angle), math.sin(angle)]), within=(width, height))
        stays = still[~(still[:, None] == poked[None]).all(axis=2).any(axis=1)]
        for length in rule.lengths:
            for direction in range(rule.num_directions):
                turn = 2 * math.pi * direction / rule.num_directions
                vector = length * short * np.array([math.cos(turn), math.sin(turn)])
                points.append(np.concatenate((poked, stays)))
                vectors.append(np.concatenate((np.tile(vector, (len(poked), 1)), np.zeros_like(stays))))
                poke.append(vector)
    return Pokes(points, vectors, np.array(poke))


def border_points(size_hw: tuple[int, int], per_side: int) -> np.ndarray:
    """(4 * per_side - 4, 2) px (x, y): evenly spaced points on the border of an image, corners once; none for 0."""
    height, width = size_hw
    if per_side == 0:
        return np.empty((0, 2))
    x, y = np.linspace(0, width - 1, per_side), np.linspace(0, height - 1, per_side)
    top, bottom = (np.stack((x, np.full(per_side, row)), axis=1) for row in (0, height - 1))
    left, right = (np.stack((np.full(per_side - 2, column), y[1:-1]), axis=1) for column in (0, width - 1))
    return np.concatenate((top, bottom, left, right))


def respond(propagator: MotionPropagator, encoded: EncodedImage, pokes: Pokes, moving: float) -> Response:
    """Decode all pokes over one encoded image.

    Args:
        propagator: the one that encoded the image.
        encoded: one image.
        pokes: S of them.
        moving: see PokeRule; the share of each poke's length.
    """
    flows, shares = [], []
    lengths = np.hypot(*pokes.poke_xy.T)
    for length in np.unique(lengths):  # the network's distribution is read at one threshold per call
        chosen = np.flatnonzero(lengths == length)
        for first in range(0, len(chosen), SETS_AT_ONCE):
            part = chosen[first : first + SETS_AT_ONCE]
            flow, share = propagator.predict_cells(
                encoded,
                [pokes.points_xy[i] for i in part],
                [pokes.vectors_xy[i] for i in part],
                moving_px=float(moving * length),
            )
            flows.append((part, flow))
            shares.append(share[:, 0])
    order = torch.from_numpy(np.argsort(np.concatenate([part for part, _ in flows])))
    flow = torch.cat([flow for _, flow in flows])
    order = order.to(flow.device)
    flow, share = flow[order], torch.cat(shares)[order]
    poke = torch.from_numpy(pokes.poke_xy).to(flow)[:, :, None, None]
    along = (flow * poke).sum(dim=1) / poke.square().sum(dim=1)
    return Response(flow, share, along)


def join_pokes(several: Sequence[Pokes]) -> Pokes:
    """The pokes of several objects, one after another, for one call of `respond`."""
    return Pokes(
        [points for pokes in several for points in pokes.points_xy],
        [vectors for pokes in several for vectors in pokes.vectors_xy],
        np.concatenate([pokes.poke_xy for pokes in several]),
    )
