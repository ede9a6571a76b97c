"""Convert polygon labels in YOLO's layout to COCO annotations."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from os import PathLike
from pathlib import Path

import numpy as np

from cmp.datasets.list_file import MAX_NAMED, ListFile
from cmp.files import write_file
from cmp.images import SUFFIXES, read_header


def yolo_to_coco(source: str | PathLike, out: str | PathLike, part: str) -> tuple[int, int]:
    """Write one part in COCO's layout: annotations/instances_PART.json, and its images copied to PART/.

    Everything is read and checked before anything is written.

    Args:
        source: folder with images/PART, labels/PART (one object per line: class, then x and y of a polygon's corners
            as fractions of width and height) and classes.txt (lines "number name"). `cmp.datasets.list_file`
            describes empty lines and comments.
        out: folder to write; what is there under these names is replaced.
        part: train, val, ...

    Returns:
        How many images and objects. An image without a label file has none.

    Raises:
        FileNotFoundError: folders or classes.txt are missing.
        ValueError: a line is not a polygon inside the image of a known class, or not the number and name of a class;
            the image of a label file is missing (classes.txt is not taken for a label file); or two images have the
            same label file. The first few files and lines are named, and all are counted.
    """
    source, out = Path(source), Path(out)
    folder, label_folder = source / "images" / part, source / "labels" / part
    for needed in (folder, label_folder):
        if not needed.is_dir():
            raise FileNotFoundError(f"no such folder: {needed}")
    names = _read_classes(source / "classes.txt")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise ValueError(f"{folder} contains no images ({', '.join(SUFFIXES)})")
    _check_matches(paths, label_folder, folder)
    images, objects, unknown = [], [], []
    for path in paths:
        height, width = read_header(path).size_hw
        images.append(dict(id=len(images) + 1, file_name=path.name, width=width, height=height))
        label = label_folder / f"{path.stem}.txt"
        if not label.is_file():
            continue
        lines = ListFile(label)
        for index in range(len(lines)):
            words, where = lines.words(index), lines.where(index)
            corners = _polygon(words, where) * (width, height)
            if words[0] in names:
                objects.append(_annotation(len(objects) + 1, len(images), int(words[0]) + 1, corners))
            else:
                unknown.append(f"{where}: class {words[0]!r} is not in classes.txt")
    if unknown:
        raise ValueError(_counted(unknown, "lines"))
    (out / part).mkdir(parents=True, exist_ok=True)
    (out / "annotations").mkdir(exist_ok=True)
    for path in paths:
        write_file(out / part / path.name, path.read_bytes())
    categories = [dict(id=int(number) + 1, name=name) for number, name in names.items()]
    content = dict(images=images, annotations=objects, categories=categories)
    write_file(out / "annotations" / f"instances_{part}.json", json.dumps(content) + "\n")
    return len(images), len(objects)


def _check_matches(images: Sequence[Path], label_folder: Path, image_folder: Path) -> None:
    """Raise ValueError for label files without an image, and for images that share one."""
    stems = Counter(path.stem for path in images)
    twice = [path.name for path in images if stems[path.stem] > 1]
    if twice:
        raise ValueError(
            f"{image_folder}: {_counted(twice, 'images')} differ only in their suffix and would share a label file; "
            "keep one of each"
        )
    labels = sorted(path for path in label_folder.iterdir() if path.suffix.lower() == ".txt")
    alone = [str(path) for path in labels if path.stem not in stems and path.name != "classes.txt"]
    if alone:
        raise ValueError(
            f"{_counted(alone, 'label files')}: no image of this name in {image_folder}; add the image, or remove the "
            "label file"
        )


def _counted(found: Sequence[str], what: str) -> str:
    """The first few, and how many there are."""
    return "; ".join(found[:MAX_NAMED]) + (f" and more, {len(found)} {what} in all" if len(found) > MAX_NAMED else "")


def _annotation(number: int, image: int, category: int, corners: np.ndarray) -> dict:
    """COCO's entry of one object; corners (N, 2) px, x and y."""
    (x0, y0), (x1, y1) = corners.min(0), corners.max(0)
    x, y = corners.T
    area = abs(x @ np.roll(y, 1) - y @ np.roll(x, 1)) / 2
    return dict(
        id=number,
        image_id=image,
        category_id=category,
        segmentation=[[round(v, 3) for v in corners.ravel().tolist()]],
        bbox=[round(float(v), 3) for v in (x0, y0, x1 - x0, y1 - y0)],
        area=round(float(area), 3),
        iscrowd=0,
    )


def _read_classes(path: Path) -> dict[str, str]:
    """Names of the classes by number, as the file writes it."""
    lines, names = ListFile(path), {}
    for index in range(len(lines)):
        words = lines.words(index, maxsplit=1)
        if len(words) != 2 or not re.fullmatch("[0-9]{1,9}", words[0]) or int(words[0]) in map(int, names):
            raise ValueError(f'{lines.where(index)}: want "number name", each number once, got {" ".join(words)!r}')
        names[words[0]] = words[1]
    return names


def _polygon(words: list[str], where: str) -> np.ndarray:
    """(N, 2) corners (x, y) in 0..1, which follow the class number."""
    try:
        corners = np.array([float(value) for value in words[1:]])
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    if len(corners) < 6 or len(corners) % 2 or not ((corners >= 0) & (corners <= 1)).all():
        raise ValueError(
            f"{where}: expected x and y of three corners or more, each in 0..1, got {len(corners)} numbers"
        )
    return corners.reshape(-1, 2)
