"""The page in a real browser. Needs gradio (the extra `playground`), playwright, and a Chromium."""

import base64
import importlib.util
import io
import socket
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from cmp.flow import FlowQuantizer, read_flow
from cmp.inference import MotionPropagator
from cmp.models import CMP, DiscreteLoss, MotionEncoder, PropagationDecoder, ResNet

ROOT = Path(__file__).resolve().parents[2]
MAX_BYTES = 300_000
LOCAL = ("http://127.0.0.1:", "data:", "blob:")


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("playground_command", ROOT / "tools" / "playground.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def propagator():
    torch.manual_seed(0)
    parts = dict(type=ResNet, depth=18), dict(type=MotionEncoder, fill="nearest"), dict(type=PropagationDecoder)
    return MotionPropagator(CMP(*parts, dict(type=FlowQuantizer), dict(type=DiscreteLoss), init="default"))


@pytest.fixture(scope="module")
def served(tool):
    """Address and folder of the page."""
    pytest.importorskip("gradio", reason="no gradio: pip install '.[playground]'")
    with tool.own_folder() as folder:
        page = tool.build_page(propagator(), folder, name="random", long_side_px=96)
        yield tool.launch_page(page, host="127.0.0.1", port=None, max_bytes=MAX_BYTES, block=False), folder
        page.close()


def open_tab(browser, address):
    tab = browser.new_page(viewport={"width": 1200, "height": 900})
    tab.set_default_timeout(60_000)
    tab.asked, tab.complaints, tab.last = [], [], {}
    tab.on("request", lambda request: tab.asked.append(request.url))
    tab.on("console", lambda message: tab.complaints.append(message.text) if message.type == "error" else None)
    tab.on("pageerror", lambda error: tab.complaints.append(str(error)))
    tab.goto(address)
    tab.wait_for_selector("#playground-canvas .stage.ready")
    tab.complaints_at_start = list(tab.complaints)  # what its policy forbids is said there
    return tab


@pytest.fixture(scope="module")
def tab(served, chromium):
    return open_tab(chromium, served[0])


@pytest.fixture
def page(tab):
    """The page without arrows."""
    tab.click("text=Clear")
    tab.wait_for_function("!document.querySelector('#playground-flow img, #playground-film video')")
    tab.last.clear()
    tab.complaints.clear()
    return tab


def png(height, width):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def drop(page, name, content):
    """Let go of a file over the picture."""
    page.evaluate(
        """([name, content]) => {
            const bytes = Uint8Array.from(atob(content), (c) => c.charCodeAt(0));
            const files = new DataTransfer();
            files.items.add(new File([bytes], name, { type: "image/png" }));
            const stage = document.querySelector("#playground-canvas .stage");
            stage.dispatchEvent(new DragEvent("drop", { dataTransfer: files, bubbles: true, cancelable: true }));
        }""",
        [name, base64.b64encode(content).decode()],
    )


def drag(page, start, end):
    """From one place on the picture to another, in shares of its width and height."""
    box = page.locator("#playground-canvas canvas").bounding_box()
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in (start, end)]
    page.mouse.move(*places[0])
    page.mouse.down()
    page.mouse.move(*places[1], steps=4)
    page.mouse.up()


def shown(page, name="flow"):
    """Bytes of the picture that is shown, b"" where there is none; waits until it is another than the last time asked.

    Pictures have their content's hash in their address.
    """
    before = page.last.get(name, "")
    page.wait_for_function(
        """([name, before]) => {
            const image = document.querySelector(`#playground-${name} img`);
            return (image ? image.src : "") !== before;
        }""",
        arg=[name, before],
    )
    image = page.locator(f"#playground-{name} img")
    page.last[name] = image.get_attribute("src") if image.count() else ""
    return page.request.get(page.last[name]).body() if page.last[name] else b""


def wait_for_count(page, text):
    page.wait_for_function("text => document.querySelector('#playground-canvas .count').innerText === text", arg=text)


def download(page, ending, folder):
    page.wait_for_selector(f"#playground-{ending}:not([disabled])")
    with page.expect_download() as download:
        page.click(f"#playground-{ending}")
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    assert path.name == f"motion.{ending}"
    return path


def test_a_dropped_picture_is_moved_by_dragged_arrows_and_the_results_come_as_files(page, served, tmp_path):
    drop(page, "noise.png", png(120, 192))
    page.wait_for_selector("text=96 x 60 px")
    assert not list(served[1].rglob("noise.png")), "the upload should be gone once it is read"

    drag(page, (0.3, 0.5), (0.4, 0.4))
    first = shown(page)
    assert Image.open(io.BytesIO(first)).size == (96, 60)
    drag(page, (0.7, 0.6), (0.6, 0.6))
    second = shown(page)
    assert first != second
    wait_for_count(page, "2 arrows")
    assert all(Image.open(io.BytesIO(shown(page, name))).size == (96, 60) for name in ("sure", "mask"))

    with av.open(str(download(page, "mp4", tmp_path))) as film:
        assert [(frame.width, frame.height) for frame in film.decode(video=0)] == [(96, 60)] * 16
    with Image.open(download(page, "gif", tmp_path)) as film:
        assert (film.n_frames, film.size) == (16, (96, 60))
    assert read_flow(download(page, "flo", tmp_path)).shape == (60, 96, 2)

    page.click("text=Undo")
    assert shown(page) == first
    wait_for_count(page, "1 arrow")
    page.click("text=Clear")
    assert shown(page) == b""
    wait_for_count(page, "no arrows")
    page.wait_for_selector("#playground-mp4[disabled]")
    assert page.complaints_at_start + page.complaints == []
    assert [url for url in page.asked if not url.startswith(LOCAL)] == []
    assert "default-src 'self'" in page.request.get(served[0]).headers["content-security-policy"]


