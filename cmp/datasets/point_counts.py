"""How many guidance points training sees per crop, and which K and G give a wanted number.

Guidance points (short: points) are the pixels whose motion is given to the network. K is the window of the strategy
"watershed" (`nms_kernel`), G the distance of the grid's points (`grid_stride_px`); see `cmp.guidance.sample_guidance`.

The number of watershed points is a property of the clips: each part that moves differently from its neighbors, and is
at least about K px across, gives one or a few. Clips with one moving thing in front of a still background give few,
whatever the sampler. Zhan et al. report 13.5 points per crop of 384 px with K = 81 and G = 200 on their clips; four of
these are the grid's.

Legend: H W pixels of a crop, N crops.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from cmp.datasets.propagation import PairSource, PropagationDataset
from cmp.datasets.transforms import FlowPair, ResizedCrop
from cmp.guidance import sample_guidance

PUBLISHED_POINTS = 13.5  # Zhan et al., CVPR 2019, per crop of 384 px
LARGEST_SCALE = 4.0  # that K and G are multiplied or divided by in a search
NUM_HALVINGS = 9


class Crop(NamedTuple):
    """The flow of one training crop."""

    flow: np.ndarray  # (H, W, 2) float32 px
    valid: np.ndarray  # (H, W) bool


class PointCounts(NamedTuple):
    """Points per crop."""

    grid: np.ndarray  # (N,) int64
    watershed: np.ndarray  # (N,) int64

    @property
    def mean(self) -> float:
        """Mean number of points per crop, of both strategies; NaN without crops."""
        total = self.grid + self.watershed
        return float(total.mean()) if len(total) else float("nan")


class Sampling(NamedTuple):
    """K and G, and what they give."""

    nms_kernel: int
    grid_stride_px: int
    mean_points: float


def crops_of_source(
    source: PairSource, *, short_side_px: int, size_px: int, num_crops: int = 40, seed: int = 0
) -> list[Crop]:
    """Random crops, as training draws them, of pairs that are spread evenly over a source.

    Args:
        source: pairs.
        short_side_px: pairs are resized to this first.
        size_px: side of the crops; what a small pair lacks is padded and not valid.
        num_crops: most crops that are used, one per pair.
        seed: of the positions of the crops.

    Raises:
        ValueError: the source is empty, or a size is out of range.
    """
    if not len(source):
        raise ValueError("the source contains no pairs")
    how = dict(short_side_px=short_side_px, size_px=size_px)
    return [crop_of_pair(source, position, seed=seed, **how) for position in _spread(len(source), num_crops)]


def crop_of_pair(source: PairSource, position: int, *, short_side_px: int, size_px: int, seed: int = 0) -> Crop:
    """One random crop of one pair; see `crops_of_source`."""
    image, field, valid = source.read_pair(position)
    flow = field if valid.all() else np.where(valid[..., None], np.asarray(field), np.float32(0))
    transform = ResizedCrop(short_side_px=short_side_px, size_px=size_px, random=True)
    pair = transform(FlowPair(image, flow, valid), np.random.default_rng((seed, position)))
    return Crop(np.ascontiguousarray(pair.flow), pair.valid)


def crops_of_dataset(dataset: PropagationDataset, num_crops: int = 40) -> list[Crop]:
    """Crops as a recipe's dataset makes them, of pairs that are spread evenly over it."""
    crops = []
    for position in _spread(len(dataset), num_crops):
        sample = dataset[position]
        crops.append(Crop(sample["flow"].permute(1, 2, 0).contiguous().numpy(), sample["valid"][0].numpy()))
    return crops


def count_points(
    crops: Sequence[Crop],
    *,
    nms_kernel: int,
    grid_stride_px: int,
    normalizer: str = "max",
    thinning: str = "authors",
    seed: int = 0,
) -> PointCounts:
    """Count the points of ("grid", "watershed") in each crop, as training chooses them.

    Points where the flow is not known are not counted, as training drops them.

    Args:
        crops: N of them.
        nms_kernel, grid_stride_px, normalizer, thinning: see `cmp.guidance.sample_guidance`.
        seed: the same numbers are drawn for a crop whatever K and G are.

    Raises:
        ValueError: as `sample_guidance`.
    """
    counts = np.zeros((2, len(crops)), np.int64)
    for number, (flow, valid) in enumerate(crops):
        for row, strategy in enumerate(("grid", "watershed")):
            y, x = sample_guidance(
                flow,
                rng=np.random.default_rng((seed, number)),
                strategies=(strategy,),
                grid_stride_px=grid_stride_px,
                nms_kernel=nms_kernel,
                normalizer=normalizer,
                thinning=thinning,
            ).T
            counts[row, number] = valid[y, x].sum()
    return PointCounts(*counts)


def fit_sampling(
    crops: Sequence[Crop],
    wanted: float,
    *,
    nms_kernel: int,
    grid_stride_px: int,
    keep_grid: bool = False,
    **how,
) -> Sampling:
    """Find K and G that give a wanted mean number of points per crop.

    Both are multiplied by one factor, so that the shares of the grid and of the watershed points change little. The
    factor is found by bisection between 1/4 and 4, as smaller K and G give more points.

    Args:
        crops: at least one.
        wanted: mean number of points, above 0.
        nms_kernel, grid_stride_px: where to begin.
        keep_grid: change only K.
        how: further arguments of `count_points`.

    Returns:
        The nearest that was tried. Its mean_points says how near: with keep_grid, or in clips where nothing moves, the
        wanted number may be out of reach.

    Raises:
        ValueError: wanted is not above 0, there are no crops, or as `count_points`.
    """
    if not wanted > 0:
        raise ValueError(f"wanted must be above 0, got {wanted}")
    if not len(crops):
        raise ValueError("there must be at least one crop, got none")

    def at(scale: float) -> Sampling:
        kernel = 2 * round(scale * (nms_kernel - 1) / 2) + 1
        stride = grid_stride_px if keep_grid else max(1, round(scale * grid_stride_px))
        kernel = max(kernel, 3)
        return Sampling(kernel, stride, count_points(crops, nms_kernel=kernel, grid_stride_px=stride, **how).mean)

    low, high = 1 / LARGEST_SCALE, LARGEST_SCALE
    tried = [at(1.0)]
    if tried[0].mean_points < wanted:  # smaller windows give more points
        high = 1.0
    else:
        low = 1.0
    for _ in range(NUM_HALVINGS):
        middle = (low * high) ** 0.5
        tried.append(at(middle))
        low, high = (low, middle) if tried[-1].mean_points < wanted else (middle, high)
    return min(tried, key=lambda sampling: abs(sampling.mean_points - wanted))


def describe_points(counts: PointCounts) -> str:
    """One line: the mean per crop and of each strategy, and how many crops have only the grid's."""
    if not len(counts.grid):
        return "no crops"
    only_grid = int((counts.watershed == 0).sum())
    return (
        f"{counts.mean:.1f} points per crop ({counts.grid.mean():.1f} of the grid, "
        f"{counts.watershed.mean():.1f} in moving regions; "
        f"{only_grid} of {len(counts.grid)} crops have only the grid's)"
    )


def _spread(count: int, wanted: int) -> Iterable[int]:
    """At most `wanted` positions, the middles of equal parts of 0 .. count - 1."""
    wanted = min(count, wanted)
    return [(2 * i + 1) * count // (2 * wanted) for i in range(wanted)]
