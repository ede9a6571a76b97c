import numpy as np
import pytest
import torch
from PIL import Image

from cmp.flow import FlowQuantizer
from cmp.inference.inputs import read_image
from cmp.models import CMP, DiscreteLoss, MotionEncoder, PropagationDecoder, ResNet
from tools.annotate import main
from tools.benchmark import annotate as benchmark


@pytest.fixture
def files(tmp_path):
    torch.manual_seed(0)
    encoder, motion = dict(type=ResNet, depth=18), dict(type=MotionEncoder)
    parts = dict(type=PropagationDecoder, width=8), dict(type=FlowQuantizer, num_bins=5), dict(type=DiscreteLoss)
    model = CMP(encoder, motion, *parts, init="default")
    torch.save({"state_dict": model.state_dict(), "meta": {"cmp": model.describe()}}, tmp_path / "net.pth")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 70, 3), np.uint8)).save(tmp_path / "in.png")
    return tmp_path


def test_clicks_give_a_mask_and_an_overlay_of_the_images_size(files, capsys):
    command = [str(files / "in.png"), str(files / "m.png"), "--checkpoint", str(files / "net.pth")]
    assert main([*command, "--click", "30,20", "--click", "40,22", "--negative", "5,5", "--short-side", "40"]) == 0
    text = capsys.readouterr().out.splitlines()[-1]
    mask, overlay = Image.open(files / "m.png"), Image.open(files / "m_overlay.png")
    assert mask.size == overlay.size == (70, 48) and (mask.mode, overlay.mode) == ("L", "RGB")
    assert set(np.unique(mask)) <= {0, 255} and f"{100 * (np.array(mask) > 0).mean():.1f} % of the image" in text
    assert main([*command, "--click", "30,20", "--threshold", "1"]) == 0  # above it lies nothing
    assert not np.array(Image.open(files / "m.png")).any()


def test_mistakes_are_named_and_leave_nothing(files, capsys):
    (files / "text.png").write_text("no picture")
    for image, out, more, message in (
        ("in.png", "m.png", ("--click", "70,3"), "clicks_xy must lie in the image of 70 x 48 px"),
        ("in.png", "m.png", ("--click", "nan,3"), "clicks_xy must be finite"),
        ("in.png", "m.png", ("--click", "3,3", "--negative", "3,3"), "different pixels"),
        ("in.png", "m.png", ("--click", "3,3", "--threshold", "2"), "threshold must be in 0..1"),
        ("in.png", "m.jpg", ("--click", "3,3"), "OUT must end in .png"),
        ("in.png", "in.png", ("--click", "3,3"), "OUT would overwrite IMAGE, which is read"),
        ("in.png", "m.png", ("--click", "3,3", "--short-side", "100000"), "short_side_px must keep the image below"),
        ("text.png", "m.png", ("--click", "3,3"), "text.png cannot be read as an image"),
        ("none.png", "m.png", ("--click", "3,3"), "none.png"),
    ):
        assert main([str(files / image), str(files / out), "--checkpoint", str(files / "net.pth"), *more]) == 2
        assert message in capsys.readouterr().err, out
    for more in ((), ("--click", "3;3")):
        with pytest.raises(SystemExit):
            main([str(files / "in.png"), str(files / "m.png"), "--checkpoint", str(files / "net.pth"), *more])
    assert "a click is x,y, got '3;3'" in capsys.readouterr().err
    assert not list(files.glob("m*"))


def test_a_huge_image_is_refused_before_it_is_decoded(files, capsys):
    Image.new("1", (5000, 4000)).save(files / "huge.png")
    command = [str(files / "huge.png"), str(files / "m.png"), "--checkpoint", str(files / "net.pth"), "--click", "1,1"]
    assert main(command) == 2
    assert "huge.png cannot be read as an image: image must have at most" in capsys.readouterr().err


def test_a_photo_of_twelve_megapixels_is_annotated_at_the_size_for_the_network(files, capsys):
    Image.new("L", (4000, 3000), 90).save(files / "photo.png")
    command = [str(files / "photo.png"), str(files / "m.png"), "--checkpoint", str(files / "net.pth"), "--click", "9,9"]
    assert main([*command, "--short-side", "48"]) == 0
    assert Image.open(files / "m.png").size == Image.open(files / "m_overlay.png").size == (4000, 3000)
    assert main(command) == 2 and "give --short-side PX, the size for the network" in capsys.readouterr().err


def test_a_photograph_is_read_upright(files):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    Image.open(files / "in.png").save(files / "turned.png", exif=exif)
    assert np.array_equal(read_image(files / "turned.png"), np.rot90(read_image(files / "in.png"), -1))


def test_a_grey_picture_of_16_bits_keeps_its_shades(files):
    ramp = np.tile(np.linspace(0, 65535, 60).astype(np.uint16), (40, 1))
    Image.fromarray(ramp).save(files / "deep.png")
    row = read_image(files / "deep.png")[0, :, 0].astype(int)
    assert row[0] == 0 and row[-1] == 255 and (np.diff(row) > 0).all()


def test_the_benchmark_clicks_deepest_and_knows_its_controls(files, capsys):
    truth = np.zeros((40, 60), bool)
    truth[5:16, 10:41] = truth[30:33, 50:53] = True  # a large and a small part
    x, y = benchmark.click_of(truth)[0]
    assert y == 10 and 15 <= x <= 35
    assert benchmark.corners_off(truth).tolist() == [[0, 0], [59, 0], [0, 39], [59, 39]]
    assert benchmark.iou(truth, truth) == 1 and benchmark.iou(np.ones_like(truth), truth) == truth.mean()
    image = np.where(truth[..., None], np.uint8([220, 40, 40]), np.uint8([30, 60, 200]))
    image = (image + np.random.default_rng(0).integers(0, 20, image.shape)).astype(np.uint8)
    only = truth.copy()
    only[30:33] = False
    assert benchmark.iou(benchmark.grabcut(image, np.array([[x, y]]), np.array([[0, 0], [59, 39]])), only) > 0.9

    folder = files / "data" / "frames_bmx-trees"
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    Image.fromarray(image).save(folder / "images/00000.jpg")
    Image.fromarray(np.where(truth, np.uint8(255), np.uint8(0))).save(folder / "masks/00000.png")
    arguments = [str(files / "data"), "--checkpoint", str(files / "net.pth"), "--picture", str(files / "p.png")]
    assert benchmark.main(arguments) == 0
    text = capsys.readouterr().out
    assert f"| whole image | {truth.mean():.3f} | {truth.mean():.3f} |" in text and "| ours, trained | " in text
    assert (files / "p.png").is_file() and benchmark.main([str(files), *arguments[1:]]) == 1
