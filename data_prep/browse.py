"""Show a pair store as one HTML page: no server, no other files. The page is `browse_page.html`.

What is in a store may be anybody's: each value is escaped, and the page allows itself (by a content security policy)
only its own script, `browse_page.js`, and images inside it.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from numbers import Real
from pathlib import Path
from typing import Any

import cv2
from jinja2 import Environment, StrictUndefined, Template

from cmp.datasets.pair_store import PairStore, read_record, stored_rows
from cmp.datasets.point_counts import PUBLISHED_POINTS, count_points, crop_of_pair, fit_sampling
from cmp.datasets.propagation import PropagationDataset
from cmp.datasets.recipe_data import recipe_dataset
from cmp.engine.config import read_config
from data_prep.browse_charts import MAX_NUMBER, SCORES, histogram, score_charts
from data_prep.browse_pictures import shown_crop, shown_flow, shown_image, wheel_url
from data_prep.quality import explain_reason
from data_prep.thresholds import Thresholds

DEFAULT_RECIPE = "r18_quickstart"
_NUM_CROPS = 12  # in which points are counted
_RECIPES = (  # title, short side and side of the crop, px, K and G
    ("Zhan et al., AlexNet", 416, 384, 81, 200),
    ("Zhan et al., ResNet-50", 416, 320, 67, 165),
    ("quick start", 160, 128, 15, 64),
)


def report_html(
    root: str | os.PathLike,
    *,
    recipe: str | os.PathLike = DEFAULT_RECIPE,
    clip: str = "",
    num_pictures: int = 12,
    num_rejected: int = 100,
    num_read: int = 2000,
    problems: list[str] | None = None,
) -> str:
    """Describe a store in HTML.

    A record or sample that cannot be read, or that lacks what the page shows, is left out of the page. The checks are
    those of `cmp.datasets.pair_store`, and of `_check_description` for what only the page needs.

    Args:
        root: the store.
        recipe: a pretraining recipe, as for `cmp.engine.recipes.find_recipe`: the gallery shows the crop and the
            guidance points that it draws of each pair in the first epoch. A recipe is Python code, which is executed.
        clip: only pairs of videos whose path contains this text (in any case) are in the gallery and among the rejected
            pairs. Everything else on the page is about the whole store.
        num_pictures: pairs in the gallery, spread evenly over the store. As many rejected pairs at most are shown, an
            equal number per reason, where their images are stored. With 0 no guidance points are drawn or counted, and
            the recipe is not read.
        num_rejected: rejected pairs in the table, spread evenly too.
        num_read: at most this many pairs are read for the histograms, spread evenly.
        problems: receives one line per record and per sample that is left out, which names the file and what is wrong.

    Raises:
        FileNotFoundError: there is no store, or no such recipe.
        ValueError: store.json or the index is damaged, see `PairStore`; the recipe is not for pairs, or chooses its
            points elsewhere; no path contains `clip`.
    """
    problems = [] if problems is None else problems
    records = _read_records(Path(root), problems)
    store = PairStore(root, records=records)
    settings = store.about["settings"]
    read = _spread(range(len(store)), num_read)
    charts = [histogram(*titled) for titled in _read_distributions(store, read, problems)]
    chosen = _videos_of_clip(records, clip)
    kept = _kept_pairs(store, chosen if clip else None, recipe, num_pictures, problems)
    charts.append(histogram("guidance points per crop of the gallery", "crops", [pair["num_points"] for pair in kept]))
    of_clip = {video_id: records[video_id] for video_id in sorted(chosen)}
    rejected = _rejected_part(root, of_clip, num_pictures, num_rejected, settings.get("thresholds"), problems)
    return _template().render(
        title=Path(root).resolve().name,
        counts=_counts(store, records),
        problems=problems,
        problem_rows=[[problem] for problem in problems[:num_rejected]],
        num_read=len(read),
        num_pairs=len(store),
        charts=charts,
        points=_points_per_crop(store, problems) if num_pictures else [],
        scores=score_charts(records, settings.get("thresholds")),
        recipe=Path(recipe).stem,
        clip=clip,
        clips=sorted({pair["clip"] for part in (kept, rejected["rejected"], rejected["dropped"]) for pair in part}),
        gallery=kept,
        bad=[record for record in records.values() if record["status"] != "done"][:num_rejected],
        settings=[[name, value] for name, value in sorted(settings.items()) if value is not None],
        **rejected,
        **_fixed_parts(),
    )


@cache
def _fixed_parts() -> dict[str, str]:
    """What every page has: its only script, the hash by which the page allows it, the color wheel."""
    script = Path(__file__).with_name("browse_page.js").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return {"script": script, "script_hash": digest, "wheel": wheel_url()}


@cache
def _template() -> Template:
    """The page. Every value is escaped, and names that are not valid UTF-8 are shown with backslashes."""

    def finalize(value: Any) -> Any:
        if hasattr(value, "__html__"):  # escaped already, by a macro
            return value
        return str(value).encode("utf-8", "backslashreplace").decode()

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, finalize=finalize, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(Path(__file__).with_name("browse_page.html").read_text("utf-8"))


# ---------------------------------------------------------------------------------------------------- reading


def _read_records(root: Path, problems: list[str]) -> dict[str, dict]:
    """All valid records by video id, sorted; every other one is a line in problems."""
    records = {}
    folder = root / "videos"
    for name in sorted(os.listdir(folder)) if folder.is_dir() else ():
        if not name.endswith(".json"):
            continue
        try:
            record = read_record(folder / name, whole=True)
        except (OSError, ValueError) as error:
            problems.append(_one_line(str(error)))
            continue
        records[record["video_id"]] = record
    return records


@contextmanager
def _left_out(store: PairStore, position: int, problems: list[str]) -> Iterator[None]:
    """Make a line of what reading or drawing one sample raises; the line names the sample once."""
    try:
        yield
    except (ValueError, TypeError, ArithmeticError, OSError, cv2.error) as error:
        text = str(error) or type(error).__name__
        if str(store.path) not in text:
            text = f"{store.place_of(position, 'json')} cannot be shown ({text})"
        if (line := _one_line(text)) not in problems:
            problems.append(line)


def _one_line(text: str) -> str:
    return " ".join(text.split())[:600]


def _check_description(meta: Mapping, place: str) -> None:
    """Raise ValueError, naming `place`, where the description of a sample lacks what the page shows."""

    def is_number(value: Any) -> bool:
        return isinstance(value, Real) and not isinstance(value, bool) and abs(float(value)) <= MAX_NUMBER

    def has(name: str, key: str, test: Any) -> bool:
        part = meta.get(name)
        return isinstance(part, dict) and test(part.get(key))

    def is_text(value: Any) -> bool:
        return isinstance(value, str)

    valid = {name: isinstance(meta.get(name), list) and len(meta[name]) == 2 and all(map(is_number, meta[name]))
             for name in ("times_s", "frames")}  # fmt: skip
    valid |= {
        "video": has("video", "path", is_text),
        "quality": has("quality", "mean_flow_px", is_number),
        "estimator": has("estimator", "name", is_text),
    }
    for name, good in valid.items():
        if not good:
            raise ValueError(f"{place} has no valid {name}, got {repr(meta.get(name))[:80]}")


def _read_distributions(
    store: PairStore, positions: Sequence[int], problems: list[str]
) -> list[tuple[str, str, list[float]]]:
    """Titles of both axes and values: time and frames between the frames of each pair."""
    seconds: list[float] = []
    frames: list[float] = []
    for position in positions:
        with _left_out(store, position, problems):
            meta = store.read_meta(position)
            _check_description(meta, store.place_of(position, "json"))
            for found, (first, second) in ((seconds, meta["times_s"]), (frames, meta["frames"])):
                found.append(second - first)
    return [("gap, s", "pairs", seconds), ("gap, frames", "pairs", frames)]


def _spread(items: Sequence, wanted: int) -> list:
    """At most `wanted` items, the middles of equal parts."""
    wanted = min(len(items), wanted)
    return [items[(2 * i + 1) * len(items) // (2 * wanted)] for i in range(wanted)]


def _videos_of_clip(records: Mapping[str, dict], clip: str) -> set[str]:
    """Ids of the videos whose path contains a text, in any case."""
    found = {i for i, record in records.items() if clip.casefold() in record["source"]["path"].casefold()}
    if clip and not found:
        raise ValueError(f"--clip: no video of this store has {clip!r} in its path")
    return found


class _PlainPairs:
    """The pairs of a store without what else `PropagationDataset` reads: a damaged record must not cost the page."""

    def __init__(self, store: PairStore) -> None:
        self.pair_videos: Sequence[str] = store.pair_videos
        self.read_pair = store.read_pair

    def __len__(self) -> int:
        return len(self.pair_videos)


def _recipe_data(recipe: str | os.PathLike, store: PairStore) -> PropagationDataset | None:
    """What the recipe draws of each pair of the store; None where there are none."""
    config = read_config(recipe)
    return recipe_dataset(config, lambda: _PlainPairs(store), str(recipe)) if len(store) else None


def _explainer(thresholds: Any) -> Callable[[str, Mapping[str, float]], str]:
    """`explain_reason` with the thresholds in store.json, whatever they are; no words where they are not valid."""
    try:
        valid = Thresholds(**thresholds)
    except (TypeError, ValueError, OverflowError):
        return lambda reason, scores: ""
    return lambda reason, scores: explain_reason(reason, scores, valid)


# ------------------------------------------------------------------------------------------- parts of the page


def _counts(store: PairStore, records: Mapping[str, dict]) -> dict[str, float]:
    statuses = Counter(record["status"] for record in records.values())
    return {
        "pairs": len(store),
        "rejected pairs": sum(len(record["dropped"]) for record in records.values()),
        "videos": statuses["done"],
        "videos skipped": statuses["skipped"],
        "videos failed": statuses["failed"],
        "MB": round(sum(record["shard"]["bytes"] for record in records.values() if record["shard"]) / 1e6, 1),
    }


def _kept_pairs(
    store: PairStore, chosen: set[str] | None, recipe: str | os.PathLike, count: int, problems: list[str]
) -> list[dict]:
    """The gallery: pairs spread over the store, or over the videos in `chosen`."""
    numbers = store.video_numbers.tolist()
    positions = [i for i, number in enumerate(numbers) if chosen is None or store.videos[number] in chosen]
    if not count:
        return []
    dataset = _recipe_data(recipe, store)
    return list(_gallery(store, dataset, _spread(positions, count), problems))


def _rejected_part(
    root: str | os.PathLike,
    records: Mapping[str, dict],
    num_pictures: int,
    num_rejected: int,
    thresholds: Any,
    problems: list[str],
) -> dict[str, Any]:
    """What the template says about the rejected pairs of these records."""
    explain = _explainer(thresholds)
    dropped = [(record["source"]["path"], pair) for record in records.values() for pair in record["dropped"]]
    store = PairStore(root, rejected=True, records=records)
    return {
        "reasons": Counter(pair["reasons"][0] for _, pair in dropped).most_common(),
        "rejected": list(_rejected_gallery(store, records, num_pictures, explain, problems)),
        "dropped": [_rejected_row(path, pair, explain) for path, pair in _spread(dropped, num_rejected)],
        "dropped_heads": ["video", "frames", "reasons", *(f"{title}, {unit}" for title, unit, _ in SCORES.values())],
        "num_dropped": len(dropped),
    }


def _gallery(
    store: PairStore, dataset: PropagationDataset | None, positions: Sequence[int], problems: list[str]
) -> Iterator[dict]:
    """Images and a line of text for each of these kept pairs."""
    if dataset is None:
        return
    for position in positions:
        with _left_out(store, position, problems):
            sample = store.read(position)
            meta = sample.meta
            _check_description(meta, store.place_of(position, "json"))
            crop = shown_crop(dataset[position], "what training draws: a crop and its guidance points")
            images = [shown_image(sample.first, "first frame"), shown_flow(sample.flow, "flow"), crop]
            height, width = sample.first.shape[:2]
            text = (
                f"{meta['video']['path']}, frames {meta['frames'][0]} to {meta['frames'][1]}: {width} x {height} px, "
                f"mean motion {meta['quality']['mean_flow_px']:.1f} px, {crop['num_points']} guidance points, "
                f"{meta['estimator']['name']}"
            )
            clip = meta["video"]["path"]
            yield {"images": images, "text": text, "num_points": crop["num_points"], "clip": clip}


def _rejected_gallery(
    store: PairStore,
    records: Mapping[str, dict],
    count: int,
    explain: Callable[[str, Mapping[str, float]], str],
    problems: list[str],
) -> Iterator[dict]:
    """Images of rejected pairs: an equal number per reason, spread over the store."""
    places: dict[str, list[int]] = {}
    rows = [row for video_id in store.videos for row in stored_rows(records[video_id], rejected=True)]
    for position, row in enumerate(rows):
        places.setdefault(row["reasons"][0], []).append(position)
    for reason in sorted(places):
        for position in _spread(places[reason], -(-count // len(places))):
            with _left_out(store, position, problems):
                with_second = store.has(position, "second.jpg")
                sample = store.read(position, second=with_second)
                _check_description(sample.meta, store.place_of(position, "json"))
                row = rows[position]
                images = [shown_image(sample.first, "first frame"), shown_flow(sample.flow, "flow")]
                if sample.second is not None:
                    images.insert(1, shown_image(sample.second, "second frame"))
                yield {
                    "images": images,
                    "reasons": [(name, explain(name, row["quality"])) for name in row["reasons"]],
                    "text": f"{sample.meta['video']['path']}, frames {row['frames'][0]} to {row['frames'][1]}",
                    "clip": sample.meta["video"]["path"],
                }


def _points_per_crop(store: PairStore, problems: list[str]) -> list[list[str]]:
    """Rows of the table of guidance points: what each recipe chooses, and K and G for the paper's number."""
    rows = []
    for title, short_side_px, size_px, kernel, stride_px in _RECIPES:
        crops = []
        for position in _spread(range(len(store)), _NUM_CROPS):
            with _left_out(store, position, problems):
                crops.append(crop_of_pair(store, position, short_side_px=short_side_px, size_px=size_px))
        if not crops:
            continue
        counts = count_points(crops, nms_kernel=kernel, grid_stride_px=stride_px)
        wanted = fit_sampling(crops, PUBLISHED_POINTS, nms_kernel=kernel, grid_stride_px=stride_px)
        found = f"K {wanted.nms_kernel}, G {wanted.grid_stride_px} ({wanted.mean_points:.1f})"
        shares = f"{counts.grid.mean():.1f} + {counts.watershed.mean():.1f}"
        rows.append(
            [title, f"{size_px} px of {short_side_px}", f"{kernel}, {stride_px}", f"{counts.mean:.1f}", shares, found]
        )
    return rows


def _rejected_row(path: str, pair: dict, explain: Callable[[str, Mapping[str, float]], str]) -> dict:
    scores = [pair["quality"].get(name) for name in SCORES]
    frames = f"{pair['frames'][0]} to {pair['frames'][1]}"
    reasons = [(name, explain(name, pair["quality"])) for name in pair["reasons"]]
    return {"clip": path, "frames": frames, "reasons": reasons, "scores": scores}
