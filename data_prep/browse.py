"""One HTML page that shows what a pair store holds: no server, no scripts, no other files."""

from __future__ import annotations

import base64
import html
import io
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from cmp.datasets.pair_store import PairSample, PairStore, read_records, stored_rows
from cmp.flow.draw import flow_to_color
from cmp.guidance import sample_guidance

_TILE_PX = 240  # width of the pictures
_BINS = 24
_STRIDE_PX, _KERNEL_PX = 80, 41  # guides drawn where a store has none: few enough to be seen
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
_STYLE = """
:root{--ink:#1c2330;--soft:#667085;--line:#e4e7ec;--paper:#f6f7f9;--accent:#3b6fd4}
*{box-sizing:border-box}body{margin:0;background:var(--paper);color:var(--ink);font:15px/1.5 system-ui,sans-serif}
main{max-width:1180px;margin:0 auto;padding:32px 24px}h1{margin:0;font-size:26px;overflow-wrap:anywhere}
h2{margin:36px 0 12px;font-size:18px}p{color:var(--soft);margin:4px 0}.row{display:flex;flex-wrap:wrap;gap:14px}
.card{background:#fff;border:1px solid var(--line);border-radius:10px;padding:14px 16px}
.count b{display:block;font-size:26px;line-height:1.2}.count{min-width:130px;color:var(--soft)}
.count b{color:var(--ink)}figure{margin:0}figcaption{color:var(--soft);font-size:13px;margin-top:6px}
.pair{display:grid;grid-template-columns:repeat(3,1fr);gap:8px;margin-bottom:14px}
.two{grid-template-columns:repeat(2,1fr);margin:0}.half{display:grid;gap:14px}
.half{grid-template-columns:repeat(auto-fill,minmax(440px,1fr))}
.pair img{width:100%;border-radius:6px;
display:block}.pair figcaption{grid-column:1/-1;overflow-wrap:anywhere;margin:0}svg rect{fill:var(--accent)}
svg rect.no{fill:#d9574a}svg line{stroke:var(--ink);stroke-dasharray:3 2}
svg text{font-size:11px;fill:var(--soft)}table{border-collapse:collapse;width:100%;font-size:13px}
th,td{text-align:left;padding:6px 10px;border-bottom:1px solid var(--line)}td{overflow-wrap:anywhere}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}.why{background:#fdecea;color:#b42318;border-radius:99px;
padding:1px 9px;white-space:nowrap}
"""


