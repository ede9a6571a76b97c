"""Show a pair store as one HTML page: no server, no scripts, no other files. The page is `browse_page.html`."""

from __future__ import annotations

import base64
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from numbers import Real
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jinja2 import Environment, StrictUndefined, Template

from cmp.datasets.pair_store import PairSample, PairStore, read_record, stored_rows
from cmp.datasets.point_counts import PUBLISHED_POINTS, count_points, crop_of_pair, fit_sampling
from cmp.flow.draw import flow_to_color
from cmp.guidance import sample_guidance

_IMAGE_WIDTH_PX = 480  # twice the width at which the page shows them, for dense screens
_BINS = 24
_STRIDE_PX, _KERNEL_PX = 80, 41  # of the guidance points drawn where a store has none: few enough to be seen
_NUM_CROPS = 12  # in which points are counted
_RECIPES = (  # title, short side and side of the crop, px, K and G
    ("Zhan et al., AlexNet", 416, 384, 81, 200),
    ("Zhan et al., ResNet-50", 416, 320, 67, 165),
    ("quick start", 160, 128, 15, 64),
)
_SCORES = {  # name: title, threshold
    "mean_flow_px": ("mean motion, px", None),
    "moving_share": ("moving", "min_moving_share"),
    "beyond_share": ("beyond range", "max_beyond_share"),
    "unexplained": ("unexplained", "max_unexplained"),
    "appearance_jump": ("appearance jump", "max_appearance_jump"),
    "largest_change": ("largest change", "max_duplicate_change"),
    "inconsistent": ("inconsistent", "max_inconsistent"),
    "camera_share": ("camera share", "max_camera_share"),
}
_MAX_NUMBER = 2.0**60  # of what is shown as a number; infinite values and those that are not a number exceed it too


