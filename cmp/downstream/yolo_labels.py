"""Polygon labels of the YOLO kind as COCO annotations."""

import json
import shutil
from os import PathLike
from pathlib import Path

import numpy as np
from PIL import Image

IMAGES = (".jpg", ".jpeg", ".png")


def yolo_to_coco(source: str | PathLike, out: str | PathLike, part: str) -> tuple[int, int]:
    """Write one part in COCO's layout: annotations/instances_PART.json, and its images copied to PART/.

    Args:
        source: folder with images/PART, labels/PART (a line an object: class, then x and y of a polygon's corners
            as fractions of width and height) and classes.txt (lines "number name").
        out: folder to write; what is there under these names is replaced.
        part: train, val, ...

    Returns:
        How many images and objects. An image without a label file has none.

    Raises:
        FileNotFoundError: folders or classes.txt are missing.
        ValueError: a line is no polygon inside the image of a known class.
    """
    source, out = Path(source), Path(out)
    folder = source / "images" / part
    if not folder.is_dir():
        raise FileNotFoundError(f"no such folder: {folder}")
    names = dict(line.split(maxsplit=1) for line in (source / "classes.txt").read_text().splitlines() if line.strip())
    categories = [dict(id=int(number) + 1, name=name.strip()) for number, name in names.items()]
    images, objects = [], []
    (out / part).mkdir(parents=True, exist_ok=True)
    (out / "annotations").mkdir(exist_ok=True)
    for path in sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGES):
        with Image.open(path) as picture:
            width, height = picture.size
        images.append(dict(id=len(images) + 1, file_name=path.name, width=width, height=height))
        label = source / "labels" / part / f"{path.stem}.txt"
        for number, line in enumerate(label.read_text().splitlines() if label.is_file() else (), 1):
            where = f"{label}, line {number}"
            category, corners = _polygon(line, set(names), where)
            corners *= (width, height)
            (x0, y0), (x1, y1) = corners.min(0), corners.max(0)
            x, y = corners.T
            area = abs(x @ np.roll(y, 1) - y @ np.roll(x, 1)) / 2
            objects.append(
                dict(
                    id=len(objects) + 1,
                    image_id=len(images),
                    category_id=category + 1,
                    segmentation=[[round(v, 3) for v in corners.ravel().tolist()]],
                    bbox=[round(float(v), 3) for v in (x0, y0, x1 - x0, y1 - y0)],
                    area=round(float(area), 3),
                    iscrowd=0,
                )
            )
        shutil.copyfile(path, out / part / path.name)
    if not images:
        raise ValueError(f"{folder} holds no image ({', '.join(IMAGES)})")
    content = dict(images=images, annotations=objects, categories=categories)
    (out / "annotations" / f"instances_{part}.json").write_text(json.dumps(content) + "\n")
    return len(images), len(objects)


def _polygon(line: str, classes: set[str], where: str) -> tuple[int, np.ndarray]:
    """Class number and (N, 2) corners (x, y) in 0..1."""
    number, *values = line.split() or [""]
    try:
        corners = np.array([float(value) for value in values])
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    if number not in classes:
        raise ValueError(f"{where}: class {number!r} is not in classes.txt")
    if len(corners) < 6 or len(corners) % 2 or not ((corners >= 0) & (corners <= 1)).all():
        raise ValueError(
            f"{where}: expected x and y of three corners or more, each in 0..1, got {len(corners)} numbers"
        )
    return int(number), corners.reshape(-1, 2)
