"""Raw requests to the running page, as a stranger may send them. Needs gradio (the extra `playground`)."""

import base64
import http.client
import io
import json
import re
import socket
import threading
import time
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import torch
from PIL import Image

from cmp.flow import FlowQuantizer
from cmp.inference import MotionPropagator
from cmp.inference.arrows import MAX_ARROWS, MAX_TEXT
from cmp.models import CMP, DiscreteLoss, MotionEncoder, PropagationDecoder, ResNet
from cmp.playground import gate, server, sessions
from cmp.playground.page import build_page

pytest.importorskip("gradio", reason="no gradio: pip install '.[playground]'")
pytestmark = pytest.mark.filterwarnings("ignore")  # arrows beyond the range of the bins are warned of
MAX_BYTES = 300_000
API = "/gradio_api"


class Client:
    """Sends what it is given, without a look at it."""

    def __init__(self, address, folder, page):
        self.host, self.folder, self.page = urlsplit(address).netloc, folder, page
        self.functions = {function.name: index for index, function in page.fns.items()}
        self.statuses = Counter()

    def send(self, method, path, body=None, **headers):
        """Status, headers and body of the answer; None as a value leaves a header out."""
        connection = http.client.HTTPConnection(self.host, timeout=30)
        headers = {"Host": self.host} | {name.replace("_", "-"): value for name, value in headers.items()}
        if isinstance(body, (dict, list)):
            body, headers = json.dumps(body), {"Content-Type": "application/json"} | headers
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in headers.items():
            for one in [value] if isinstance(value, str) else value or ():
                connection.putheader(name, one)
        if body is not None:
            body = body.encode() if isinstance(body, str) else body
            connection.putheader("Content-Length", str(len(body)))
        try:
            connection.endheaders(body)
        except (BrokenPipeError, ConnectionResetError):
            pass  # refused before all of it was sent: the answer is there
        answer = connection.getresponse()
        content = b"" if answer.getheader("content-type", "").startswith("text/event-stream") else answer.read()
        connection.close()
        self.statuses[answer.status] += 1
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, content

    def join(self, name, data, *, session="raw", **more):
        index = self.functions[name] if isinstance(name, str) else name
        body = {"data": data, "event_data": None, "fn_index": index, "trigger_id": None, "session_hash": session}
        return self.send("POST", f"{API}/queue/join", body | more)

    def messages(self, session="raw"):
        """What the page is told until there is nothing more to come."""
        connection = http.client.HTTPConnection(self.host, timeout=30)
        connection.request("GET", f"{API}/queue/data?session_hash={session}", headers={"Host": self.host})
        lines = connection.getresponse().read().decode().splitlines()
        connection.close()
        return [json.loads(line[6:]) for line in lines if line.startswith("data: ")]

    def call(self, name, data, **more):
        status, _, body = self.join(name, data, **more)
        assert status == 200, body
        (done,) = [m for m in self.messages(more.get("session", "raw")) if m["msg"] == "process_completed"]
        return done

    def upload(self, content, name="a.png", field="files"):
        head = f'--b\r\nContent-Disposition: form-data; name="{field}"; filename="{name}"\r\n\r\n'.encode()
        body = head + content + b"\r\n--b--\r\n"
        return self.send("POST", f"{API}/upload", body, Content_Type="multipart/form-data; boundary=b")

    def open_heartbeat(self, path):
        """A connection that stays open, as a socket."""
        connection = socket.create_connection(self.host.split(":"), timeout=30)
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {self.host}\r\n\r\n".encode())
        return connection, connection.recv(1 << 16)


@pytest.fixture(scope="module")
def client():
    torch.manual_seed(1)  # 0 is the seed of the random weights that it is compared with
    parts = dict(type=ResNet, depth=18), dict(type=MotionEncoder, fill="nearest"), dict(type=PropagationDecoder)
    propagator = MotionPropagator(CMP(*parts, dict(type=FlowQuantizer), dict(type=DiscreteLoss), init="default"))
    with server.own_folder() as folder:
        page = build_page(propagator, folder, name="random", long_side_px=48)
        address = server.launch_page(page, host="127.0.0.1", port=None, max_bytes=MAX_BYTES, block=False)
        client = Client(address, folder, page)
        yield client
        page.close()
        print(f"{client.statuses.total()} requests; answered: {dict(sorted(client.statuses.items()))}")  # pytest -s


def image_file(height=40, width=64, format="PNG"):
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(buffer, format)
    return buffer.getvalue()


