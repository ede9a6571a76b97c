"""The crops of a store as a pretraining recipe makes them, to count points in (`cmp.datasets.point_counts`)."""

from os import PathLike
from typing import Any

from cmp.datasets import PropagationDataset
from cmp.datasets.point_counts import Crop, crops_of_dataset
from cmp.engine.config import read_config


def crops_of_recipe(
    config: str | PathLike, store: str | PathLike, *, num_crops: int = 40
) -> tuple[list[Crop], dict[str, Any]]:
    """Crops of a store as a pretraining recipe makes them, and the recipe's arguments for `count_points`.

    Raises:
        FileNotFoundError: the recipe or store does not exist.
        ValueError: it is not a recipe for pairs, or chooses its points elsewhere (on the device).
    """
    content = read_config(config)
    settings = dict(content.get("train_dataloader", {}).get("dataset", {}))
    if settings.pop("type", None) not in (PropagationDataset, "cmp.datasets.PropagationDataset"):
        raise ValueError(f"{config}: must be a recipe for pairs; its training data are of another kind")
    sampling = {name: settings[name] for name in ("nms_kernel", "grid_stride_px") if settings.get(name)}
    if len(sampling) < 2 or settings.get("strategies") is None:
        raise ValueError(f"{config}: train_dataloader.dataset lacks strategies, nms_kernel or grid_stride_px")
    sampling |= {name: settings[name] for name in ("normalizer", "thinning") if name in settings}
    source = dict(settings.pop("source"), paths=[str(store)])
    settings |= dict(strategies=None, part="all", point_counts=None, sets_per_image=1, max_points=None)
    dataset = PropagationDataset(source, **settings)
    return crops_of_dataset(dataset, num_crops), sampling
