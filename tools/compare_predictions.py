r"""Judge systems that predict the next frames of a clip, side by side, with the last frame copied and the last motion.

Prints a table: PSNR of the first predicted frame and of all, the same on moving pixels, both sharpness measures, L2 and
GDL (cmp/baselines/prediction_metrics.py says what each is). All systems see the clips of the first config's validation.
For a network that was trained with --cfg-options give the config that its run wrote into its work_dir.

Example:
    python tools/compare_predictions.py \
        configs/baselines/seq2seq_clips_1xb16_1k.py work_dirs/seq2seq_clips_1xb16_1k/iter_1000.pth \
        configs/baselines/multi_scale_clips_1xb16_1k.py work_dirs/multi_scale_clips_1xb16_1k/iter_1000.pth --data videos
"""

import argparse
import sys
from pathlib import Path

import torch
from mmengine.registry import DATASETS, MODELS
from torch.utils.data import DataLoader
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the checkout's own packages, installed or not

from cmp.baselines.frame_prediction import FramePredictor
from cmp.engine.checkpoint import load_strictly, read_checkpoint
from cmp.engine.config import read_config

COLUMNS = {
    "PSNR, first": "psnr_first",
    "PSNR, all": "psnr_all",
    "PSNR moving, first": "psnr_moving_first",
    "PSNR moving, all": "psnr_moving_all",
    "sharpness summed, all": "sharpness_summed_all",
    "sharpness by axis, all": "sharpness_by_axis_all",
    "summed moving, all": "sharpness_summed_moving_all",
    "by axis moving, all": "sharpness_by_axis_moving_all",
    "L2, all": "l2_all",
    "L2 moving, all": "l2_moving_all",
    "GDL, all": "gdl_all",
    "GDL moving, all": "gdl_moving_all",
}


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("pairs", nargs="+", metavar="CONFIG CHECKPOINT", help="a config and its checkpoint, and so on")
    parser.add_argument("--data", nargs="+", metavar="PATH", help="videos, instead of the first config's")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, ... (default: %(default)s)")
    args = parser.parse_args(argv)
    if len(args.pairs) % 2:
        parser.error("every config wants a checkpoint after it")
    return args


def load_predictor(config_path: str, checkpoint_path: str) -> FramePredictor:
    """The network of a config with a checkpoint's weights, in eval mode.

    Raises:
        FileNotFoundError, ValueError: a file is missing, broken, or of another kind of network.
    """
    model = MODELS.build(read_config(config_path).model)
    if not isinstance(model, FramePredictor):
        raise ValueError(f"{config_path}: {type(model).__name__} does not predict frames")
    load_strictly(model, read_checkpoint(checkpoint_path).state_dict, source=checkpoint_path)
    return model.eval()


@torch.no_grad()
def judge(model: FramePredictor, loader: DataLoader, device: str, name: str) -> dict[str, float]:
    """Means of `FramePredictor.judge` over all clips that have the measure."""
    model.to(device)
    tables = [model.judge(batch["frames"].to(device)) for batch in tqdm(loader, name, disable=None, leave=False)]
    return {key: float(torch.cat([table[key] for table in tables]).nanmean()) for key in tables[0]}


def main(argv: list[str] | None = None) -> int:
    """Print the table; returns the exit status."""
    args = parse_args(argv)
    try:
        if args.device.startswith("cuda") and not torch.cuda.is_available():
            raise ValueError("--device cuda: torch sees no GPU here")
        configs, checkpoints = args.pairs[::2], args.pairs[1::2]
        data = read_config(configs[0]).val_dataloader
        if args.data:
            data.dataset.paths = args.data
        clips = DATASETS.build(data.dataset)
        loader = DataLoader(clips, batch_size=data.batch_size)
        rows = {}
        for config, checkpoint in zip(configs, checkpoints):
            model = load_predictor(config, checkpoint)
            means = judge(model, loader, args.device, checkpoint)
            rows[f"{Path(config).stem}, {checkpoint}"] = [means[f"model_{column}"] for column in COLUMNS.values()]
            for way, name in (("copy", "the last frame again"), ("flow", "the last motion going on")):
                rows[f"{name}, after {model.given}"] = [means[f"{way}_{column}"] for column in COLUMNS.values()]
    except (OSError, ValueError) as error:
        print(f"compare_predictions.py: {error}", file=sys.stderr)
        return 2
    print(f"| | {' | '.join(COLUMNS)} |\n|{' --- |' * (1 + len(COLUMNS))}")
    for name, values in rows.items():
        decimals = [4 if column.startswith(("l2", "gdl")) else 2 for column in COLUMNS.values()]
        print(f"| {name} | {' | '.join(f'{value:.{d}f}' for value, d in zip(values, decimals))} |")
    print(f"{len(clips)} clips of {len(clips.videos)} videos, {clips.num_frames} frames of {clips.size_px} px each")
    return 0


if __name__ == "__main__":
    sys.exit(main())
