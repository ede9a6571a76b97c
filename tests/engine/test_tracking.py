"""Weights & Biases and MLflow next to a run's log: chosen by name, and each started once without a network."""

import importlib.util
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.visualization import Visualizer

from cmp.engine.config import read_config
from cmp.engine.tracking import TRACKERS, add_tracker

RECIPE = Path(__file__).resolve().parents[2] / "configs" / "pretrain" / "cmp_r18_quickstart_1xb16_300.py"


def config_of(tmp_path):
    config = read_config(RECIPE)
    config.work_dir = str(tmp_path / "my_run")
    return config


def logged(config, tmp_path):
    """Log one value as a run does."""
    visualizer = Visualizer(name=str(tmp_path), vis_backends=config.visualizer.vis_backends, save_dir=str(tmp_path))
    visualizer.add_config(config)
    visualizer.add_scalar("train/loss", 2.5, step=3)
    visualizer.close()


@pytest.mark.parametrize("name", TRACKERS)
def test_a_tracker_that_is_not_installed_is_refused_by_name(tmp_path, monkeypatch, name):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=f"track {name}: .*pip install 'cmp-motion.{name}.'"):
        add_tracker(config_of(tmp_path), name)


def test_wrong_names_and_configs_without_a_visualizer_are_refused(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="track must be one of wandb, mlflow, got 'comet'"):
        add_tracker(config_of(tmp_path), "comet")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    with pytest.raises(ValueError, match="no visualizer"):
        add_tracker(Config(dict(work_dir="a")), "wandb")


@pytest.mark.parametrize("name", TRACKERS)
def test_a_tracker_is_added_to_the_others_under_the_name_of_the_run(tmp_path, monkeypatch, name):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    config = config_of(tmp_path)
    before = list(config.visualizer.vis_backends)
    add_tracker(config, name)
    assert list(config.visualizer.vis_backends)[:-1] == before and len(before) == 2
    added = config.visualizer.vis_backends[-1]
    assert "my_run" in (added.get("run_name"), added.get("init_kwargs", {}).get("name"))
    assert f"cmp.engine.tracking.{added['type'].rpartition('.')[2]}" in config.pretty_text  # what the run writes down


def test_wandb_writes_an_offline_run(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    config = config_of(tmp_path)
    add_tracker(config, "wandb")
    logged(config, tmp_path)
    (record,) = tmp_path.rglob("offline-run-*/*.wandb")
    content = record.read_bytes()
    assert b"train/loss" in content and b"PropagationDecoder" in content
    assert not list(tmp_path.rglob("*code*/**/*.py"))


def test_mlflow_writes_its_store_next_to_the_run(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    if importlib.util.find_spec("sqlalchemy") is None:  # mlflow-skinny has no database
        monkeypatch.delenv("MLFLOW_TRACKING_URI")
        monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    config = config_of(tmp_path)
    add_tracker(config, "mlflow")
    logged(config, tmp_path)
    (run,) = mlflow.search_runs(experiment_names=["cmp-motion"], output_format="list")
    assert run.info.run_name == "my_run" and run.data.metrics == {"train/loss": 2.5}
