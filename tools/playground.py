"""Draw arrows on a picture in the browser and see what moves: a page on this machine, for nobody else.

Example:
    python tools/playground.py ckpt_iter_42000.pth.tar
    python tools/playground.py                          # the quick start's network, where it has been run

Needs the extra: pip install ".[playground]". Nothing is fetched from a network, and nothing sent to one. Other machines
are let in by --host 0.0.0.0, without a password.
"""

import argparse
import base64
import contextlib
import io
import ipaddress
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the checkout's own packages, installed or not

from skimage import data

from cmp.flow import flow_to_color, write_flow
from cmp.inference import MotionPropagator, load_propagator
from cmp.inference.animate import animate
from cmp.inference.interactive import (
    MAX_BYTES,
    Motion,
    Scene,
    check_guides,
    draw_confidence,
    draw_moving_part,
    move_scene,
    open_scene,
    read_picture,
)
from cmp.video import write_video

PAGE = Path(__file__).resolve().parent / "playground_page"
QUICKSTART = Path(__file__).resolve().parents[1] / "quickstart_out" / "run" / "iter_300.pth"
SAMPLES = {"Astronaut": data.astronaut, "Cat": data.chelsea, "Coffee": data.coffee, "Rocket": data.rocket}
FPS = 12.5
KEEP_S = 3600  # pictures of a page that is still open are thrown away after this
PICTURE = dict(buttons=["fullscreen"], format="png")
ENDINGS = (".mp4", ".gif", ".flo")
CSS = """
.gradio-container { max-width: 1280px !important; margin: auto; }
#playground-status { min-height: 1.6em; }
#playground-canvas .html-container { padding: 0; }
#playground-flow img, #playground-sure img, #playground-mask img { width: 100%; height: 100%; object-fit: contain; }
footer { display: none !important; }
"""


def find_checkpoint(path: str | None) -> Path:
    """The file named, or what the quick start left.

    Raises:
        FileNotFoundError: there is none; the message says how to get one.
    """
    if path is not None:
        if not Path(path).is_file():
            raise FileNotFoundError(f"no such file: {path}")
        return Path(path)
    if QUICKSTART.is_file():
        return QUICKSTART
    raise FileNotFoundError(
        "no CHECKPOINT was named and the quick start has not been run here. Get a network of your own in five minutes "
        "with `bash tools/quickstart.sh`, or name a checkpoint: ours or the authors', torch file or safetensors"
    )


