"""Send what a run logs to Weights & Biases or MLflow too, through mmengine's visual back ends."""

import importlib.util
import os
from pathlib import Path

from mmengine.config import Config
from mmengine.visualization import MLflowVisBackend, WandbVisBackend

TRACKERS = ("wandb", "mlflow")


class WandbTracker(WandbVisBackend):
    """mmengine's back end, but the config is sent as text, and no source files are.

    mmengine's `add_config` also uploads every Python file below the working directory.
    """

    def add_config(self, config: Config, **kwargs) -> None:
        self.experiment.config.update({"config": config.pretty_text})

    def close(self) -> None:
        self.experiment.finish()  # mmengine calls wandb.join, which does not wait until everything is written


class MLflowTracker(MLflowVisBackend):
    """mmengine's back end, but the config is sent only as the artifact config.py.

    As parameters, which have a largest length, the values of our configs are refused.
    """

    def add_config(self, config: Config, **kwargs) -> None:
        self.experiment.log_text(config.pretty_text, "config.py")

    def close(self) -> None:
        self.experiment.end_run()  # mmengine's uploads the files of the work dir too


def add_tracker(config: Config, name: str) -> None:
    """Add a tracker to a config's `visualizer`, next to the log file and TensorBoard; the config is changed in place.

    The run has the name of its work dir. The packages' own variables apply: WANDB_MODE=offline, WANDB_PROJECT (default
    here: cmp-motion), WANDB_DIR; MLFLOW_TRACKING_URI (default: a folder of the run), MLFLOW_EXPERIMENT_NAME.

    Args:
        config: of a run, with its `work_dir` and a `visualizer`.
        name: "wandb" or "mlflow".

    Raises:
        ValueError: another name, the package is not installed, or the config has no visualizer.
    """
    if name not in TRACKERS:
        raise ValueError(f"track must be one of {', '.join(TRACKERS)}, got {name!r}")
    if importlib.util.find_spec(name) is None:
        raise ValueError(f"track {name}: the package {name} is not installed; pip install 'cmp-motion[{name}]'")
    if "vis_backends" not in config.get("visualizer", {}):
        raise ValueError(f"track {name}: the config has no visualizer.vis_backends to add it to")
    run = Path(config.work_dir).name
    if name == "wandb":
        project = os.environ.get("WANDB_PROJECT", "cmp-motion")
        backend: dict = dict(type=f"{__name__}.WandbTracker", init_kwargs=dict(project=project, name=run))
    else:
        experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", "cmp-motion")
        address = os.environ.get("MLFLOW_TRACKING_URI")
        backend = dict(type=f"{__name__}.MLflowTracker", exp_name=experiment, run_name=run, tracking_uri=address)
    config.visualizer.vis_backends = [*config.visualizer.vis_backends, backend]
