"""The page in a real browser. Needs gradio (the extra `playground`), playwright, and a Chromium."""

import base64
import io
import json
import socket
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from cmp.cli import playground as command
from cmp.flow import FlowQuantizer, read_flow
from cmp.inference import MotionPropagator
from cmp.models import CMP, DiscreteLoss, MotionEncoder, PropagationDecoder, ResNet
from cmp.playground import page as pages
from cmp.playground import server
from cmp.playground.gate import is_loopback
from cmp.video import write_video
from tools.playground import main

ROOT = Path(__file__).resolve().parents[2]
MAX_BYTES = 300_000
LOCAL = ("http://127.0.0.1:", "data:", "blob:")


def propagator():
    torch.manual_seed(1)  # 0 is the seed of the random weights that it is compared with
    parts = dict(type=ResNet, depth=18), dict(type=MotionEncoder, fill="nearest"), dict(type=PropagationDecoder)
    return MotionPropagator(CMP(*parts, dict(type=FlowQuantizer), dict(type=DiscreteLoss), init="default"))


@pytest.fixture(scope="module")
def served():
    """Address and folder of the page. The network sees images at another size than they are shown at."""
    pytest.importorskip("gradio", reason="no gradio: pip install '.[playground]'")
    with server.own_folder() as folder:
        built = pages.build_page(propagator(), folder, name="random", long_side_px=96, trained_px=40)
        yield server.launch_page(built, host="127.0.0.1", port=None, max_bytes=MAX_BYTES, block=False), folder
        built.close()


def open_tab(browser, address):
    tab = browser.new_page(viewport={"width": 1200, "height": 900})
    tab.set_default_timeout(60_000)
    tab.asked, tab.complaints, tab.last = [], [], {}
    tab.on("request", lambda request: tab.asked.append(request.url))
    tab.on("console", lambda message: tab.complaints.append(message.text) if message.type == "error" else None)
    tab.on("pageerror", lambda error: tab.complaints.append(str(error)))
    tab.goto(address)
    tab.wait_for_selector("#playground-canvas .stage.ready")
    tab.wait_for_selector("#playground-flo:not([disabled])")  # of the example that it opens with
    tab.complaints_at_start = list(tab.complaints)  # what its policy forbids is said there
    return tab


@pytest.fixture(scope="module")
def tab(served, chromium):
    return open_tab(chromium, served[0])


@pytest.fixture
def page(tab):
    """The page without arrows, its border held still."""
    tab.check("#playground-canvas input[value=draw]")
    tab.check("#playground-canvas .hold")
    tab.check("#playground-method input[value=network]")
    tab.click("text=Clear")
    tab.wait_for_function("!document.querySelector('#playground-flow img, #playground-video video')")
    tab.last.clear()
    tab.complaints.clear()
    return tab


def png(height, width):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def drop(page, name, content):
    """Let go of a file over the image."""
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
    """From one place on the image to another, in shares of its width and height."""
    box = page.locator("#playground-canvas canvas").bounding_box()
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in (start, end)]
    page.mouse.move(*places[0])
    page.mouse.down()
    page.mouse.move(*places[1], steps=4)
    page.mouse.up()


