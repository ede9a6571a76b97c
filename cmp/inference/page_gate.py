"""What a page on this machine lets in: an ASGI application in front of the library that serves the page (Gradio).

The library sees only requests that the page itself would send: the routes of a list, from this host and origin, with
bodies rebuilt from checked values. Files are served and uploads are read here, not by the library. No request names a
file, a folder or a function beyond those of the page: sessions, folders and uploads have random names.
"""

import asyncio
import contextlib
import ipaddress
import json
import re
import secrets
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import numpy as np

MAX_SESSIONS = 16  # open pages
MAX_SESSION_BYTES = 256 << 20  # results of one page on the disk
MAX_ALL_BYTES = 1 << 30  # results of all pages on the disk
MAX_SCENE_BYTES = 2 << 30  # encoded images of all pages in memory
IDLE_S = 600  # a page without a connection is forgotten after this
KEEP_S = 3600  # and one with a connection, but without an arrow
MAX_UPLOADS = 8  # images that were sent and not opened yet
UPLOAD_S = 120  # and are forgotten after this
MAX_UPLOADS_AT_ONCE = 4
MAX_STREAMS = 64  # connections that stay open
MAX_WAITING = 16  # answers to one page that it has not fetched
MAX_BODY_BYTES = 64 << 10  # of a request that is not an upload
BODY_S = 60  # a body that takes longer is refused

