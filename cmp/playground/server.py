"""Serving the playground's page: only requests that the page itself would send reach Gradio."""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from cmp.inference.arrows import MAX_TEXT, check_arrows, check_clicks
from cmp.inference.interactive import MAX_BYTES
from cmp.playground.gate import PageGate
from cmp.playground.page import CSS, NUM_FRAMES
from cmp.playground.sessions import Session, Uploads

MAX_STRENGTH = 2  # that arrows are multiplied by


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


def launch_page(
    page,
    *,
    host: str,
    port: int | None,
    max_bytes: int = MAX_BYTES,
    allowed_hosts: Sequence[str] = (),
    block: bool = True,
) -> str:
    """Serve the page until the process is stopped, or, with block=False, until `page.close()`; returns its address.

    Args:
        page: of `build_page`.
        host: the address to listen on.
        port: the port; None takes a free one.
        max_bytes: larger image files are refused.
        allowed_hosts: further names under which browsers reach this machine.

    Raises:
        OSError: the port cannot be used.
    """
    import uvicorn

    from cmp.playground.connections import bounded_protocol

    host = host.strip("[]")
    listening = _listen(host, port)
    port = listening.getsockname()[1]

    gate = _gate(page, host, port, max_bytes, allowed_hosts)
    config = uvicorn.Config(
        gate,
        log_level="warning",
        proxy_headers=False,
        server_header=False,
        ws="none",
        http=bounded_protocol(),
        limit_concurrency=256,
        timeout_graceful_shutdown=2,
    )
    page.server = _Server(config)
    page.server.start(listening)
    shown = "localhost" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
    address = f"http://{shown}:{port}/"
    if block:
        print(f"{address}  (Ctrl+C stops it)", flush=True)
        try:
            page.server.wait()
        except KeyboardInterrupt:
            pass
        finally:
            page.close(verbose=False)
    return address