def build_page(propagator: MotionPropagator, folder: Path, *, name: str, long_side_px: int = 384):
    """The page as Gradio Blocks, to be launched or mounted.

    Args:
        propagator: the network.
        folder: where films and flow files of the open pages lie; a page that is closed takes its own along.
        name: of the network, shown in the title line.
        long_side_px: pictures are shrunk to this.
    """
    import gradio as gr

    def session_folder(request: gr.Request) -> Path:
        return folder / f"page-{request.session_hash}"

    def show(image: np.ndarray) -> tuple:
        height, width = image.shape[:2]
        drawn = {"picture": _as_data_url(image), "width": width, "height": height, "loaded": time.time()}
        scene = open_scene(propagator, image)
        return scene, None, drawn, *([None] * 4), *unready(), f"{width} x {height} px. Draw an arrow."

    def unready() -> list:
        return [gr.DownloadButton(interactive=False, value=None) for _ in ENDINGS]

    def on_sample(which: str | None) -> tuple:
        if which is None:  # a picture of one's own has taken its place
            return tuple(gr.skip() for _ in everything)
        return show(_shrunk(SAMPLES[which](), long_side_px))

    def on_upload(path: str) -> tuple:
        try:
            return *show(read_picture(path, long_side_px=long_side_px)), None
        except ValueError as error:
            gr.Warning(str(error), title="This picture cannot be used")
            return tuple(gr.skip() for _ in (*everything, sample))
        finally:
            Path(path).unlink(missing_ok=True)  # Gradio's own copy, which has done its part

    def on_draw(opened: Scene | None, event: gr.EventData) -> tuple:
        """Flow and confidence, at once; the film follows in `on_motion`, which a new arrow need not wait for."""
        start = time.perf_counter()
        if opened is None:
            gr.Warning("Choose a picture first.")
            return None, None, None, ""
        try:
            points, vectors = check_guides(event._data["guides"], opened.image.shape[:2])
        except (ValueError, KeyError, TypeError) as error:
            gr.Warning(str(error), title="These arrows cannot be used")
            return None, None, None, ""
        if not len(points):
            return None, None, None, "Draw an arrow."
        motion = move_scene(propagator, opened, points, vectors)
        longest = float(np.linalg.norm(motion.flow, axis=2).max())
        # Below a pixel the colours would show noise at full strength.
        colours = flow_to_color(motion.flow, max_flow_px=max(longest, 1.0))
        sure = None if motion.confidence is None else draw_confidence(motion.confidence)
        flow_s = time.perf_counter() - start
        return motion, colours, sure, f"Flow in {flow_s:.2f} s; the longest motion is {longest:.1f} px."

    def on_motion(opened: Scene | None, moved: Motion | None, num_frames: int, request: gr.Request) -> Iterator[tuple]:
        """Film and mask, then the files to take along."""
        if opened is None or moved is None:
            yield None, None, *unready()
            return
        yield gr.skip(), gr.skip(), *unready()
        try:
            out = _next_folder(session_folder(request))
            files = [str(out / f"motion{ending}") for ending in ENDINGS]
            frames = list(animate(opened.image, moved.flow, int(num_frames)))
            write_video(files[0], frames, FPS)
            yield files[0], draw_moving_part(propagator, opened, moved), *unready()
            write_video(files[1], frames, FPS)
            write_flow(files[2], moved.flow)
        except FileNotFoundError:  # the page was closed meanwhile, and its folder with it
            return
        yield gr.skip(), gr.skip(), *(gr.DownloadButton(interactive=True, value=file) for file in files)

    def on_close(request: gr.Request) -> None:
        shutil.rmtree(session_folder(request), ignore_errors=True)

    with gr.Blocks(title="Motion playground", analytics_enabled=False, delete_cache=(600, KEEP_S)) as page:
        gr.Markdown(f"## Motion playground\nWhat moves along when a few pixels move? Network: `{name}`")
        scene, motion = gr.State(None, time_to_live=KEEP_S), gr.State(None, time_to_live=KEEP_S)
        with gr.Row():
            with gr.Column(scale=5, min_width=360):
                with gr.Row(equal_height=True):
                    sample = gr.Dropdown(
                        list(SAMPLES), value="Astronaut", label="Photograph", container=False, min_width=140
                    )
                    choose = gr.UploadButton(
                        "Choose a picture ...",
                        file_types=["image"],
                        elem_id="playground-choose",
                        size="md",
                        min_width=140,
                    )
                canvas = gr.HTML(
                    html_template=(PAGE / "canvas.html").read_text(encoding="utf-8"),
                    css_template=(PAGE / "canvas.css").read_text(encoding="utf-8"),
                    js_on_load=(PAGE / "canvas.js").read_text(encoding="utf-8"),
                    elem_id="playground-canvas",
                )
            with gr.Column(scale=6, min_width=420):
                look = dict(interactive=False, height=270, min_width=200)
                with gr.Row():
                    flow = gr.Image(label="Flow: hue is direction", elem_id="playground-flow", **look, **PICTURE)
                    film = gr.Video(
                        label="Film", elem_id="playground-film", autoplay=True, loop=True, buttons=[], **look
                    )
                with gr.Row():
                    sure = gr.Image(label="Confidence: yellow is sure", elem_id="playground-sure", **look, **PICTURE)
                    mask = gr.Image(label="Mask: what moves along", elem_id="playground-mask", **look, **PICTURE)
                with gr.Row():
                    downloads = [
                        gr.DownloadButton(
                            label, interactive=False, size="md", min_width=100, elem_id=f"playground-{ending[1:]}"
                        )
                        for label, ending in zip(("Film as MP4", "Film as GIF", "Flow as .flo"), ENDINGS)
                    ]
                with gr.Row(equal_height=True):
                    status = gr.Markdown("", elem_id="playground-status")
                    num_frames = gr.Slider(2, 60, value=16, step=1, label="Frames of the film")
        films = (film, mask, *downloads)
        everything = (scene, motion, canvas, flow, sure, *films, status)
        quiet = dict(show_progress="hidden", api_visibility="private")
        newest = dict(trigger_mode="always_last", **quiet)
        # Not `input`, which comes whenever the list loses the focus.
        sample.change(on_sample, sample, everything, **quiet)
        choose.upload(on_upload, choose, (*everything, sample), **quiet)
        drawn = canvas.draw(on_draw, scene, (motion, flow, sure, status), **newest)
        drawn.then(on_motion, (scene, motion, num_frames), films, **newest)
        num_frames.release(on_motion, (scene, motion, num_frames), films, **newest)
        page.load(on_sample, sample, everything, **quiet)
        page.unload(on_close)
    for block in page.blocks.values():
        refuse_addresses(block)
    return page


def refuse_addresses(block) -> None:
    """Keep Gradio from fetching what a request names by an address where a file is expected.

    The path of a file in a payload may be http://..., which Gradio itself would ask for on the sender's behalf. Files
    of this page are uploads, or its own.
    """
    move = block.async_move_resource_to_block_cache

    async def move_file(path: str | Path | None) -> str | None:
        if "://" in str(path):
            raise ValueError("files are uploaded: addresses are not fetched")
        return await move(path)

    block.async_move_resource_to_block_cache = move_file


