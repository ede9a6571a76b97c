"""The page holds what the store holds, and nothing outside the page."""

import base64
import copy
import hashlib
import importlib.util
import json
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from cmp.datasets import PropagationDataset
from cmp.datasets.pair_store import PairStore, sealed_json
from cmp.engine.config import read_config
from cmp.video import write_video
from data_prep.browse_pictures import shown_crop
from data_prep.job import prepare_folder
from data_prep.settings import PrepareSettings

TOOL = Path(__file__).resolve().parents[2] / "tools" / "browse_pairs.py"
pytestmark = pytest.mark.usefixtures("prepared_in_this_process")


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


def script_of(page):
    """The text of the page's only script."""
    (script,) = re.findall(r"<script>(.*?)</script>", page, flags=re.S)
    assert page.count("<script") == 1
    return script


def test_the_page_shows_pairs_and_rejected_ones_with_reasons_in_one_file(store, main, tmp_path, capsys):
    page_path = tmp_path / "page.html"
    assert main([str(store), str(page_path), "--pictures", "3"]) == 0
    page = page_path.read_text("utf-8")
    assert str(page_path) in capsys.readouterr().out
    assert f"<b>{len(PairStore(store))}</b>pairs" in page and "<b>4</b>rejected pairs" in page
    # Three pairs as three images, three rejected ones as two; three charts, and one of each score.
    assert page.count("data:image/jpeg;base64,") == 9 + 6 and page.count("<svg") == 3 + 9
    assert page.count('<span class="why">duplicate</span>') == 4 + 3 and "unreadable" in page
    assert page.count('<rect class="no"') >= 8 and page.count("<line") >= 3
    assert "&lt;b&gt;moves.mp4" in page and "<b>moves" not in page  # names are text, whatever is in them
    assert not re.findall(r"(?:src|href)=\"(?!data:)", page) and not re.search("https?:", page)
    # The page allows itself one script, by its hash, and images that it holds.
    digest = base64.b64encode(hashlib.sha256(script_of(page).encode()).digest()).decode()
    policy = re.search(r'Content-Security-Policy"\s+content="(.*?)"', page)[1]
    assert policy.startswith("default-src 'none'; img-src data:;") and f"script-src 'sha256-{digest}'" in policy


def test_axes_have_titles_flow_has_its_scale_and_reasons_their_scores(store, main, tmp_path):
    assert main([str(store), str(tmp_path / "page.html"), "--pictures", "3"]) == 0
    page = (tmp_path / "page.html").read_text("utf-8")
    titles = re.findall(r'<text class="axis"[^>]*>([^<]*)</text>', page)
    assert titles.count("pairs") == 11 and {"mean motion, px", "moving, share of pixels", "crops"} <= set(titles)
    assert page.count('<span class="wheel"></span>') == 6  # of three pairs and three rejected ones
    # The ground moves 3 px per frame, 6 px per pair; a still pair's noise gets the palest scale, 1 px.
    rims = [float(rim) for rim in re.findall(r'<span class="rim">([\d.]+) px</span>', page)]
    assert all(rim == pytest.approx(6, abs=1.5) for rim in rims[:3]) and rims[3:] == [1, 1, 1]
    why = r"duplicate</span> largest_change 0, at most 3\s*<span class=\"why\">still</span> moving_share 0, below 0.01"
    assert len(re.findall(why, page)) == 4 + 3


def test_the_gallery_has_the_crops_and_points_that_training_draws(store, main, tmp_path, monkeypatch):
    drawn = []

    def keep(sample, caption):
        drawn.append(sample)
        return shown_crop(sample, caption)

    monkeypatch.setattr("data_prep.browse.shown_crop", keep)
    assert main([str(store), str(tmp_path / "page.html"), "--pictures", "2"]) == 0
    page = (tmp_path / "page.html").read_text("utf-8")
    config = read_config("r18_quickstart")
    settings = dict(config.train_dataloader.dataset, source=PairStore(store), part="all")
    settings.pop("type")
    training = PropagationDataset(**settings)
    assert len(training) == 4 and len(drawn) == 2
    for position, sample in zip((1, 3), drawn):
        for name in ("image", "guidance", "mask"):
            assert torch.equal(sample[name], training[position, 0][name])
        assert f"{int(sample['mask'].sum())} guidance points" in page
    assert "that the first epoch of cmp_r18_quickstart_1xb16_300 draws" in page


