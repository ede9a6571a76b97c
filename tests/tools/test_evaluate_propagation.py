"""Which pairs `evaluate.py propagation` judges, by which points, and what it prints."""

import json
import shutil

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS

from cmp.checkpoints import read_checkpoint
from cmp.engine.config import read_config
from cmp.evaluation.pair_choice import choose_part, training_paths
from cmp.flow import write_flow
from tools.evaluate import main

HEIGHT, WIDTH = 64, 96
NUM_VIDEOS, PAIRS_PER_VIDEO = 6, 2


def make_pairs(folder):
    """A list file; in each pair a rectangle moves by (3 + video, 0) and all else stands still."""
    lines = []
    for video in range(NUM_VIDEOS):
        (folder / f"v{video}").mkdir(parents=True)
        for k in range(PAIRS_PER_VIDEO):
            image = np.random.default_rng((video, k)).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
            flow = np.zeros((HEIGHT, WIDTH, 2), np.float32)
            flow[16:48, 20 + k : 70, 0] = 3 + video
            cv2.imwrite(str(folder / f"v{video}" / f"{k}.png"), image)
            write_flow(folder / f"v{video}" / f"{k}.npz", flow)
            lines.append(f"v{video}/{k}.png v{video}/{k + 1}.png v{video}/{k}.npz")
    (folder / "list.txt").write_text("\n".join(lines) + "\n")
    return folder / "list.txt"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Pairs that a network was trained on, others, the config, and the network."""
    folder = tmp_path_factory.mktemp("evaluate")
    trained, others = make_pairs(folder / "trained"), make_pairs(folder / "others")
    with open(others, "a") as file:
        file.write("\n")
    config = read_config("configs/pretrain/cmp_r18_quickstart_1xb16_300.py")
    config.model.image_encoder.out_channels = 8
    for name in ("train_dataloader", "val_dataloader"):
        loader = config[name]
        loader.update(batch_size=2, num_workers=0, persistent_workers=False)
        loader.dataset.source.paths = [str(trained)]
        loader.dataset.transforms[0].short_side_px = loader.dataset.transforms[1].size_px = 64
    config.dump(folder / "config.py")
    torch.manual_seed(0)
    model = MODELS.build(config.model)
    meta = {"cmp": model.describe(), "cfg": config.pretty_text}
    torch.save({"state_dict": model.state_dict(), "meta": meta}, folder / "net.pth")
    return folder


def judge(place, capsys, *arguments, network="net.pth"):
    """Status, and what was printed: the line on what was judged, and the table's rows by their labels."""
    network = str(place / network) if network != "none" else network
    status = main(["propagation", str(place / "config.py"), network, "--device", "cpu", *map(str, arguments)])
    printed = capsys.readouterr()
    first, *lines = printed.out.splitlines() or [""]
    return status, first, {line[:32].strip(): line[32:].split() for line in lines}, printed.err


def test_the_pairs_and_guidance_that_would_be_judged_are_printed_as_a_config(place, capsys, tmp_path):
    arguments = [str(place / "config.py"), str(place / "net.pth"), "--data", "nowhere", "--out", str(tmp_path / "out")]
    assert main(["propagation", *arguments, "--print-config"]) == 0
    (tmp_path / "printed.py").write_text(capsys.readouterr().out)
    data = read_config(tmp_path / "printed.py").val_dataloader.dataset
    assert data.source.paths == ["nowhere"] and data.part == "all" and data.other_images is True
    assert not (tmp_path / "out").exists()


def test_all_pairs_are_judged_of_a_store_that_was_not_trained_on_and_held_out_ones_of_one_that_was(place, capsys):
    status, line, _, _ = judge(place, capsys, "--data", place / "others" / "list.txt")
    assert status == 0 and line.startswith(
        "evaluated 12 of 12 pairs, from 6 videos, part all: the checkpoint was trained on "
    )
    status, line, _, _ = judge(place, capsys, "--data", place / "trained" / "list.txt")
    assert status == 0 and line.startswith(
        "evaluated 4 of 12 pairs, from 2 videos, part val: the checkpoint was trained on "
    )
    assert judge(place, capsys)[1].startswith("evaluated 4 of 12 pairs, from 2 videos, part val: as the config says")
    copied = shutil.copy(place / "trained" / "list.txt", place / "trained" / "copy.txt")
    assert ", part val: " in judge(place, capsys, "--data", copied)[1]
    for part, count in (("all", 12), ("val", 4), ("train", 8)):
        line = judge(place, capsys, "--data", place / "others" / "list.txt", "--part", part, network="none")[1]
        assert line.startswith(f"evaluated {count} of 12 pairs, from {count // 2} videos, part {part}: as asked for")
    lists = [place / "trained" / "list.txt", place / "others" / "list.txt"]
    status, _, _, error = judge(place, capsys, "--data", *lists)
    assert status == 2 and "what was held out is not known" in error and "Traceback" not in error
    line = judge(place, capsys, "--data", *lists, "--part", "all", network="none")[1]
    assert line.startswith("evaluated 24 of 24 pairs, from 12 videos")