def shown(page, name="flow"):
    """Bytes of the image that is shown, b"" where there is none; waits until it is another than the last time asked.

    Images have their content's hash in their address.
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


def download(page, ending, folder, name=None):
    page.wait_for_selector(f"#playground-{ending}:not([disabled])")
    with page.expect_download() as download:
        page.click(f"#playground-{ending}")
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    assert path.name == (name or f"motion.{ending}")
    return path


def test_a_dropped_image_is_moved_by_dragged_arrows_and_the_results_come_as_files(page, served, tmp_path):
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
    assert all(Image.open(io.BytesIO(shown(page, name))).size == (96, 60) for name in ("confidence", "mask"))

    with av.open(str(download(page, "mp4", tmp_path))) as video:
        assert [(frame.width, frame.height) for frame in video.decode(video=0)] == [(96, 60)] * 16
    with Image.open(download(page, "gif", tmp_path)) as video:
        assert (video.n_frames, video.size) == (16, (96, 60))
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
    page.focus("[aria-label=Image]")
    for _ in range(8):
        here = "document.activeElement"
        names.append(page.evaluate(f"({here}.ariaLabel || {here}.innerText || '').trim()"))
        page.keyboard.press("Tab")
    wanted = ("Image", "Choose an image ...", "Image to draw motion on", "Undo", "Clear", "Run")
    places = [next((i for i, name in enumerate(names) if name.startswith(start)), None) for start in wanted]
    assert None not in places and places == sorted(places), names
    drag(page, (0.7, 0.6), (0.6, 0.6))  # answered after whatever the tour had asked for
    assert shown(page) != before
    wait_for_count(page, "2 arrows")


def test_another_photograph_is_chosen_by_mouse_and_by_keys_also_after_an_image_of_ones_own(page):
    page.click("[aria-label=Image]")
    page.click("text=Coffee")
    page.wait_for_selector("text=96 x 64 px")
    page.focus("[aria-label=Image]")
    page.keyboard.press("Control+a")
    page.keyboard.type("Astro")
    page.keyboard.press("Enter")
    page.wait_for_selector("text=96 x 96 px")
    drop(page, "noise.png", png(120, 192))
    page.wait_for_selector("text=96 x 60 px")
    page.click("[aria-label=Image]")
    page.click("text=Astronaut")
    page.wait_for_selector("text=96 x 96 px")


PIXELS = """() => {
    const canvas = document.querySelector("#playground-canvas canvas");
    const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
    return Array.from(pixels.filter((_, i) => i % 4 < 3));
}"""


def test_an_object_is_found_by_clicks_and_drawn_over_the_image(page):
    def click(x, y, **more):
        box = page.locator("#playground-canvas canvas").bounding_box()
        at = {"x": x * box["width"], "y": y * box["height"]}
        return asked_for(page, lambda: page.click("#playground-canvas canvas", position=at, **more))

    drag(page, (0.2, 0.8), (0.2, 0.8))  # a still point is a click that is not on the object
    flow = shown(page)
    page.check("#playground-canvas input[value=find]")
    before = page.evaluate(PIXELS)
    event = click(0.5, 0.3)
    assert set(event) == {"clicks", "still"} and len(event["clicks"]) == len(event["still"]) == 1
    assert np.allclose(event["clicks"] + event["still"], [[47.5, 28.3], [18.7, 76.3]], atol=1)
    page.wait_for_selector("text=/Object: .* % of the image/")
    wait_for_count(page, "1 click, 1 not on it")
    page.wait_for_function(f"before => ({PIXELS})().filter((v, i) => v !== before[i]).length > 2000", arg=before)
    found = page.evaluate(PIXELS)
    event = click(0.7, 0.6, modifiers=["Shift"])
    assert len(event["clicks"]) == 1 and len(event["still"]) == 2
    assert len(click(0.7, 0.6)["still"]) == 1  # a click on a click removes it
    page.wait_for_function(f"found => JSON.stringify(({PIXELS})()) === JSON.stringify(found)", arg=found)

    page.focus("#playground-canvas canvas")
    event = asked_for(page, lambda: [page.keyboard.press(key) for key in ("ArrowLeft", "Enter")])
    assert len(event["clicks"]) == 2
    page.keyboard.press("u")
    wait_for_count(page, "1 click, 1 not on it")
    page.keyboard.press("c")
    page.wait_for_selector("text=Click an object.")
    wait_for_count(page, "no clicks, 1 not on it")
    page.check("#playground-canvas input[value=draw]")
    wait_for_count(page, "1 still point")
    assert page.request.get(page.last["flow"]).body() == flow and page.complaints == []


def test_bad_files_get_a_message_and_the_image_stays(page):
    drag(page, (0.3, 0.5), (0.4, 0.4))
    before = shown(page)
    drop(page, "lies.png", b"this is no picture")
    page.wait_for_selector("text=lies.png: cannot be read as an image: not an image in one of the formats")
    drop(page, "large.png", png(400, 400))
    page.wait_for_selector("text=/exceed|too large|maximum/i")
    wait_for_count(page, "1 arrow")
    assert page.request.get(page.last["flow"]).body() == before


def asked_for(page, act):
    """The event data that the canvas sends to the server when `act` is done."""

    def is_draw(request):
        return "queue/join" in request.url and bool(json.loads(request.post_data).get("event_data"))

    with page.expect_request(is_draw) as request:
        act()
    return json.loads(request.value.post_data)["event_data"]


def test_it_opens_with_an_example_that_is_drawn_and_moving(chromium, served):
    page = open_tab(chromium, served[0])
    assert page.locator("#playground-canvas .count").inner_text() == "1 arrow"
    assert page.is_checked("#playground-canvas .hold")
    assert page.locator("#playground-flow img").count() == page.locator("#playground-mask img").count() == 1
    assert page.evaluate("!document.querySelector('#playground-video video').paused")
    assert page.locator("#playground-compare img").count() == 4
    links = page.locator("#playground-title a, #playground-title code").all_inner_texts()
    assert "docs/playground.md" in links and (ROOT / "docs" / "playground.md").is_file()
    assert page.complaints == [] and [url for url in page.asked if not url.startswith(LOCAL)] == []
    page.close()


def test_the_border_is_held_still_unless_the_box_is_cleared(page, served):
    drag(page, (0.5, 0.5), (0.6, 0.5))
    held = shown(page)
    event = asked_for(page, lambda: page.uncheck("#playground-canvas .hold"))
    assert event["border"] is False and len(event["arrows"]) == 1
    assert shown(page) != held
    wait_for_count(page, "1 arrow")  # the border's points are not counted
    page.check("#playground-canvas .hold")
    assert shown(page) == held


def test_still_points_on_the_border_are_shown_as_dots(page):
    red = """() => {
        const canvas = document.querySelector("#playground-canvas canvas");
        const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
        let count = 0;
        for (let i = 0; i < pixels.length; i += 4)
            if (pixels[i] === 232 && pixels[i + 1] === 38 && pixels[i + 2] === 44) count++;
        return count;
    }"""
    held = page.evaluate(red)
    page.uncheck("#playground-canvas .hold")
    assert page.evaluate(red) < held / 4


def test_methods_are_shown_side_by_side_and_can_be_chosen(page):
    drag(page, (0.5, 0.5), (0.6, 0.4))
    flows = {"network": shown(page)}
    page.wait_for_selector("#playground-compare img >> nth=3")
    captions = page.locator("#playground-compare figcaption").all_inner_texts()
    assert captions == ["CMP network", "Nearest point", "Fading interpolation", "Random weights"]
    sources = [image.get_attribute("src") for image in page.locator("#playground-compare img").all()]
    assert len(set(sources)) == 4
    for method in ("nearest", "fading", "random"):
        page.check(f"#playground-method input[value={method}]")
        flows[method] = shown(page)
        page.wait_for_selector("#playground-flo:not([disabled])")
    assert len(set(flows.values())) == 4
    nearest = np.array(Image.open(io.BytesIO(flows["nearest"])).convert("RGB"))
    assert len(np.unique(nearest.reshape(-1, 3), axis=0)) == 2  # the arrow's color, and white around still points
    assert page.locator("#playground-confidence img").count() == 1
    page.check("#playground-method input[value=network]")
    assert shown(page) == flows["network"]


def test_the_color_wheel_names_the_length_of_its_rim(page):
    drag(page, (0.5, 0.5), (0.75, 0.5))
    shown(page)
    page.check("#playground-method input[value=nearest]")
    shown(page)
    rim = float(page.locator("#playground-legend b").inner_text().removesuffix(" px"))
    assert rim >= 23.9  # a quarter of 96 px, less if the network's flow is longer nowhere
    assert page.evaluate("document.querySelector('#playground-legend img').naturalWidth") == 104


def test_an_arrow_is_moved_by_its_start_and_its_tip_and_deleted(page):
    event = asked_for(page, lambda: drag(page, (0.3, 0.5), (0.5, 0.5)))
    (first,) = event["arrows"]
    event = asked_for(page, lambda: drag(page, (0.5, 0.5), (0.5, 0.3)))  # the tip
    (turned,) = event["arrows"]
    assert turned[:2] == first[:2] and abs(turned[2] - first[2]) < 1 and turned[3] < first[3] - 15
    event = asked_for(page, lambda: drag(page, (0.3, 0.5), (0.4, 0.6)))  # the start: all of it
    (moved,) = event["arrows"]
    assert np.allclose(np.subtract(moved, turned), [9.6, 9.6, 9.6, 9.6], atol=0.5)
    shown(page)
    box = page.locator("#playground-canvas canvas").bounding_box()
    page.mouse.dblclick(box["x"] + 0.4 * box["width"], box["y"] + 0.6 * box["height"])
    wait_for_count(page, "no arrows")
    page.wait_for_function("!document.querySelector('#playground-flow img')")  # flows of the drags may come before
    page.last.clear()

    drag(page, (0.3, 0.5), (0.5, 0.5))
    drag(page, (0.3, 0.8), (0.5, 0.8))
    page.focus("#playground-canvas canvas")
    event = asked_for(page, lambda: [page.keyboard.press(key) for key in ("n", "Delete")])  # selects the first
    assert len(event["arrows"]) == 1 and event["arrows"][0][1] > 0.7 * 96
    wait_for_count(page, "1 arrow")
    assert page.complaints == []


def test_a_frame_of_a_video_has_its_true_motion_as_a_ghost(chromium, tmp_path):
    pytest.importorskip("gradio", reason="no gradio: pip install '.[playground]'")
    noise = np.kron(np.random.default_rng(0).integers(0, 256, (24, 60, 3), np.uint8), np.ones((4, 4, 1), np.uint8))
    write_video(tmp_path / "<v>.mp4", (noise[:, 2 * i :][:, :128] for i in range(12)), 20)
    with server.own_folder() as folder:
        built = pages.build_page(propagator(), folder, name="random", long_side_px=96, video=tmp_path / "<v>.mp4")
        address = server.launch_page(built, host="127.0.0.1", port=None, block=False)
        tab = open_tab(chromium, address)
        try:
            assert tab.is_visible("text=True motion to 0.20 s later, at most")
            pixels = "document.querySelector('#playground-canvas canvas').toDataURL()"
            with_ghost = tab.evaluate(pixels)
            tab.uncheck("#playground-canvas .ghost")
            without = tab.evaluate(pixels)
            assert with_ghost != without
            tab.check("#playground-canvas .ghost")
            assert tab.evaluate(pixels) == with_ghost
            tab.click("input[aria-label='Image']")
            tab.click("[role=option]:has-text('Cat')")
            tab.wait_for_selector(".ghost-option", state="hidden")
            assert tab.complaints == []
        finally:
            tab.close()
            built.close()


def test_the_strength_multiplies_all_arrows(page, tmp_path):
    drag(page, (0.3, 0.5), (0.4, 0.5))
    shown(page)
    drag(page, (0.6, 0.5), (0.6, 0.4))
    shown(page)
    event = asked_for(page, lambda: page.locator("#playground-canvas .strength").evaluate(SET_VALUE, "1.5"))
    assert event["strength"] == 1.5
    page.wait_for_selector("text=1.50 ×")
    shown(page)
    saved = json.loads(download(page, "json", tmp_path, "arrows.json").read_text())
    for drawn, sent in zip(event["arrows"], saved["arrows"]):
        expected = [*drawn[:2], *(start + 1.5 * (end - start) for start, end in zip(drawn[:2], drawn[2:]))]
        assert np.allclose(sent, expected, atol=0.01)


SET_VALUE = """(slider, value) => {
    slider.value = value;
    for (const name of ["input", "change"]) slider.dispatchEvent(new Event(name, { bubbles: true }));
}"""


def test_arrows_come_as_a_file_and_go_in_again(page, tmp_path):
    drag(page, (0.5, 0.5), (0.6, 0.4))
    shown(page)
    drag(page, (0.2, 0.7), (0.2, 0.7))
    flow = shown(page)
    saved = download(page, "json", tmp_path, "arrows.json")
    content = json.loads(saved.read_text())
    assert content["size"] == [96, 96] and len(content["arrows"]) == 2 + 8
    page.click("text=Clear")
    assert shown(page) == b""
    page.uncheck("#playground-canvas .hold")
    page.set_input_files("#playground-canvas .arrows-file", saved)
    wait_for_count(page, "1 arrow, 1 still point")
    assert page.is_checked("#playground-canvas .hold") and shown(page) == flow

    larger = {"size": [960, 960], "arrows": [[480, 480, 580, 480]]}
    drop(page, "a.json", json.dumps(larger).encode())
    wait_for_count(page, "1 arrow")
    assert not page.is_checked("#playground-canvas .hold")
    before = shown(page)
    for name, text in (("a.json", "[[1, 2]]"), ("b.json", "<script>"), ("c.json", "[" * 30_000)):
        drop(page, name, text.encode())
        page.wait_for_selector("text=This file of arrows cannot be used")
        page.locator(".toast-close").first.click()
        page.wait_for_selector("text=This file of arrows cannot be used", state="detached")
    drop(page, "large.json", b" " * 40_000)
    page.wait_for_selector("text=large.json: too large for a file of arrows")
    assert page.request.get(page.last["flow"]).body() == before and page.complaints == []


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


def test_a_network_or_a_number_that_cannot_be_used_is_named(tmp_path, capsys):
    assert main([str(tmp_path / "gone.pth")]) == 2
    assert "gone.pth" in capsys.readouterr().err
    for arguments, message in (
        (["--port", "99999"], "--port must be in 1..65535, got 99999"),
        (["--long-side", "8"], "--long-side must be in"),
    ):
        (tmp_path / "net.pth").touch()
        assert main([str(tmp_path / "net.pth"), *arguments]) == 2
        assert message in capsys.readouterr().err
    (tmp_path / "none.pth").write_bytes(b"no checkpoint")
    assert main([str(tmp_path / "none.pth")]) == 2
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
def test_listening_to_other_machines_is_warned_of(checkpoint, monkeypatch, capsys, host, warned):
    asked = []
    monkeypatch.setattr(pages, "build_page", lambda *_, **__: None)
    monkeypatch.setattr(server, "launch_page", lambda page, *, host, port: asked.append((host, port)))
    assert main([checkpoint, "--host", host, "--port", "7999"]) == 0
    assert asked == [(host, 7999)]
    assert ("warning: listening on" in capsys.readouterr().err) == warned


def test_it_binds_to_this_machine_alone_unless_told_otherwise():
    assert is_loopback(command.parse_args([]).host)


def test_a_taken_port_is_said(checkpoint, capsys):
    pytest.importorskip("gradio", reason="no gradio: pip install '.[playground]'")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main([checkpoint, "--port", str(port)]) == 2
    assert str(port) in capsys.readouterr().err
