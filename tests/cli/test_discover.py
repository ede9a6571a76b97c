import json

import numpy as np
import pytest
import torch
from PIL import Image

from cmp.cli.discover import main
from cmp.cli.evaluate_discover import main as evaluate
from cmp.flow import FlowQuantizer
from cmp.models import CMP, DiscreteLoss, MotionEncoder, PropagationDecoder, ResNet

H, W = 48, 70


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    torch.manual_seed(0)
    encoder, motion = dict(type=ResNet, depth=18), dict(type=MotionEncoder)
    parts = dict(type=PropagationDecoder, width=8), dict(type=FlowQuantizer, num_bins=5), dict(type=DiscreteLoss)
    model = CMP(encoder, motion, *parts, init="default")
    path = tmp_path_factory.mktemp("network") / "net.pth"
    torch.save({"state_dict": model.state_dict(), "meta": {"cmp": model.describe()}}, path)
    return str(path)


@pytest.fixture
def image(tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (H, W, 3), np.uint8)).save(tmp_path / "in.png")
    return tmp_path / "in.png"


def test_a_click_gives_one_mask_its_run_lengths_and_a_picture(image, network, capsys):
    coco_masks = pytest.importorskip("pycocotools.mask")
    out = image.parent / "out"
    command = [str(image), str(out), "--checkpoint", network, "--click", "30,20", "--short-side", "32"]
    assert main([*command, "--negative", "5,5", "--threshold", "0.01"]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["mask_000.png", "picture.png", "segments.json"]
    mask = np.array(Image.open(out / "mask_000.png"))
    assert mask.shape == (H, W) and set(np.unique(mask)) <= {0, 255}
    content = json.loads((out / "segments.json").read_text())
    (entry,) = content["annotations"]
    decoded = coco_masks.decode(coco_masks.frPyObjects(entry["segmentation"], H, W)).astype(bool)
    assert np.array_equal(decoded, mask > 0) and entry["area"] == decoded.sum()
    x, y, width, height = entry["bbox"]
    assert decoded[y : y + height, x : x + width].sum() == decoded.sum()
    assert entry["points_xy"] == [[30, 20]] and content["settings"]["negative_xy"] == [[5, 5]]
    assert f"{100 * decoded.mean():.1f} % of the image" in capsys.readouterr().out


def test_a_search_replaces_the_masks_of_an_earlier_call_and_nothing_else(image, network):
    out = image.parent / "out"
    out.mkdir()
    for name in ("mask_777.png", "mask_mine.png", "notes.txt"):
        (out / name).write_text("earlier")
    assert main([str(image), str(out), "--checkpoint", network, "--short-side", "32", "--pokes", "4"]) == 0
    names = {path.name for path in out.iterdir()}
    content = json.loads((out / "segments.json").read_text())
    masks = {f"mask_{number:03d}.png" for number in range(len(content["annotations"]))}
    assert names == masks | {"mask_mine.png", "notes.txt", "picture.png", "affordance.png", "segments.json"}
    assert main([str(image), str(out), "--checkpoint", network, "--short-side", "32", "--click", "3,3"]) == 0
    assert not (out / "affordance.png").exists()  # it would be of another search


def test_cocos_own_tool_reads_the_results(image, network):
    coco = pytest.importorskip("pycocotools.coco")
    out = image.parent / "out"
    assert main([str(image), str(out), "--checkpoint", network, "--short-side", "32", "--click", "3,3"]) == 0
    read = coco.COCO(str(out / "segments.json"))
    mask = read.annToMask(read.loadAnns(read.getAnnIds())[0]).astype(bool)
    assert np.array_equal(mask, np.array(Image.open(out / "mask_000.png")) > 0)


def test_mistakes_are_one_line_and_leave_nothing(image, network, capsys):
    (image.parent / "text.png").write_text("no image")
    (image.parent / "file").write_text("a file")
    for given, more, message in (
        (image, ("--click", "70,3"), "clicks_xy must lie in the image of 70 x 48 px"),
        (image, ("--click", "3,3", "--negative", "3,3"), "different pixels"),
        (image, ("--click", "3,3", "--threshold", "2"), "threshold must be in 0..1"),
        (image, ("--border-points", "1"), "border_points must be 0 or at least 2"),
        (image, ("--pokes", "3"), "num_places must be at least 4"),
        (image.parent / "text.png", (), "text.png cannot be read as an image"),
        (image.parent / "none.png", (), "none.png"),
    ):
        assert main([str(given), str(image.parent / "out"), "--checkpoint", network, *more]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1, error
    for out, message in (("file", "must be a folder"), ("no/out", "no such folder")):
        assert main([str(image), str(image.parent / out), "--checkpoint", network, "--pokes", "4"]) == 2
        assert message in capsys.readouterr().err
    assert not (image.parent / "out").exists()


def test_an_image_among_the_masks_of_an_earlier_call_is_not_removed(image, network, capsys):
    earlier = image.rename(image.with_name("mask_003.png"))
    before = earlier.read_bytes()
    assert main([str(earlier), str(image.parent), "--checkpoint", network, "--click", "30,20"]) == 2
    assert "mask_003.png: OUT would overwrite IMAGE, which is read" in capsys.readouterr().err
    assert earlier.read_bytes() == before and list(image.parent.iterdir()) == [earlier]


def test_options_that_do_not_fit_are_wrong_usage(image, network, capsys):
    for more in (("--click", "3;3"), ("--click", "3,3", "--pokes", "9"), ("--threshold", "0.5"), ("--thresh", "0.5")):
        with pytest.raises(SystemExit) as stopped:
            main([str(image), "out", "--checkpoint", network, *more])
        assert stopped.value.code == 2 and capsys.readouterr().err


def test_an_evaluation_prints_one_row_per_method(image, network, capsys):
    folder = image.parent
    for name in ("images", "masks"):
        (folder / name).mkdir()
    image.rename(folder / "images/in.png")
    truth = np.zeros((H, W), np.uint8)
    truth[10:40, 20:50] = 255
    Image.fromarray(truth).save(folder / "masks/in.png")
    command = [str(folder / "images"), str(folder / "masks"), "--checkpoint", network, "--short-side", "32"]
    assert evaluate([*command, "--methods", "pokes", "disc", "whole", "--picture", str(folder / "p.png")]) == 0
    text = capsys.readouterr().out
    assert f"| whole image | {(truth > 0).mean():.3f} | {(truth > 0).mean():.3f} |" in text
    assert "| pokes | " in text and "1 images, 1 objects" in text and (folder / "p.png").is_file()
    assert evaluate([*command, "--methods", "whole", "--least-share", "0.9"]) == 2
    assert "no objects of at least 0.9" in capsys.readouterr().err
    assert evaluate([str(folder / "images"), str(folder / "none"), "--checkpoint", network]) == 2
    assert "no such folder or file" in capsys.readouterr().err
