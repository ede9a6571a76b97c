"""Find everything that is wrong with a segmentation data set before a run is started on it."""

from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from cmp.downstream.segmentation_data import SegmentationDataset
from cmp.images import read_image, read_label


class DataReport(NamedTuple):
    """What is in one part of a data set."""

    problems: list[str]  # what would stop or spoil a run, one line per file
    empty_classes: list[str]  # classes without a single pixel
    shares: dict[str, float]  # fraction of the labeled pixels, by class


def check_segmentation_data(dataset: SegmentationDataset) -> DataReport:
    """Read every image and label of a part.

    Missing files are found when the dataset is built. Here: files that cannot be read, sizes that differ, label ids
    that the description does not have, labels without a pixel of any class, and classes that never occur.
    """
    problems, counts = [], np.zeros(256, np.int64)
    for image_path, label_path in tqdm(dataset.samples, desc="check", unit="image"):
        try:
            size_hw = read_image(image_path).shape[:2]
        except (OSError, ValueError) as error:
            problems.append(str(error))
            size_hw = None
        try:
            ids = read_label(label_path)
        except (OSError, ValueError) as error:
            problems.append(str(error))
            continue
        if size_hw not in (None, ids.shape):
            problems.append(f"{label_path} is {ids.shape} pixels (H, W), its image {image_path} {size_hw}")
        found = np.bincount(ids.ravel(), minlength=256)
        unknown = np.flatnonzero((found > 0) & (dataset.class_of_id < 0))
        if len(unknown):
            named = ", ".join(f"{i} ({found[i]} px)" for i in unknown[:8])
            problems.append(f"{label_path} has label ids out of range: {named}")
        if not found[(dataset.class_of_id >= 0) & (dataset.class_of_id < len(dataset.names))].any():
            problems.append(f"{label_path} has no pixel of any class")
        counts += found
    of_class = [int(counts[dataset.class_of_id == number].sum()) for number in range(len(dataset.names))]
    total = max(1, sum(of_class))
    return DataReport(
        problems,
        [name for name, count in zip(dataset.names, of_class) if not count],
        {name: count / total for name, count in zip(dataset.names, of_class)},
    )


def print_data_report(dataset: dict) -> None:
    """Check a part given by the arguments of `SegmentationDataset` (and its type), and print what is in it.

    Raises:
        ValueError: something is wrong; its text lists all problems, one per line.
    """
    arguments = {key: value for key, value in dataset.items() if key != "type"}
    part = SegmentationDataset(**arguments)
    report = check_segmentation_data(part)
    if report.problems:
        listed = "\n  ".join(report.problems)
        raise ValueError(f"{len(report.problems)} problems in part {dataset['part']!r}:\n  {listed}")
    shares = ", ".join(f"{name} {100 * share:.2f}" for name, share in report.shares.items())
    print(f"part {dataset['part']!r}: {len(part)} images, nothing wrong; % of the labeled pixels: {shares}")
    if report.empty_classes:
        print(f"part {dataset['part']!r}: classes without a single pixel: {', '.join(report.empty_classes)}")