def report_html(
    root: str | os.PathLike, *, num_pictures: int = 12, num_rejected: int = 100, num_read: int = 2000
) -> str:
    """Describe a store in HTML.

    Args:
        root: the store.
        num_pictures: pairs in the gallery, spread evenly over the store; and at most as many rejected ones, an equal
            number of each reason, where their pictures are stored.
        num_rejected: rejected pairs in the table, spread evenly too.
        num_read: pairs read at most for the histograms, spread evenly. Points are counted on the gallery's pairs where
            the store has no candidates.

    Raises FileNotFoundError or ValueError if there is no store, or it is damaged; see `PairStore`.
    """
    store, records = PairStore(root), read_records(root)
    dropped = [(record["source"]["path"], pair) for record in records.values() for pair in record["dropped"]]
    statuses = Counter(record["status"] for record in records.values())
    counts = {"pairs": len(store), "rejected pairs": len(dropped), "videos": statuses["done"]}
    counts |= {"videos skipped": statuses["skipped"], "videos failed": statuses["failed"]}
    counts["MB"] = round(sum(record["shard"]["bytes"] for record in records.values() if record["shard"]) / 1e6, 1)
    cards = "".join(f'<div class="card count"><b>{value:,}</b>{name}</div>' for name, value in counts.items())

    gap_s, gap_frames, points = [], [], []
    read = _spread(len(store), num_read)
    for position in read:
        meta = json.loads(store.read_member(position, "json"))
        gap_s.append(meta["times_s"][1] - meta["times_s"][0])
        gap_frames.append(meta["frames"][1] - meta["frames"][0])
        if store.has(position, "guides.npy"):
            points.append(len(np.load(io.BytesIO(store.read_member(position, "guides.npy")), allow_pickle=False)))
    gallery, counted = [], []
    for position in _spread(len(store), num_pictures):
        sample = store.read(position)
        chosen = sample.candidates
        if chosen is None:
            chosen = sample_guidance(
                sample.flow, rng=np.random.default_rng(position), grid_stride_px=_STRIDE_PX, nms_kernel=_KERNEL_PX
            )
            counted.append(len(chosen))
        gallery.append(_pair_html(sample, chosen))
    points_name = "candidates an image" if points else "guides an image of the gallery"
    charts = [("gap, s", gap_s), ("gap, frames", gap_frames), (points_name, points or counted)]
    charts = "".join(_histogram(*chart) for chart in charts)
    kept = [row["quality"] for record in records.values() for row in record["samples"]]
    limits = store.about["settings"].get("thresholds", {})
    scores = "".join(
        _histogram(
            title,
            [quality[name] for quality in kept if name in quality],
            [pair["quality"][name] for _, pair in dropped if name in pair["quality"]],
            limits.get(limit),
        )
        for name, (title, limit) in _SCORES.items()
    )

    reasons = Counter(pair["reasons"][0] for _, pair in dropped)
    why = "".join(f'<div class="card count"><b>{n:,}</b>{html.escape(r)}</div>' for r, n in reasons.most_common())
    rows = "".join(_rejected_row(*dropped[i]) for i in _spread(len(dropped), num_rejected))
    rejected = "".join(_rejected_gallery(PairStore(root, rejected=True), records, num_pictures))
    bad = [record for record in records.values() if record["status"] != "done"]
    bad_rows = "".join(
        f"<tr><td>{_text(r['source']['path'])}</td><td>{_text(r['status'])}</td>"
        f'<td><span class="why">{_text(r["reason"])}</span></td><td>{_text(r["detail"])}</td></tr>'
        for r in bad[:num_rejected]
    )
    settings = "".join(
        f"<tr><td>{_text(name)}</td><td>{_text(value)}</td></tr>"
        for name, value in sorted(store.about["settings"].items())
        if value is not None
    )
    title = _text(Path(root).resolve().name)
    empty = "<p>none</p>"
    return f"""<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}: pairs</title>
<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body><main>
<h1>{title}</h1><p>frame pairs with optical flow, for Conditional Motion Propagation</p><br>
<div class="row">{cards}</div>
<h2>Distributions</h2><p>over {len(read):,} of {len(store):,} pairs</p><div class="row">{charts}</div>
<h2>Scores</h2><p>kept pairs blue, rejected ones red; the line is the threshold</p><div class="row">{scores}</div>
<h2>Pairs</h2><p>first frame with guides; flow (hue: direction, saturation: length); both</p>
{"".join(gallery) or empty}
<h2>Rejected pairs</h2><div class="row">{why}</div><br><div class="half">{rejected}</div><br>
{_table("video|frames|reasons|" + "|".join(title for title, _ in _SCORES.values()), rows) if rows else empty}
<p>{min(len(dropped), num_rejected):,} of {len(dropped):,}, spread over the store</p>
<h2>Videos without pairs</h2>{_table("video|verdict|reason|detail", bad_rows) if bad else empty}
<h2>Settings</h2>{_table("setting|value", settings) if settings else empty}
</main></body></html>
"""