def test_a_click_is_a_still_point(page):
    drag(page, (0.3, 0.5), (0.304, 0.5))  # hands shake: two pixels of the screen
    shown(page)
    wait_for_count(page, "1 still point")
    drag(page, (0.3, 0.7), (0.5, 0.7))
    shown(page)
    wait_for_count(page, "1 arrow, 1 still point")


def test_keys_alone_draw_undo_clear_and_run(page):
    page.focus("#playground-canvas canvas")
    for key in ("Enter", "Shift+ArrowRight", "ArrowDown", "Enter"):
        page.keyboard.press(key)
    arrow = shown(page)
    wait_for_count(page, "1 arrow")
    for key in ("Shift+ArrowUp", "Space"):
        page.keyboard.press(key)
    assert shown(page) != arrow
    wait_for_count(page, "1 arrow, 1 still point")
    page.keyboard.press("Enter")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Escape")
    wait_for_count(page, "1 arrow, 1 still point")
    page.keyboard.press("Control+z")
    assert shown(page) == arrow
    page.keyboard.press("c")
    assert shown(page) == b""
    page.keyboard.press("u")  # nothing to undo is no mistake
    page.keyboard.press("r")
    page.wait_for_selector("text=Draw an arrow.")
    assert page.complaints == []


def test_everything_can_be_reached_by_tab_and_has_a_name_and_passing_by_changes_nothing(page):
    drag(page, (0.3, 0.5), (0.4, 0.4))
    before = shown(page)
    names = []
    page.focus("[aria-label=Photograph]")
    for _ in range(8):
        here = "document.activeElement"
        names.append(page.evaluate(f"({here}.ariaLabel || {here}.innerText || '').trim()"))
        page.keyboard.press("Tab")
    wanted = ("Photograph", "Choose a picture ...", "Picture to draw motion on", "Undo", "Clear", "Run")
    places = [next((i for i, name in enumerate(names) if name.startswith(start)), None) for start in wanted]
    assert None not in places and places == sorted(places), names
    drag(page, (0.7, 0.6), (0.6, 0.6))  # answered after whatever the tour had asked for
    assert shown(page) != before
    wait_for_count(page, "2 arrows")


def test_another_photograph_is_chosen_by_mouse_and_by_keys_also_after_a_picture_of_ones_own(page):
    page.click("[aria-label=Photograph]")
    page.click("text=Coffee")
    page.wait_for_selector("text=96 x 64 px")
    page.focus("[aria-label=Photograph]")
    page.keyboard.press("Control+a")
    page.keyboard.type("Astro")
    page.keyboard.press("Enter")
    page.wait_for_selector("text=96 x 96 px")
    drop(page, "noise.png", png(120, 192))
    page.wait_for_selector("text=96 x 60 px")
    page.click("[aria-label=Photograph]")
    page.click("text=Astronaut")
    page.wait_for_selector("text=96 x 96 px")


def test_bad_files_get_a_message_and_the_picture_stays(page):
    drag(page, (0.3, 0.5), (0.4, 0.4))
    before = shown(page)
    drop(page, "lies.png", b"this is no picture")
    page.wait_for_selector("text=lies.png: this is no picture in one of the formats")
    drop(page, "large.png", png(400, 400))
    page.wait_for_selector("text=/exceed|too large|maximum/i")
    wait_for_count(page, "1 arrow")
    assert page.request.get(page.last["flow"]).body() == before


def test_no_file_outside_the_folder_can_be_had_or_handed_in(page, served, tmp_path):
    address, folder = served
    (tmp_path / "secret.txt").write_text("secret")
    drag(page, (0.3, 0.5), (0.4, 0.4))
    shown(page)
    assert page.request.get(page.last["flow"]).ok
    for path in ("/etc/passwd", ROOT / "README.md", tmp_path / "secret.txt", f"{folder}/../../etc/passwd"):
        answer = page.request.get(f"{address}gradio_api/file={path}")
        assert answer.status in (403, 404), (path, answer.body())

    config = page.request.get(f"{address}config").json()
    upload = next(d["id"] for d in config["dependencies"] if d["targets"][0][1] == "upload")

    def hand_in(path, session):
        file = {"path": str(path), "meta": {"_type": "gradio.FileData"}}
        body = {"fn_index": upload, "session_hash": session, "event_data": None, "trigger_id": None, "data": [file]}
        joined = page.request.post(f"{address}gradio_api/queue/join", data=body)
        told = page.request.get(f"{address}gradio_api/queue/data?session_hash={session}").text() if joined.ok else ""
        return '"success":true' in told.replace(" ", "")

    file = {"name": "a.png", "mimeType": "image/png", "buffer": png(32, 48)}
    (uploaded,) = page.request.post(f"{address}gradio_api/upload", multipart={"files": file}).json()
    assert hand_in(uploaded, "guest")  # so that a refusal below is one
    assert not hand_in(tmp_path / "secret.txt", "stranger")
    assert (tmp_path / "secret.txt").read_text() == "secret"  # uploads are removed once read: this one must not be


