"""The playground's page as Gradio Blocks. Gradio is imported when the page is built."""

from __future__ import annotations

import html
from os import PathLike
from pathlib import Path
from types import SimpleNamespace

from cmp.inference import MotionPropagator
from cmp.inference.interactive import read_shown_image
from cmp.playground.methods import NETWORK, Comparison
from cmp.playground.samples import list_samples
from cmp.playground.sessions import Sessions

FILES = Path(__file__).resolve().parent
FPS = 12.5
NUM_FRAMES = (2, 60)  # of the video
IMAGE = dict(buttons=["fullscreen"], format="png")
ENDINGS = (".mp4", ".gif", ".flo")
NUM_PARTS = 12  # of the page that change when an image is opened
CSS = """
.gradio-container { max-width: 1320px !important; margin: auto; }
#playground-title h2 { margin: 0; }
#playground-title p { margin: 2px 0 0; }
#playground-status { min-height: 1.6em; }
#playground-canvas .html-container { padding: 0; }
#playground-flow img, #playground-confidence img, #playground-mask img { width: 100%; height: 100%;
  object-fit: contain; }
#playground-legend .key { display: flex; gap: 10px; align-items: center; font-size: 0.9em; line-height: 1.35; }
#playground-legend img { width: 52px; height: 52px; }
#playground-compare .four { display: grid; grid-template-columns: repeat(4, 1fr); gap: 10px; }
#playground-compare figure { margin: 0; }
#playground-compare img { width: 100%; border-radius: 6px; border: 1px solid var(--border-color-primary); }
#playground-compare figcaption { font-size: 0.85em; text-align: center; margin-top: 4px; }
footer { display: none !important; }
"""
TITLE = """<h2>Motion playground</h2>
<p>Draw where a few pixels move. The network <code>{name}</code> predicts what moves along.
More in the documentation: <code>docs/playground.md</code>, <code>docs/animate.md</code>, <code>docs/method.md</code>;
<a href="https://arxiv.org/abs/1903.11412" target="_blank" rel="noreferrer">the paper</a></p>"""


def build_page(
    propagator: MotionPropagator,
    folder: Path,
    *,
    name: str,
    long_side_px: int = 384,
    trained_px: int | None = None,
    video: str | PathLike | None = None,
):
    """The page as Gradio Blocks, to be served by `cmp.playground.server.launch_page`.

    Args:
        propagator: the network.
        folder: where the results of the open pages are; a page that is closed takes its results along.
        name: of the network, shown in the title line.
        long_side_px: images are shrunk to this.
        trained_px: the short side of the images that the network was trained on, which it then sees images at; None if
            it is not known: it sees them as they are shown.
        video: a video whose middle frame the page opens with, and its true motion; None: a photograph.

    Returns:
        The Blocks, with four attributes for the gate: `sessions`; `methods` and `samples`, which can be chosen; and
        `read_upload`, which reads an image file.

    Raises:
        FileNotFoundError, ValueError: the video cannot be read.
    """
    import gradio as gr

    from cmp.playground.handlers import Handlers

    sessions = Sessions(folder)
    comparison = Comparison(propagator, trained_px)
    samples = list_samples(long_side_px, video)
    handlers = Handlers(comparison, sessions, samples, long_side_px)
    shown_name = html.escape(name.encode("utf-8", "backslashreplace").decode())
    with gr.Blocks(title="Motion playground", analytics_enabled=False) as page:
        gr.HTML(TITLE.format(name=shown_name), elem_id="playground-title")
        with gr.Row():
            parts = SimpleNamespace(**_drawing_column(list(samples)), **_result_column(comparison.methods))
        drawn = (parts.flow, parts.confidence, parts.legend, parts.status)
        moving = (parts.video, parts.mask, *parts.downloads)
        everything = (parts.canvas, *drawn, parts.arrows, *moving, parts.compare)
        quiet = dict(show_progress="hidden", api_visibility="private")
        newest = dict(trigger_mode="always_last", **quiet)
        motion = (parts.num_frames, parts.method)
        # Not `input`, which comes whenever the list loses the focus.
        parts.sample.change(handlers.on_sample, parts.sample, everything, **quiet)
        parts.choose.upload(handlers.on_upload, parts.choose, (*everything, parts.sample), **quiet)
        parts.canvas.arrows(handlers.on_arrows, None, parts.canvas, **quiet)
        # Not `newest`: Gradio then sends old clicks again where an event's answer changes the component it is from.
        parts.canvas.find(handlers.on_find, None, (parts.canvas, parts.status), trigger_mode="multiple", **quiet)
        answered = parts.canvas.draw(handlers.on_draw, parts.method, (*drawn, parts.arrows), **newest)
        answered.then(handlers.on_motion, motion, moving, **newest)
        answered.then(handlers.on_compare, None, parts.compare, **newest)
        chosen = parts.method.change(handlers.on_method, parts.method, (*drawn, parts.arrows), **newest)
        chosen.then(handlers.on_motion, motion, moving, **newest)
        parts.num_frames.release(handlers.on_motion, motion, moving, **newest)
        page.load(handlers.on_sample, parts.sample, everything, **quiet)
        page.unload(handlers.on_close)
    page.sessions = sessions
    page.methods = tuple(comparison.methods)
    page.samples = tuple(samples)
    page.read_upload = lambda path, max_bytes: read_shown_image(path, long_side_px=long_side_px, max_bytes=max_bytes)
    return page


