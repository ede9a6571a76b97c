"""From an image file to a folder of discovered objects: masks, COCO's JSON and a picture."""

import json
import re
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from cmp.checkpoints import read_checkpoint
from cmp.files import check_paths, files_in, move_into_place, staging_folder, write_file
from cmp.inference.annotate import draw_mask
from cmp.inference.discover import Segment, discover_segments, segment_from_pokes
from cmp.inference.inputs import read_photo
from cmp.inference.pokes import PokeRule
from cmp.inference.propagator import load_propagator
from cmp.masks import encode_rle
from cmp.video.writers import write_png

_MASK = re.compile(r"mask_\d{3,}\.png")
JSON, PICTURE, AFFORDANCE = "segments.json", "picture.png", "affordance.png"


def discover_file(
    image_path: str | PathLike,
    out: str | PathLike,
    checkpoint: str | PathLike,
    *,
    clicks_xy: Sequence = (),
    negative_xy: Sequence = (),
    threshold: float | None = None,
    refine: str = "none",
    num_places: int = 40,
    max_segments: int = 12,
    border_points: int = 4,
    short_side_px: int | None = None,
    device: str = "cpu",
) -> list[Segment]:
    """Find the object under the clicks, or all objects without clicks, and write them.

    Args:
        image_path: any image that Pillow reads.
        out: folder; it is made if its parent exists. All files get their names when the last of them is complete, and
            masks of an earlier call are then removed. Other files in it stay.
        checkpoint: of the network.
        clicks_xy, negative_xy, threshold, refine: see `segment_from_pokes`. Without clicks, negative_xy stay in all
            pokes.
        num_places, max_segments: see `discover_segments`; only without clicks.
        border_points: see `PokeRule`.
        short_side_px: resize to this before the network; None: what it was trained at, or the image as it is where its
            file does not state that.
        device: where to compute.

    Returns:
        The segments, as they were written.

    Raises:
        FileNotFoundError, ValueError, OSError: an input cannot be read, an argument is out of range, or the folder
            cannot be written. Nothing is written then.
    """
    out = Path(out)
    check_paths(
        reads={"IMAGE": image_path, "--checkpoint": checkpoint},
        folders={"OUT": out},
        writes={"OUT": files_in(out, (JSON, PICTURE, AFFORDANCE, *(file.name for file in out.glob("mask_*.png"))))},
    )
    if not out.absolute().parent.is_dir():
        raise FileNotFoundError(f"{out}: no such folder: {out.absolute().parent} (make it first)")
    rule = PokeRule(num_places=3 if len(clicks_xy) else 1, border_points=border_points)
    read = read_checkpoint(checkpoint)
    short_side_px = short_side_px or read.short_side_px
    image = read_photo(image_path, short_side_px)
    propagator = load_propagator(read, device=device)
    how: dict[str, Any] = dict(rule=rule, short_side_px=short_side_px)
    affordance = None
    if len(clicks_xy):
        found = segment_from_pokes(propagator, image, clicks_xy, negative_xy, threshold=threshold, refine=refine, **how)
        segments = [found]
    else:
        segments, affordance = discover_segments(
            propagator,
            image,
            still_xy=negative_xy,
            num_places=num_places,
            max_segments=max_segments,
            refine=refine,
            **how,
        )
    settings = dict(
        checkpoint=Path(checkpoint).name,
        clicks_xy=[list(map(float, click)) for click in clicks_xy],
        negative_xy=[list(map(float, click)) for click in negative_xy],
        refine=refine,
        border_points=border_points,
        short_side_px=short_side_px,
    )
    if not len(clicks_xy):
        settings |= dict(num_places=num_places, max_segments=max_segments)
    _write(out, Path(image_path).name, image, segments, affordance, settings, negative_xy)
    return segments


def results_json(name: str, size_hw: tuple[int, int], segments: Sequence[Segment], settings: dict) -> dict:
    """What segments.json contains: the image, the settings, and `annotations` in the form of COCO's results.

    An entry has image_id 1, category_id 1 ("object"), score (the quality), segmentation (uncompressed run lengths),
    bbox [x, y, width, height] and area, px; and beyond COCO threshold and points_xy.
    """
    entries = []
    for number, segment in enumerate(segments, 1):
        rows, columns = np.flatnonzero(segment.mask.any(axis=1)), np.flatnonzero(segment.mask.any(axis=0))
        bbox = [0, 0, 0, 0]
        if len(rows):
            bbox = [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1]
        entries.append(
            dict(
                id=number,
                image_id=1,
                category_id=1,
                iscrowd=0,
                score=round(segment.quality, 4),
                segmentation=encode_rle(segment.mask),
                bbox=[int(value) for value in bbox],
                area=int(segment.mask.sum()),
                threshold=round(segment.threshold, 4),
                points_xy=np.round(segment.points_xy, 2).tolist(),
            )
        )
    height, width = size_hw
    return dict(
        images=[dict(id=1, file_name=name, width=width, height=height)],
        categories=[dict(id=1, name="object")],
        annotations=entries,
        settings=settings,
    )


def draw_segments(image: np.ndarray, segments: Sequence[Segment], negative_xy: Sequence = ()) -> np.ndarray:
    """Draw masks over a copy of an image (H, W, 3) uint8 RGB, the best on top, each with a color and its points."""
    drawn = image.copy()
    for number in reversed(range(len(segments))):
        hue = np.array([[[(number * 67) % 180, 230, 255]]], np.uint8)
        red, green, blue = (int(value) for value in cv2.cvtColor(hue, cv2.COLOR_HSV2RGB)[0, 0])
        segment = segments[number]
        last = number == 0
        drawn = draw_mask(drawn, segment.mask, segment.points_xy, negative_xy if last else (), color=(red, green, blue))
    return drawn


def draw_affordance(image: np.ndarray, affordance: np.ndarray) -> np.ndarray:
    """Draw an affordance (H, W) in 0..1 over a gray copy of an image: dark blue is its least, yellow its most."""
    low, high = float(affordance.min()), float(affordance.max())
    level = np.rint(255 * (affordance - low) / max(high - low, 1e-6)).astype(np.uint8)
    color = cv2.cvtColor(cv2.applyColorMap(level, cv2.COLORMAP_VIRIDIS), cv2.COLOR_BGR2RGB)
    gray = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return cv2.addWeighted(color, 0.65, gray, 0.35, 0)


def _write(
    out: Path,
    name: str,
    image: np.ndarray,
    segments: Sequence[Segment],
    affordance: np.ndarray | None,
    settings: dict,
    negative_xy: Sequence,
) -> None:
    with staging_folder(out) as folder:
        for number, segment in enumerate(segments):
            write_png(folder / f"mask_{number:03d}.png", np.where(segment.mask, np.uint8(255), np.uint8(0)))
        write_png(folder / PICTURE, draw_segments(image, segments, negative_xy))
        if affordance is not None:
            write_png(folder / AFFORDANCE, draw_affordance(image, affordance))
        content = results_json(name, image.shape[:2], segments, settings)
        write_file(folder / JSON, json.dumps(content) + "\n")
        made = sorted(path.name for path in folder.iterdir())
        for file in made:
            if (out / file).is_dir():
                raise IsADirectoryError(f"{out / file}: is a folder, a file is to be written; choose another OUT")
        out.mkdir(exist_ok=True)
        for path in list(out.iterdir()):
            if (_MASK.fullmatch(path.name) or path.name == AFFORDANCE) and path.name not in made and path.is_file():
                path.unlink()
        for file in made:
            move_into_place(folder / file, out / file)