def arrows(*entries, border=False, strength=1):
    return {"arrows": [list(entry) for entry in entries], "border": border, "strength": strength}


def wait_until(condition):
    for _ in range(200):
        if condition():
            return True
        time.sleep(0.05)
    return False


def open_page(client, session):
    """A page with a picture, an arrow and a film; the addresses of its results."""
    client.call("on_sample", ["Coffee"], session=session)
    done = client.call("on_draw", ["network"], session=session, event_data=arrows((9, 8, 20, 12)))
    flow, confidence, *_ = done["output"]["data"]
    client.join("on_motion", [3, "network"], session=session)
    text = json.dumps(done) + json.dumps(client.messages(session))
    first = [urlsplit(part["url"]).path for part in (flow, confidence)]
    return first + sorted(set(re.findall(r"(/gradio_api/file=[^\"?]+)", text)) - set(first))


def test_a_page_can_be_used_with_raw_requests_and_gets_its_files(client):
    (token,) = json.loads(client.upload(image_file())[2])
    done = client.call("on_upload", [{"path": token, "meta": {"_type": "gradio.FileData"}}], session="mine")
    assert done["success"] and done["output"]["data"][0]["width"] == 48
    results = open_page(client, "mine")
    assert {path.rsplit("/", 1)[1] for path in results} == set(sessions.RESULTS)
    for path in results:
        status, headers, body = client.send("GET", path)
        assert status == 200 and body and headers["content-type"] == sessions.RESULTS[path.rsplit("/", 1)[1]][0]
        assert (
            headers["x-content-type-options"] == "nosniff"
            and "frame-ancestors 'none'" in (headers["content-security-policy"])
        )
        assert client.send("GET", path, Range="bytes=2-5")[2] == body[2:6]
        for odd in ("bytes=0-1-2", "bytes=9-1", "bytes=-", "lines=1", "bytes=0-0,2-2,x", "bytes=99999999-"):
            assert client.send("GET", path, Range=odd)[0] in (200, 206, 400, 416)


CALLS = (
    ("on_sample", ["Cat"], None),
    ("on_motion", [2, "network"], None),
    ("on_draw", ["network"], arrows()),
    ("on_method", ["network"], None),
    ("on_compare", [], None),
    ("on_find", [], {"clicks": [[1, 2]], "still": []}),
    ("on_arrows", [], {"text": "[]"}),
)
NAMES = (
    "x/../../{victim}", "../{victim}", "{folder}/../{victim}", "x/../..", "..", ".", "", "/", "x\\..\\..\\{victim}",
    "x%2F..%2F..%2F{victim}", "x\x00", "x\n", "a" * 65, "ü", " ", 7, None, True, [], ["x"], {"a": 1},
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES, ids=[repr(name)[:20] for name in NAMES])
def test_the_name_of_a_page_reaches_no_folder(client, name):
    victim = client.folder.parent / f"{client.folder.name}-victim"
    victim.mkdir(exist_ok=True)
    (victim / "kept.txt").write_text("kept")
    if isinstance(name, str):
        name = name.format(victim=victim.name, folder=client.folder)
    before = sorted(client.folder.iterdir())
    for function, data, event in CALLS:
        assert client.join(function, data, session=name, event_data=event)[0] == 403
    assert client.join(client.functions["on_close"], [], session="x")[0] == 403
    if isinstance(name, str):
        for text in (name, name.replace("/", "%2F")):
            path = f"{API}/heartbeat/" + text.encode().decode("latin-1").replace("\n", "%0A").replace("\x00", "%00")
            path = path.replace(" ", "%20").encode("ascii", "replace").decode()
            connection, answer = client.open_heartbeat(path)
            connection.close()
            assert answer.startswith((b"HTTP/1.1 403", b"HTTP/1.1 400")), answer[:80]
    assert (victim / "kept.txt").read_text() == "kept" and sorted(client.folder.iterdir()) == before
    (victim / "kept.txt").unlink()
    victim.rmdir()


def test_a_page_whose_connection_ends_takes_its_own_results_along_and_no_others(client):
    open_page(client, "other")
    before = set(client.folder.glob("page-*"))
    connection, answer = client.open_heartbeat(f"{API}/heartbeat/leaving")
    assert answer.startswith(b"HTTP/1.1 200")
    results = open_page(client, "leaving")
    (mine,) = set(client.folder.glob("page-*")) - before
    assert "leaving" not in mine.name
    connection.close()
    assert wait_until(lambda: not mine.exists())
    assert set(client.folder.glob("page-*")) == before
    assert client.send("GET", results[0])[0] == 403