def launch_page(page, *, host: str, port: int | None, max_bytes: int = MAX_BYTES, block: bool = True) -> str:
    """Serve the page until the process is stopped, or, with block=False, until `page.close()`; returns its address.

    Raises:
        OSError: the port is taken.
    """
    import gradio as gr
    from starlette.middleware import Middleware

    local_fonts = dict(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    _, address, _ = page.queue(default_concurrency_limit=1).launch(
        server_name=host,
        server_port=port,
        max_file_size=max_bytes,
        theme=gr.themes.Default(**local_fonts),
        css=CSS,
        app_kwargs={"middleware": [Middleware(OwnSourcesOnly)]},
        share=False,
        ssr_mode=False,
        footer_links=[],
        quiet=True,
        prevent_thread_lock=True,
    )
    if block:
        print(f"{address}  (Ctrl+C stops it)", flush=True)
        page.block_thread()
    return address


class OwnSourcesOnly:
    """Nothing from elsewhere: neither the browser (told by a policy) nor Gradio (its file=http://... route) fetches it.

    So the page works without a network, and nobody learns of it.
    """

    POLICY = b"default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:"

    def __init__(self, app) -> None:
        self.app = app

    async def __call__(self, scope, receive, send) -> None:
        from starlette.responses import PlainTextResponse

        async def send_with_policy(message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (b"content-security-policy", self.POLICY)]
            await send(message)

        if scope["type"] == "http" and "://" in scope["path"]:
            await PlainTextResponse("addresses are not fetched", 403)(scope, receive, send_with_policy)
            return
        await self.app(scope, receive, send_with_policy)


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "checkpoint", nargs="?", metavar="CHECKPOINT", help="network: ours or the authors', torch file or safetensors"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=7860, help="port to listen on (default: %(default)s)")
    parser.add_argument(
        "--long-side", type=int, default=384, metavar="PX", help="shrink pictures to this (default: %(default)s)"
    )
    parser.add_argument("--device", default="cpu", help="where to compute (default: %(default)s)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Serve the page; returns the exit status."""
    args = parse_args(argv)
    try:
        checkpoint = find_checkpoint(args.checkpoint)
        if not 16 <= args.long_side <= 2048:
            raise ValueError(f"--long-side must be in 16..2048, got {args.long_side}")
        if not 1 <= args.port <= 65535:
            raise ValueError(f"--port must be in 1..65535, got {args.port}")
        propagator = load_propagator(checkpoint, device=args.device)
    except (ValueError, OSError) as error:
        print(f"playground.py: {error}", file=sys.stderr)
        return 2
    if not is_loopback(args.host):
        print(
            f"playground.py: warning: listening on {args.host}, so anybody who reaches this machine can use the page; "
            "there is no password",
            file=sys.stderr,
        )
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the folder goes then, too
    with own_folder() as folder:
        try:
            page = build_page(propagator, folder, name=checkpoint.name, long_side_px=args.long_side)
            launch_page(page, host=args.host, port=args.port)
        except ImportError as error:
            print(f'playground.py: {error}: install the extra with pip install ".[playground]"', file=sys.stderr)
            return 2
        except OSError as error:
            print(f"playground.py: {error}", file=sys.stderr)
            return 2
    print("stopped")
    return 0


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches that address."""
    if host == "localhost":
        return True
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False


@contextlib.contextmanager
def own_folder() -> Iterator[Path]:
    """A fresh folder for all that Gradio and this page write, told to Gradio before it is imported; gone afterwards."""
    before = os.environ.get("GRADIO_TEMP_DIR")
    with tempfile.TemporaryDirectory(prefix="cmp-playground-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        try:
            yield Path(folder)
        finally:
            if before is None:
                del os.environ["GRADIO_TEMP_DIR"]
            else:
                os.environ["GRADIO_TEMP_DIR"] = before


def _shrunk(image: np.ndarray, long_side_px: int) -> np.ndarray:
    """A bundled photograph the way `read_picture` would give it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sample.png"
        Image.fromarray(image).save(path, compress_level=1)
        return read_picture(path, long_side_px=long_side_px)


def _as_data_url(image: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _next_folder(session: Path) -> Path:
    """A new folder in the session's; of the older ones only the last stays, which the browser may still be reading."""
    session.mkdir(parents=True, exist_ok=True)
    older = sorted(session.iterdir())
    for folder in older[:-1]:
        shutil.rmtree(folder, ignore_errors=True)
    out = session / f"{time.time_ns():020d}"
    out.mkdir()
    return out


if __name__ == "__main__":
    sys.exit(main())
