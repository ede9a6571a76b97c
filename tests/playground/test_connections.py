"""Connections that send their headers slowly or never, against a server with the bounds of the playground."""

import socket
import threading
import time

import pytest

uvicorn = pytest.importorskip("uvicorn")

from cmp.playground.connections import bounded_protocol  # noqa: E402

SLOW = threading.Event()  # a slow request has reached the application
GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


async def hello(scope, receive, send):
    """Answer any request with "hello"; /slow after half a second."""
    import asyncio

    if scope["path"] == "/slow":
        SLOW.set()
        await asyncio.sleep(0.5)
    headers = [(b"content-length", b"5")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"hello"})


@pytest.fixture
def serve():
    servers = []

    def start(**bounds):
        listening = socket.create_server(("127.0.0.1", 0))
        config = uvicorn.Config(
            hello, http=bounded_protocol(**bounds), log_level="error", limit_concurrency=32, lifespan="off"
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        servers.append((server, thread))
        while not server.started:
            time.sleep(0.01)
        return lambda: socket.create_connection(listening.getsockname(), timeout=20)

    yield start
    for server, thread in servers:
        server.should_exit = True
        thread.join(10)


def ask(connection, request=GET):
    """The answer to one request."""
    connection.sendall(request)
    answer = b""
    while not answer.endswith(b"hello") and (part := connection.recv(4096)):
        answer += part
    return answer


def is_closed(connection):
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def test_hundreds_of_connections_that_never_finish_their_headers_keep_nobody_out(serve):
    connect = serve(max_waiting=8, headers_s=600)
    slow = [connect() for _ in range(300)]
    for connection in slow[-8:]:
        connection.sendall(GET[:-4])
    assert ask(connect()).endswith(b"hello")
    assert all(is_closed(connection) for connection in slow[:290])  # the oldest went first
    slow[-1].sendall(b"\r\n\r\n")  # one of the newest may still finish
    assert ask(slow[-1], b"").endswith(b"hello")


def test_headers_have_a_time_also_those_of_the_second_request_on_a_connection(serve):
    connect = serve(max_waiting=8, headers_s=1.0)
    silent, dripping, second = connect(), connect(), connect()
    assert ask(second).endswith(b"hello")
    for connection in (dripping, second):
        connection.sendall(GET[:10])
    for connection in (silent, dripping, second):
        assert is_closed(connection)


def test_a_request_that_is_being_answered_is_not_cut_off(serve):
    connect = serve(max_waiting=2, headers_s=0.3)
    busy = connect()
    busy.sendall(GET.replace(b"/ ", b"/slow ", 1))
    assert SLOW.wait(60)
    others = [connect() for _ in range(6)]
    assert ask(busy, b"").endswith(b"hello")
    assert all(is_closed(connection) for connection in others)
