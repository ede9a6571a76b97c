r"""Judge a pretrained network.

    propagation    how well it spreads guidance over held-out pairs, beside two controls and three interpolations
    segmentation   what its backbone is worth for classes of pixels: trains an FCN on it, frozen or fine-tuned
    detection      what it is worth for objects: trains a Mask R-CNN with a feature pyramid on it
    knn, linear    what its frozen features are worth on folders of classes

Example:
    python tools/evaluate.py knn backbone.pth cifar10_subset
    python tools/evaluate.py segmentation configs/downstream/segmentation_camvid_r18_1xb8_200.py backbone.pth camvid \
        --frozen --work-dir work_dirs/camvid_frozen
    python tools/evaluate.py propagation configs/pretrain/cmp_r18_quickstart_1xb16_300.py work_dirs/q/iter_300.pth \
        --data my_pairs --out work_dirs/q/judged
"""

import argparse
import json
import os
import sys
from pathlib import Path

import cv2
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the checkout's own packages, installed or not

from cmp.downstream.data_check import print_data_report
from cmp.downstream.detection import prepare_config as prepare_detection
from cmp.downstream.probes import Encoder, extract, image_folder, knn_accuracy, linear_accuracy
from cmp.downstream.run import set_length, train_and_judge
from cmp.downstream.segmentation import prepare_config as prepare_segmentation
from cmp.downstream.segmentation_metric import scores_table
from cmp.engine.checkpoint import load_model
from cmp.engine.config import KeyValues, read_config
from cmp.engine.loops import predict_with_controls
from cmp.engine.metrics import INTERPOLATIONS, FlowMetric, controls_table
from cmp.engine.pictures import choose_rows, prediction_sheet
from cmp.engine.provenance import record_start
from tools.train import checkpoint_to_resume