def test_no_address_is_fetched_for_anybody(served, chromium, monkeypatch):
    from gradio import processing_utils

    asked = []

    async def download(url, *args, **kwargs):
        asked.append(url)
        raise ValueError("asked")

    monkeypatch.setattr(processing_utils, "async_ssrf_protected_download", download)
    monkeypatch.setattr(processing_utils, "async_ssrf_protected_get", download)
    address, _ = served
    page = chromium.new_page()
    file = {"path": "http://example.org/a.png", "meta": {"_type": "gradio.FileData"}}
    for i, call in enumerate(page.request.get(f"{address}config").json()["dependencies"]):
        if not call["inputs"] or call["targets"][0][1] in ("load", "unload"):
            continue
        body = {"fn_index": call["id"], "session_hash": f"guest{i}", "event_data": None, "trigger_id": None}
        joined = page.request.post(
            f"{address}gradio_api/queue/join", data=body | {"data": [file] * len(call["inputs"])}
        )
        told = page.request.get(f"{address}gradio_api/queue/data?session_hash=guest{i}").text() if joined.ok else ""
        assert call["targets"][0][1] != "upload" or '"success":false' in told.replace(" ", "")
    for path in (
        "file=http://example.org/a.png",
        "file%3Dhttps%3A%2F%2Fexample.org/a.png",
        "proxy=http://example.org/",
    ):
        assert page.request.get(f"{address}gradio_api/{path}").status == 403
    page.close()
    assert asked == []


def test_a_closed_page_takes_its_files_along(chromium, served):
    others = set(served[1].glob("page-*"))
    page = open_tab(chromium, served[0])
    drag(page, (0.3, 0.5), (0.4, 0.4))
    page.wait_for_selector("#playground-flo:not([disabled])")
    (mine,) = set(served[1].glob("page-*")) - others
    page.goto("about:blank")
    for _ in range(100):
        if not mine.exists():
            break
        page.wait_for_timeout(100)
    page.close()
    assert not mine.exists()


def test_without_a_network_the_message_says_how_to_get_one(tool, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tool, "QUICKSTART", tmp_path / "none.pth")
    assert tool.main([]) == 2
    assert "tools/quickstart.sh" in capsys.readouterr().err
    assert tool.main([str(tmp_path / "gone.pth")]) == 2
    assert "no such file" in capsys.readouterr().err
    for arguments, message in (
        (["--port", "99999"], "--port must be in 1..65535, got 99999"),
        (["--long-side", "8"], "--long-side must be in"),
    ):
        (tmp_path / "net.pth").touch()
        assert tool.main([str(tmp_path / "net.pth"), *arguments]) == 2
        assert message in capsys.readouterr().err
    (tmp_path / "none.pth").write_bytes(b"no checkpoint")
    assert tool.main([]) == 2
    assert "none.pth" in capsys.readouterr().err


@pytest.fixture
def checkpoint(tmp_path):
    network = propagator().network
    arguments = (
        dict(type="ResNet", depth=18),
        dict(type="MotionEncoder", fill="nearest"),
        {"type": "PropagationDecoder"},
    )
    names = ("image_encoder", "motion_encoder", "decoder")
    description = network.describe() | dict(zip(names, arguments))
    torch.save({"state_dict": network.state_dict(), "meta": {"cmp": description}}, tmp_path / "net.pth")
    return str(tmp_path / "net.pth")


@pytest.mark.parametrize(
    "host, warned", (("127.0.0.1", False), ("localhost", False), ("::1", False), ("0.0.0.0", True), ("my-host", True))
)
def test_listening_to_other_machines_is_warned_of(tool, checkpoint, monkeypatch, capsys, host, warned):
    asked = []
    monkeypatch.setattr(tool, "build_page", lambda *_, **__: None)
    monkeypatch.setattr(tool, "launch_page", lambda page, *, host, port: asked.append((host, port)))
    assert tool.main([checkpoint, "--host", host, "--port", "7999"]) == 0
    assert asked == [(host, 7999)]
    assert ("warning: listening on" in capsys.readouterr().err) == warned


def test_it_binds_to_this_machine_alone_unless_told_otherwise(tool):
    assert tool.is_loopback(tool.parse_args([]).host)


def test_a_taken_port_is_said(tool, checkpoint, capsys):
    pytest.importorskip("gradio", reason="no gradio: pip install '.[playground]'")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert tool.main([checkpoint, "--port", str(port)]) == 2
    assert str(port) in capsys.readouterr().err
