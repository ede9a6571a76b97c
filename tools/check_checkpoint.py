"""Take a checkpoint of the authors through everything that reads checkpoints here, and say what each step showed.

Example:
    python tools/check_checkpoint.py ckpt_iter_42000.pth.tar checked

OUT_DIR gets what each step makes: the checkpoint in our layout and back in theirs, a film, a mask, the exported network
and backbone. A step that fails is named, the others still run, and the command exits with 1. About a minute and 2 GiB
of memory for a ResNet-50.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the checkout's own packages, installed or not

from cmp.compat import CMP_demo
from cmp.engine.checkpoint import read_checkpoint
from cmp.engine.peer_checkpoint import convert_checkpoint, load_peer_model
from cmp.export import export_backbone
from cmp.inference import load_propagator
from cmp.inference.export import export_propagator
from cmp.models import AlexNetFCN, SkipPropagationDecoder
from tools.animate import main as animate
from tools.annotate import main as annotate

ITERATION = 42000
SIZE_HW = (128, 192)


def example() -> tuple[np.ndarray, torch.Tensor, torch.Tensor, list, list]:
    """A picture of soft noise, and the same two arrows as maps and as points."""
    coarse = np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8)
    image = np.array(Image.fromarray(coarse).resize(SIZE_HW[::-1], Image.Resampling.BICUBIC))
    points, vectors = [[60, 40], [150, 90]], [[9.0, -4.0], [0.0, 0.0]]
    sparse, mask = torch.zeros(1, 2, *SIZE_HW), torch.zeros(1, 1, *SIZE_HW)
    for (x, y), vector in zip(points, vectors):
        sparse[0, :, y, x], mask[0, 0, y, x] = torch.tensor(vector), 1
    return image, sparse, mask, points, vectors


def require(truth: bool, message: str) -> None:
    if not truth:
        raise ValueError(message)


def check_conversion(checkpoint: Path, out: Path) -> str:
    convert_checkpoint(checkpoint, out / "ours.safetensors")
    convert_checkpoint(out / "ours.safetensors", out / "back.pth.tar", to="peer")
    convert_checkpoint(checkpoint, out / "their_backbone.pth.tar", to="peer-backbone")
    theirs, back = (read_checkpoint(path).state_dict for path in (checkpoint, out / "back.pth.tar"))
    counters = {key for key in back if key.endswith("num_batches_tracked")}  # files of 2019 lack them
    require(theirs.keys() | counters == back.keys(), "keys are lost or added on the way there and back")
    require(all(torch.equal(back[key], value) for key, value in theirs.items()), "weights change there and back")
    return f"{len(theirs)} tensors equal there and back"


def check_prediction(checkpoint: Path, out: Path) -> str:
    image, sparse, mask, points, vectors = example()
    files = (checkpoint, out / "ours.safetensors", out / "back.pth.tar")
    flows = [load_propagator(path).predict_dense(image, sparse, mask) for path in files]
    require(all(torch.equal(flow, flows[0]) for flow in flows), "the three files predict different flow")
    by_arrows = load_propagator(checkpoint).predict(image, points, vectors)
    require(torch.equal(by_arrows, flows[0]), "predict and predict_dense differ")
    return f"flow of up to {float(flows[0].abs().max()):.2f} px, the same from {len(files)} files and from arrows"


def check_compat(checkpoint: Path, out: Path) -> str:
    network = load_peer_model(checkpoint)
    alexnet, skips = (
        isinstance(network.image_encoder, AlexNetFCN),
        isinstance(network.decoder, SkipPropagationDecoder),
    )
    module = {
        "image_encoder": "alexnet_fcn_32x" if alexnet else network.image_encoder.name,
        "flow_decoder": "MotionDecoderSkipLayer" if skips else "MotionDecoderPlain",
        "nbins": network.quantizer.num_bins,
        "fmax": 50,
    }
    (out / "checkpoints").mkdir(exist_ok=True)
    (out / "config.yaml").write_text(yaml.safe_dump({"model": {"module": module}}))
    convert_checkpoint(checkpoint, out / "checkpoints" / f"ckpt_iter_{ITERATION}.pth.tar", to="peer")
    image, sparse, mask, _, _ = example()
    image = torch.from_numpy(image).permute(2, 0, 1)[None] / 255
    flow = CMP_demo(out / "config.yaml", ITERATION, device="cpu").run(image, sparse, mask.repeat(1, 2, 1, 1))
    expected = load_propagator(checkpoint, normalize="unit").predict_dense(image, sparse, mask)
    require(torch.equal(flow, expected), "the wrapper and predict_dense differ")
    return "CMP_demo(config, iteration).run gives what predict_dense gives with normalize='unit'"


def check_commands(checkpoint: Path, out: Path) -> str:
    Image.fromarray(example()[0]).save(out / "image.png")
    how = ("--checkpoint", str(checkpoint))
    film, mask = out / "film.gif", out / "mask.png"
    require(
        animate([str(out / "image.png"), str(film), *how, "--arrow", "60,40,69,36", "--frames", "4"]) == 0,
        "tools/animate.py fails",
    )
    require(annotate([str(out / "image.png"), str(mask), *how, "--click", "60,40"]) == 0, "tools/annotate.py fails")
    with Image.open(film) as frames, Image.open(mask) as picture:
        require(frames.size == picture.size == SIZE_HW[::-1], "film or mask have another size")
    return f"{film.name}, {mask.name}"


def check_graphs(checkpoint: Path, out: Path) -> str:
    found = [
        export_propagator(checkpoint, out / name, format, overwrite=True)
        for name, format in (("propagator.onnx", "onnx"), ("propagator.pt2", "torch_export"))
    ]
    return "; ".join(str(report.check or "already there") for report in found)


def check_backbone(checkpoint: Path, out: Path) -> str:
    alexnet = isinstance(load_peer_model(checkpoint).image_encoder, AlexNetFCN)
    name, format = ("backbone.safetensors", "safetensors") if alexnet else ("backbone.pth", "torchvision")
    return str(export_backbone(checkpoint, out / name, format, overwrite=True).load_back)


STEPS = {
    "conversion": check_conversion,
    "prediction": check_prediction,
    "compatibility": check_compat,
    "film and mask": check_commands,
    "graphs": check_graphs,
    "backbone": check_backbone,
}


def run_steps(checkpoint: Path, out: Path) -> Iterator[tuple[str, bool, str]]:
    """Each step's name, whether it held, and what it showed."""
    for name, step in STEPS.items():
        try:
            yield name, True, step(checkpoint, out)
        except (ValueError, OSError, ModuleNotFoundError) as error:
            yield name, False, str(error)


def main(argv: list[str] | None = None) -> int:
    """Check; 0 where every step held."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="a whole network in the authors' layout")
    parser.add_argument("out", type=Path, metavar="OUT_DIR", help="folder for what is made")
    args = parser.parse_args(argv)
    try:
        load_peer_model(args.checkpoint)
        args.out.mkdir(parents=True, exist_ok=True)
    except (ValueError, OSError) as error:
        print(f"check_checkpoint.py: {error}", file=sys.stderr)
        return 1
    failed = []
    for name, held, message in run_steps(args.checkpoint, args.out):
        print(f"{'ok    ' if held else 'FAILED'} {name}: {message}", flush=True)
        failed += [] if held else [name]
    print(f"{args.checkpoint}: " + (f"failed: {', '.join(failed)}" if failed else f"all {len(STEPS)} steps held"))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
