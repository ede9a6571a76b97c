"""What the playground's page does when somebody draws, chooses an image or closes it. Importing it imports Gradio."""

import base64
import html
import io
import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import cv2
import gradio as gr
import numpy as np
from PIL import Image

from cmp.flow import color_wheel_key, flow_to_color, write_flow
from cmp.inference.animate import animate
from cmp.inference.annotate import draw_mask
from cmp.inference.arrows import (
    MAX_ARROWS,
    NUM_BORDER,
    arrows_as_json,
    border_gap_px,
    border_points,
    check_arrows,
    check_clicks,
    parse_arrows,
    with_still_border,
    without_still_border,
)
from cmp.inference.interactive import Motion, draw_confidence, draw_moving_part, find_moving_part
from cmp.playground.methods import NETWORK, RANDOM, Comparison, Drawn, OpenImage
from cmp.playground.page import ENDINGS, FPS, NUM_PARTS
from cmp.playground.samples import Sample
from cmp.playground.sessions import Session, Sessions
from cmp.video import write_video

NO_ARROWS = np.empty((0, 4))
COMPARED_PX = 220  # long side of the flows that are shown side by side


class Handlers:
    """The functions that Gradio calls; each finds the session of its page and returns what the page shows.

    Args:
        comparison: the network and what it is compared with.
        sessions: the open pages.
        samples: what reads the images of the list, by name.
        long_side_px: images are shrunk to this.

    Raises:
        FileNotFoundError, ValueError: the first sample cannot be read.
    """

    def __init__(
        self,
        comparison: Comparison,
        sessions: Sessions,
        samples: Mapping[str, Callable[[], Sample]],
        long_side_px: int,
    ) -> None:
        self.comparison, self.sessions, self.long_side_px = comparison, sessions, long_side_px
        self._samples = samples
        # The image that every page opens with is read and encoded once, before the first page asks for it.
        self._first = next(iter(samples))
        self._first_sample = samples[self._first]()
        self._opened_first = comparison.open(self._first_sample.image)
        self._wheel = _as_data_url(color_wheel_key(104))

    def _show(self, session: Session, opened: OpenImage, sample: Sample) -> tuple:
        """What all parts of the page show once an image is open; the page sends its arrows next."""
        self.sessions.set_scene(session, opened, self._num_bytes(opened))
        return self._canvas(opened, sample), *_nothing(f"{_size(opened)}. Draw an arrow."), *_no_motion(), ""

    def _num_bytes(self, opened: OpenImage) -> int:
        """Memory that an open image takes, with the encoding of random weights, which may follow."""
        scene = opened.scene
        features = scene.encoded.features.nbytes
        return scene.image.nbytes + scene.small.nbytes + features * (2 if RANDOM in self.comparison.methods else 1)

    def _canvas(self, opened: OpenImage, sample: Sample, hold: bool = True) -> dict:
        """The value of the canvas: the image, the arrows to begin with, and the true motion of a video."""
        height, width = opened.scene.image.shape[:2]
        return dict(
            image=_as_data_url(opened.scene.image),
            width=width,
            height=height,
            arrows=sample.arrows.round(1).tolist(),
            ghost=sample.ghost.tolist(),
            ghostText=sample.ghost_text,
            hold=hold,
            border=border_points((height, width)).tolist(),
            borderGap=border_gap_px((height, width)),
            maxArrows=MAX_ARROWS - NUM_BORDER,
            loaded=time.time(),  # so that the page sees a change
        )

    def on_sample(self, which: str | None, request: gr.Request) -> tuple:
        """Open an image of the list, with its example arrow."""
        session = self.sessions.enter(request.session_hash)
        if which is None:  # an image that was sent has taken its place
            return tuple(gr.skip() for _ in range(NUM_PARTS))
        if which == self._first:
            return self._show(session, self._opened_first, self._first_sample)
        try:
            sample = self._samples[which]()
        except (ValueError, OSError):  # a video that was there when the page was built
            raise gr.Error("This video cannot be opened any more.", print_exception=False) from None
        return self._show(session, self.comparison.open(sample.image), sample)

    def on_upload(self, _: None, request: gr.Request) -> tuple:
        """Open an image that was sent."""
        session = self.sessions.enter(request.session_hash)
        image, session.upload = session.upload, None
        if image is None:
            raise gr.Error("The file is not there any more: choose it again.", print_exception=False)
        return *self._show(session, self.comparison.open(image), Sample(image, NO_ARROWS, NO_ARROWS)), None

    def on_arrows(self, event: gr.EventData, request: gr.Request) -> dict:
        """The canvas with the arrows of a file on the open image; it sends them next."""
        session = self.sessions.find(request.session_hash)
        opened = session.scene if session is not None else None
        if session is None or opened is None:
            gr.Warning("Choose an image first.")
            return gr.skip()
        size_hw = opened.scene.image.shape[:2]
        try:
            arrows = parse_arrows(_parsed(event._data["text"]), size_hw)
        except ValueError as error:
            gr.Warning(html.escape(f"This file of arrows cannot be used: {error}"))
            return gr.skip()
        arrows, hold = without_still_border(arrows, size_hw)
        return self._canvas(opened, Sample(opened.scene.image, arrows, NO_ARROWS), hold)

    def on_find(self, event: gr.EventData, request: gr.Request) -> tuple:
        """The canvas with the object under the clicks, found by pokes, and the status."""
        session = self.sessions.find(request.session_hash)
        opened = session.scene if session is not None else None
        if session is None or opened is None:
            gr.Warning("Choose an image first.")
            return gr.skip(), gr.skip()
        image = opened.scene.image
        try:
            clicks, still = (check_clicks(event._data[name], image.shape[:2]) for name in ("clicks", "still"))
            points, vectors = np.concatenate((clicks, still)), np.zeros((len(clicks) + len(still), 2))
            vectors[: len(clicks)] = 1
            poked = Motion(points, vectors, np.empty((0, 0, 2), np.float32), None)
            start = time.process_time()
            mask = find_moving_part(self.comparison.propagator, opened.scene, poked, method="pokes")
        except ValueError as error:
            gr.Warning(html.escape(f"These clicks cannot be used: {error}"))
            return gr.skip(), gr.skip()
        if session.scene is not opened:  # another image was opened meanwhile
            return gr.skip(), gr.skip()
        if mask is None:
            return dict(overlay=None, loaded=time.time()), f"{_size(opened)}. Click an object."
        spent_s = time.process_time() - start
        status = f"Object: {100 * mask.mean():.1f} % of the image. Processor time: {spent_s:.2f} s."
        return dict(overlay=_as_data_url(draw_mask(image, mask)), loaded=time.time()), status

    def on_draw(self, method: str, event: gr.EventData, request: gr.Request) -> tuple:
        """Flow and confidence, at once; the video follows in `on_motion`, which a new arrow need not wait for."""
        session = self.sessions.find(request.session_hash)
        opened = session.scene if session is not None else None
        if session is None or opened is None:
            gr.Warning("Choose an image first.")
            return _nothing("")
        session.motion = None
        try:
            drawn = _with_options(event._data, opened.scene.image.shape[:2])
        except ValueError as error:
            gr.Warning(html.escape(f"These arrows cannot be used: {error}"))
            return _nothing(_size(opened))
        if drawn is None:
            return _nothing(f"{_size(opened)}. Draw an arrow.")
        shown = self._draw(session, opened, drawn, method)
        if shown is None:
            return _nothing(_size(opened))
        session.motion = drawn
        return shown

    def on_method(self, method: str, request: gr.Request) -> tuple:
        """The same arrows by another method."""
        session = self.sessions.find(request.session_hash)
        opened, drawn = (session.scene, session.motion) if session is not None else (None, None)
        if session is None or opened is None or drawn is None:
            return tuple(gr.skip() for _ in range(5))
        return self._draw(session, opened, drawn, method) or _nothing(_size(opened))

    def _draw(self, session: Session, opened: OpenImage, drawn: Drawn, method: str) -> tuple | None:
        """Flow, confidence, legend, status and the arrows' button; None if the files cannot be written."""
        start = time.process_time()
        motion = self.comparison.move(opened, drawn, method)
        spent_s = time.process_time() - start
        full_px = self._full_color_px(opened, drawn)
        pictures = {"flow": flow_to_color(motion.flow, max_flow_px=full_px)}
        if motion.confidence is not None:
            pictures["confidence"] = draw_confidence(motion.confidence)
        try:
            out = self.sessions.results_folder(session, "draw", 2 * opened.scene.image.nbytes + (1 << 16))
            files = {name: _write_png(out / f"{name}.png", image) for name, image in pictures.items()}
            text = arrows_as_json(drawn.points_xy, drawn.vectors_xy, opened.scene.image.shape[:2])
            (out / "arrows.json").write_text(text, encoding="utf-8")
        except (ValueError, FileNotFoundError) as error:
            gr.Warning(html.escape(str(error)))
            return None
        longest = float(np.linalg.norm(motion.flow, axis=2).max())
        status = f"{_size(opened)}. Longest motion: {longest:.1f} px. Processor time: {spent_s:.2f} s."
        button = gr.DownloadButton(interactive=True, value=str(out / "arrows.json"))
        return files["flow"], files.get("confidence"), self._legend(full_px), status, button

    def _full_color_px(self, opened: OpenImage, drawn: Drawn) -> float:
        """The length that gets the full color, the same for all methods; below a pixel colors would show noise."""
        longest_given = float(np.linalg.norm(drawn.vectors_xy, axis=1).max())
        flow = self.comparison.move(opened, drawn, NETWORK).flow
        return max(1.0, longest_given, float(np.linalg.norm(flow, axis=2).max()))

    def _legend(self, full_px: float) -> str:
        return (
            f'<div class="key"><img alt="Color wheel: hue is direction, full color at the rim" src="{self._wheel}">'
            f"<span>Color is direction.<br>Rim: <b>{full_px:.1f} px</b>; white: still.</span></div>"
        )

    def on_compare(self, request: gr.Request) -> str:
        """The flows of all methods side by side."""
        session = self.sessions.find(request.session_hash)
        opened, drawn = (session.scene, session.motion) if session is not None else (None, None)
        if session is None or opened is None or drawn is None:
            return ""
        full_px = self._full_color_px(opened, drawn)
        figures = []
        for method, label in self.comparison.methods.items():
            image = flow_to_color(self.comparison.move(opened, drawn, method).flow, max_flow_px=full_px)
            shown = f'<img alt="Flow: {label}" src="{_as_data_url(_thumbnail(image))}">'
            figures.append(f'<figure data-method="{method}">{shown}<figcaption>{label}</figcaption></figure>')
        return f'<div class="four">{"".join(figures)}</div>'

    def on_motion(self, num_frames: int, method: str, request: gr.Request) -> Iterator[tuple]:
        """Video and mask, then the files to take along."""
        session = self.sessions.find(request.session_hash)
        opened, drawn = (session.scene, session.motion) if session is not None else (None, None)
        if session is None or opened is None or drawn is None:
            yield _no_motion()
            return
        yield gr.skip(), gr.skip(), *_unready()
        image = opened.scene.image
        try:
            moved = self.comparison.move(opened, drawn, method)
            # GIF and MP4 take up to about 1.5 bytes per pixel and frame, the flow file 8, the mask 3.
            num_bytes = image.nbytes // 3 * (12 + int(1.5 * num_frames)) + (1 << 16)
            out = self.sessions.results_folder(session, "motion", num_bytes)
            files = [str(out / f"motion{ending}") for ending in ENDINGS]
            frames = [np.asarray(frame) for frame in animate(image, moved.flow, int(num_frames))]
            write_video(files[0], frames, FPS)
            if session.motion is not drawn:  # other arrows or another image: this video is not of them
                return
            yield files[0], gr.skip(), *_unready()
            # Only the trained network predicts what belongs together.
            mask = draw_moving_part(self.comparison.propagator, opened.scene, moved) if method == NETWORK else None
            yield gr.skip(), None if mask is None else _write_png(out / "mask.png", mask), *_unready()
            write_video(files[1], frames, FPS)
            write_flow(files[2], moved.flow)
        except FileNotFoundError:  # the page was closed meanwhile, and its folder with it
            return
        except ValueError as error:
            gr.Warning(html.escape(f"The video could not be made: {error}"))
            yield _no_motion()
            return
        yield gr.skip(), gr.skip(), *(gr.DownloadButton(interactive=True, value=file) for file in files)

    def on_close(self, request: gr.Request) -> None:
        """Forget a page and its results."""
        self.sessions.drop(request.session_hash)


