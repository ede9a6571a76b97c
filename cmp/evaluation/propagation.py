"""Evaluate a network on pairs: endpoint errors with several numbers of guidance points, controls, interpolations."""

import json
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import torch
from mmengine.config import Config
from mmengine.runner import Runner
from tqdm import tqdm

from cmp.checkpoints import Checkpoint, read_checkpoint
from cmp.engine.config import read_config
from cmp.engine.provenance import record_start
from cmp.evaluation.controls import encode_with_other, predict_with_controls
from cmp.evaluation.metrics import FlowMetric, keep_points
from cmp.evaluation.pair_choice import choose_part
from cmp.evaluation.pictures import choose_rows, prediction_sheet
from cmp.evaluation.tables import controls_table, points_table
from cmp.files import write_file
from cmp.models import CMP
from cmp.video.writers import write_png


class PropagationResult(NamedTuple):
    """What an evaluation found."""

    metrics: dict[str, dict[str, float]]  # number of points ("all" or its digits) to the metrics of `FlowMetric`, and
    # "mean_points", the mean number of points of a pair
    pairs: int  # how many pairs were evaluated
    videos: int  # how many videos they are from
    pairs_in_all: int  # how many pairs there are in the data
    rows: list[dict]  # for `prediction_sheet`; empty without a network
    beside: str | None = None  # the checkpoint whose endpoint error is "epe_beside"

    @property
    def table(self) -> str:
        """The metrics as text."""
        if len(self.metrics) > 1:
            return points_table(self.metrics, self.beside)
        return controls_table(next(iter(self.metrics.values())), self.beside)

    def add_beside(self, other: "PropagationResult", name: str) -> "PropagationResult":
        """This result with the endpoint errors of another network on the same pairs, as "epe_beside".

        Args:
            other: what `evaluate_propagation` found with the same config and numbers of points.
            name: of the other network, for the table.
        """
        metrics = {n: found | dict(epe_beside=other.metrics[n]["epe"]) for n, found in self.metrics.items()}
        return PropagationResult(metrics, self.pairs, self.videos, self.pairs_in_all, self.rows, name)


def evaluate_propagation(
    config: Config,
    model: CMP | None,
    *,
    points: Sequence[int | str] = ("all",),
    interpolations: Sequence[str] = ("nearest", "inverse_distance"),
    max_rows: int = 6,
    device: str = "cpu",
) -> PropagationResult:
    """Predict the pairs of a config's `val_dataloader`, and measure how far the flow is from the target.

    Args:
        config: its val_dataloader names the pairs, the part of them and the guidance.
        model: in eval mode, on the device; None evaluates only what needs no network.
        points: numbers of guidance points to keep of each pair, each at least 1 or "all".
        interpolations: names of `INTERPOLATIONS`.
        max_rows: samples to keep for `prediction_sheet`.
        device: where batches go.
    """
    loader = Runner.build_dataloader(config.val_dataloader, seed=0)
    dataset = loader.dataset
    metrics = {name: FlowMetric(interpolations=interpolations) for name in dict.fromkeys(points)}
    counts, rows = dict.fromkeys(metrics, 0), []
    with tqdm(total=len(dataset), desc="evaluate", unit="pair") as bar:
        for whole in loader:
            whole = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in whole.items()}
            features = None if model is None else encode_with_other(model, whole)
            for name, metric in metrics.items():
                batch = keep_points(whole, None if name == "all" else int(name))
                if model is None:
                    outputs = [{} for _ in batch["image"]]
                else:
                    outputs = predict_with_controls(model, batch, features)
                metric.process(batch, outputs)
                counts[name] += int((batch["mask"] > 0).sum())
            if model is not None:
                rows = choose_rows(rows, batch, outputs, max_rows)  # with the last number of points
            bar.update(len(outputs))
    found = {
        str(name): metric.evaluate(len(dataset)) | dict(mean_points=counts[name] / len(dataset))
        for name, metric in metrics.items()
    }
    return PropagationResult(found, len(dataset), len(dataset.video_names), len(dataset.source), rows)


