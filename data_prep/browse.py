"""One HTML page that shows what a pair store holds: no server, no scripts, no other files."""

from __future__ import annotations

import base64
import html
import io
import json
import os
from collections import Counter
from pathlib import Path

import cv2
import numpy as np

from cmp.datasets.pair_store import PairSample, PairStore, read_records
from cmp.flow.draw import flow_to_color
from cmp.guidance import sample_guidance

_TILE_PX = 240  # width of the pictures
_BINS = 24
_STRIDE_PX, _KERNEL_PX = 80, 41  # guides drawn where a store has none: few enough to be seen
_STYLE = """
:root{--ink:#1c2330;--soft:#667085;--line:#e4e7ec;--paper:#f6f7f9;--accent:#3b6fd4}
*{box-sizing:border-box}body{margin:0;background:var(--paper);color:var(--ink);font:15px/1.5 system-ui,sans-serif}
main{max-width:1180px;margin:0 auto;padding:32px 24px}h1{margin:0;font-size:26px;overflow-wrap:anywhere}
h2{margin:36px 0 12px;font-size:18px}p{color:var(--soft);margin:4px 0}.row{display:flex;flex-wrap:wrap;gap:14px}
.card{background:#fff;border:1px solid var(--line);border-radius:10px;padding:14px 16px}
.count b{display:block;font-size:26px;line-height:1.2}.count{min-width:130px;color:var(--soft)}
.count b{color:var(--ink)}figure{margin:0}figcaption{color:var(--soft);font-size:13px;margin-top:6px}
.pair{display:grid;grid-template-columns:repeat(3,1fr);gap:8px;margin-bottom:14px}
.pair img{width:100%;border-radius:6px;
display:block}.pair figcaption{grid-column:1/-1;overflow-wrap:anywhere;margin:0}svg rect{fill:var(--accent)}
svg text{font-size:11px;fill:var(--soft)}table{border-collapse:collapse;width:100%;font-size:13px}
th,td{text-align:left;padding:6px 10px;border-bottom:1px solid var(--line);overflow-wrap:anywhere}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}.why{background:#fdecea;color:#b42318;border-radius:99px;
padding:1px 9px;white-space:nowrap}
"""


def report_html(
    root: str | os.PathLike, *, num_pictures: int = 12, num_rejected: int = 100, num_read: int = 2000
) -> str:
    """Describe a store in HTML.

    Args:
        root: the store.
        num_pictures: pairs in the gallery, spread evenly over the store.
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

    motion, gap_s, gap_frames, points = [], [], [], []
    for position in _spread(len(store), num_read):
        meta = json.loads(store.read_member(position, "json"))
        motion.append(meta["quality"]["mean_flow_px"])
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
    charts = [("mean motion, px", motion), ("gap, s", gap_s), ("gap, frames", gap_frames)]
    charts = "".join(_histogram(*chart) for chart in [*charts, (points_name, points or counted)])

    reasons = Counter(pair["reasons"][0] for _, pair in dropped)
    why = "".join(f'<div class="card count"><b>{n:,}</b>{html.escape(r)}</div>' for r, n in reasons.most_common())
    rows = "".join(_rejected_row(*dropped[i]) for i in _spread(len(dropped), num_rejected))
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
<h2>Distributions</h2><p>over {len(motion):,} of {len(store):,} pairs</p><div class="row">{charts}</div>
<h2>Pairs</h2><p>first frame with guides; flow (hue: direction, saturation: length); both</p>
{"".join(gallery) or empty}
<h2>Rejected pairs</h2><div class="row">{why}</div>
{_table("video|frames|reasons|motion px|moving|beyond range|histogram jump|unexplained", rows) if rows else empty}
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
    names = ("mean_flow_px", "moving_share", "beyond_share", "histogram_jump", "unexplained")
    cells = "".join(f'<td class="n">{scores[name]:.2f}</td>' if name in scores else "<td></td>" for name in names)
    why = " ".join(f'<span class="why">{_text(reason)}</span>' for reason in pair["reasons"])
    return f"<tr><td>{_text(path)}</td><td>{pair['frames'][0]} to {pair['frames'][1]}</td><td>{why}</td>{cells}</tr>"


def _pair_html(sample: PairSample, points_yx: np.ndarray) -> str:
    height, width = sample.first.shape[:2]
    scale = 2 * _TILE_PX / width  # sharp on dense screens
    size = (2 * _TILE_PX, max(1, round(height * scale)))
    picture = cv2.resize(sample.first, size, interpolation=cv2.INTER_AREA)
    color = cv2.resize(flow_to_color(sample.flow), size, interpolation=cv2.INTER_AREA)
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


def _histogram(name: str, values: list[float]) -> str:
    """A chart in SVG; its last bar also holds what lies beyond the 99th percentile."""
    if not values:
        return f'<figure class="card"><p>no pairs</p><figcaption>{_text(name)}</figcaption></figure>'
    low, high = float(min(values)), float(np.percentile(values, 99))
    if high - low < 1e-6:
        low, high = low - 0.5, low + 0.5
    counts, _ = np.histogram(np.clip(values, low, high), bins=_BINS, range=(low, high))
    bars = "".join(
        f'<rect x="{10 * i + 1}" y="{100 - 96 * n / counts.max():.1f}" width="8" height="{96 * n / counts.max():.1f}">'
        f"<title>{n}</title></rect>"
        for i, n in enumerate(counts)
    )
    width = 10 * _BINS
    return (
        f'<figure class="card"><svg width="{width}" height="118" role="img">{bars}<text x="0" y="114">{low:.3g}</text>'
        f'<text x="{width}" y="114" text-anchor="end">{high:.3g}</text></svg>'
        f"<figcaption>{_text(name)} (median {np.median(values):.3g})</figcaption></figure>"
    )
