r"""Evaluate a pretrained network.

    propagation    endpoint error of its predicted flow on pairs, with two controls and three interpolations
    segmentation   mean IoU of an FCN trained on its backbone, frozen or fine-tuned
    detection      average precision of a Mask R-CNN with a feature pyramid trained on its backbone
    knn, linear    accuracy of classifiers on its frozen features, on folders of classes

Example:
    cmp-motion evaluate knn backbone.pth cifar10_subset
    cmp-motion evaluate segmentation segmentation_camvid_r18 backbone.pth camvid \
        --frozen --work-dir work_dirs/camvid_frozen
    cmp-motion evaluate propagation r18_quickstart work_dirs/q/iter_300.pth \
        --data my_pairs --out work_dirs/q/judged

Exit status: 0; 2 wrong usage, config, path or data; 1 training failed; 75 where SIGTERM, SIGUSR1 or Ctrl-C stopped the
training of segmentation or detection, which saved a checkpoint (--resume goes on); 130 after Ctrl-C elsewhere.
"""

import argparse
import json
import os
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path

from cmp.cli.arguments import Parser, say
from cmp.cli.choices import INTERPOLATIONS
from cmp.engine.errors import describe_error, error_status
from cmp.engine.options import KeyValues
from cmp.engine.recipes import KINDS, find_recipe
from cmp.engine.stop_signals import STOPPED_STATUS
from cmp.files import check_paths, files_in, write_file
from cmp.folder_lock import FolderInUse
from cmp.interrupts import imports_can_be_interrupted


