"""Objects with boxes and masks, in COCO's layout. Reading needs pycocotools: pip install ".[detection]".

Legend: N objects, H W image pixels.
"""

import contextlib
import io
import reprlib
from collections import Counter
from os import PathLike
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from cmp.images import read_image


def read_annotations(path: str | PathLike):
    """A pycocotools COCO of an annotation file.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: it is not an annotation file, or some of its entries are wrong.
        ModuleNotFoundError: pycocotools is not installed.
    """
    try:
        from pycocotools.coco import COCO
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'detection needs pycocotools, which is not installed: pip install ".[detection]"', name="pycocotools"
        ) from error
    if not Path(path).is_file():
        raise FileNotFoundError(f"no annotation file: {path}")
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
            coco = COCO(str(path))
        coco.getImgIds(), coco.getCatIds(), coco.getAnnIds()
    except (ValueError, AssertionError, KeyError, TypeError) as error:
        raise ValueError(f"{path} cannot be read as COCO annotations: {error!r}") from error
    if wrong := _what_is_wrong(coco):
        raise ValueError(f"{path}: {len(wrong)} entries are wrong: {'; '.join(wrong[:5])}")
    return coco


def _what_is_wrong(coco) -> list[str]:
    """Describe every entry that would raise an error later or be left out silently, in one sentence each."""
    wrong = [
        f"image {image_id!r} has no {key}"
        for image_id, image in coco.imgs.items()
        for key in ("file_name", "height", "width")
        if key not in image
    ]
    for number, annotation in coco.anns.items():
        missing = [key for key in ("image_id", "category_id", "bbox", "segmentation") if key not in annotation]
        if missing:
            wrong.append(f"annotation {number!r} has no {missing[0]}")
        elif annotation["image_id"] not in coco.imgs:
            wrong.append(f"annotation {number!r} is of image {annotation['image_id']!r}, which does not exist")
        elif annotation["category_id"] not in coco.cats:
            wrong.append(f"annotation {number!r} is of category {annotation['category_id']!r}, which does not exist")
        elif len(annotation["bbox"]) != 4:
            wrong.append(
                f"annotation {number!r} has a box of {len(annotation['bbox'])} numbers, not x, y, width, height"
            )
    for image_id, image in coco.imgs.items():
        name = image.get("file_name", "")
        if not isinstance(name, str) or name.startswith("/") or ".." in name.split("/"):
            wrong.append(f"image {image_id!r} has the file name {reprlib.repr(name)}, which leads out of its folder")
    for kind, entries in (("images", coco.imgs), ("annotations", coco.anns)):
        twice = len(coco.dataset.get(kind, ())) - len(entries)
        wrong += [f"{twice} {kind} have an id that another one has"] * (twice > 0)
    names = Counter(str(image.get("file_name")) for image in coco.imgs.values() if "file_name" in image)
    twice_named = [name for name, count in names.items() if count > 1]
    if twice_named:
        wrong.append(f"{len(twice_named)} files are listed twice, first {twice_named[0]!r}")
    return wrong


class CocoInstances(Dataset):
    """Images with their objects.

    Args:
        root: folder that images and annotations start from.
        part: train2017, val2017, ...; replaces `{part}` in the two patterns.
        images: pattern of the folder of images.
        annotations: pattern of the annotation file.
        train: leave out crowds, and images without a box of at least 1 px per side; evaluation takes all images.
        flip: in training, probability of a mirrored sample.
        seed: of the mirroring, which follows from it, the epoch and the position.

    Attributes:
        path: of the annotation file.
        category_ids, names: of the classes 1, 2, ...: by rising category id.

    Raises:
        FileNotFoundError: annotations or images are missing (the first are named).
        ValueError: broken annotations, or no image is left.
    """

    metainfo: dict = {}  # mmengine warns if a dataset has no metainfo

    def __init__(
        self,
        root: str | PathLike,
        part: str,
        *,
        images: str = "{part}",
        annotations: str = "annotations/instances_{part}.json",
        train: bool = False,
        flip: float = 0.0,
        seed: int = 0,
    ) -> None:
        self.path = Path(root) / annotations.format(part=part)
        self.coco, self.train, self.flip, self.seed = read_annotations(self.path), train, flip, seed
        self.category_ids = sorted(self.coco.getCatIds())
        self.names = tuple(category["name"] for category in self.coco.loadCats(self.category_ids))
        folder = Path(root) / images.format(part=part)
        self.image_ids = [i for i in sorted(self.coco.getImgIds()) if not train or self._objects(i)]
        if not self.image_ids:
            raise ValueError(f"{self.path} has no image{' with an object' if train else ''}")
        self.files = [folder / self.coco.imgs[i]["file_name"] for i in self.image_ids]
        missing = [str(path) for path in self.files if not path.is_file()]
        if missing:
            raise FileNotFoundError(f"{len(missing)} images of {self.path} are missing, first {missing[:3]}")

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, index: int | tuple[int, int]) -> dict:
        """Return image (3, H, W) uint8 RGB, image_id, and in training the target.

        The target has boxes (N, 4) px, labels (N,) and masks (N, H, W).

        Raises:
            ValueError: the image is broken or does not have the size that its annotations state.
        """
        index, epoch = index if isinstance(index, tuple) else (index, 0)
        image, image_id = read_image(self.files[index]), self.image_ids[index]
        about = self.coco.imgs[image_id]
        if image.shape[:2] != (about["height"], about["width"]):
            stated = (about["height"], about["width"])
            raise ValueError(f"{self.files[index]} is {image.shape[:2]} pixels (H, W), its annotations state {stated}")
        sample = dict(image_id=image_id)
        if self.train:
            objects = self._objects(image_id)
            boxes = np.array([o["bbox"] for o in objects], np.float32)
            boxes[:, 2:] += boxes[:, :2]
            masks = np.stack([self.coco.annToMask(o) for o in objects])
            if np.random.default_rng((self.seed, epoch, index)).random() < self.flip:
                image, masks = image[:, ::-1], masks[:, :, ::-1]
                boxes[:, [0, 2]] = image.shape[1] - boxes[:, [2, 0]]
            labels = torch.tensor([self.category_ids.index(o["category_id"]) + 1 for o in objects])
            sample["target"] = dict(boxes=torch.from_numpy(boxes), labels=labels, masks=torch.from_numpy(masks.copy()))
        return sample | dict(image=torch.from_numpy(image.transpose(2, 0, 1).copy()))

    def _objects(self, image_id: int) -> list[dict]:
        objects = self.coco.imgToAnns[image_id]
        return [o for o in objects if not o.get("iscrowd") and min(o["bbox"][2:]) >= 1]


def as_lists(samples: list[dict]) -> dict[str, list]:
    """Collate samples whose images differ in size: one list per key."""
    return {key: [sample[key] for sample in samples] for key in samples[0]}