@pytest.mark.parametrize(
    "host",
    ("evil.example", "evil.example:{port}", "localhost.evil.example", "127.0.0.1.nip.io:{port}", "127.0.0.2:{port}",
     "localhost.:{port}", "[::2]:{port}", "127.0.0.1@evil.example", "", "192.168.0.1",
     ("{host}", "evil.example"), None),
)  # fmt: skip
def test_other_host_names_are_refused(client, host):
    """A name that an attacker controls may point here (DNS rebinding): then his page is of the same origin."""
    port = client.host.split(":")[1]
    fill = lambda text: text.format(port=port, host=client.host)  # noqa: E731
    host = host and (fill(host) if isinstance(host, str) else [fill(one) for one in host])
    for method, path in (("GET", "/"), ("GET", "/config"), ("POST", f"{API}/upload"), ("OPTIONS", "/")):
        assert client.send(method, path, Host=host)[0] in (400, 403)
    assert client.send("POST", f"{API}/queue/join", {"data": []}, Host=host)[0] in (400, 403)


def test_the_names_of_this_machine_are_answered(client):
    port = client.host.split(":")[1]
    for host in (f"localhost:{port}", f"127.0.0.1:{port}", f"[::1]:{port}", "localhost:8080", f"LOCALHOST:{port}"):
        assert client.send("GET", "/", Host=host)[0] == 200
        assert client.send("GET", "/", Host=host, Origin=f"http://{host.lower()}")[0] == 200
    status, _, body = client.send("GET", "/", X_Forwarded_Host="evil.example", X_Forwarded_Proto="https")
    assert status == 200 and b"evil.example" not in body


