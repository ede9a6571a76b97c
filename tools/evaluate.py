r"""Judge a pretrained network.

    propagation   how well it spreads guidance over held-out pairs, beside two controls and two interpolations

Example:
    python tools/evaluate.py propagation configs/pretrain/cmp_r18_quickstart_1xb16_300.py work_dirs/q/iter_300.pth \
        --data my_pairs --out work_dirs/q/judged
"""

import argparse
import json
import sys
from pathlib import Path

import cv2
import torch
from mmengine.runner import Runner
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the checkout's own packages, installed or not

from cmp.engine.checkpoint import load_model
from cmp.engine.config import read_config
from cmp.engine.loops import predict_with_controls
from cmp.engine.metrics import FlowMetric, controls_table
from cmp.engine.pictures import choose_rows, prediction_sheet


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
    task.add_argument("checkpoint", help="a checkpoint that tools/train.py wrote")
    task.add_argument("--data", nargs="+", metavar="PATH", help="pair stores or list files instead of the config's")
    task.add_argument("--out", help="folder for metrics.json, table.txt and predictions.png; else nothing is kept")
    task.add_argument("--rows", type=int, choices=range(1, 65), metavar="N", default=6, help="samples in the picture")
    task.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="where to compute")
    return parser.parse_args(argv)


def evaluate_propagation(args: argparse.Namespace) -> None:
    """Predict every held-out pair, print the table, and keep table and picture if asked to."""
    model = load_model(args.checkpoint).to(args.device)
    config = read_config(args.config)
    if args.data:
        config.val_dataloader.dataset.source.paths = args.data
    loader = Runner.build_dataloader(config.val_dataloader, seed=0)
    dataset = loader.dataset
    metric, shown = FlowMetric(), []
    with tqdm(total=len(dataset), desc="evaluate", unit="pair") as bar:
        for batch in loader:
            batch = {k: v.to(args.device) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}
            outputs = predict_with_controls(model, batch)
            metric.process(batch, outputs)
            shown = choose_rows(shown, batch, outputs, args.rows)
            bar.update(len(outputs))
    metrics = metric.evaluate(len(dataset))
    table = controls_table(metrics)
    print(f"{len(dataset)} held-out pairs of {len(dataset.video_names)} videos\n{table}")
    if args.out:
        out = Path(args.out)
        out.mkdir(parents=True, exist_ok=True)
        (out / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")
        (out / "table.txt").write_text(table + "\n")
        cv2.imwrite(str(out / "predictions.png"), prediction_sheet(shown)[..., ::-1])
        print(f"wrote metrics.json, table.txt and predictions.png to {out}")


def main(argv: list[str] | None = None) -> int:
    """Judge; returns the exit status."""
    args = parse_args(argv)
    try:
        evaluate_propagation(args)
    except (OSError, ValueError) as error:
        print(f"evaluate.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