def test_an_arrow_is_drawn_where_a_point_is():
    image = torch.zeros(3, 48, 480, dtype=torch.uint8)
    mask, guidance = torch.zeros(1, 48, 480), torch.zeros(2, 48, 480)
    mask[0, 20, 100], guidance[0, 20, 100] = 1, 60  # 60 px to the right
    sample = {"image": image, "mask": mask[None], "guidance": guidance[None]}  # one set of points
    shown = shown_crop(sample, "crop")
    data = base64.b64decode(shown["url"].partition(",")[2])
    drawn = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
    assert shown["num_points"] == 1 and drawn.shape == (48, 480)
    ys, xs = np.nonzero(drawn > 128)
    assert abs(xs.min() - 100) <= 2 and abs(xs.max() - 160) <= 2 and abs(np.median(ys) - 20) <= 1


def test_only_pairs_of_a_clip_are_shown_and_an_unknown_one_is_named(store, main, tmp_path, capsys):
    assert main([str(store), str(tmp_path / "page.html"), "--clip", "STILL"]) == 0
    page = (tmp_path / "page.html").read_text("utf-8")
    assert set(re.findall(r'data-clip="(.*?)"', page)) == {"still.mp4"} and "<b>4</b>pairs" in page
    assert main([str(store), str(tmp_path / "page.html"), "--clip", MARKUP]) == 2
    assert "--clip: no video of this store has" in capsys.readouterr().err


def test_a_recipe_that_draws_no_points_here_is_refused(store, main, tmp_path, capsys):
    for recipe, words in (("draw_mnist_1xb100_3k", "no such config"), ("r50_device_points", "lacks strategies")):
        assert main([str(store), str(tmp_path / "page.html"), "--recipe", recipe]) == 2
        assert words in capsys.readouterr().err and not (tmp_path / "page.html").exists()


def test_an_empty_store_gives_a_page_and_no_store_an_error(videos, main, tmp_path, capsys):
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "text.mp4").write_text("no")
    prepare_folder(tmp_path / "only", tmp_path / "store", PrepareSettings(), num_workers=1, show_progress=False)
    assert main([str(tmp_path / "store"), str(tmp_path / "p.html")]) == 0
    assert "<b>0</b>pairs" in (tmp_path / "p.html").read_text("utf-8")
    assert main([str(tmp_path / "only"), str(tmp_path / "q.html")]) == 2
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
    page.evaluate("Promise.all([...document.images].map(image => image.decode()))")
    widths = page.eval_on_selector_all("img", "images => images.map(image => image.naturalWidth)")
    assert len(widths) > 8 and min(widths) > 8 and troubles == []
    assert [url for url in asked if not url.startswith("data:")] == [(tmp_path / "store.html").as_uri()]
    shown = np.asarray(bytearray(page.screenshot(full_page=True)), np.uint8)
    assert cv2.imdecode(shown, cv2.IMREAD_COLOR).std() > 20
    number = page.locator(".pair").count()
    page.fill("#clip", "STILL")
    assert 0 < page.locator(".pair:visible").count() < number and "pairs and rows" in page.inner_text("#shown")
    page.fill("#clip", "")
    assert page.locator(".pair:visible").count() == number
    page.locator(".pair .image").nth(1).click()
    assert page.locator("dialog .rim").is_visible() and page.inner_text("dialog p").startswith("flow: <b>moves.mp4")
    page.keyboard.press("ArrowRight")
    assert page.inner_text("dialog p").startswith("what training draws")
    page.keyboard.press("Escape")
    assert not page.locator("dialog").is_visible() and troubles == []
    page.close()


def test_a_folder_in_the_place_of_the_page_is_an_error_and_nothing_is_left_behind(videos, main, tmp_path, capsys):
    prepare_folder(videos, tmp_path / "store", PrepareSettings(), num_workers=1, show_progress=False)
    (tmp_path / "page").mkdir()
    assert main([str(tmp_path / "store"), str(tmp_path / "page")]) == 2
    assert "is a folder: name a file" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["page", "store"]


def strange_values(value, path=()):
    """Paths to every field of a JSON value."""
    if isinstance(value, dict):
        for key in value:
            yield (*path, key)
            yield from strange_values(value[key], (*path, key))
    elif isinstance(value, list) and value:
        yield (*path, 0)
        yield from strange_values(value[0], (*path, 0))