@pytest.mark.parametrize(
    "headers",
    (
        {"Origin": "http://evil.example"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": ""},
        {"Origin": "http://localhost:1"},
        {"Origin": "file://"},
        {"Origin": "http://{host}.evil.example"},
        {"Origin": "http://{host}/path"},
        {"Origin": "http://evil@{host}"},
        {"Origin": ["http://{host}", "http://evil.example"]},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
        {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "iframe"},
    ),
)
def test_requests_of_other_pages_are_refused_and_leave_nothing(client, headers):
    fill = lambda text: text.replace("{host}", client.host)  # noqa: E731
    headers = {
        name: fill(value) if isinstance(value, str) else [fill(one) for one in value] for name, value in headers.items()
    }
    before = sorted(client.folder.rglob("*"))
    form = b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n' + image_file()
    form += b"\r\n--b--\r\n"
    requests = (
        ("POST", f"{API}/upload", form, {"Content_Type": "multipart/form-data; boundary=b"}),
        ("POST", f"{API}/queue/join", {"data": ["Cat"], "fn_index": 0, "session_hash": "x"}, {}),
        ("GET", "/", None, {}),
        ("GET", "/config", None, {}),
        ("GET", f"{API}/heartbeat/x", None, {}),
        ("OPTIONS", f"{API}/queue/join", None, {"Access_Control_Request_Method": "POST"}),
    )
    for method, path, body, more in requests:
        status, answer, _ = client.send(method, path, body, **(headers | more))
        assert status in (400, 403), path
        assert "access-control-allow-origin" not in answer
    assert sorted(client.folder.rglob("*")) == before


def test_a_link_from_elsewhere_opens_the_page(client):
    headers = dict(Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate", Sec_Fetch_Dest="document")
    assert client.send("GET", "/", **headers)[0] == 200
    assert client.send("GET", "/config", **headers)[0] == 403


def test_a_form_cannot_call_a_function(client):
    body = json.dumps({"data": ["Cat"], "fn_index": 0, "session_hash": "form"})
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=b", None):
        assert client.send("POST", f"{API}/queue/join", body, Content_Type=kind)[0] == 415


NEEDED = {
    ("GET", "/"), ("HEAD", "/"), ("GET", "/config"), ("GET", "/assets/{path:path}"), ("GET", "/static/{path:path}"),
    ("GET", "/favicon.ico"), ("GET", "/theme.css"), ("GET", f"{API}/heartbeat/{{session_hash}}"),
    ("POST", f"{API}/queue/join"), ("GET", f"{API}/queue/data"), ("POST", f"{API}/upload"),
    ("GET", f"{API}/file={{path_or_url:path}}"), ("HEAD", f"{API}/file={{path_or_url:path}}"),
}  # fmt: skip


def every_route():
    """What the library's own source declares, whatever it makes of that."""
    from gradio import routes

    declared = r"@(app|router)\.(get|post|head|put|delete)\(\s*f?\"([^\"]*)\""
    for owner, method, path in re.findall(declared, Path(routes.__file__).read_text("utf-8")):
        yield method.upper(), (API if owner == "router" else "") + path


def test_every_route_of_the_library_that_the_page_does_not_need_is_refused(client):
    values = {"session_hash": "x", "path": "a.js", "event_id": "x", "api_name": "on_sample", "key": "x", "id": "x"}
    seen, refused = set(every_route()), 0
    assert len(seen) > 80 and seen >= NEEDED
    for method, route in sorted(seen - NEEDED):
        path = re.sub(r"\{(\w+)(:\w+)?\}", lambda match: values.get(match[1], "1"), route)
        for query in ("", "?session_hash=x"):
            body = {"session_hash": "x", "data": [], "fn_index": 0, "event_id": "x"} if method == "POST" else None
            status, headers, answer = client.send(method, path + query, body)
            assert status in (403, 405), (method, path, status)
            assert b"does not have this route" in answer or b"takes" in answer or method == "HEAD"
            assert "frame-ancestors 'none'" in headers["content-security-policy"]
            refused += 1
    assert refused >= 120
    for route in ("process_recording", "component_server", "monitoring", "proxy=http://127.0.0.1/", "deep_link", "info",
                  "run/on_sample", "api/on_sample", "call/on_sample", "startup-events", "reset", "cancel", "dev/reload",
                  "stream/x", "upload_progress?upload_id=x", "app_id", "token", "login", "vibe-edit", "queue/status",
                  "openapi.json", "run-history/records", "mcp/"):  # fmt: skip
        for prefix in ("/", f"{API}/", f"//{API}/", "/./", f"{API}/../", f"{API}%2F"):
            for method in ("GET", "POST"):
                assert client.send(method, prefix + route)[0] in (403, 405)


def test_other_methods_are_refused(client):
    for path in (
        "/",
        "/config",
        "/theme.css",
        f"{API}/upload",
        f"{API}/queue/join",
        f"{API}/queue/data?session_hash=x",
    ):
        for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT" if path == "/x" else "PROPFIND"):
            assert client.send(method, path)[0] == 405
    assert client.send("GET", f"{API}/upload")[0] == client.send("POST", "/")[0] == 405
    upgrade = dict(Upgrade="websocket", Connection="Upgrade", Sec_WebSocket_Version="13", Sec_WebSocket_Key="eA==")
    assert client.send("GET", f"{API}/queue/join", **upgrade)[0] in (403, 405)


@pytest.mark.parametrize(
    "path",
    ("/etc/passwd", "{folder}/../../etc/passwd", "{folder}", "{page}", "{page}/draw-00000001", "{readme}", "",
     "http://example.org/a.png", "https%3A//example.org/a.png", "//example.org/a", "file:///etc/passwd", "%00",
     "{page}/draw-00000001/../../../../../etc/passwd", "{page}/draw-00000001/%2e%2e/draw-00000001/flow.png",
     "{page}/draw-00000001/secret.png", "{page}/draw-00000001/flow.png%00.txt", "{page}/./draw-00000001/flow.png"),
)  # fmt: skip
def test_no_other_file_is_served(client, path):
    flow = open_page(client, "served")[0].split("file=")[1]
    page = Path(flow).parents[1]
    (Path(flow).parent / "secret.png").write_bytes(b"secret")
    path = path.format(folder=client.folder, page=page, readme=Path(__file__).parents[2] / "README.md")
    for route in ("file=", "file/", "file%3D", "stream/", "proxy="):
        status, _, body = client.send("GET", f"{API}/{route}{path}")
        assert status in (400, 403) and b"root:" not in body and b"secret" not in body
    assert client.send("GET", f"{API}/file={flow}")[0] == 200


PATHS = ("/etc/passwd", "http://127.0.0.1:1/a.png", "upload-" + "0" * 32, "../a.png", "", 7, None, ["a"])
DEEP = "[" * 20_000 + "]" * 20_000


def foreign_payloads():
    file = {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}
    for value in ("Dog", 1, True, ["Astronaut"], {"a": 1}, file, "../Cat", 1.5, "Cat\x00", "x" * 10_000):
        yield "on_sample", [value], None
    for value in (1, 61, 0, -3, 2.5, "16", True, None, [16], 10**30, 1e300, file):
        yield "on_motion", [value, "network"], None
    for value in (None, 7, True, "", "Network", "CMP network", "../network", ["network"], {"network": 1}, file):
        yield "on_motion", [2, value], None
        yield "on_method", [value], None
        yield "on_draw", [value], arrows((1, 2, 3, 4))
    for value in (
        None, "1234", {"0": 1}, 7, [[1, 2, 3]], [[1, 2, 3, 4, 5]], [["1", "2", "3", "4"]], [[1, 2, 3, None]],
        [[True, 2, 3, 4]], [[[1], 2, 3, 4]], [1, 2, 3, 4], [[]], [[10**400, 1, 1, 1]],
        [[1, 2, 3, 4]] * (MAX_ARROWS + 1), [file],
    ):  # fmt: skip
        yield "on_draw", ["network"], arrows() | {"arrows": value}
    for change in (
        {"border": None}, {"border": 1}, {"border": "true"}, {"border": []}, {"strength": None}, {"strength": True},
        {"strength": "1"}, {"strength": -0.1}, {"strength": 2.1}, {"strength": 10**400}, {"strength": [1]}, {"more": 1},
    ):  # fmt: skip
        yield "on_draw", ["network"], arrows((1, 2, 3, 4)) | change
    for value in (None, [], {}, "x", 7, {"arrows": []}, {"arrows": [], "border": True}):
        yield "on_draw", ["network"], value
    for value in (
        None, [], {}, "[]", 7, {"text": None}, {"text": 7}, {"text": ["[]"]}, {"text": [[1, 2, 3, 4]]}, {"text": file},
        {"text": "[]", "more": 1}, {"text": " " * (MAX_TEXT + 1)}, {"path": "/etc/passwd"},
    ):  # fmt: skip
        yield "on_arrows", [], value
    for value in (
        None, "12", {"0": 1}, 7, [[1]], [[1, 2, 3]], [1, 2], [["1", "2"]], [[1, None]], [[True, 2]], [[[1], 2]],
        [[10**400, 1]], [[1, 2]] * (MAX_ARROWS + 1), [file],
    ):  # fmt: skip
        yield "on_find", [], {"clicks": value, "still": []}
        yield "on_find", [], {"clicks": [[1, 2]], "still": value}
    for value in (None, [], "x", 7, {}, {"clicks": [[1, 2]]}, {"clicks": [], "still": [], "more": 1}):
        yield "on_find", [], value
    yield "on_find", [file], {"clicks": [[1, 2]], "still": []}
    for name in ("on_sample", "on_motion", "on_upload", "on_method"):
        yield name, [], None
        yield name, [None] * 3, None
    yield "on_draw", [], arrows((1, 2, 3, 4))
    yield "on_draw", ["network", {"scene": 1}], arrows((1, 2, 3, 4))
    yield "on_arrows", [file], {"text": "[]"}
    yield "on_compare", [file], None
    for data in ("x", None, 7, {"0": 1}):
        yield "on_sample", data, None


def test_payloads_of_other_types_are_refused_at_once(client):
    payloads = list(foreign_payloads())
    assert len(payloads) > 50
    for name, data, event_data in payloads:
        status, _, body = client.join(name, data, event_data=event_data, session="foreign")
        assert status == 400 and len(body.splitlines()) == 1 and b"Traceback" not in body, (name, data, event_data)


def test_other_functions_cannot_be_called(client):
    for index in (-1, 99, 10**30, 0.0, True, "0", "on_sample", None, [0], {"a": 1}, client.functions["on_close"]):
        body = {"data": ["Cat"], "fn_index": index, "session_hash": "x"}
        assert client.send("POST", f"{API}/queue/join", body)[0] == 403


@pytest.mark.parametrize(
    "more",
    ({"trigger_id": "0"}, {"trigger_id": -1}, {"trigger_id": 10**9}, {"trigger_id": True}, {"batched": True},
     {"simple_format": True}, {"event_id": "x"}, {"oauth_token": "x"}, {"request": {"a": 1}}),
)  # fmt: skip
def test_other_fields_of_a_call_are_refused(client, more):
    assert client.join("on_sample", ["Cat"], **more)[0] == 400


@pytest.mark.parametrize(
    "body", (b"", b"{", b"[]", b"null", b"7", b"\xff\xfe", DEEP.encode(), b'{"data": [NaN]}', b'{"data": [Infinity]}',
             b'{"data": [' + b"1" * 5000 + b"]}", b"{}")
)  # fmt: skip
def test_what_is_not_json_is_refused(client, body):
    assert client.send("POST", f"{API}/queue/join", body, Content_Type="application/json")[0] in (400, 403)


def test_millions_of_arrows_are_refused_by_their_bytes(client):
    start = time.perf_counter()
    body = b'{"data": [], "event_data": {"arrows": [' + b"[1,2,3,4]," * 300_000 + b"[1,2,3,4]]}}"
    assert client.send("POST", f"{API}/queue/join", body, Content_Type="application/json")[0] == 413
    assert time.perf_counter() - start < 5


def test_arrows_that_end_far_away_are_not_drawn(client):
    done = client.call("on_sample", ["Coffee"], session="far")
    width, height = (done["output"]["data"][0][name] for name in ("width", "height"))
    assert (width, height) == (48, 32)
    for end, drawn in (((2 * width, 2 * height), True), ((-width, -height), True), ((2 * width + 1, 5), False),
                       ((5, 2 * height + 1), False), ((-width - 1, 5), False), ((5, -height - 1), False)):  # fmt: skip
        done = client.call("on_draw", ["network"], session="far", event_data=arrows((9, 8, *end)))
        assert (done["output"]["data"][0] is not None) == drawn, end
    for strength, drawn in ((1.25, True), (2, False)):  # ends at x=73 and x=105: at most 96
        event = arrows((9, 8, 57, 8), strength=strength)
        done = client.call("on_draw", ["network"], session="far", event_data=event)
        assert (done["output"]["data"][0] is not None) == drawn, strength


def test_arrows_of_a_file_come_back_scaled_and_bad_ones_with_a_message(client):
    client.call("on_sample", ["Coffee"], session="file")
    text = json.dumps({"size": [96, 64], "arrows": [[0, 0, 10, 5]]})
    canvas = client.call("on_arrows", [], session="file", event_data={"text": text})["output"]["data"][0]
    assert canvas["arrows"] == [[-0.2, -0.2, 4.8, 2.2]] and canvas["hold"] is False and canvas["width"] == 48
    for text in (
        "", "{", "[]", DEEP[: MAX_TEXT // 2], "[[NaN, 1, 1, 1]]", "[[1, 2, 3, 1e999]]", "\\ud800", "\x00",
        '{"size": [9, 9], "arrows": []}', "[[1, 2, 3, " + "9" * 5000 + "]]",
        json.dumps([[1, 2, 3, 4]] * (MAX_ARROWS + 1)),
    ):  # fmt: skip
        assert client.join("on_arrows", [], session="file", event_data={"text": text})[0] == 200
        messages = client.messages("file")
        (log,) = [message for message in messages if message["msg"] == "log"]
        assert log["log"].startswith("This file of arrows cannot be used: ") and "/tmp" not in log["log"]
        (done,) = [message for message in messages if message["msg"] == "process_completed"]
        assert done["success"] and "arrows" not in json.dumps(done["output"]["data"][0])
    assert client.call("on_arrows", [], session="without", event_data={"text": "[]"})["success"]


def test_methods_are_compared_with_raw_requests(client):
    client.call("on_sample", ["Coffee"], session="methods")
    client.call("on_compare", [], session="methods")  # nothing is drawn yet
    draw = dict(session="methods", event_data=arrows((20, 12, 30, 12), border=True))
    flows = {}
    for method in client.page.methods:
        drawn = client.call("on_draw", [method], **draw)["output"]["data"]
        chosen = client.call("on_method", [method], session="methods")["output"]["data"]
        urls = [urlsplit(shown["url"]).path for shown in (drawn[0], chosen[0])]
        assert json.loads(client.send("GET", urlsplit(chosen[4]["value"]["url"]).path)[2])["arrows"][0] == [
            20,
            12,
            30,
            12,
        ]
        flows[method] = [client.send("GET", url)[2] for url in urls]
        assert flows[method][0] == flows[method][1]
        assert (drawn[1] is None) == (method in ("nearest", "fading"))  # confidence
    assert len(flows) == 4 and len({first for first, _ in flows.values()}) == 4
    html = client.call("on_compare", [], session="methods")["output"]["data"][0]
    assert html.count("<figure") == html.count("data:image/png") == 4


def test_an_object_is_found_by_clicks_in_the_image_and_no_others(client):
    find = dict(session="find", event_data={"clicks": [[20, 12]], "still": [[2, 30]]})
    assert client.call("on_find", [], **find)["success"]  # no image is open yet
    client.call("on_sample", ["Coffee"], session="find")
    canvas, status = client.call("on_find", [], **find)["output"]["data"]
    assert canvas["overlay"].startswith("data:image/png;base64,") and "image" not in canvas
    shown = Image.open(io.BytesIO(base64.b64decode(canvas["overlay"].split(",")[1])))
    assert shown.size == (48, 32) and re.match(r"Object: \d+\.\d % of the image", status)
    canvas, _ = client.call("on_find", [], session="find", event_data={"clicks": [], "still": []})["output"]["data"]
    assert canvas["overlay"] is None
    for wrong in ({"clicks": [[48, 3]], "still": []}, {"clicks": [[4, 3]], "still": [[-1, 3]]}):
        assert client.join("on_find", [], session="find", event_data=wrong)[0] == 200
        messages = client.messages("find")
        (log,) = [message for message in messages if message["msg"] == "log"]
        assert log["log"].startswith("These clicks cannot be used: ")
        (done,) = [message for message in messages if message["msg"] == "process_completed"]
        assert done["success"] and "overlay" not in json.dumps(done["output"]["data"][0])


def test_a_call_names_no_file(client):
    for path in PATHS:
        for more in ({}, {"url": "http://127.0.0.1:1/a.png"}, {"is_stream": True}):
            file = {"path": path, "meta": {"_type": "gradio.FileData"}, "orig_name": "a.png"} | more
            assert not client.call("on_upload", [file], session="files")["success"]


@pytest.mark.parametrize(
    "content, name, field, status",
    (
        (b"<script>alert(1)</script>", "a.html", "files", 415),
        (b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>", "a.svg", "files", 415),
        (b"#EXTM3U\nfile:///etc/passwd", "a.png", "files", 415),
        (b"", "a.png", "files", 415),
        (b"\x00" * 1000, "../../a.png", "files", 415),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "a.png", "files", 415),
        (b"x" * (MAX_BYTES + 1), "a.png", "files", 415),
        (b"x" * (MAX_BYTES + (1 << 20)), "a.png", "files", 413),
        (image_file(), "a.png", "other", 400),
        (image_file(8, 8), "a.png", "files", 415),
    ),
)
def test_only_images_are_taken_and_nothing_else_stays(client, content, name, field, status):
    before = sorted(client.folder.rglob("*"))
    answer, _, body = client.upload(content, name, field)
    assert answer == status and b"/tmp" not in body and len(body.splitlines()) == 1
    assert sorted(client.folder.rglob("*")) == before


def test_several_files_or_fields_are_refused(client):
    part = b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n' + image_file() + b"\r\n"
    field = b'--b\r\nContent-Disposition: form-data; name="x"\r\n\r\n1\r\n'
    kind = dict(Content_Type="multipart/form-data; boundary=b")
    for body in (
        part * 2 + b"--b--\r\n",
        field + part + b"--b--\r\n",
        field + b"--b--\r\n",
        b"nonsense",
        b"",
        part[:99],
    ):
        assert client.send("POST", f"{API}/upload", body, **kind)[0] == 400
    for kind in (None, "text/plain", "multipart/form-data", "application/json"):
        assert client.send("POST", f"{API}/upload", part + b"--b--\r\n", Content_Type=kind)[0] in (400, 415)


def test_uploads_leave_no_file_and_the_unread_ones_are_few_and_forgotten(client, monkeypatch):
    before = sorted(client.folder.rglob("*"))
    tokens = [json.loads(client.upload(image_file())[2])[0] for _ in range(sessions.MAX_UPLOADS + 2)]
    assert sorted(client.folder.rglob("*")) == before
    opened = [client.call("on_upload", [{"path": token}], session="many")["success"] for token in tokens[:4]]
    assert opened == [False, False, True, True]  # the oldest two made room
    assert not client.call("on_upload", [{"path": tokens[2]}], session="many")["success"]  # once
    monkeypatch.setattr(sessions, "UPLOAD_S", 0)
    assert not client.call("on_upload", [{"path": tokens[5]}], session="many")["success"]
    gate = client.page.server.gate
    assert len(gate.uploads) == 0


def test_open_pages_are_bounded_and_idle_ones_make_room(client, monkeypatch):
    monkeypatch.setattr(sessions, "MAX_SESSIONS", 3)
    for i in range(6):
        client.call("on_sample", ["Cat"], session=f"one-of-many-{i}")
    assert len(client.page.sessions) <= 3 and len(list(client.folder.glob("page-*"))) <= 3
    open_ones = [client.open_heartbeat(f"{API}/heartbeat/connected-{i}")[0] for i in range(3)]
    assert client.join("on_sample", ["Cat"], session="late")[0] == 503
    for connection in open_ones:
        connection.close()
    assert wait_until(lambda: client.join("on_sample", ["Cat"], session="late")[0] == 200)


@pytest.mark.parametrize("limit", ("MAX_SESSION_BYTES", "MAX_ALL_BYTES"))
def test_bytes_on_the_disk_are_bounded(client, monkeypatch, limit):
    client.call("on_sample", ["Coffee"], session=f"bytes-{limit}")
    draw = dict(session=f"bytes-{limit}", event_data=arrows((9, 8, 20, 12)))
    client.call("on_draw", ["network"], **draw)
    before = sorted(client.folder.rglob("*"))
    monkeypatch.setattr(sessions, limit, 1000)
    assert client.join("on_motion", [60, "network"], session=f"bytes-{limit}")[0] == 200
    told = client.messages(f"bytes-{limit}")
    assert any("take at most" in m.get("log", "") for m in told)
    (flow, *_) = client.call("on_draw", ["network"], **draw)["output"]["data"]
    assert flow is None and sorted(client.folder.rglob("*")) == before


def test_drawing_on_and_on_takes_no_more_room(client):
    client.call("on_sample", ["Coffee"], session="on-and-on")
    folder = client.page.sessions.find("on-and-on").folder
    sizes = []
    for i in range(6):
        client.call("on_draw", ["network"], session="on-and-on", event_data=arrows((9, 8, 20 + i, 12)))
        client.join("on_motion", [2, "network"], session="on-and-on")
        client.messages("on-and-on")
        sizes.append(len([path for path in folder.rglob("*") if path.is_file()]))
    assert sizes[1:] == [14] * 5  # of each kind the newest and the one before


def test_answers_that_nobody_fetches_are_few(client):
    asked = [client.join("on_sample", ["Cat"], session="deaf")[0] for _ in range(gate.MAX_WAITING + 4)]
    assert asked == [200] * gate.MAX_WAITING + [429] * 4


def test_pages_that_nobody_uses_are_forgotten_by_the_library_too(client, monkeypatch):
    client.call("on_sample", ["Cat"], session="idle")
    assert client.join("on_sample", ["Cat"], session="idle")[0] == 200
    queue, states = client.page._queue, client.page.app.state_holder
    assert "idle" in queue.pending_messages_per_session and "idle" in states
    folder = client.page.sessions.find("idle").folder
    monkeypatch.setattr(sessions, "IDLE_S", -1)
    monkeypatch.setattr(client.page.server.gate, "sweep_s", 0.1)
    assert wait_until(lambda: "idle" not in queue.pending_messages_per_session and "idle" not in states)
    assert client.page.sessions.find("idle") is None and not folder.exists()


def test_a_body_that_never_ends_is_given_up(client, monkeypatch):
    monkeypatch.setattr(gate, "BODY_S", 0.3)
    for path, kind in ((f"{API}/queue/join", "application/json"), (f"{API}/upload", "multipart/form-data; boundary=b")):
        with socket.create_connection(client.host.split(":"), timeout=30) as connection:
            head = f"POST {path} HTTP/1.1\r\nHost: {client.host}\r\nContent-Type: {kind}\r\nContent-Length: 100\r\n\r\n"
            connection.sendall(head.encode() + b"--b")
            assert connection.recv(100).startswith(b"HTTP/1.1 408")
        with socket.create_connection(client.host.split(":"), timeout=30) as connection:
            head = f"POST {path} HTTP/1.1\r\nHost: {client.host}\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked"
            connection.sendall(head.encode() + b"\r\n\r\n")
            sender = threading.Thread(target=_send_chunks, args=(connection,), daemon=True)
            sender.start()
            assert connection.recv(100).startswith((b"HTTP/1.1 413", b"HTTP/1.1 408", b"HTTP/1.1 400"))


def _send_chunks(connection):
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    try:
        for _ in range(64):
            connection.sendall(chunk)
    except OSError:
        pass  # refused meanwhile


def test_the_page_still_answers_after_all_of_that(client):
    assert client.send("GET", "/")[0] == 200
    assert len(open_page(client, "last")) > 4


def test_hundreds_of_connections_with_slow_headers_keep_nobody_out(client):
    host, port = client.host.split(":")
    slow = []
    try:
        for _ in range(300):
            connection = socket.create_connection((host, int(port)), timeout=30)
            connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
            slow.append(connection)
        status, _, body = client.send("GET", "/")
        assert status == 200 and b"<html" in body
    finally:
        for connection in slow:
            connection.close()