def _drawing_column(samples: list[str]) -> dict:
    """The left column: which image, the canvas to draw on, the files, and the frames of the video."""
    import gradio as gr

    with gr.Column(scale=5, min_width=360):
        with gr.Row(equal_height=True):
            sample = gr.Dropdown(samples, value=samples[0], label="Image", container=False, min_width=140)
            choose = gr.UploadButton(
                "Choose an image ...",
                file_types=["image"],
                elem_id="playground-choose",
                size="md",
                min_width=140,
            )
        canvas = gr.HTML(
            html_template=(FILES / "canvas.html").read_text(encoding="utf-8"),
            css_template=(FILES / "canvas.css").read_text(encoding="utf-8"),
            js_on_load=(FILES / "canvas.js").read_text(encoding="utf-8"),
            elem_id="playground-canvas",
        )
        with gr.Row():
            arrows, *downloads = [
                gr.DownloadButton(
                    label, interactive=False, size="md", min_width=100, elem_id=f"playground-{ending[1:]}"
                )
                for label, ending in zip(("Arrows (JSON)", "MP4", "GIF", "Flow (.flo)"), (".json", *ENDINGS))
            ]
        num_frames = gr.Slider(*NUM_FRAMES, value=16, step=1, label="Frames of the video")
    return dict(sample=sample, choose=choose, canvas=canvas, arrows=arrows, downloads=downloads, num_frames=num_frames)


def _result_column(methods: dict[str, str]) -> dict:
    """The right column: method, flow, video, confidence, mask, the comparison and the status."""
    import gradio as gr

    with gr.Column(scale=7, min_width=460):
        choices = [(label, name) for name, label in methods.items()]
        method = gr.Radio(
            choices, value=NETWORK, label="Method", show_label=False, container=False, elem_id="playground-method"
        )
        look = dict(interactive=False, height=270, min_width=200)
        with gr.Row():
            video = gr.Video(label="Video", elem_id="playground-video", autoplay=True, loop=True, buttons=[], **look)
            flow = gr.Image(label="Flow: hue is direction", elem_id="playground-flow", **look, **IMAGE)
        with gr.Row(equal_height=True):
            status = gr.Markdown("", elem_id="playground-status")
            legend = gr.HTML("", elem_id="playground-legend", padding=False)
        compare = gr.HTML("", elem_id="playground-compare", padding=False)
        look["height"] = 200
        with gr.Row():
            mask = gr.Image(label="Mask: what moves along", elem_id="playground-mask", **look, **IMAGE)
            confidence = gr.Image(label="Confidence: yellow is sure", elem_id="playground-confidence", **look, **IMAGE)
    return dict(
        method=method,
        flow=flow,
        video=video,
        confidence=confidence,
        mask=mask,
        legend=legend,
        compare=compare,
        status=status,
    )
