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
import socket
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any
from urllib.parse import quote, urlsplit

from cmp.playground.sessions import RESULTS, RefusedError, Session, Sessions, Uploads

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
_STATIC = re.compile(
    r"/(favicon\.ico|theme\.css|(assets|static)/([A-Za-z0-9_-][A-Za-z0-9._-]*/)*[A-Za-z0-9_-][\w.-]*)", re.A
)
_SESSION = re.compile(r"[A-Za-z0-9_-]{1,64}")
_HOST = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?")
_JOIN_FIELDS = ("data", "event_data", "fn_index", "trigger_id", "session_hash")
_API = "/gradio_api"


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