def _spread(count: int, wanted: int) -> list[int]:
    """At most `wanted` positions, the middles of equal parts of 0 .. count - 1."""
    wanted = min(count, wanted)
    return [(2 * i + 1) * count // (2 * wanted) for i in range(wanted)]


def _text(value: object) -> str:
    """For HTML, and for files whose names are no valid UTF-8."""
    return html.escape(str(value).encode("utf-8", "backslashreplace").decode())


def _table(heads: str, rows: str) -> str:
    head = "".join(f"<th>{name}</th>" for name in heads.split("|"))
    return f'<div class="card"><table><tr>{head}</tr>{rows}</table></div>'


def _rejected_row(path: str, pair: dict) -> str:
    scores = pair["quality"]
    cells = "".join(f'<td class="n">{scores[name]:.2f}</td>' if name in scores else "<td></td>" for name in _SCORES)
    why = " ".join(f'<span class="why">{_text(reason)}</span>' for reason in pair["reasons"])
    return f"<tr><td>{_text(path)}</td><td>{pair['frames'][0]} to {pair['frames'][1]}</td><td>{why}</td>{cells}</tr>"


def _rejected_gallery(store: PairStore, records: Mapping[str, dict], count: int) -> Iterator[str]:
    """Pictures of rejected pairs: an equal number of each reason, spread over the store."""
    places: dict[str, list[int]] = {}
    rows = [row for video_id in store.videos for row in stored_rows(records[video_id], rejected=True)]
    for position, row in enumerate(rows):
        places.setdefault(row["reasons"][0], []).append(position)
    for reason in sorted(places):
        for index in _spread(len(places[reason]), -(-count // len(places))):
            position = places[reason][index]
            sample = store.read(position)
            pictures = "".join(_image(_picture(image)) for image in (sample.first, flow_to_color(sample.flow)))
            why = " ".join(f'<span class="why">{_text(text)}</span>' for text in rows[position]["reasons"])
            first, second = rows[position]["frames"]
            text = _text(f"{sample.meta['video']['path']}, frames {first} to {second}")
            yield f'<figure class="card pair two">{pictures}<figcaption>{why} {text}</figcaption></figure>'


def _picture(image: np.ndarray) -> np.ndarray:
    """At the width of the gallery, twice for dense screens."""
    height, width = image.shape[:2]
    return cv2.resize(image, (2 * _TILE_PX, max(1, round(height * 2 * _TILE_PX / width))), interpolation=cv2.INTER_AREA)


def _pair_html(sample: PairSample, points_yx: np.ndarray) -> str:
    height, width = sample.first.shape[:2]
    scale = 2 * _TILE_PX / width
    picture, color = _picture(sample.first), _picture(flow_to_color(sample.flow))
    guides = picture.copy()
    for y, x in points_yx:
        start = np.round((np.array([x, y]) + 0.5) * scale).astype(int)
        end = np.round((np.array([x, y]) + 0.5 + sample.flow[y, x]) * scale).astype(int)
        for ink, thickness in (((0, 0, 0), 4), ((255, 220, 60), 2)):
            cv2.arrowedLine(guides, start.tolist(), end.tolist(), ink, thickness, cv2.LINE_AA, tipLength=0.3)
        cv2.circle(guides, start.tolist(), 3, (230, 60, 60), -1, cv2.LINE_AA)
    pictures = "".join(map(_image, (guides, color, cv2.addWeighted(picture, 0.5, color, 0.5, 0))))
    meta = sample.meta
    text = (
        f"{meta['video']['path']}, frames {meta['frames'][0]} to {meta['frames'][1]}: {width} x {height} px, "
        f"mean motion {meta['quality']['mean_flow_px']:.1f} px, {len(points_yx)} guides, {meta['estimator']['name']}"
    )
    return f'<figure class="card pair">{pictures}<figcaption>{_text(text)}</figcaption></figure>'


def _image(image: np.ndarray) -> str:
    data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 85])[1]
    return f'<img alt="" loading="lazy" src="data:image/jpeg;base64,{base64.b64encode(data.tobytes()).decode()}">'


def _histogram(name: str, values: Sequence[float], rejected: Sequence[float] = (), limit: float | None = None) -> str:
    """A chart in SVG; its last bar also holds what lies beyond the 99th percentile. `limit` is drawn as a line."""
    everything = [*values, *rejected]
    if not everything:
        return f'<figure class="card"><p>no pairs</p><figcaption>{_text(name)}</figcaption></figure>'
    low, high = float(min(everything)), float(np.percentile(everything, 99))
    if high - low < 1e-6:
        low, high = low - 0.5, low + 0.5
    counts = [np.histogram(np.clip(part, low, high), bins=_BINS, range=(low, high))[0] for part in (values, rejected)]
    scale = 96 / (counts[0] + counts[1]).max()
    bars = "".join(
        f'<rect class="{kind}" x="{10 * i + 1}" y="{100 - scale * (under + n):.1f}" width="8" '
        f'height="{scale * n:.1f}"><title>{n}</title></rect>'
        for kind, part, below in (("", counts[0], 0 * counts[0]), ("no", counts[1], counts[0]))
        for i, (n, under) in enumerate(zip(part, below))
        if n
    )
    width = 10 * _BINS
    if limit is not None and low <= limit <= high:
        place = width * (limit - low) / (high - low)
        bars += f'<line x1="{place:.1f}" x2="{place:.1f}" y1="0" y2="100"/>'
    return (
        f'<figure class="card"><svg width="{width}" height="118" role="img">{bars}<text x="0" y="114">{low:.3g}</text>'
        f'<text x="{width}" y="114" text-anchor="end">{high:.3g}</text></svg>'
        f"<figcaption>{_text(name)} (median {np.median(everything):.3g})</figcaption></figure>"
    )