def positive(text: str) -> float:
    """A number above 0, for argparse."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be above 0, got {text}")
    return value


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    tasks = parser.add_subparsers(dest="task", required=True, metavar="TASK")
    task = tasks.add_parser(
        "propagation",
        help="endpoint error on held-out pairs, with controls",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    task.add_argument("config", help="the config it was trained with: its val_dataloader says which pairs and guides")
    task.add_argument(
        "checkpoint", help='a checkpoint that tools/train.py wrote, or "none": what takes no network alone'
    )
    task.add_argument("--data", nargs="+", metavar="PATH", help="pair stores or list files instead of the config's")
    task.add_argument("--out", help="folder for metrics.json, table.txt and predictions.png; else nothing is kept")
    task.add_argument(
        "--interpolations",
        nargs="+",
        choices=INTERPOLATIONS,
        default=["nearest", "inverse_distance", "fading"],
        help="which to judge beside it; edge_aware takes half a second a pair",
    )
    task.add_argument("--rows", type=int, choices=range(1, 65), metavar="N", default=6, help="samples in the picture")
    task.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="where to compute")
    _add_segmentation(tasks)
    _add_trained_task(tasks, "detection", "COCO's average precision of a Mask R-CNN trained on the backbone")
    for name, help in (("knn", "accuracy of nearest neighbours"), ("linear", "accuracy of a linear classifier")):
        _add_probe(tasks, name, help)
    return parser.parse_args(argv)


def _add_segmentation(tasks: argparse._SubParsersAction) -> None:
    task = _add_trained_task(tasks, "segmentation", "mIoU of an FCN trained on the backbone")
    task.add_argument("--frozen", action="store_true", help="keep the backbone and train a linear head alone")
    task.add_argument("--check-data", action="store_true", help="read every file first; anything wrong is named")
    task.add_argument("--scales", type=positive, nargs="+", metavar="S", help="sizes to test at; default: the config's")
    task.add_argument("--flip", action="store_true", help="test mirrored images too")


def _add_probe(tasks: argparse._SubParsersAction, name: str, help: str) -> None:
    task = tasks.add_parser(name, help=help, formatter_class=argparse.ArgumentDefaultsHelpFormatter, allow_abbrev=False)
    task.add_argument("backbone", help='an export, a checkpoint of pretraining, or "random"')
    task.add_argument("data", help="folder with a folder a class in each part")
    task.add_argument("--parts", nargs=2, default=("train", "test"), metavar=("TRAIN", "TEST"), help="its two parts")
    task.add_argument("--encoder", default="resnet18", help="of a random backbone; a file says its own")
    task.add_argument("--size", type=int, default=96, metavar="PX", help="side that images are resized to")
    task.add_argument("--seed", type=int, default=0, metavar="N", help="of a random backbone and of held-out images")
    task.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="where to compute")
    task.add_argument("--out", help="folder for metrics.json; else nothing is kept")
    if name == "knn":
        task.add_argument("-k", type=int, default=20, metavar="N", help="neighbours that vote")


def _add_trained_task(tasks: argparse._SubParsersAction, name: str, help: str) -> argparse.ArgumentParser:
    """A task that trains: what all of them are told."""
    task = tasks.add_parser(name, help=help, allow_abbrev=False)
    task.add_argument("config", help=f"configs/downstream/{name}_*.py")
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
        help="go on from a checkpoint: PATH, or the newest in the work dir; a finished run is only judged again",
    )
    task.add_argument(
        "--cfg-options", nargs="+", action=KeyValues, metavar="KEY=VALUE", help="change values of the config"
    )
    return task


def _prepared(args: argparse.Namespace) -> tuple[Config, str | None]:
    """The config with what the command line says of any trained task, and the checkpoint to go on from."""
    config = read_config(args.config, args.cfg_options)
    if args.steps is not None:
        set_length(config, args.steps)
    config.randomness.seed = args.seed
    config.work_dir = args.work_dir or str(Path("work_dirs") / Path(args.config).stem)
    return config, checkpoint_to_resume(args.resume, config.work_dir)


def evaluate_segmentation(args: argparse.Namespace) -> None:
    """Train an FCN and judge it."""
    config, checkpoint = _prepared(args)
    prepare_segmentation(config, data_dir=args.data, backbone=args.backbone, frozen=args.frozen)
    if args.scales:
        config.val_cfg.scales = args.scales
    config.val_cfg.flip = config.val_cfg.flip or args.flip
    if args.check_data:
        problems = []
        for name in ("train", "val"):
            try:
                print_data_report(config[f"{name}_dataloader"].dataset)
            except (OSError, ValueError) as error:
                problems.append(str(error))
        if problems:
            raise ValueError("\n".join(problems))
    metrics = train_and_judge(config, checkpoint)
    if metrics:
        print(scores_table(metrics))
        print(f"{metrics['images']} images, mean IoU {metrics['miou']:.2f} %; metrics.json: {config.work_dir}")


def evaluate_detection(args: argparse.Namespace) -> None:
    """Train a Mask R-CNN and judge it."""
    config, checkpoint = _prepared(args)
    prepare_detection(config, data_dir=args.data, backbone=args.backbone)
    metrics = train_and_judge(config, checkpoint)
    if metrics:
        for kind in ("box", "mask"):
            print("  ".join(f"{key} {value:.2f}" for key, value in metrics.items() if key.startswith(kind)))
        said = f"box AP {metrics['box_AP']:.2f}, mask AP {metrics['mask_AP']:.2f} %"
        print(f"{metrics['images']} images, {said}; metrics.json: {config.work_dir}")


def evaluate_probe(args: argparse.Namespace) -> None:
    """Nearest neighbours or a linear classifier on frozen features."""
    encoder = Encoder(args.backbone, args.encoder, args.seed)
    folders = [image_folder(Path(args.data) / part, args.size) for part in args.parts]
    train, test = (extract(encoder, folder, device=args.device) for folder in folders)
    if args.task == "knn":
        accuracy, how = knn_accuracy(train, test, args.k), f"k = {args.k}"
    else:
        accuracy, decay = linear_accuracy(train, test, args.seed)
        how = f"weight decay {decay:g}"
    chance = f"chance {100 / len(train.classes):.1f} %, {len(train.labels)} to learn from"
    print(f"{encoder.bare.name} ({args.backbone}), {args.task}, {how}:")
    print(f"{accuracy:.1f} % of {len(test.labels)} images right ({chance})")
    if args.out:
        Path(args.out).mkdir(parents=True, exist_ok=True)
        start = record_start(args.out, resumed_from=None, num_processes=1)
        metrics = dict(accuracy=accuracy, images=len(test.labels), classes=len(train.classes), seed=args.seed)
        metrics |= dict(backbone=str(args.backbone), start=start)
        (Path(args.out) / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")


def evaluate_propagation(args: argparse.Namespace) -> None:
    """Predict every held-out pair, print the table, and keep table and picture if asked to."""
    model = None if args.checkpoint == "none" else load_model(args.checkpoint).to(args.device)
    config = read_config(args.config)
    if args.data:
        config.val_dataloader.dataset.source.paths = args.data
    loader = Runner.build_dataloader(config.val_dataloader, seed=0)
    dataset = loader.dataset
    metric, shown = FlowMetric(interpolations=args.interpolations), []
    with tqdm(total=len(dataset), desc="evaluate", unit="pair") as bar:
        for batch in loader:
            batch = {k: v.to(args.device) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}
            outputs = predict_with_controls(model, batch) if model else [{} for _ in batch["image"]]
            metric.process(batch, outputs)
            shown = choose_rows(shown, batch, outputs, args.rows) if model else []
            bar.update(len(outputs))
    metrics = metric.evaluate(len(dataset))
    table = controls_table(metrics)
    print(f"{len(dataset)} held-out pairs of {len(dataset.video_names)} videos\n{table}")
    if args.out:
        out = Path(args.out)
        out.mkdir(parents=True, exist_ok=True)
        start = record_start(out, resumed_from=None, num_processes=1)
        (out / "metrics.json").write_text(json.dumps(metrics | dict(start=start), indent=1) + "\n")
        (out / "table.txt").write_text(table + "\n")
        if shown:
            cv2.imwrite(str(out / "predictions.png"), prediction_sheet(shown)[..., ::-1])
        print(f"wrote metrics.json, table.txt{' and predictions.png' if shown else ''} to {out}")


TASKS = {
    "propagation": evaluate_propagation,
    "segmentation": evaluate_segmentation,
    "detection": evaluate_detection,
    "knn": evaluate_probe,
    "linear": evaluate_probe,
}


def main(argv: list[str] | None = None) -> int:
    """Judge; returns the exit status."""
    args = parse_args(argv)
    try:
        TASKS[args.task](args)
    except (OSError, ValueError, TypeError, ModuleNotFoundError, FloatingPointError) as error:
        if os.environ.get("CMP_TRACEBACK"):
            raise
        print(f"evaluate.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