def changed(value, path, new):
    """A copy with the field at a path replaced, or removed where new is None."""
    value = copy.deepcopy(value)
    inner = value
    for key in path[:-1]:
        inner = inner[key]
    if new is None:
        del inner[path[-1]]
    else:
        inner[path[-1]] = new
    return value


MARKUP = "<img src=x onerror=alert(1)>\"'&</style></title>\x1b\n"


@pytest.fixture(scope="module")
def store(videos, tmp_path_factory):
    root = tmp_path_factory.mktemp("pairs") / "store"
    settings = PrepareSettings(interval_frames=2, pairs_per_video=4)
    prepare_folder(videos, root, settings, num_workers=1, show_progress=False)
    return root


def test_no_field_of_a_strange_record_becomes_markup_or_a_traceback(store, tmp_path, main, capsys):
    root = tmp_path / "store"
    shutil.copytree(store, root)
    seen, tried = set(), 0
    for path in sorted((root / "videos").glob("*.json")):
        original = path.read_bytes()
        record = json.loads(original)
        for field in strange_values(record):
            if field in seen:  # the same code reads this field of the records of other videos
                continue
            seen.add(field)
            for new in (None, MARKUP, [MARKUP], {MARKUP: MARKUP}, -1, 10**400):
                path.write_bytes(sealed_json(changed(record, field, new)))
                status = main([str(root), str(tmp_path / "page.html"), "--pictures", "0"])
                err = capsys.readouterr().err
                assert status == (1 if err else 0), (field, new, err)
                assert all(line.startswith("browse_pairs.py: ") and line.isprintable() for line in err.splitlines())
                assert "<img src=x" not in (tmp_path / "page.html").read_text("utf-8")
                tried += 1
        path.write_bytes(original)
    assert tried > 300
    assert main([str(root), str(tmp_path / "page.html")]) == 0


def test_a_strange_record_is_named_and_the_others_are_shown(store, tmp_path, main, capsys):
    root = tmp_path / "store"
    shutil.copytree(store, root)
    paths = {json.loads(path.read_text())["source"]["path"]: path for path in (root / "videos").glob("*.json")}
    record = json.loads(paths["still.mp4"].read_text())
    assert record["dropped"]
    record["dropped"][0]["frames"] = [MARKUP, 2]
    paths["still.mp4"].write_bytes(sealed_json(record))
    (root / "videos" / "deep.json").write_text("[" * 100_000)
    assert main([str(root), str(tmp_path / "page.html")]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and "deep.json" in lines[0] and "frames must be two whole numbers" in lines[1]
    page = (tmp_path / "page.html").read_text("utf-8")
    assert "moves.mp4" in page and "text.mp4" in page and "&lt;img src=x" in page and "<img src=x" not in page
    assert page.count("data:image/jpeg;base64,") >= 3


def test_settings_and_samples_of_strangers_are_text_too(store, tmp_path, main, capsys):
    root = tmp_path / "store"
    shutil.copytree(store, root)
    about = json.loads((root / "store.json").read_text())
    for settings in ({MARKUP: MARKUP, "thresholds": {"min_moving_share": MARKUP}}, {"thresholds": MARKUP}, MARKUP, []):
        (root / "store.json").write_bytes(sealed_json(about | {"settings": settings}))
        status = main([str(root), str(tmp_path / "page.html"), "--pictures", "1"])
        assert status == (0 if isinstance(settings, dict) else 2)
        assert "<img src=x" not in (tmp_path / "page.html").read_text("utf-8")
        assert all(line.startswith("browse_pairs.py: ") for line in capsys.readouterr().err.splitlines())


def test_the_page_counts_the_points_that_recipes_choose_per_crop(store, main, tmp_path):
    assert main([str(store), str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text()
    row = re.search(r"Zhan et al., AlexNet</td>(.*?)</tr>", page, flags=re.S)[1]
    cells = re.findall(r"<td>(.*?)</td>", row)
    # 384 px with a point every 200: 2 x 2.
    assert cells[:2] == ["384 px of 416", "81, 200"] and cells[3].startswith("4.0 + ")
    assert float(cells[2]) == pytest.approx(sum(map(float, cells[3].split(" + "))), abs=0.11)
    assert re.fullmatch(r"K \d+, G \d+ \([\d.]+\)", cells[4])
