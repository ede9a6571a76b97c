"""From an image file and clicks to a file with a mask: what `cmp-motion annotate` does."""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path

import numpy as np

from cmp.checkpoints import read_checkpoint
from cmp.files import check_paths
from cmp.inference.annotate import draw_mask, segment_from_clicks
from cmp.inference.inputs import read_photo
from cmp.inference.propagator import load_propagator
from cmp.video.writers import write_png


def annotate_file(
    image: str | PathLike,
    out: str | PathLike,
    checkpoint: str | PathLike,
    clicks: Sequence[Sequence[float]],
    negatives: Sequence[Sequence[float]] = (),
    *,
    threshold: float = 0.5,
    length_px: float = 10.0,
    short_side_px: int | None = None,
    device: str = "cpu",
) -> tuple[np.ndarray, Path]:
    """Segment an object in an image and write the mask, and an overlay of it next to it.

    Args:
        image: any image that Pillow reads.
        out: .png, in an existing folder; the overlay is OUT_overlay.png.
        checkpoint: the network: ours or Zhan et al.'s, torch file or safetensors; or "starter" (`cmp.starter`).
        clicks, negatives: (x, y) px on the object and outside of it.
        threshold: of the score, 0..1.
        length_px: of the test motion, px of the working size.
        short_side_px: resize to this before the network; None: what it was trained at, or the image as it is where its
            file does not state that.
        device: where to compute.

    Returns:
        The mask, (H, W) bool, and the path of the overlay.

    Raises:
        FileNotFoundError, OSError, ValueError: an input cannot be used or an output cannot be written; it is named.
    """
    out = Path(out)
    overlay = out.with_name(f"{out.stem}_overlay.png")
    if out.suffix.lower() != ".png":
        raise ValueError(f"OUT must end in .png, got {out}")
    check_paths(reads={"IMAGE": image, "--checkpoint": checkpoint}, writes={"OUT": out, "the overlay of OUT": overlay})
    read = read_checkpoint(checkpoint)
    short_side_px = short_side_px or read.short_side_px
    photo = read_photo(image, short_side_px)
    propagator = load_propagator(read, device=device)
    _, mask = segment_from_clicks(
        propagator,
        photo,
        clicks,
        negatives,
        threshold=threshold,
        length_px=length_px,
        short_side_px=short_side_px,
    )
    write_png(overlay, draw_mask(photo, mask, clicks, negatives))
    write_png(out, np.where(mask, np.uint8(255), np.uint8(0)))
    return mask, overlay