def _listen(host: str, port: int | None) -> socket.socket:
    """A socket that listens there; OSError that says how to choose another port if it cannot."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port or 0), family=family)
    except OSError as error:
        raise OSError(
            f"port {port} of {host} cannot be used ({error.strerror or error}); choose another with --port or --host"
        ) from error


def _gate(page, host: str, port: int, max_bytes: int, allowed_hosts: Sequence[str]) -> PageGate:
    """The application that is served: Gradio's behind the gate."""
    import fastapi
    import gradio as gr

    local_fonts = dict(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    app = gr.mount_gradio_app(
        fastapi.FastAPI(openapi_url=None),
        page.queue(default_concurrency_limit=1, max_size=64),
        path="/",
        server_name=host,
        server_port=port,
        max_file_size=max_bytes,
        theme=gr.themes.Default(**local_fonts),
        css=CSS,
        show_error=False,
        ssr_mode=False,
        run_history=False,
        enable_monitoring=False,
        mcp_server=False,
        footer_links=[],
    )
    queue, library = page._queue, app.routes[-1].app
    page.app = page.server_app = library  # which `page.close` stops
    page.server_port = port

    async def forget(name: str) -> None:
        await queue.clean_events(session_hash=name)
        queue.pending_messages_per_session.pop(name, None)
        queue.pending_event_ids_session.pop(name, None)
        library.state_holder.session_data.pop(name, None)
        library.state_holder.time_last_used.pop(name, None)

    uploads = Uploads(lambda path: page.read_upload(path, max_bytes), page.sessions.folder, max_bytes)
    return PageGate(
        app,
        sessions=page.sessions,
        uploads=uploads,
        calls=checked_calls(page, uploads),
        triggers=(page._id, *page.blocks),
        host=host,
        other_hosts=allowed_hosts,
        num_waiting=lambda name: len(queue.pending_event_ids_session.get(name, ())),
        forget=forget,
    )


def checked_calls(page, uploads: Uploads) -> dict[int, Callable[[Session, list, Any], tuple[list, Any]]]:
    """What each function of the page takes from a request, for `PageGate`; `on_close` cannot be called by one."""

    def sample(session: Session, data: list, event_data: Any) -> tuple[list, Any]:
        (which,) = data
        if which is not None and (not isinstance(which, str) or which not in page.samples):
            raise ValueError(f"the image must be one of {', '.join(page.samples)}")
        return [which], None

    def upload(session: Session, data: list, event_data: Any) -> tuple[list, Any]:
        (file,) = data
        token = file.get("path") if isinstance(file, dict) else None
        session.upload = uploads.take(token) if isinstance(token, str) else None
        return [None], None  # the library has no part in files

    def draw(session: Session, data: list, event_data: Any) -> tuple[list, Any]:
        if not isinstance(event_data, dict) or set(event_data) != {"arrows", "border", "strength"}:
            raise ValueError("event_data must be an object with arrows, border and strength")
        check_arrows(event_data["arrows"], None)
        if type(event_data["border"]) is not bool:
            raise ValueError("border must be true or false")
        if type(event_data["strength"]) not in (int, float) or not 0 <= event_data["strength"] <= MAX_STRENGTH:
            raise ValueError(f"strength must be a number in 0..{MAX_STRENGTH}")
        return [chosen(data[0])], event_data

    def find(session: Session, data: list, event_data: Any) -> tuple[list, Any]:
        if not isinstance(event_data, dict) or set(event_data) != {"clicks", "still"}:
            raise ValueError("event_data must be an object with clicks and still")
        check_clicks(event_data["clicks"], None)
        check_clicks(event_data["still"], None)
        return [], event_data

    def arrows(session: Session, data: list, event_data: Any) -> tuple[list, Any]:
        if not isinstance(event_data, dict) or set(event_data) != {"text"}:
            raise ValueError("event_data must be an object with text")
        text = event_data["text"]
        if not isinstance(text, str) or len(text) > MAX_TEXT:
            raise ValueError(f"text must be a string of at most {MAX_TEXT} characters")
        return [], event_data

    def method(session: Session, data: list, event_data: Any) -> tuple[list, Any]:
        return [chosen(data[0])], None

    def compare(session: Session, data: list, event_data: Any) -> tuple[list, Any]:
        return [], None

    def chosen(name: Any) -> str:
        if not isinstance(name, str) or name not in page.methods:
            raise ValueError(f"the method must be one of {', '.join(page.methods)}")
        return name

    def motion(session: Session, data: list, event_data: Any) -> tuple[list, Any]:
        num_frames, name = data
        low, high = NUM_FRAMES
        if type(num_frames) is not int or not low <= num_frames <= high:
            raise ValueError(f"the number of frames must be a whole number in {low}..{high}")
        return [num_frames, chosen(name)], None

    checks = {
        "on_sample": sample,
        "on_upload": upload,
        "on_arrows": arrows,
        "on_draw": draw,
        "on_find": find,
        "on_method": method,
        "on_motion": motion,
        "on_compare": compare,
    }
    return {
        index: _with_length(len(function.inputs), checks[function.name])
        for index, function in page.fns.items()
        if function.name in checks
    }


def _with_length(length: int, check: Callable) -> Callable[[Session, list, Any], tuple[list, Any]]:
    def checked(session: Session, data: list, event_data: Any) -> tuple[list, Any]:
        if len(data) != length:
            raise ValueError(f"data must have {length} values, got {len(data)}")
        return check(session, data, event_data)

    return checked


class _Server:
    """Uvicorn in a thread, as `page.close` expects it."""

    def __init__(self, config) -> None:
        import uvicorn

        self.gate = config.app
        self._server = uvicorn.Server(config)

    def start(self, listening: socket.socket) -> None:
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [listening]}, daemon=True)
        self._thread.start()
        while not self._server.started:
            if not self._thread.is_alive():
                raise OSError("the server could not be started")
            time.sleep(0.01)

    def wait(self) -> None:
        while self._thread.is_alive():
            self._thread.join(0.5)

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join(10)
