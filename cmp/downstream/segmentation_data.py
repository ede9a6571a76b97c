"""Images with a class for every pixel, from one description of the files of a data set.

Legend: H W image pixels.
"""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset

from cmp.datasets.list_file import ListFile
from cmp.images import read_image, read_label

IGNORED = 255  # label of pixels that count neither in the loss nor in a metric
PAD_RGB = (124, 116, 104)  # the published mean, near zero for a network


class SegmentationDataset(Dataset):
    """One part of a data set, described by patterns in which `{part}` and `{id}` are replaced.

    Args:
        root: folder that the patterns start from.
        part: train, val, ...
        images: pattern of the image files, such as "{part}/{id}.jpg".
        labels: pattern of the label files: images of one channel or with a palette, each pixel a label id.
        ids: pattern of a text file with one id per line (its first word, up to a space or tab). None: every image that
            matches. An id may contain slashes. Empty lines, comments and other rules: see `cmp.datasets.list_file`.
        classes: for each class its name and its label id, or ids if several are merged. Their order numbers the
            classes.
        ignore_ids: label ids of no class.
        scale_range: in training, factor on the image's size, drawn log-uniformly; None leaves images as they are.
        crop_hw: in training, size of a random crop; smaller images are padded, ignored in labels.
        flip: in training, probability of a mirrored sample.
        seed: of the augmentations, which follow from it, the epoch and the position.

    Attributes:
        samples: (image, label) paths, in the order of ids.
        names: of the classes.

    Raises:
        FileNotFoundError: the list, or an image or label (all are looked for at once; the first are named, with the
            lines of the list that name them).
        ValueError: there are no samples, classes contradict each other, or an augmentation is out of range.
    """

    metainfo: dict = {}  # mmengine warns if a dataset has no metainfo

    def __init__(
        self,
        root: str | PathLike,
        part: str,
        *,
        images: str,
        labels: str,
        ids: str | None,
        classes: Sequence[tuple[str, int | Sequence[int]]],
        ignore_ids: Sequence[int] = (),
        scale_range: tuple[float, float] | None = None,
        crop_hw: tuple[int, int] | None = None,
        flip: float = 0.0,
        seed: int = 0,
    ) -> None:
        if scale_range is not None and not 0 < scale_range[0] <= scale_range[1]:
            raise ValueError(f"scale_range must be rising and positive, got {scale_range}")
        if crop_hw is not None and min(crop_hw) < 1:
            raise ValueError(f"crop_hw must be at least 1 by 1, got {crop_hw}")
        if not 0 <= flip <= 1:
            raise ValueError(f"flip is a probability, got {flip}")
        self.class_of_id, self.names = _class_of_id(classes, ignore_ids), tuple(name for name, _ in classes)
        self.scale_range, self.crop_hw, self.flip, self.seed = scale_range, crop_hw, flip, seed
        root = Path(root)
        names, places = _read_ids(root, images, labels, ids, part)
        self.samples = [
            (root / images.format(part=part, id=name), root / labels.format(part=part, id=name)) for name in names
        ]
        missing = [
            f"{path}{f' ({place})' if place else ''}"
            for sample, place in zip(self.samples, places)
            for path in sample
            if not path.is_file()
        ]
        if missing:
            raise FileNotFoundError(f"{len(missing)} files of part {part!r} are missing, first {missing[:3]}")

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int | tuple[int, int]) -> dict[str, torch.Tensor]:
        """Return image (3, H, W) uint8 RGB and label (H, W) uint8: a class, or 255 where ignored.

        Args:
            index: position, or position and epoch, which the augmentations follow from.

        Raises:
            ValueError: a file is broken, sizes differ, or a label id is not described.
        """
        index, epoch = index if isinstance(index, tuple) else (index, 0)
        image, label = self.read(index)
        rng = np.random.default_rng((self.seed, epoch, index))
        image, label = _augment(image, label, rng, self.scale_range, self.crop_hw, self.flip)
        return dict(image=torch.from_numpy(image.transpose(2, 0, 1).copy()), label=torch.from_numpy(label.copy()))

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Image (H, W, 3) uint8 RGB and label (H, W) uint8 as they are on the disk, merged; errors as above."""
        image_path, label_path = self.samples[index]
        image, ids = read_image(image_path), read_label(label_path)
        if image.shape[:2] != ids.shape:
            raise ValueError(
                f"{label_path} is {ids.shape} pixels (H, W), its image {image_path} {image.shape[:2]} (each turned by "
                "its EXIF orientation)"
            )
        unknown = [int(i) for i in np.unique(ids) if self.class_of_id[i] < 0]
        if unknown:
            raise ValueError(f"{label_path} has label ids {unknown[:8]}, which the description does not have")
        return image, self.class_of_id[ids].astype(np.uint8)


def _class_of_id(classes: Sequence[tuple[str, int | Sequence[int]]], ignore_ids: Sequence[int]) -> np.ndarray:
    """(256,) int16: class of each label id, 255 if ignored, -1 if the description does not have it."""
    if not 1 <= len(classes) <= IGNORED:
        raise ValueError(f"there must be 1 to {IGNORED} classes, got {len(classes)}")
    table = np.full(256, -1, np.int16)
    entries = [(name, number, ids) for number, (name, ids) in enumerate(classes)]
    for name, number, ids in [*entries, ("ignore_ids", IGNORED, ignore_ids)]:
        for label_id in (ids,) if isinstance(ids, int) else ids:
            if not 0 <= label_id <= 255:
                raise ValueError(f"{name}: a label id is 0..255, got {label_id}")
            if table[label_id] >= 0:
                raise ValueError(f"{name}: label id {label_id} is described twice")
            table[label_id] = number
    return table


def _read_ids(root: Path, images: str, labels: str, ids: str | None, part: str) -> tuple[list[str], list[str]]:
    """The ids of a part, and for each where the list names it ("" without a list)."""
    if ids is not None:
        source = root / ids.format(part=part)
        if not source.is_file():
            raise FileNotFoundError(f"no list of ids: {source}")
        lines = ListFile(source)
        found = [lines.words(index, maxsplit=1)[0] for index in range(len(lines))]
        places = [lines.where(index) for index in range(len(lines))]
        first: dict[str, str] = {}
        twice = [
            f"{place}: {name!r}, first {first[name]}"
            for name, place in zip(found, places)
            if first.setdefault(name, place) != place
        ]
        if twice:
            raise ValueError(f"{len(twice)} ids are listed twice: {'; '.join(twice[:3])}; remove the lines")
    else:
        found = _matching(root, images, part)
        if found and (alone := sorted(set(_matching(root, labels, part)) - set(found))):
            named = [labels.format(part=part, id=name) for name in alone[:3]]
            raise ValueError(
                f"{len(alone)} labels in {root} have no image ({images.format(part=part, id='*')}), first {named}; add "
                "the images, or remove the labels"
            )
        source, places = root / images.format(part=part, id="*"), [""] * len(found)
    if not found:
        raise ValueError(f"no samples: nothing is listed in, or matches, {source}")
    return found, places


def _matching(root: Path, pattern: str, part: str) -> list[str]:
    """The ids of the files that match a pattern, sorted."""
    before, after = pattern.format(part=part, id="\0").split("\0")
    folder = root / before.rpartition("/")[0]
    paths = (path.relative_to(root).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(p[len(before) : len(p) - len(after)] for p in paths if p.startswith(before) and p.endswith(after))


def _augment(
    image: np.ndarray,
    label: np.ndarray,
    rng: np.random.Generator,
    scale_range: tuple[float, float] | None,
    crop_hw: tuple[int, int] | None,
    flip: float,
) -> tuple[np.ndarray, np.ndarray]:
    if scale_range is not None:
        scale = np.exp(rng.uniform(*np.log(scale_range)))
        size_wh = tuple(max(1, round(side * scale)) for side in image.shape[1::-1])
        image = cv2.resize(image, size_wh, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
        label = cv2.resize(label, size_wh, interpolation=cv2.INTER_NEAREST_EXACT)
    if crop_hw is not None:
        short = [max(0, want - have) for want, have in zip(crop_hw, label.shape)]
        if any(short):
            image = cv2.copyMakeBorder(image, 0, short[0], 0, short[1], cv2.BORDER_CONSTANT, value=PAD_RGB)
            label = cv2.copyMakeBorder(label, 0, short[0], 0, short[1], cv2.BORDER_CONSTANT, value=IGNORED)
        top, left = (int(rng.integers(have - want + 1)) for want, have in zip(crop_hw, label.shape))
        area = np.s_[top : top + crop_hw[0], left : left + crop_hw[1]]
        image, label = image[area], label[area]
    if rng.random() < flip:
        image, label = image[:, ::-1], label[:, ::-1]
    return image, label