def report_html(
    root: str | os.PathLike,
    *,
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
        num_pictures: pairs in the gallery, spread evenly over the store. As many rejected pairs at most are shown, an
            equal number per reason, where their images are stored. With 0 no guidance points are counted per crop.
        num_rejected: rejected pairs in the table, spread evenly too.
        num_read: at most this many pairs are read for the histograms, spread evenly. Points are counted on the pairs of
            the gallery where the store has no candidates.
        problems: receives one line per record and per sample that is left out, which names the file and what is wrong.

    Raises:
        FileNotFoundError: there is no store.
        ValueError: store.json or the index is damaged; see `PairStore`.
    """
    problems = [] if problems is None else problems
    records = _read_records(Path(root), problems)
    store = PairStore(root, records=records)
    settings = store.about["settings"]
    dropped = [(record["source"]["path"], pair) for record in records.values() for pair in record["dropped"]]
    read = _spread(len(store), num_read)
    distributions = _read_distributions(store, read, problems)
    gallery = list(_gallery(store, num_pictures, problems))
    if not distributions["points"]:
        distributions["points"] = [pair["num_points"] for pair in gallery if pair["points_are_drawn"]]
        points_name = "guidance points per image of the gallery"
    else:
        points_name = "candidates per image"
    names = {"gap_s": "gap, s", "gap_frames": "gap, frames", "points": points_name}
    rejected = list(_rejected_gallery(PairStore(root, rejected=True, records=records), records, num_pictures, problems))
    bad = [record for record in records.values() if record["status"] != "done"][:num_rejected]
    return _template().render(
        title=Path(root).resolve().name,
        counts=_counts(store, records, len(dropped)),
        problems=problems,
        problem_rows=[[problem] for problem in problems[:num_rejected]],
        num_read=len(read),
        num_pairs=len(store),
        charts=[_histogram(names[name], values) for name, values in distributions.items()],
        points=_points_per_crop(store, problems) if num_pictures else [],
        scores=_score_charts(records, settings.get("thresholds")),
        gallery=gallery,
        reasons=Counter(pair["reasons"][0] for _, pair in dropped).most_common(),
        rejected=rejected,
        dropped=[_rejected_row(*dropped[i]) for i in _spread(len(dropped), num_rejected)],
        dropped_heads=["video", "frames", "reasons", *(title for title, _ in _SCORES.values())],
        num_dropped=len(dropped),
        bad=[{"path": r["source"]["path"]} | {k: r[k] for k in ("status", "reason", "detail")} for r in bad],
        settings=[[name, value] for name, value in sorted(settings.items()) if value is not None],
    )


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
        return isinstance(value, Real) and not isinstance(value, bool) and abs(value) <= _MAX_NUMBER

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


def _read_distributions(store: PairStore, positions: Sequence[int], problems: list[str]) -> dict[str, list[float]]:
    """Time and frames between the frames of each pair, and its number of candidates where they are stored."""
    found: dict[str, list[float]] = {"gap_s": [], "gap_frames": [], "points": []}
    for position in positions:
        with _left_out(store, position, problems):
            meta = store.read_meta(position)
            _check_description(meta, store.place_of(position, "json"))
            candidates = store.read_candidates(position)
            for name, (first, second) in (("gap_s", meta["times_s"]), ("gap_frames", meta["frames"])):
                found[name].append(second - first)
            if candidates is not None:
                found["points"].append(len(candidates))
    return found


def _spread(count: int, wanted: int) -> list[int]:
    """At most `wanted` positions, the middles of equal parts of 0 .. count - 1."""
    wanted = min(count, wanted)
    return [(2 * i + 1) * count // (2 * wanted) for i in range(wanted)]


# ------------------------------------------------------------------------------------------- parts of the page


def _counts(store: PairStore, records: Mapping[str, dict], num_dropped: int) -> dict[str, float]:
    statuses = Counter(record["status"] for record in records.values())
    return {
        "pairs": len(store),
        "rejected pairs": num_dropped,
        "videos": statuses["done"],
        "videos skipped": statuses["skipped"],
        "videos failed": statuses["failed"],
        "MB": round(sum(record["shard"]["bytes"] for record in records.values() if record["shard"]) / 1e6, 1),
    }


def _gallery(store: PairStore, count: int, problems: list[str]) -> Iterator[dict]:
    """Images and a line of text for each of `count` kept pairs, spread over the store."""
    for position in _spread(len(store), count):
        with _left_out(store, position, problems):
            sample = store.read(position)
            _check_description(sample.meta, store.place_of(position, "json"))
            points_yx = sample.candidates
            if points_yx is None:
                points_yx = sample_guidance(
                    sample.flow, rng=np.random.default_rng(position), grid_stride_px=_STRIDE_PX, nms_kernel=_KERNEL_PX
                )
            yield _shown_pair(sample, points_yx) | {"points_are_drawn": sample.candidates is None}


def _rejected_gallery(store: PairStore, records: Mapping[str, dict], count: int, problems: list[str]) -> Iterator[dict]:
    """Images of rejected pairs: an equal number per reason, spread over the store."""
    places: dict[str, list[int]] = {}
    rows = [row for video_id in store.videos for row in stored_rows(records[video_id], rejected=True)]
    for position, row in enumerate(rows):
        places.setdefault(row["reasons"][0], []).append(position)
    for reason in sorted(places):
        for index in _spread(len(places[reason]), -(-count // len(places))):
            position = places[reason][index]
            with _left_out(store, position, problems):
                sample = store.read(position)
                _check_description(sample.meta, store.place_of(position, "json"))
                first, second = rows[position]["frames"]
                yield {
                    "images": [_data_url(_resized(image)) for image in (sample.first, flow_to_color(sample.flow))],
                    "reasons": rows[position]["reasons"],
                    "text": f"{sample.meta['video']['path']}, frames {first} to {second}",
                }


def _points_per_crop(store: PairStore, problems: list[str]) -> list[list[str]]:
    """Rows of the table of guidance points: what each recipe chooses, and K and G for the paper's number."""
    rows = []
    for title, short_side_px, size_px, kernel, stride_px in _RECIPES:
        crops = []
        for position in _spread(len(store), _NUM_CROPS):
            with _left_out(store, position, problems):
                crops.append(crop_of_pair(store, position, short_side_px=short_side_px, size_px=size_px))
        if not crops:
            continue
        how = dict(nms_kernel=kernel, grid_stride_px=stride_px)
        counts = count_points(crops, **how)
        wanted = fit_sampling(crops, PUBLISHED_POINTS, **how)
        found = f"K {wanted.nms_kernel}, G {wanted.grid_stride_px} ({wanted.mean_points:.1f})"
        shares = f"{counts.grid.mean():.1f} + {counts.watershed.mean():.1f}"
        rows.append(
            [title, f"{size_px} px of {short_side_px}", f"{kernel}, {stride_px}", f"{counts.mean:.1f}", shares, found]
        )
    return rows


def _rejected_row(path: str, pair: dict) -> dict:
    scores = [pair["quality"].get(name) for name in _SCORES]
    frames = f"{pair['frames'][0]} to {pair['frames'][1]}"
    return {"path": path, "frames": frames, "reasons": pair["reasons"], "scores": scores}


def _shown_pair(sample: PairSample, points_yx: np.ndarray) -> dict:
    height, width = sample.first.shape[:2]
    scale = _IMAGE_WIDTH_PX / width
    image, color = _resized(sample.first), _resized(flow_to_color(sample.flow))
    with_points = image.copy()
    for y, x in points_yx:
        start = np.round((np.array([x, y]) + 0.5) * scale).astype(int)
        end = np.round((np.array([x, y]) + 0.5 + sample.flow[y, x]) * scale).astype(int)
        for ink, thickness in (((0, 0, 0), 4), ((255, 220, 60), 2)):
            cv2.arrowedLine(with_points, start.tolist(), end.tolist(), ink, thickness, cv2.LINE_AA, tipLength=0.3)
        cv2.circle(with_points, start.tolist(), 3, (230, 60, 60), -1, cv2.LINE_AA)
    meta = sample.meta
    text = (
        f"{meta['video']['path']}, frames {meta['frames'][0]} to {meta['frames'][1]}: {width} x {height} px, "
        f"mean motion {meta['quality']['mean_flow_px']:.1f} px, {len(points_yx)} guidance points, "
        f"{meta['estimator']['name']}"
    )
    images = (with_points, color, cv2.addWeighted(image, 0.5, color, 0.5, 0))
    return {"images": [_data_url(image) for image in images], "text": text, "num_points": len(points_yx)}


def _resized(image: np.ndarray) -> np.ndarray:
    """The image at the width of the gallery, its ratio of sides kept."""
    height, width = image.shape[:2]
    size = (_IMAGE_WIDTH_PX, max(1, round(height * _IMAGE_WIDTH_PX / width)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def _data_url(image: np.ndarray) -> str:
    data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 85])[1]
    return f"data:image/jpeg;base64,{base64.b64encode(data.tobytes()).decode()}"


def _score_charts(records: Mapping[str, dict], thresholds: Any) -> list[dict]:
    """One histogram per score, kept pairs against rejected ones, with the threshold that decides."""
    limits = thresholds if isinstance(thresholds, dict) else {}
    kept, rejected = (
        [row["quality"] for record in records.values() for row in record[name]] for name in ("samples", "dropped")
    )
    charts = []
    for name, (title, limit) in _SCORES.items():
        of_kept, of_rejected = ([quality[name] for quality in part if name in quality] for part in (kept, rejected))
        charts.append(_histogram(title, of_kept, of_rejected, limits.get(limit)))
    return charts


def _histogram(name: str, values: Sequence[float], rejected: Sequence[float] = (), limit: Any = None) -> dict:
    """A chart for the template. Its last bar also counts what is beyond the 99th percentile. `limit` becomes a line."""
    values, rejected = ([value for value in part if abs(value) <= _MAX_NUMBER] for part in (values, rejected))
    everything = [*values, *rejected]
    if not everything:
        return {"name": name, "empty": True}
    low, high = float(min(everything)), float(np.percentile(everything, 99))
    if high - low < 1e-6 * max(1.0, abs(low)):
        low, high = low - 0.5 * max(1.0, abs(low)), low + 0.5 * max(1.0, abs(low))
    counts = [np.histogram(np.clip(part, low, high), bins=_BINS, range=(low, high))[0] for part in (values, rejected)]
    scale = 96 / (counts[0] + counts[1]).max()
    bars = [
        {"kind": kind, "x": 10 * i + 1, "y": 100 - scale * (under + n), "height": scale * n, "count": int(n)}
        for kind, part, below in (("", counts[0], 0 * counts[0]), ("no", counts[1], counts[0]))
        for i, (n, under) in enumerate(zip(part, below))
        if n
    ]
    width = 10 * _BINS
    is_number = isinstance(limit, Real) and not isinstance(limit, bool)
    place = width * (limit - low) / (high - low) if is_number and low <= limit <= high else None
    chart = {"name": name, "empty": False, "width": width, "bars": bars, "limit": place, "low": low, "high": high}
    return chart | {"median": float(np.median(everything))}