HEADERS = {
    "content-security-policy": (
        "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; object-src 'none'; base-uri 'self'; "
        "form-action 'none'; frame-ancestors 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
FORWARDED = ("host", "accept", "accept-encoding", "accept-language", "user-agent", "if-none-match", "if-modified-since")
RESULTS = {  # file name: media type, and whether the browser shows it
    "flow.png": ("image/png", "inline"),
    "confidence.png": ("image/png", "inline"),
    "mask.png": ("image/png", "inline"),
    "motion.mp4": ("video/mp4", "inline"),
    "motion.gif": ("image/gif", "inline"),
    "motion.flo": ("application/octet-stream", "attachment"),
    "arrows.json": ("application/json", "attachment"),
}
_STATIC = re.compile(
    r"/(favicon\.ico|theme\.css|(assets|static)/([A-Za-z0-9_-][A-Za-z0-9._-]*/)*[A-Za-z0-9_-][\w.-]*)", re.A
)
_FILE = re.compile(r"page-[0-9a-f]{32}/(draw|motion)-[0-9]{8}/([a-z.0-9]+)")
_SESSION = re.compile(r"[A-Za-z0-9_-]{1,64}")
_HOST = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?")
_JOIN_FIELDS = ("data", "event_data", "fn_index", "trigger_id", "session_hash")
_API = "/gradio_api"


class RefusedError(Exception):
    """A request that is not let in: the status and the line of the answer."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(eq=False)
class Session:
    """One open page."""

    folder: Path  # of its results, under a random name
    scene: Any = None  # the image that arrows are drawn on
    motion: Any = None  # the last arrows, and what was made of them
    upload: np.ndarray | None = None  # an image that was sent and is opened next
    scene_bytes: int = 0
    used: float = 0.0  # time.monotonic()
    connections: int = 0
    num_results: int = 0
    closed: bool = False


class Sessions:
    """The open pages by the names that browsers give them, and where their results are.

    A name is a key of a map and nothing else. Safe to use from several threads.

    Args:
        folder: where the results of all pages are.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._sessions: dict[str, Session] = {}
        self._lock = threading.RLock()

    def __len__(self) -> int:
        return len(self._sessions)

    def find(self, name: str | None) -> Session | None:
        """The page of that name, if it is open."""
        with self._lock:
            session = self._sessions.get(name or "")
            if session is not None:
                session.used = time.monotonic()
            return session

    def enter(self, name: str) -> Session:
        """The page of that name; opened if need be, in place of one without a connection if there are too many.

        Raises:
            RefusedError: MAX_SESSIONS pages are open, with a connection each.
        """
        with self._lock:
            if name not in self._sessions:
                while len(self._sessions) >= MAX_SESSIONS:
                    idle = [other for other, session in self._sessions.items() if not session.connections]
                    if not idle:
                        raise RefusedError(503, f"at most {MAX_SESSIONS} pages are open at once; close one of them")
                    self.drop(min(idle, key=lambda other: self._sessions[other].used))
                self._sessions[name] = Session(self.folder / f"page-{secrets.token_hex(16)}")
            session = self._sessions[name]
            session.used = time.monotonic()
            return session

    def drop(self, name: str | None) -> None:
        """Forget a page and remove its results."""
        with self._lock:
            session = self._sessions.pop(name or "", None)
            if session is not None:
                session.closed = True
                session.scene = session.motion = session.upload = None
                shutil.rmtree(session.folder, ignore_errors=True)

    def drop_stale(self) -> None:
        """Forget pages that nobody uses any more."""
        now = time.monotonic()
        with self._lock:
            for name, session in list(self._sessions.items()):
                if now - session.used > (KEEP_S if session.connections else IDLE_S):
                    self.drop(name)

    def names(self) -> set[str]:
        """Of the open pages."""
        with self._lock:
            return set(self._sessions)

    def set_scene(self, session: Session, scene: Any, num_bytes: int) -> None:
        """Give a page a new image; the pages that were used least recently lose theirs if memory is short."""
        with self._lock:
            if session.closed:
                return
            session.scene, session.motion, session.scene_bytes = scene, None, num_bytes
            with_scene = [s for s in self._sessions.values() if s.scene is not None and s is not session]
            with_scene.sort(key=lambda s: s.used, reverse=True)
            total = num_bytes
            for other in with_scene:
                total += other.scene_bytes
                if total > MAX_SCENE_BYTES:
                    other.scene = other.motion = None

    def results_folder(self, session: Session, kind: str, num_bytes: int) -> Path:
        """A new folder for results of a kind, "draw" or "motion"; the last one of that kind stays, older ones go.

        Args:
            num_bytes: that the results may take.

        Raises:
            FileNotFoundError: the page was closed meanwhile.
            ValueError: this page or all of them would take too many bytes.
        """
        with self._lock:
            if session.closed:
                raise FileNotFoundError("the page was closed")
            for older in sorted(session.folder.glob(f"{kind}-*"))[:-1]:
                shutil.rmtree(older, ignore_errors=True)
            for folder, limit, what in (
                (session.folder, MAX_SESSION_BYTES, "one page"),
                (self.folder, MAX_ALL_BYTES, "all open pages"),
            ):
                if _bytes_below(folder) + num_bytes > limit:
                    raise ValueError(
                        f"the results of {what} take at most {limit >> 20} MiB (asked for {num_bytes / 2**20:.0f} MiB "
                        "more); take fewer frames, a smaller image, or close other pages"
                    )
            session.num_results += 1
            out = session.folder / f"{kind}-{session.num_results:08d}"
            out.mkdir(parents=True)
            return out

    def result(self, path: str) -> Path | None:
        """The file of an open page that a path names; None for every other path."""
        prefix = f"{self.folder}/"
        match = _FILE.fullmatch(path.removeprefix(prefix)) if path.startswith(prefix) else None
        if match is None or match[2] not in RESULTS:
            return None
        file = Path(path)
        with self._lock:
            known = any(session.folder == file.parents[1] for session in self._sessions.values())
        return file if known and file.is_file() and not file.is_symlink() else None


def _bytes_below(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            total += path.lstat().st_size
    return total


class Uploads:
    """Images that were sent and are not opened yet, in memory, by random tokens.

    Args:
        read: makes an image (H, W, 3) uint8 of a file, or raises ValueError.
        folder: a file is in it while it is read.
        max_bytes: larger files are refused.
    """

    def __init__(self, read: Callable[[Path], np.ndarray], folder: Path, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._read, self._folder = read, folder
        self._images: dict[str, tuple[float, np.ndarray]] = {}
        self._decoding = threading.Lock()  # a large image takes much memory while it is decoded

    def __len__(self) -> int:
        return len(self._images)

    def add(self, file: Any, name: str) -> str:
        """Decode a file and keep the image; returns its token.

        Raises:
            ValueError: it is too large, broken or not an image.
        """
        name = re.sub(r"[^\w. ()-]", "_", name.replace("\\", "/").rsplit("/", 1)[-1])[-60:].lstrip(". ") or "image"
        with self._decoding, tempfile.TemporaryDirectory(prefix="upload-", dir=self._folder) as folder:
            path = Path(folder) / name
            with open(path, "wb") as out:
                shutil.copyfileobj(file, out, 1 << 20)
            image = self._read(path)
        while len(self._images) >= MAX_UPLOADS:
            del self._images[next(iter(self._images))]
        token = f"upload-{secrets.token_hex(16)}"
        self._images[token] = (time.monotonic(), image)
        return token

    def take(self, token: str) -> np.ndarray | None:
        """The image of a token, once."""
        self.drop_stale()
        return self._images.pop(token, (0, None))[1]

    def drop_stale(self) -> None:
        """Forget images that nobody opened."""
        oldest = time.monotonic() - UPLOAD_S
        for token in [token for token, (since, _) in list(self._images.items()) if since < oldest]:
            self._images.pop(token, None)


class PageGate:
    """Answer a request, hand it on, or refuse it.

    Args:
        app: the library's application.
        sessions, uploads: see there.
        calls: by number, what each function of the page takes: a function of session, data (list) and event data that
            returns data and event data as the library is to get them, or raises ValueError. Others cannot be called.
        triggers: numbers of the page's components, which an event may come from.
        host: the address that is listened on.
        other_hosts: further names of this machine.
        num_waiting: how many answers a page has not fetched yet, by its name.
        forget: called with the name of a page that is gone.
    """

    def __init__(
        self,
        app: Callable[..., Awaitable[None]],
        *,
        sessions: Sessions,
        uploads: Uploads,
        calls: Mapping[int, Callable[[Session, list, Any], tuple[list, Any]]],
        triggers: Iterable[int],
        host: str = "127.0.0.1",
        other_hosts: Iterable[str] = (),
        num_waiting: Callable[[str], int] = lambda name: 0,
        forget: Callable[[str], Awaitable[None]] | None = None,
    ) -> None:
        self.app = app
        self.sessions, self.uploads = sessions, uploads
        self.calls, self.triggers = dict(calls), frozenset(triggers)
        self.loopback = is_loopback(host)
        self.hosts = {"localhost", "127.0.0.1", "[::1]", _as_host(host), *map(_as_host, other_hosts)}
        if not self.loopback:
            self.hosts.add(socket.gethostname().lower())
        self.num_waiting, self.forget = num_waiting, forget
        self._known: set[str] = set()  # names that the library may keep something under
        self.sweep_s = 10.0
        self._streams = self._uploads = 0

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        if scope["type"] == "lifespan":
            sweeper = asyncio.create_task(self._sweep_forever())
            try:
                await self.app(scope, receive, send)
            finally:
                sweeper.cancel()
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        send = _with_headers(send)
        try:
            _check_sender(scope, self._is_own_host)
            await self._answer(scope, receive, send)
        except RefusedError as refusal:
            await _send_text(send, refusal.status, str(refusal))

    async def _answer(self, scope: dict, receive: Callable, send: Callable) -> None:
        method, path = scope["method"], scope["path"]
        if path == "/" or path == "/config" or _STATIC.fullmatch(path):
            _check_method(method, "GET", "HEAD")
            await self._hand_on(scope, receive, send)
        elif path.startswith(f"{_API}/file="):
            _check_method(method, "GET", "HEAD")
            await self._send_file(path.removeprefix(f"{_API}/file="), scope, receive, send)
        elif path.startswith(f"{_API}/heartbeat/"):
            _check_method(method, "GET")
            await self._stay_connected(_checked_name(path.removeprefix(f"{_API}/heartbeat/")), scope, receive, send)
        elif path == f"{_API}/queue/join":
            _check_method(method, "POST")
            await self._join(scope, receive, send)
        elif path == f"{_API}/queue/data":
            _check_method(method, "GET")
            match = re.fullmatch(rb"session_hash=([A-Za-z0-9_-]{1,64})", scope.get("query_string", b""))
            if match is None or match[1].decode() not in self._known:
                raise RefusedError(403, "no such page is open")
            with self._stream():
                await self._hand_on(scope, receive, send, query=match[0])
        elif path == f"{_API}/upload":
            _check_method(method, "POST")
            await self._take_upload(scope, receive, send)
        else:
            raise RefusedError(403, "the page does not have this route")

    def _is_own_host(self, name: str) -> bool:
        if name in self.hosts:
            return True
        if not self.loopback:  # an address cannot be made to point elsewhere, as a name can
            with contextlib.suppress(ValueError):
                ipaddress.ip_address(name.strip("[]"))
                return True
        return False

    async def _hand_on(
        self, scope: dict, receive: Callable, send: Callable, *, query: bytes = b"", body: bytes | None = None
    ) -> None:
        """To the library, without anything that was not looked at."""
        headers = [(name, value) for name, value in scope["headers"] if name.decode("latin-1") in FORWARDED]
        if body is not None:
            headers += [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
            first = [{"type": "http.request", "body": body, "more_body": False}]
            later = receive

            async def receive() -> dict:
                return first.pop() if first else await later()

        rest = {"headers": headers, "query_string": query, "raw_path": quote(scope["path"]).encode(), "root_path": ""}
        await self.app({**scope, **rest}, receive, send)

    @contextlib.contextmanager
    def _stream(self):
        if self._streams >= MAX_STREAMS:
            raise RefusedError(503, f"at most {MAX_STREAMS} connections stay open at once")
        self._streams += 1
        try:
            yield
        finally:
            self._streams -= 1

    async def _stay_connected(self, name: str, scope: dict, receive: Callable, send: Callable) -> None:
        with self._stream():
            session = self.sessions.enter(name)
            self._known.add(name)
            session.connections += 1
            try:
                await self._hand_on(scope, receive, send)
            finally:
                session.connections -= 1
                if not session.connections and self.sessions.find(name) is session:
                    self.sessions.drop(name)

    async def _join(self, scope: dict, receive: Callable, send: Callable) -> None:
        if not re.match(rb"application/json\s*(;|$)", _header(scope, b"content-type") or b""):
            raise RefusedError(415, "the body must be application/json")
        request = parse_json(await _read_body(scope, receive, MAX_BODY_BYTES))
        if not isinstance(request, dict):
            raise RefusedError(400, "the body must be a JSON object")
        unknown = [key for key, value in request.items() if key not in _JOIN_FIELDS and value not in (None, False)]
        if unknown:
            raise RefusedError(400, f"fields must be {', '.join(_JOIN_FIELDS)}")
        name = _checked_name(request.get("session_hash"))
        index, data, trigger = request.get("fn_index"), request.get("data"), request.get("trigger_id")
        if type(index) is not int or index not in self.calls:
            raise RefusedError(403, "the page does not use this function")
        if not isinstance(data, list):
            raise RefusedError(400, "data must be a list")
        if trigger is not None and (type(trigger) is not int or trigger not in self.triggers):
            raise RefusedError(400, "trigger_id must be null or the number of a component")
        if self.num_waiting(name) >= MAX_WAITING:
            raise RefusedError(429, f"at most {MAX_WAITING} answers wait for a page; fetch them first")
        session = self.sessions.enter(name)
        try:
            data, event_data = self.calls[index](session, data, request.get("event_data"))
        except ValueError as error:
            raise RefusedError(400, str(error)) from error
        self._known.add(name)
        checked = dict(data=data, event_data=event_data, fn_index=index, trigger_id=trigger, session_hash=name)
        await self._hand_on(scope, receive, send, body=json.dumps(checked).encode())

    async def _send_file(self, path: str, scope: dict, receive: Callable, send: Callable) -> None:
        file = self.sessions.result(path)
        if file is None:
            raise RefusedError(403, "the page does not use this file")
        from starlette.responses import FileResponse

        media_type, disposition = RESULTS[file.name]
        headers = {"cache-control": "private, no-store"}
        answer = FileResponse(
            file, headers=headers, media_type=media_type, filename=file.name, content_disposition_type=disposition
        )
        try:
            await answer(scope, receive, send)
        except (FileNotFoundError, RuntimeError) as error:  # it was removed between the look and the opening
            raise RefusedError(403, "the page does not use this file") from error

    async def _take_upload(self, scope: dict, receive: Callable, send: Callable) -> None:
        from starlette.concurrency import run_in_threadpool
        from starlette.datastructures import UploadFile
        from starlette.formparsers import MultiPartException
        from starlette.requests import Request

        if not re.match(rb"multipart/form-data\s*;", _header(scope, b"content-type") or b""):
            raise RefusedError(415, "the body must be multipart/form-data with one file")
        bounded = _bounded(scope, receive, self.uploads.max_bytes + MAX_BODY_BYTES)
        if self._uploads >= MAX_UPLOADS_AT_ONCE:
            raise RefusedError(503, f"at most {MAX_UPLOADS_AT_ONCE} files are taken at once; try again")
        self._uploads += 1
        try:
            request = Request({"type": "http", "headers": scope["headers"]}, bounded)
            try:
                form = await asyncio.wait_for(request.form(max_files=1, max_fields=0), BODY_S)
            except asyncio.TimeoutError as error:
                raise RefusedError(408, f"the file did not come within {BODY_S} s") from error
            except (MultiPartException, AssertionError, KeyError, UnicodeError, ValueError) as error:
                raise RefusedError(400, "the body must be multipart/form-data with one file") from error
            try:
                file = form.get("files")
                if not isinstance(file, UploadFile):
                    raise RefusedError(400, "the body must be multipart/form-data with one file under the name files")
                token = await run_in_threadpool(self.uploads.add, file.file, file.filename or "")
            except ValueError as error:
                raise RefusedError(415, str(error)) from error
            finally:
                await form.close()
        finally:
            self._uploads -= 1
        await _send_text(send, 200, json.dumps([token]), "application/json")

    async def _sweep_forever(self) -> None:
        while True:
            waited = 0.0
            while waited < self.sweep_s:
                await asyncio.sleep(0.5)
                waited += 0.5
            await self.sweep()

    async def sweep(self) -> None:
        """Forget what nobody uses any more: pages, what the library keeps for them, and uploads."""
        self.uploads.drop_stale()
        self.sessions.drop_stale()
        gone = self._known - self.sessions.names()
        self._known -= gone
        if self.forget is not None:
            for name in gone:
                await self.forget(name)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches that address."""
    if host == "localhost":
        return True
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    return False


def parse_json(body: bytes) -> Any:
    """JSON from a stranger: no NaN and no infinity, however deep.

    Raises:
        RefusedError: it is not valid JSON.
    """

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not a JSON value")

    try:
        return json.loads(body, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise RefusedError(400, "the body is not valid JSON") from error


def _as_host(host: str) -> str:
    """The way a Host header names an address."""
    return f"[{host}]" if ":" in host and not host.startswith("[") else host.lower()


def _header(scope: dict, name: bytes) -> bytes | None:
    """The value of a header.

    Raises:
        RefusedError: it is there twice.
    """
    values = [value for key, value in scope["headers"] if key.lower() == name]
    if len(values) > 1:
        raise RefusedError(400, f"the header {name.decode()} is there twice")
    return values[0] if values else None


def _check_sender(scope: dict, is_own_host: Callable[[str], bool]) -> None:
    """Refuse other names of this machine (DNS rebinding) and requests that another page sends (cross-site requests).

    Raises:
        RefusedError: host or origin is another.
    """
    host = (_header(scope, b"host") or b"").decode("latin-1").lower()
    match = _HOST.fullmatch(host)
    if match is None or not is_own_host(match[1]):
        raise RefusedError(403, "this page is not known under that host name; see --allow-host")
    origin = _header(scope, b"origin")
    if origin is not None:
        try:
            parts = urlsplit(origin.decode("latin-1").lower())
        except ValueError:
            parts = None
        if parts is None or parts.scheme not in ("http", "https") or parts.netloc != host or parts.path:
            raise RefusedError(403, "requests of other pages are not answered")
    opened = scope["path"] == "/" and _header(scope, b"sec-fetch-mode") == b"navigate"
    opened = opened and _header(scope, b"sec-fetch-dest") == b"document" and scope["method"] == "GET"
    if _header(scope, b"sec-fetch-site") not in (None, b"same-origin", b"none") and not opened:
        raise RefusedError(403, "requests of other pages are not answered")


def _check_method(method: str, *allowed: str) -> None:
    if method not in allowed:
        raise RefusedError(405, f"this address takes {' and '.join(allowed)} alone")


def _checked_name(name: Any) -> str:
    if not isinstance(name, str) or not _SESSION.fullmatch(name):
        raise RefusedError(403, "a page's name must be 1 to 64 letters, digits, - and _")
    return name


def _bounded(scope: dict, receive: Callable, max_bytes: int) -> Callable[[], Awaitable[dict]]:
    """`receive` for a body of at most that many bytes.

    Raises:
        RefusedError: it is larger, or the sender went away; at once where the header gives its length.
    """
    length = _header(scope, b"content-length")
    if length is not None and (not re.fullmatch(rb"[0-9]{1,15}", length) or int(length) > max_bytes):
        raise RefusedError(413, f"at most {max_bytes} bytes are taken")
    taken = 0

    async def receive_bounded() -> dict:
        nonlocal taken
        message = await receive()
        if message["type"] == "http.disconnect":
            raise RefusedError(400, "the connection was closed")
        taken += len(message.get("body", b""))
        if taken > max_bytes:
            raise RefusedError(413, f"at most {max_bytes} bytes are taken")
        return message

    return receive_bounded


async def _read_body(scope: dict, receive: Callable, max_bytes: int) -> bytes:
    bounded = _bounded(scope, receive, max_bytes)

    async def read() -> bytes:
        parts, more = [], True
        while more:
            message = await bounded()
            parts.append(message.get("body", b""))
            more = message.get("more_body", False)
        return b"".join(parts)

    try:
        return await asyncio.wait_for(read(), BODY_S)
    except asyncio.TimeoutError as error:
        raise RefusedError(408, f"the body did not come within {BODY_S} s") from error


def _with_headers(send: Callable) -> Callable[[dict], Awaitable[None]]:
    async def send_with_headers(message: dict) -> None:
        if message["type"] == "http.response.start":
            own = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
            others = [pair for pair in message.get("headers", ()) if pair[0].decode("latin-1").lower() not in HEADERS]
            message = {**message, "headers": [*others, *own]}
        await send(message)

    return send_with_headers


async def _send_text(send: Callable, status: int, text: str, media_type: str = "text/plain; charset=utf-8") -> None:
    body = text.encode("utf-8", "backslashreplace")
    headers = [(b"content-type", media_type.encode()), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