def test_another_network_is_evaluated_on_the_same_pairs_and_a_typo_is_refused(place, capsys):
    rows = judge(place, capsys, "--beside", place / "net.pth")[2]
    assert rows["for comparison: net.pth"] == [rows["the network"][0], "1.00"]
    status, _, _, error = judge(place, capsys, "--beside", place / "nett.pth")
    assert status == 2 and "no such file" in error and "nett.pth" in error


def test_the_checkpoint_and_not_the_config_tells_what_was_trained_on_and_its_text_is_not_run(place, tmp_path):
    config = Config.fromfile(place / "config.py")
    config.train_dataloader.dataset.source.paths = ["elsewhere"]
    trained = str(place / "trained" / "list.txt")
    assert choose_part(config, read_checkpoint(place / "net.pth"), [trained], None)[0] == "val"
    assert choose_part(config, None, [trained], None)[0] == "all"
    assert training_paths(read_checkpoint(place / "net.pth")) == [trained]
    texts = {
        "train_dataloader = dict(dataset=dict(source=dict(paths='one')))": ["one"],
        "train_dataloader = {'dataset': {'source': {'paths': ('a', 'b')}}}": ["a", "b"],
        "train_dataloader = dict(dataset=dict(source=dict(paths=[open('pwned', 'w')])))": None,
        "train_dataloader = make()": None,
        "open('pwned', 'w')": None,
        "train_dataloader = (": None,
        "(" * 10_000: None,
    }
    for text, expected in texts.items():
        torch.save({"state_dict": {"a": torch.zeros(1)}, "meta": {"cfg": text}}, tmp_path / "c.pth")
        assert training_paths(read_checkpoint(tmp_path / "c.pth")) == expected, text[:60]


def test_the_numbers_do_not_depend_on_batches(place, capsys, tmp_path):
    found = []
    for batch_size in (1, 5):
        config = Config.fromfile(place / "config.py")
        config.val_dataloader.batch_size = batch_size
        config.dump(tmp_path / "config.py")
        shutil.copy(place / "net.pth", tmp_path)
        out = tmp_path / str(batch_size)
        assert judge(tmp_path, capsys, "--data", place / "others" / "list.txt", "--points", 2, "--out", out)[0] == 0
        found.append(json.loads((out / "metrics.json").read_text()))
    names = [name for name in found[0] if name.startswith("epe")]
    assert "epe_shuffled_image" in names and found[0]["mean_points"] <= 2
    for other in found[1:]:
        assert [other[n] for n in names] == pytest.approx([found[0][n] for n in names], rel=1e-4, nan_ok=True)


def test_fewer_points_make_a_column_each(place, capsys, tmp_path):
    data = ["--data", place / "others" / "list.txt"]
    status, line, rows, _ = judge(place, capsys, *data, "--points", "1", "2", "all", "--out", tmp_path)
    assert status == 0 and line.endswith("; guidance points of each pair: 1, 2, all")
    assert rows["EPE, px, with points"] == ["1", "2", "all"] and rows["points of a pair, mean"][:2] == ["1.0", "2.0"]
    # Of a crop of 64 x 64 px 32 x (50 - k) move by 3 + video, here cut at its right edge: the same in every column.
    assert len(set(rows["zero flow"])) == 1 and len(set(rows["guidance dropped"])) == 1
    assert {"the network", "image of another video", "nearest guide", "inverse distance, fading out"} <= set(rows)
    single = judge(place, capsys, *data, "--points", "2")[2]
    for label in ("the network", "image of another video", "nearest guide", "inverse distance, fading out"):
        assert single[label][0] == rows[label][1], label
    kept = json.loads((tmp_path / "metrics.json").read_text())
    assert kept["judged"] | {"why": ""} == dict(
        part="all", why="", pairs=12, videos=6, pairs_in_all=12, points=["1", "2", "all"]
    )
    assert f"{kept['points']['2']['epe']:.3f}" == rows["the network"][1]
    without = judge(place, capsys, *data, "--points", "1", "2", network="none")[2]
    assert without["nearest guide"] == rows["nearest guide"][:2] and without["the network"] == ["-", "-"]


@pytest.mark.parametrize("wrong", ["0", "-1", "1.5", "some"])
def test_a_number_of_points_is_whole_and_at_least_1(place, capsys, wrong):
    with pytest.raises(SystemExit) as stopped:
        judge(place, capsys, "--points", wrong)
    assert stopped.value.code == 2 and "must be a whole number from 1, or all" in capsys.readouterr().err
