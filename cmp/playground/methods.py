"""The network of the playground next to what it is compared with: interpolation, and the same network untrained."""

from typing import NamedTuple

import numpy as np
import torch

from cmp.evaluation.interpolations import INTERPOLATIONS
from cmp.inference import MotionPropagator
from cmp.inference.interactive import Motion, Scene, move_scene, open_scene
from cmp.models import CMP
from cmp.pixels import nearest_pixel

NETWORK, RANDOM = "network", "random"
METHODS = {
    NETWORK: "CMP network",
    "nearest": "Nearest point",
    "fading": "Fading interpolation",
    RANDOM: "Random weights",
}


class OpenImage(NamedTuple):
    """An image that is shown, encoded by the network and, once it is asked for, by the one with random weights."""

    scene: Scene
    untrained: list[Scene]  # none or one


class Drawn(NamedTuple):
    """The arrows that were drawn last, and what the methods made of them so far."""

    points_xy: np.ndarray  # (N, 2) px
    vectors_xy: np.ndarray  # (N, 2) px
    motions: dict[str, Motion]


class Comparison:
    """The methods of the page, each called with the same arrows.

    Args:
        propagator: the network.
        trained_px: the short side of the images that it was trained on; None if it is not known.
        seed: of the random weights.
    """

    def __init__(self, propagator: MotionPropagator, trained_px: int | None = None, *, seed: int = 0) -> None:
        self.propagator, self.trained_px = propagator, trained_px
        self.untrained = _with_random_weights(propagator, seed)
        left_out = () if self.untrained else (RANDOM,)
        self.methods = {name: label for name, label in METHODS.items() if name not in left_out}

    def open(self, image: np.ndarray) -> OpenImage:
        """Encode an image (H, W, 3) uint8 RGB; see `open_scene`."""
        return OpenImage(open_scene(self.propagator, image, trained_px=self.trained_px), [])

    def move(self, opened: OpenImage, drawn: Drawn, method: str) -> Motion:
        """What a method makes of the arrows; computed once.

        Raises:
            ValueError: as `move_scene`.
        """
        if method not in drawn.motions:
            drawn.motions[method] = self._move(opened, method, drawn.points_xy, drawn.vectors_xy)
        return drawn.motions[method]

    def _move(self, opened: OpenImage, method: str, points_xy: np.ndarray, vectors_xy: np.ndarray) -> Motion:
        if method == NETWORK:
            return move_scene(self.propagator, opened.scene, points_xy, vectors_xy)
        image = opened.scene.image
        if method == RANDOM and self.untrained is not None:
            if not opened.untrained:
                opened.untrained.append(open_scene(self.untrained, image, trained_px=self.trained_px))
            return move_scene(self.untrained, opened.untrained[0], points_xy, vectors_xy)
        interpolate = INTERPOLATIONS[method][1]
        pixels_yx = nearest_pixel(points_xy, within=image.shape[1::-1])[:, ::-1].astype(int)
        return Motion(points_xy, vectors_xy, interpolate(pixels_yx, vectors_xy, image.shape[:2]), None)


def _with_random_weights(propagator: MotionPropagator, seed: int) -> MotionPropagator | None:
    """The same network before training; None if its description does not suffice to build it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            network = CMP.from_description(propagator.network.describe())
        except ValueError:
            return None
    untrained = MotionPropagator(network, normalize=propagator.normalize, max_pixels=propagator.max_pixels)
    return untrained.to(propagator.device)