class PropagationEvaluation(NamedTuple):
    """What `evaluate_checkpoint` evaluated, and what it found."""

    config: Config  # as it was evaluated
    part: str  # of the pairs
    why: str  # it is this part
    result: PropagationResult

    def numbers(self) -> dict:
        """The metrics, or {"points": metrics of each number of points}; and which pairs were evaluated ("judged")."""
        found = self.result
        which = dict(part=self.part, why=self.why, pairs=found.pairs, videos=found.videos, points=list(found.metrics))
        which["pairs_in_all"] = found.pairs_in_all
        if found.beside is not None:
            which["beside"] = found.beside
        metrics = {"points": found.metrics} if len(found.metrics) > 1 else next(iter(found.metrics.values()))
        return {**metrics, "judged": which}

    def write(self, out: str | PathLike) -> list[str]:
        """Write metrics.json, table.txt and, where a network predicted, predictions.png; returns their names."""
        out = Path(out)
        out.mkdir(parents=True, exist_ok=True)
        start = record_start(out, resumed_from=None, num_processes=1)
        write_file(out / "metrics.json", json.dumps({**self.numbers(), "start": start}, indent=1) + "\n")
        write_file(out / "table.txt", self.result.table + "\n")
        if not self.result.rows:
            return ["metrics.json", "table.txt"]
        write_png(out / "predictions.png", prediction_sheet(self.result.rows))
        return ["metrics.json", "table.txt", "predictions.png"]


def propagation_config(
    config: str | PathLike,
    checkpoint: Checkpoint | None,
    *,
    data: Sequence[str] | None = None,
    part: str | None = None,
) -> tuple[Config, str, str]:
    """The config whose val_dataloader has the pairs to evaluate, the part of them, and why it is this part.

    Args:
        config: the one that the network was trained with: a file, or the name of a recipe.
        checkpoint: the file of the network; None if only what needs no network is evaluated.
        data, part: as for `choose_part`.

    Raises:
        FileNotFoundError, ValueError: the config cannot be read; or as `choose_part`.
    """
    found = read_config(config)
    dataset = found.val_dataloader.dataset
    part, why = choose_part(found, checkpoint, data, part)
    if data:
        dataset.source.paths = list(map(str, data))
    dataset.update(part=part, other_images=True)
    return found, part, why


def evaluate_checkpoint(
    config: str | PathLike,
    checkpoint: str | PathLike | None,
    *,
    data: Sequence[str] | None = None,
    part: str | None = None,
    points: Sequence[int | str] = ("all",),
    interpolations: Sequence[str] = ("nearest", "inverse_distance", "fading"),
    rows: int = 6,
    beside: str | PathLike | None = None,
    device: str | None = None,
) -> PropagationEvaluation:
    """Measure how well a checkpoint propagates guidance on pairs, as `evaluate_propagation`.

    Args:
        config: as for `propagation_config`.
        checkpoint: a file; None evaluates only what needs no network.
        data: pair stores or list files instead of the config's.
        part: "all", "val" or "train"; None: as `choose_part` chooses.
        points, interpolations: as for `evaluate_propagation`.
        rows: samples in the picture.
        beside: another checkpoint, whose endpoint error on the same pairs becomes a row of the table.
        device: where to compute; None: a GPU where there is one.

    Raises:
        FileNotFoundError, OSError, ValueError: an input cannot be used; it is named.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    read = None if checkpoint is None else read_checkpoint(checkpoint)
    other = None if beside is None else read_checkpoint(beside).network().to(device)
    found, part, why = propagation_config(config, read, data=data, part=part)
    model = None if read is None else read.network().to(device)
    result = evaluate_propagation(
        found, model, points=points, interpolations=interpolations, max_rows=rows, device=device
    )
    if other is not None:
        second = evaluate_propagation(found, other, points=points, interpolations=(), max_rows=0, device=device)
        result = result.add_beside(second, str(beside))
    return PropagationEvaluation(found, part, why, result)