def positive(text: str) -> float:
    """A number above 0, for argparse."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be above 0, got {text}")
    return value


def points(text: str) -> int | str:
    """A number of guidance points, at least 1, or "all", for argparse."""
    if text != "all" and not (text.isascii() and text.isdigit() and int(text) >= 1):
        raise argparse.ArgumentTypeError(f"must be a whole number from 1, or all, got {text!r}")
    return text if text == "all" else int(text)


def parse_args(argv: Sequence[str] | None, prog: str) -> argparse.Namespace:
    """Parse the arguments."""
    parser = Parser(prog=prog, description=__doc__)
    tasks = parser.add_subparsers(dest="task", required=True, metavar="TASK")
    task = tasks.add_parser(
        "propagation",
        help="endpoint error on held-out pairs, with controls",
        epilog=f"Example: {prog} propagation r18_quickstart iter_300.pth --data my_pairs --out judged",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    task.add_argument(
        "config",
        help="the config it was trained with (a file, or the name of a recipe): it gives the pairs and points",
    )
    task.add_argument("checkpoint", help='a checkpoint of a training, or "none": only what needs no network')
    task.add_argument("--data", nargs="+", metavar="PATH", help="pair stores or list files instead of the config's")
    task.add_argument(
        "--part",
        choices=("all", "val", "train"),
        help="pairs to evaluate: all, or a part of the config's split; default: all of a --data that the network was "
        "not trained on, else what the config holds out",
    )
    task.add_argument(
        "--points",
        nargs="+",
        type=points,
        default=["all"],
        metavar="N",
        help="guidance points to keep of each pair, drawn once for each pair; several make a table: 1 2 4 8 all",
    )
    task.add_argument(
        "--out",
        help="folder for metrics.json, table.txt and predictions.png, made if it does not exist; else nothing is kept",
    )
    task.add_argument(
        "--interpolations",
        nargs="+",
        choices=INTERPOLATIONS,
        default=["nearest", "inverse_distance", "fading"],
        help="methods without a network to compare with; edge_aware takes half a second per pair",
    )
    task.add_argument(
        "--beside", metavar="CHECKPOINT", help="another checkpoint (or starter): its error becomes a row of the table"
    )
    task.add_argument("--rows", type=int, choices=range(1, 65), metavar="N", default=6, help="samples in the picture")
    task.add_argument(
        "--device", default=argparse.SUPPRESS, help="where to compute (default: a GPU where there is one)"
    )
    _add_print_config(task)
    _add_segmentation(tasks, prog)
    _add_trained_task(
        tasks,
        prog,
        "detection",
        "COCO's average precision of a Mask R-CNN trained on the backbone",
        "detection_coco_r50 backbone.pth coco",
    )
    for name, help in (("knn", "accuracy of nearest neighbors"), ("linear", "accuracy of a linear classifier")):
        _add_probe(tasks, prog, name, help)
    return parser.parse_args(argv)


def _add_segmentation(tasks: argparse._SubParsersAction, prog: str) -> None:
    task = _add_trained_task(
        tasks,
        prog,
        "segmentation",
        "mIoU of an FCN trained on the backbone",
        "segmentation_camvid_r18 backbone.pth camvid",
    )
    task.add_argument("--frozen", action="store_true", help="keep the backbone and train a linear head alone")
    task.add_argument("--check-data", action="store_true", help="read every file first; anything wrong is named")
    task.add_argument("--scales", type=positive, nargs="+", metavar="S", help="sizes to test at; default: the config's")
    task.add_argument("--flip", action="store_true", help="test mirrored images too")


def _add_probe(tasks: argparse._SubParsersAction, prog: str, name: str, help: str) -> None:
    task = tasks.add_parser(
        name,
        help=help,
        epilog=f"Example: {prog} {name} backbone.pth folder_of_classes",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    task.add_argument("backbone", help='an export, a checkpoint of pretraining, or "random"')
    task.add_argument("data", help="folder of two parts, each with one folder per class")
    task.add_argument("--parts", nargs=2, default=("train", "test"), metavar=("TRAIN", "TEST"), help="its two parts")
    task.add_argument("--encoder", default="resnet18", help="of a random backbone; a file names its own")
    task.add_argument("--size", type=int, default=96, metavar="PX", help="side that images are resized to")
    task.add_argument("--seed", type=int, default=0, metavar="N", help="of a random backbone and of held-out images")
    task.add_argument(
        "--device", default=argparse.SUPPRESS, help="where to compute (default: a GPU where there is one)"
    )
    task.add_argument("--out", help="folder for metrics.json, made if it does not exist; else nothing is kept")
    if name == "knn":
        task.add_argument("-k", type=int, default=20, metavar="N", help="neighbors that vote")


def _add_trained_task(
    tasks: argparse._SubParsersAction, prog: str, name: str, help: str, example: str
) -> argparse.ArgumentParser:
    """Add a task that trains, with the arguments that all of them have."""
    task = tasks.add_parser(name, help=help, epilog=f"Example: {prog} {name} {example} --work-dir work_dirs/{name}")
    task.add_argument("config", help=f"a config file, or the name of a recipe: configs/downstream/{name}_*.py")
    task.add_argument("backbone", help='an export, a checkpoint of pretraining, or "random"')
    task.add_argument("data", help="folder of the data set")
    task.add_argument("--work-dir", help="folder for log, checkpoints and metrics.json (default: work_dirs/CONFIG)")
    task.add_argument("--steps", type=int, metavar="N", help="length of training (default: the config's)")
    task.add_argument("--seed", type=int, default=0, metavar="N", help="of head, order and crops (default: 0)")
    task.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        metavar="PATH",
        help="go on from a checkpoint: PATH, or the newest in the work dir; a finished run is only evaluated again",
    )
    task.add_argument(
        "--cfg-options", nargs="+", action=KeyValues, metavar="KEY=VALUE", help="change values of the config"
    )
    _add_print_config(task)
    return task


def _add_print_config(task: argparse.ArgumentParser) -> None:
    task.add_argument(
        "--print-config", action="store_true", help="print the whole config that would run, as Python, and exit"
    )


def run_trained_task(args: argparse.Namespace, prog: str) -> int:
    """Train an FCN or a Mask R-CNN and evaluate it; returns the exit status."""
    with imports_can_be_interrupted():
        from cmp.downstream.tasks import run_task, task_config
    segmentation = args.task == "segmentation"
    own = dict(frozen=args.frozen, scales=args.scales, flip=args.flip) if segmentation else {}
    config = task_config(
        args.task,
        args.config,
        args.backbone,
        args.data,
        work_dir=args.work_dir,
        steps=args.steps,
        seed=args.seed,
        options=args.cfg_options,
        **own,
    )
    if args.print_config:
        print(config.pretty_text)
        return 0
    check_data = segmentation and args.check_data
    metrics, stopped_by = run_task(
        args.task, config, resume=args.resume, check_data=check_data, warn=partial(say, prog)
    )
    if stopped_by is not None:
        say(prog, f"stopped by {stopped_by} before it was evaluated: --resume goes on")
        return STOPPED_STATUS
    if metrics:
        print_scores(args.task, metrics)
        print(f"metrics.json: {config.work_dir}")
    return 0


def print_scores(task: str, metrics: dict) -> None:
    """Print the scores of segmentation or detection."""
    if task == "segmentation":
        from cmp.downstream.segmentation_metric import scores_table

        print(scores_table(metrics))
        print(f"{metrics['images']} images, mean IoU {metrics['miou']:.2f} %", end="; ")
        return
    for kind in ("box", "mask"):
        print("  ".join(f"{key} {value:.2f}" for key, value in metrics.items() if key.startswith(kind)))
    said = f"box AP {metrics['box_AP']:.2f}, mask AP {metrics['mask_AP']:.2f} %"
    print(f"{metrics['images']} images, {said}", end="; ")


def run_probe(args: argparse.Namespace, prog: str) -> int:
    """Evaluate nearest neighbors or a linear classifier on frozen features."""
    with imports_can_be_interrupted():
        from cmp.downstream.probes import evaluate_probe
        from cmp.engine.provenance import record_start
    own = {"k": args.k} if args.task == "knn" else {}
    found = evaluate_probe(
        args.task,
        args.backbone,
        args.data,
        parts=args.parts,
        encoder=args.encoder,
        size_px=args.size,
        seed=args.seed,
        device=getattr(args, "device", None),
        **own,
    )
    encoder, learned_from, how = (found.pop(key) for key in ("encoder", "learned_from", "how"))
    chance = f"chance {100 / found['classes']:.1f} %, {learned_from} to learn from"
    print(f"{encoder} ({args.backbone}), {args.task}, {how}:")
    print(f"{found['accuracy']:.1f} % of {found['images']} images right ({chance})")
    if args.out:
        Path(args.out).mkdir(parents=True, exist_ok=True)
        start = record_start(args.out, resumed_from=None, num_processes=1)
        write_file(Path(args.out) / "metrics.json", json.dumps({**found, "start": start}, indent=1) + "\n")
    return 0


def run_propagation(args: argparse.Namespace, prog: str) -> int:
    """Predict the pairs of a part, print which pairs and the table, and keep table and picture if asked to."""
    with imports_can_be_interrupted():
        from cmp.checkpoints import read_checkpoint
        from cmp.evaluation.propagation import evaluate_checkpoint, propagation_config
    checkpoint = None if args.checkpoint == "none" else args.checkpoint
    if args.print_config:
        read = None if checkpoint is None else read_checkpoint(checkpoint)
        config, _, _ = propagation_config(args.config, read, data=args.data, part=args.part)
        print(config.pretty_text)
        return 0
    done = evaluate_checkpoint(
        args.config,
        checkpoint,
        data=args.data,
        part=args.part,
        points=args.points,
        interpolations=args.interpolations,
        rows=args.rows,
        beside=args.beside,
        device=getattr(args, "device", None),
    )
    found = done.result
    kept = "" if list(found.metrics) == ["all"] else f"; guidance points of each pair: {', '.join(found.metrics)}"
    which = f"evaluated {found.pairs} of {found.pairs_in_all} pairs, from {found.videos} videos"
    print(f"{which}, part {done.part}: {done.why}{kept}\n{found.table}")
    if args.out:
        *names, last = done.write(args.out)
        print(f"wrote {', '.join(names)} and {last} to {args.out}")
    return 0


def check_arguments(args: argparse.Namespace) -> None:
    """Refuse outputs that would overwrite inputs, and configs that do not exist, before the work."""
    names = ("config", "checkpoint", "beside", "backbone", "data")
    reads = {name.upper(): getattr(args, name) for name in names if getattr(args, name, None) is not None}
    out = getattr(args, "work_dir", None) or getattr(args, "out", None)
    made = files_in(out, ("metrics.json", "table.txt", "predictions.png", "starts.jsonl"))
    check_paths(
        reads=reads, writes={"a result": made}, folders={"--work-dir" if hasattr(args, "work_dir") else "--out": out}
    )
    if hasattr(args, "config"):
        args.config = find_recipe(args.config, KINDS[:2] if args.task == "propagation" else ("downstream",))


TASKS = {
    "propagation": run_propagation,
    "segmentation": run_trained_task,
    "detection": run_trained_task,
    "knn": run_probe,
    "linear": run_probe,
}


def main(argv: Sequence[str] | None = None, *, prog: str = "evaluate.py") -> int:
    """Evaluate; returns the exit status."""
    args = parse_args(argv, prog)
    try:
        check_arguments(args)
        with imports_can_be_interrupted():
            from cmp.engine.processes import hold_work_dir
        writes = getattr(args, "out", None) and not getattr(args, "print_config", False)
        with hold_work_dir(args.out) if writes else nullcontext():
            return TASKS[args.task](args, prog)
    except (OSError, ValueError, TypeError, ModuleNotFoundError, FloatingPointError, FolderInUse) as error:
        if os.environ.get("CMP_TRACEBACK"):
            raise
        say(prog, describe_error(error) if str(error).startswith("Caught ") else error)
        return error_status(error)
