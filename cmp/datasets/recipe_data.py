"""The dataset of a pretraining recipe over other pairs than those that the recipe names."""

from collections.abc import Callable, Mapping
from typing import Any

from cmp.datasets.propagation import PropagationDataset


def recipe_dataset(config: Mapping, open_source: Callable[[], Any], name: str, **changes: Any) -> PropagationDataset:
    """The training dataset of a pretraining recipe over all pairs of a source, with the recipe's crops and points.

    `dataset[position]` is what the first epoch of training draws for the pair at this position, if the recipe trains on
    that pair: a sample follows from (seed, epoch, position).

    Args:
        config: the whole recipe, as `cmp.engine.config.read_config` returns it.
        open_source: opens the pairs (`PairSource`); called once the recipe is known to fit.
        name: of the recipe, for errors.
        changes: other arguments of `PropagationDataset` in the place of the recipe's.

    Raises:
        ValueError: it is not a recipe for pairs, or it chooses its points elsewhere (on the device).
        Whatever `open_source` raises.
    """
    settings = dict(config.get("train_dataloader", {}).get("dataset", {}))
    if settings.pop("type", None) not in (PropagationDataset, "cmp.datasets.PropagationDataset"):
        raise ValueError(f"{name}: must be a recipe for pairs; its training data are of another kind")
    if settings.get("strategies") is None or not settings.get("nms_kernel") or not settings.get("grid_stride_px"):
        raise ValueError(f"{name}: train_dataloader.dataset lacks strategies, nms_kernel or grid_stride_px")
    settings |= dict(part="all", val_list=None, max_pairs=None)
    return PropagationDataset(**settings | dict(source=open_source()) | changes)
