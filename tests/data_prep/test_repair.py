"""A repair that is killed loses no knowledge of what it had to do."""

import cv2
import numpy as np
import pytest

from cmp.datasets.store_check import check_store
from cmp.video import write_video
from data_prep import repair
from data_prep.job import prepare_folder
from data_prep.repair import repair_store
from data_prep.settings import PrepareSettings


@pytest.mark.parametrize("killed_at", ["commit_record", "discard_index", "prepare_folder"])
def test_a_repair_killed_at_any_step_is_ended_by_the_next(tmp_path, monkeypatch, killed_at):
    (tmp_path / "videos").mkdir()
    ground = cv2.resize(np.random.default_rng(0).integers(0, 255, (10, 30, 3), np.uint8), (126, 64))
    write_video(tmp_path / "videos" / "a.mp4", (ground[:, 3 * i : 3 * i + 96] for i in range(10)), 25)
    (tmp_path / "videos" / "text.mp4").write_text("no video")
    store = tmp_path / "store"
    settings = PrepareSettings(interval_frames=2, pairs_per_video=2, short_side_px=48)
    prepare_folder(tmp_path / "videos", store, settings, num_workers=1, show_progress=False)
    files = [path for path in store.rglob("*") if path.is_file()]
    before = {path: path.read_bytes() for path in files}
    for path in (store / "videos").glob("text-*"):
        path.unlink()  # now only the manifest speaks of it

    def killed(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(repair, killed_at, killed)
        with pytest.raises(KeyboardInterrupt):
            repair_store(store, tmp_path / "videos", check_store(store), num_workers=1, show_progress=False)
    assert check_store(store) != []
    repair_store(store, tmp_path / "videos", check_store(store), num_workers=1, show_progress=False)
    assert {path: path.read_bytes() for path in files} == before