def _with_options(event_data: dict, size_hw: tuple[int, int]) -> Drawn | None:
    """The guidance points of what was drawn: arrows times the strength, and still points on the border if asked for.

    Returns:
        None if nothing was drawn.

    Raises:
        ValueError: as `check_arrows`, before or after the arrows are multiplied.
    """
    points, vectors = check_arrows(event_data["arrows"], size_hw)
    if not len(points):
        return None
    vectors = vectors * event_data["strength"]
    check_arrows(np.concatenate((points, points + vectors), axis=1), size_hw)
    if event_data["border"]:
        points, vectors = with_still_border(points, vectors, size_hw)
    return Drawn(points, vectors, {})


def _parsed(text: str) -> object:
    """JSON from a stranger.

    Raises:
        ValueError: it is not valid JSON.
    """
    try:
        return json.loads(text.removeprefix("\ufeff"))
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not valid JSON: {error.msg} (line {error.lineno}, column {error.colno})") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; lists within lists
        raise ValueError("it is not valid JSON: a number or a nesting is too long") from error


def _size(opened: OpenImage) -> str:
    height, width = opened.scene.image.shape[:2]
    return f"{width} x {height} px"


def _nothing(status: str) -> tuple:
    """Flow, confidence, legend, status and the arrows' button while nothing is drawn."""
    return None, None, "", status, gr.DownloadButton(interactive=False, value=None)


def _no_motion() -> tuple:
    """Video, mask and the download buttons while nothing is drawn."""
    return None, None, *_unready()


def _unready() -> list:
    """The download buttons while their files are not written."""
    return [gr.DownloadButton(interactive=False, value=None) for _ in ENDINGS]


def _thumbnail(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    ratio = min(1.0, COMPARED_PX / max(height, width))
    return cv2.resize(image, (round(width * ratio), round(height * ratio)), interpolation=cv2.INTER_AREA)


def _as_data_url(image: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _write_png(path: Path, image: np.ndarray) -> str:
    Image.fromarray(image).save(path, compress_level=1)
    return str(path)
