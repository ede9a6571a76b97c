"""Images with a class for every pixel, from one description of how a data set lies on the disk.

Legend: H W image pixels.
"""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

IGNORED = 255  # label of pixels that count neither in the loss nor in a metric
PAD_RGB = (124, 116, 104)  # the published mean, near zero for a network


class SegmentationDataset(Dataset):
    """One part of a data set, described by patterns; `{part}` and `{id}` in them stand for what their names say.

    Args:
        root: folder that the patterns start from.
        part: train, val, ...
        images: pattern of the image files, such as "{part}/{id}.jpg".
        labels: pattern of the label files: pictures of one channel or with a palette, a pixel is a label id.
        ids: pattern of a text file with an id a line (its first word); None takes every image that matches. An id
            may hold slashes.
        classes: for each class its name and the label id, or ids, that count as it. This is the merge map, and its
            order numbers the classes.
        ignore_ids: label ids that count as nothing.
        scale_range: in training, factor on the image's size, drawn log-uniformly; None leaves images as they are.
        crop_hw: in training, size of a random crop; smaller images are padded, ignored in labels.
        flip: in training, probability of a mirrored sample.
        seed: of the augmentations, which follow from it, the epoch and the position.

    Attributes:
        samples: (image, label) paths, in the order of ids.
        names: of the classes.

    Raises:
        FileNotFoundError: the list, or an image or label (all are looked for at once; the first are named).
        ValueError: there is no sample, classes contradict each other, or an augmentation is out of range.
    """

    metainfo: dict = {}  # mmengine warns where a dataset has none

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
        names = _read_ids(root, images, ids, part)
        self.samples = [
            (root / images.format(part=part, id=name), root / labels.format(part=part, id=name)) for name in names
        ]
        missing = [str(path) for sample in self.samples for path in sample if not path.is_file()]
        if missing:
            raise FileNotFoundError(f"{len(missing)} files of part {part!r} are missing, first {missing[:3]}")

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int | tuple[int, int]) -> dict[str, torch.Tensor]:
        """image (3, H, W) uint8 RGB and label (H, W) uint8: a class, or 255 where ignored.

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
        image, ids = read_image(image_path), read_label_ids(label_path)
        if image.shape[:2] != ids.shape:
            raise ValueError(f"{label_path} is {ids.shape} pixels (H, W), its image {image_path} {image.shape[:2]}")
        unknown = [int(i) for i in np.unique(ids) if self.class_of_id[i] < 0]
        if unknown:
            raise ValueError(f"{label_path} holds label ids {unknown[:8]}, which the description does not have")
        return image, self.class_of_id[ids].astype(np.uint8)


def read_image(path: Path) -> np.ndarray:
    """(H, W, 3) uint8 RGB; ValueError if the file is broken."""
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError(f"{path} cannot be read as an image")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def read_label_ids(path: Path) -> np.ndarray:
    """(H, W) uint8 label ids, from a grey picture or the indices of one with a palette; ValueError for any other."""
    try:
        with Image.open(path) as picture:  # OpenCV would turn a palette into colours
            if picture.mode not in ("L", "P"):
                raise ValueError(f"{path} has pixels of mode {picture.mode!r}: a label is one byte, grey or a palette")
            return np.array(picture)
    except OSError as error:
        raise ValueError(f"{path} cannot be read as a label picture: {error}") from error


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


def _read_ids(root: Path, images: str, ids: str | None, part: str) -> list[str]:
    if ids is not None:
        path = root / ids.format(part=part)
        if not path.is_file():
            raise FileNotFoundError(f"no list of ids: {path}")
        found, source = [line.split()[0] for line in path.read_text().splitlines() if line.strip()], path
    else:
        before, after = images.format(part=part, id="\0").split("\0")
        folder = root / before.rpartition("/")[0]
        paths = (path.relative_to(root).as_posix() for path in folder.rglob("*") if path.is_file())
        found = sorted(
            p[len(before) : len(p) - len(after)] for p in paths if p.startswith(before) and p.endswith(after)
        )
        source = root / images.format(part=part, id="*")
    if not found:
        raise ValueError(f"no samples: {source} gives none")
    return found


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
