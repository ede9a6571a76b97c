"""Any model of the `ptlflow` package by name.

The package is an extra. It pins older libraries, so it needs a separate virtual environment.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.metadata import version

import torch
from torch import nn

from data_prep.estimators.network import NetworkEstimator, choose_device, read_weights
from data_prep.estimators.weights import weights_label

# In ptlflow 0.4.2 these mix the pairs of a batch: two pairs fail, and three give wrong flow without an error.
_ONE_PAIR_AT_A_TIME = ("liteflownet", "liteflownet2", "liteflownet3")


class PtlflowEstimator(NetworkEstimator):
    """A model of ptlflow. Check its license: LiteFlowNet, for example, is for academic use only.

    Args:
        model: the package's name for it, such as "liteflownet" or "sea_raft_s".
        weights: file with a checkpoint or state dict of the model; None for the first checkpoint of the package, from
            its cache or the network.
        device, batch_size: see `RaftEstimator`. LiteFlowNet computes one pair at a time, whatever the batch size.

    Raises:
        ModuleNotFoundError: ptlflow is not installed.
        FileNotFoundError: the file does not exist; or none was given, and the package's checkpoint cannot be fetched.
        ValueError: the package has no model of this name, or no checkpoint for it and no file was given; or the file
            contains weights of another model.
    """

    def __init__(self, model: str, *, weights: str | None = None, device: str = "auto", batch_size: int = 4) -> None:
        chosen = choose_device(device)
        self._model, label = _load(model, weights, chosen)
        if model.startswith(_ONE_PAIR_AT_A_TIME):
            batch_size = min(batch_size, 1)  # a size below 1 stays an error
        super().__init__(f"ptlflow:{model}", label, f"ptlflow {version('ptlflow')}", chosen, batch_size)

    def _forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        images = torch.stack([first, second], dim=1).flip(2)  # (B, 2, 3, H, W); its models take OpenCV's channel order
        images = images.contiguous()  # its padding views them
        return self._model({"images": images})["flows"][:, 0]  # the models pad


@lru_cache(maxsize=1)  # a worker does many videos with one model
def _load(name: str, weights: str | None, device: torch.device) -> tuple[nn.Module, str]:
    try:
        import ptlflow
    except ModuleNotFoundError as error:
        if error.name != "ptlflow":
            raise
        raise ModuleNotFoundError(
            f"ptlflow:{name} needs the package ptlflow, which pins older libraries: install this project and "
            '"ptlflow>=0.4" in a separate virtual environment, and run this command there', name="ptlflow"
        ) from error  # fmt: skip
    known = ptlflow.get_model_names()
    if name not in known:
        raise ValueError(f"ptlflow has no model {name!r}; it has {', '.join(known)}")
    offered = list(getattr(ptlflow.get_model_reference(name), "pretrained_checkpoints", None) or ())
    if weights is not None:
        model, label = ptlflow.get_model(name), weights_label(weights)
        try:
            model.load_state_dict(read_weights(weights))
        except RuntimeError as error:
            raise ValueError(f"{weights}: not weights of ptlflow's {name} ({str(error)[:300]})") from error
    elif offered:
        label = f"ptlflow {offered[0]}"
        try:
            model = ptlflow.get_model(name, ckpt_path=offered[0])
        except (OSError, RuntimeError) as error:
            raise FileNotFoundError(
                f"ptlflow:{name} needs weights, and its own ({offered[0]!r}) could not be fetched ({error}). "
                "Fetch them where there is a network, and name the file with --estimator-weights"
            ) from error
    else:
        raise ValueError(f"ptlflow offers no weights for {name}; give a file of them (--estimator-weights)")
    return model.eval().requires_grad_(False).to(device), label
