"""The gate before any library: which requests reach the application behind it."""

import asyncio
import json

import numpy as np
import pytest

from cmp.playground import sessions as page_sessions
from cmp.playground.gate import PageGate
from cmp.playground.sessions import RefusedError, Sessions, Uploads


class Behind:
    """An application that answers 200 and keeps what reached it."""

    def __init__(self):
        self.scopes, self.bodies = [], []

    async def __call__(self, scope, receive, send):
        self.scopes.append(scope)
        self.bodies.append((await receive()).get("body", b""))
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x-frame-options", b"ALLOWALL")]})
        await send({"type": "http.response.body", "body": b""})


@pytest.fixture
def behind():
    return Behind()


def make_gate(behind, folder, **more):
    def double(session, data, event_data):
        if not all(type(value) is int for value in data):
            raise ValueError("data must be whole numbers")
        return [2 * value for value in data], None

    uploads = Uploads(lambda path: np.zeros((2, 3, 3), np.uint8), folder, 100)
    return PageGate(behind, sessions=Sessions(folder), uploads=uploads, calls={4: double}, triggers=(9,), **more)


def ask(gate, method="GET", path="/", body=b"", query=b"", **headers):
    """Status of the answer, and its headers."""
    headers = {"host": "127.0.0.1:7860"} | {name.replace("_", "-"): value for name, value in headers.items()}
    messages = [{"type": "http.request", "body": body, "more_body": False}]
    sent = []

    async def receive():
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": query,
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }
    asyncio.run(gate(scope, receive, send))
    return sent[0]["status"], dict(sent[0]["headers"])


@pytest.mark.parametrize(
    "host, other, name, answered",
    (
        ("127.0.0.1", (), "localhost:1", True),
        ("127.0.0.1", (), "192.168.0.7:7860", False),
        ("127.0.0.1", (), "my-machine:7860", False),
        ("127.0.0.1", ("my-machine",), "My-Machine:7860", True),
        ("0.0.0.0", (), "192.168.0.7:7860", True),  # an address cannot be made to point elsewhere
        ("0.0.0.0", (), "[fe80::1]:7860", True),
        ("0.0.0.0", (), "evil.example", False),
        ("192.168.0.7", (), "evil.example:7860", False),
        ("my-machine", (), "my-machine:7860", True),
        ("::1", (), "[::1]:7860", True),
    ),
)
def test_only_names_of_this_machine_are_answered(behind, tmp_path, host, other, name, answered):
    gate = make_gate(behind, tmp_path, host=host, other_hosts=other)
    assert ask(gate, host=name)[0] == (200 if answered else 403)
    assert len(behind.scopes) == answered


def test_a_checked_call_is_rebuilt_and_nothing_else_of_the_request_reaches_the_library(behind, tmp_path):
    gate = make_gate(behind, tmp_path)
    call = {"data": [3], "fn_index": 4, "session_hash": "abc", "trigger_id": 9, "event_data": {"x": 1}, "batched": None}
    status, headers = ask(
        gate,
        "POST",
        "/gradio_api/queue/join",
        json.dumps(call).encode(),
        b"__sign=1",
        content_type="application/json",
        cookie="a=b",
        x_forwarded_host="evil.example",
        authorization="Bearer x",
    )
    assert status == 200 and headers[b"x-frame-options"] == b"DENY"
    assert json.loads(behind.bodies[0]) == {
        "data": [6], "fn_index": 4, "session_hash": "abc", "trigger_id": 9, "event_data": None,
    }  # fmt: skip
    assert behind.scopes[0]["query_string"] == b""
    assert sorted(dict(behind.scopes[0]["headers"])) == [b"content-length", b"content-type", b"host"]
    for change in ({"data": ["3"]}, {"trigger_id": 8}, {"fn_index": 5}, {"session_hash": "../x"}, {"batched": True}):
        body = json.dumps(call | change).encode()
        assert ask(gate, "POST", "/gradio_api/queue/join", body, content_type="application/json")[0] in (400, 403)
    assert len(behind.bodies) == 1


def test_a_websocket_is_closed_before_it_opens(behind, tmp_path):
    sent = []

    async def send(message):
        sent.append(message)

    asyncio.run(make_gate(behind, tmp_path)({"type": "websocket", "path": "/", "headers": []}, None, send))
    assert sent == [{"type": "websocket.close", "code": 1008}] and not behind.scopes


def test_folders_of_pages_have_random_names_and_go_with_them(tmp_path):
    sessions = Sessions(tmp_path / "pages")
    (tmp_path / "victim").mkdir()
    session = sessions.enter("x/../../victim")
    out = sessions.results_folder(session, "draw", 10)
    (out / "flow.png").write_bytes(b"1")
    assert out.parents[1] == tmp_path / "pages" and "victim" not in str(out)
    assert sessions.result(str(out / "flow.png")) == out / "flow.png"
    (out / "mask.png").symlink_to(tmp_path / "victim")
    for path in (out / "mask.png", out / "other.png", out / ".." / out.name / "flow.png", tmp_path, "", "flow.png"):
        assert sessions.result(str(path)) is None
    sessions.drop("x/../../victim")
    assert not session.folder.exists() and (tmp_path / "victim").is_dir()
    with pytest.raises(FileNotFoundError):
        sessions.results_folder(session, "draw", 10)
    sessions.drop("x/../../victim")


def test_the_least_recently_used_page_without_a_connection_makes_room(tmp_path, monkeypatch):
    monkeypatch.setattr(page_sessions, "MAX_SESSIONS", 2)
    sessions = Sessions(tmp_path)
    first, second = sessions.enter("first"), sessions.enter("second")
    first.connections = 1
    sessions.enter("third")
    assert second.closed and sessions.find("first") is first and sessions.find("third")
    sessions.find("third").connections = 1
    with pytest.raises(RefusedError, match="at most 2 pages"):
        sessions.enter("fourth")


def test_images_of_pages_used_long_ago_are_given_up_when_memory_is_short(tmp_path, monkeypatch):
    monkeypatch.setattr(page_sessions, "MAX_SCENE_BYTES", 100)
    sessions = Sessions(tmp_path)
    opened = [sessions.enter(name) for name in "abc"]
    for i, session in enumerate(opened):
        sessions.set_scene(session, "scene", 40)
        session.used = i
    assert [session.scene for session in opened] == [None, "scene", "scene"]
