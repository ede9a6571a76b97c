"""The crops of a store as a pretraining recipe makes them, to count points in (`cmp.datasets.point_counts`)."""

from os import PathLike
from typing import Any

from cmp.datasets import open_pairs
from cmp.datasets.point_counts import Crop, crops_of_dataset
from cmp.datasets.recipe_data import recipe_dataset
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
    settings = content.get("train_dataloader", {}).get("dataset", {})
    root = (settings.get("source") or {}).get("root")
    dataset = recipe_dataset(content, lambda: open_pairs(str(store), root), str(config), strategies=None)
    known = ("nms_kernel", "grid_stride_px", "normalizer", "thinning")
    return crops_of_dataset(dataset, num_crops), {name: settings[name] for name in known if name in settings}
