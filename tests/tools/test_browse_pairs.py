"""The page holds what the store holds, and nothing outside the page."""

import importlib.util
import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from cmp.datasets.pair_store import PairStore
from cmp.video import write_video
from data_prep.job import prepare_folder
from data_prep.settings import PrepareSettings

TOOL = Path(__file__).resolve().parents[2] / "tools" / "browse_pairs.py"


@pytest.fixture(scope="module")
def main():
    spec = importlib.util.spec_from_file_location("browse_pairs", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    root = tmp_path_factory.mktemp("videos")
    ground = cv2.resize(np.random.default_rng(0).integers(0, 255, (10, 30, 3), np.uint8), (102, 56))
    write_video(root / "<b>moves.mp4", (ground[:, 3 * i : 3 * i + 72] for i in range(10)), 25)
    write_video(root / "still.mp4", (ground[:, :72] for _ in range(10)), 25)
    (root / "text.mp4").write_text("not a video")
    return root


@pytest.mark.parametrize("kernel", [None, 5])
def test_the_page_shows_pairs_and_rejected_ones_with_reasons_in_one_file(videos, main, tmp_path, capsys, kernel):
    settings = PrepareSettings(interval_frames=2, pairs_per_video=4, candidates_kernel=kernel)
    prepare_folder(videos, tmp_path / "store", settings, num_workers=1, show_progress=False)
    assert main([str(tmp_path / "store"), "--pictures", "3"]) == 0
    page = (tmp_path / "store.html").read_text("utf-8")
    assert str(tmp_path / "store.html") in capsys.readouterr().out
    assert f"<b>{len(PairStore(tmp_path / 'store'))}</b>pairs" in page and "<b>4</b>rejected pairs" in page
    # Three pairs as three pictures, three rejected ones as two; three charts, and one of each score.
    assert page.count("data:image/jpeg;base64,") == 9 + 6 and page.count("<svg") == 3 + 8
    assert page.count('<span class="why">duplicate</span>') == 4 + 3 and "unreadable" in page
    assert page.count('<rect class="no"') >= 8 and page.count("<line") >= 3
    assert "&lt;b&gt;moves.mp4" in page and "<b>moves" not in page  # names are text, whatever is in them
    assert not re.findall(r"(?:src|href)=\"(?!data:)", page) and "<script" not in page and "http" not in page


def test_an_empty_store_gives_a_page_and_no_store_an_error(videos, main, tmp_path, capsys):
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "text.mp4").write_text("no")
    prepare_folder(tmp_path / "only", tmp_path / "store", PrepareSettings(), num_workers=1, show_progress=False)
    assert main([str(tmp_path / "store"), str(tmp_path / "p.html")]) == 0
    assert "<b>0</b>pairs" in (tmp_path / "p.html").read_text("utf-8")
    assert main([str(tmp_path), str(tmp_path / "q.html")]) == 1
    assert "no pair store" in capsys.readouterr().err and not (tmp_path / "q.html").exists()


def test_the_page_opens_in_a_browser_without_errors_or_requests_and_shows_its_pictures(
    videos, main, tmp_path, chromium
):
    settings = PrepareSettings(interval_frames=2, pairs_per_video=4)
    prepare_folder(videos, tmp_path / "store", settings, num_workers=1, show_progress=False)
    assert main([str(tmp_path / "store")]) == 0
    page, troubles, asked = chromium.new_page(viewport={"width": 1000, "height": 700}), [], []
    page.on("console", lambda message: troubles.append(message.text))
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto((tmp_path / "store.html").as_uri())
    widths = page.eval_on_selector_all("img", "images => images.map(image => image.naturalWidth)")
    assert len(widths) > 8 and min(widths) > 8 and troubles == []
    assert [url for url in asked if not url.startswith("data:")] == [(tmp_path / "store.html").as_uri()]
    shown = np.asarray(bytearray(page.screenshot(full_page=True)), np.uint8)
    assert cv2.imdecode(shown, cv2.IMREAD_COLOR).std() > 20
    page.close()


def test_a_folder_in_the_place_of_the_page_is_an_error_and_nothing_is_left_behind(videos, main, tmp_path, capsys):
    prepare_folder(videos, tmp_path / "store", PrepareSettings(), num_workers=1, show_progress=False)
    (tmp_path / "page").mkdir()
    assert main([str(tmp_path / "store"), str(tmp_path / "page")]) == 1
    assert "is a folder: name a file" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["page", "store"]
