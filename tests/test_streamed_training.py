"""`cmp-motion train` over shards that are streamed: the pairs of the store, in an order that follows from the seed."""

import itertools
import sys
from collections import Counter

import cv2
import numpy as np
import pytest
import torch

import cmp
from cmp.cli import train as command
from cmp.datasets import PropagationDataset, streamed
from cmp.datasets.pair_store import PairStore
from cmp.engine.run import training_config
from cmp.video import write_video
from tests.test_jobs import SMALL

pytest.importorskip("webdataset")
pytest.importorskip("fsspec")
NO_VAL = {key: value for key, value in SMALL.items() if not key.startswith("val")}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store of 6 videos with 2 pairs each."""
    root = tmp_path_factory.mktemp("streamed")
    (root / "videos").mkdir()
    for number in range(6):
        noise = np.random.default_rng(number).integers(0, 255, (10, 26, 3), np.uint8)
        ground = cv2.resize(noise, (110, 50))
        write_video(root / "videos" / f"v{number}.mp4", (ground[:, 3 * i :][:, :70] for i in range(9)), 25)
    cmp.prepare(root / "videos", root / "pairs", interval_frames=2, pairs_per_video=2, workers=1, quiet=True)
    assert len(PairStore(root / "pairs")) == 12
    return root / "pairs"


@pytest.fixture
def drawn(monkeypatch):
    """The samples that training draws, in order."""
    samples, draw = [], streamed.StreamedPairs._sample

    def keep(self, stored, epoch):
        samples.append(draw(self, stored, epoch))
        return samples[-1]

    monkeypatch.setattr(streamed.StreamedPairs, "_sample", keep)
    return samples


def keys(samples):
    return [sample["key"] for sample in samples]


def pretrain(data, out, **more):
    options = dict(steps=2, batch_size=6, seed=3, device="cpu", cfg_options=NO_VAL)
    return cmp.pretrain(str(data), out, **options | more)


def test_training_takes_every_pair_of_the_shards_once_per_epoch_as_they_are_in_the_store(store, drawn, tmp_path):
    run = pretrain(store / "shards" / "*.tar", tmp_path / "run")
    assert run.step == 2 and run.checkpoint.is_file()
    pairs = PairStore(store)
    by_key = {pairs.key_of(i): i for i in range(len(pairs))}
    assert sorted(keys(drawn[:12])) == sorted(by_key)
    config, _ = training_config("r18_quickstart", data=[str(store)], seed=3, options=SMALL)
    # Without transforms: their randomness follows from the key in a stream, and from the position in a store.
    settings = dict(config.train_dataloader.dataset, source=pairs, part="all", transforms=[])
    settings.pop("type")
    plain = PropagationDataset(**settings)
    config, _ = training_config("r18_quickstart", data=[str(store / "shards" / "*.tar")], seed=3, options=NO_VAL)
    settings = dict(config.train_dataloader.dataset, transforms=[])
    settings.pop("type")
    for sample in itertools.islice(streamed.StreamedPairs(**settings), 12):
        same = plain[by_key[sample["key"]]]
        assert torch.equal(sample["image"], same["image"]) and torch.equal(sample["flow"], same["flow"])


def test_the_order_follows_from_the_seed_and_another_begins_after_resuming(store, drawn, tmp_path):
    shards = store / "shards" / "*.tar"
    pretrain(shards, tmp_path / "one")
    first = keys(drawn)[:12]
    drawn.clear()
    pretrain(shards, tmp_path / "two")
    assert keys(drawn)[:12] == first
    drawn.clear()
    pretrain(shards, tmp_path / "two", resume=True, steps=4)
    assert len(drawn) >= 12 and keys(drawn)[:12] != first
    assert Counter(keys(drawn)[:12]) == Counter(first)


def test_an_address_of_a_store_is_split_and_a_store_on_the_disk_validates(store, drawn, tmp_path, capsys):
    run = pretrain(f"file://{store}", tmp_path / "run", steps=1, batch_size=4)
    said = capsys.readouterr().out
    assert run.step == 1 and "no validation: shards are only trained on" in said
    assert "the config's sampler is not used" in said
    held_out = set(PairStore(store).videos[-2:])  # at least two of the last by name
    assert not held_out & {sample["video"] for sample in drawn}
    drawn.clear()
    pretrain(f"file://{store}", tmp_path / "other", steps=2, val_data=[store], cfg_options=SMALL)
    assert len({sample["video"] for sample in drawn}) == 6  # all are trained on
    assert any("epe" in path.read_text() for path in (tmp_path / "other").rglob("scalars.json"))


def test_what_cannot_be_streamed_is_refused_in_one_line(store, tmp_path, capsys, monkeypatch):
    shards = str(store / "shards" / "*.tar")
    for more, words in (
        (["r18_quickstart", "--data", shards, str(store)], "cannot be mixed"),
        (
            ["r18_quickstart", "--data", shards, "--cfg-options", "train_dataloader.num_workers=7"],
            "6 shards cannot be divided among 1 process(es) with 7 worker(s) each: use fewer workers",
        ),
        (["draw_mnist_1xb100_3k", "--data", shards], "only recipes for pairs can stream shards"),
        (["r18_quickstart", "--data", str(tmp_path / "*.tar")], "*.tar: no such shards"),
        (["r18_quickstart", "--data", "nowhere://x"], "nowhere://x: Protocol not known"),
        (["r18_quickstart", "--data", str(store), "--val-data", shards], "--val-data: must be pair stores on the disk"),
        (["r18_quickstart", "--data", shards, "--val-data", "none"], "--val-data: none: no such file or folder"),
        (
            ["r18_quickstart", "--data", shards, "--cfg-options", "train_dataloader.dataset.val_list=x",
             "val_dataloader.dataset.val_list=x"],
            "val_list does not go with shards",
        ),
    ):  # fmt: skip
        assert command.main([*more, "--work-dir", str(tmp_path / "run")]) == 2, more
        said = capsys.readouterr().err
        assert words in said and len(said.splitlines()) == 1, said
    monkeypatch.setitem(sys.modules, "webdataset", None)
    assert command.main(["r18_quickstart", "--data", shards, "--work-dir", str(tmp_path / "run")]) == 2
    assert "pip install 'cmp-motion[stream]'" in capsys.readouterr().err
