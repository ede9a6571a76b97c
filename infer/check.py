"""Compare the results of two installs of this package, for every kind of network that it builds.

    python infer/check.py make FOLDER              # full install: networks with random weights, and the inputs
    python infer/check.py run FOLDER full.npz      # full install
    python infer/check.py run FOLDER light.npz     # with the python of the other install
    python infer/check.py compare full.npz light.npz

`make` writes a checkpoint for each encoder, motion encoder, decoder, quantizer and file format. `run` predicts with
each from arrows and from maps, and repeats the calls of MOFA-Video, the trajectories and the helpers on arrays.
`compare` prints a line per result and exits with status 1 if one differs by more than 1e-3 of its largest value.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch

import cmp
from cmp.checkpoints import read_checkpoint, write_peer_checkpoint
from cmp.compat import CMP_demo
from cmp.flow import FlowQuantizer, flow_to_color
from cmp.flow.quantize import JointFlowQuantizer, PolarFlowQuantizer
from cmp.guidance import sample_guidance
from cmp.inference import (
    interpolate_tracks,
    resize_flow_batch,
    resize_guidance,
    segment_from_clicks,
    tracks_to_guidance,
)
from cmp.models import (
    CMP,
    AlexNetFCN,
    DirectFlow,
    DiscreteLoss,
    MotionEncoder,
    PropagationDecoder,
    PyramidResNet,
    RegressionLoss,
    ResNet,
    SkipPropagationDecoder,
)

TOLERANCE = 1e-3
SIZES_HW = ((96, 128), (75, 101))  # the second is not a multiple of any stride
CONFIG = "model: {{module: {{image_encoder: {encoder}, flow_decoder: {decoder}, nbins: 99, fmax: 50}}}}\n"


def networks() -> dict[str, dict]:
    """The arguments of `CMP` for every kind of network, by name."""
    base = dict(
        image_encoder=dict(type=ResNet, depth=18, output_stride=8),
        motion_encoder=dict(type=MotionEncoder),
        decoder=dict(type=PropagationDecoder, strides=(1, 2, 4)),
        quantizer=dict(type=FlowQuantizer, num_bins=99, max_flow_px=50.0),
        loss=dict(type=DiscreteLoss),
        init="default",
    )
    skips = dict(type=SkipPropagationDecoder, strides=(1, 2, 4, 8))
    pyramid = dict(type=PyramidResNet, depth=18, top_stride=4, out_channels=64)
    small = dict(type=PropagationDecoder, strides=(1, 2, 4), width=64, shortcut=True)
    found = {f"resnet{depth}": dict(image_encoder=dict(type=ResNet, depth=depth)) for depth in (18, 34, 50, 101, 152)}
    for stride in (16, 32):
        found[f"resnet18_stride{stride}"] = dict(image_encoder=dict(type=ResNet, depth=18, output_stride=stride))
    for stride in (8, 32):
        found[f"alexnet_stride{stride}"] = dict(image_encoder=dict(type=AlexNetFCN, output_stride=stride))
    found["resnet50_skip"] = dict(image_encoder=dict(type=ResNet, depth=50), decoder=skips)
    found["pyramid18"] = dict(image_encoder=pyramid, decoder=small)
    found["pyramid50"] = dict(image_encoder=dict(type=PyramidResNet, depth=50, top_stride=8, out_channels=32))
    for fill in ("nearest", "inverse_distance", "attention"):
        found[f"fill_{fill}"] = dict(motion_encoder=dict(type=MotionEncoder, fill=fill))
    still = dict(type=MotionEncoder, hidden_channels=64, out_channels=64, fill="attention", heads=4, still=True)
    found["starter_like"] = dict(
        image_encoder=pyramid,
        motion_encoder=still,
        decoder=small,
        quantizer=dict(type=FlowQuantizer, num_bins=41, max_flow_px=50.0, spacing="quadratic"),
        guide_reach_px=12.0,
    )
    found["joint_bins"] = dict(quantizer=dict(type=JointFlowQuantizer, num_bins=15, max_flow_px=50.0))
    polar = dict(type=PolarFlowQuantizer, num_angles=16, num_radii=12, max_flow_px=50.0)
    found["polar_bins"] = dict(quantizer=polar)
    found["regression"] = dict(quantizer=dict(type=DirectFlow), loss=dict(type=RegressionLoss, kind="smooth_l1"))
    return {name: {**base, **changes} for name, changes in found.items()}


def make(folder: Path) -> None:
    """Write a checkpoint for each network, some also as Zhan et al. do or as safetensors, and the inputs."""
    folder.mkdir(parents=True)
    for number, (name, arguments) in enumerate(networks().items()):
        torch.manual_seed(number)
        model = CMP(**arguments).eval()
        torch.nn.init.normal_(model.decoder.head.weight, std=1.0)  # else all bins are equally likely
        content = {"state_dict": model.state_dict(), "meta": {"cmp": model.describe(), "iter": 1}}
        torch.save(content, folder / f"{name}.pth", _use_new_zipfile_serialization=number % 2 == 0)
        theirs = {"resnet50": "resnet50", "resnet50_skip": "resnet50", "alexnet_stride32": "alexnet_fcn_32x"}
        if name in theirs:
            (folder / f"peer_{name}" / "checkpoints").mkdir(parents=True)
            decoder = "MotionDecoderSkipLayer" if "skip" in name else "MotionDecoderPlain"
            text = CONFIG.format(encoder=theirs[name], decoder=decoder)
            (folder / f"peer_{name}" / "config.yaml").write_text(text)
            checkpoint = folder / f"peer_{name}" / "checkpoints" / "ckpt_iter_42000.pth.tar"
            write_peer_checkpoint(checkpoint, model.state_dict(), step=42000)
    from cmp.checkpoints import convert_checkpoint

    convert_checkpoint(folder / "resnet50_skip.pth", folder / "resnet50_skip_safetensors.safetensors")
    rng = np.random.default_rng(0)
    inputs = {}
    for height, width in SIZES_HW:
        inputs[f"image_{height}"] = rng.integers(0, 256, (height, width, 3), np.uint8)
        inputs[f"points_{height}"] = rng.uniform(0, (width - 1, height - 1), (7, 2))
        inputs[f"vectors_{height}"] = rng.uniform(-20, 20, (7, 2))
    np.savez(folder / "inputs.npz", **inputs)


def run(folder: Path) -> dict[str, np.ndarray]:
    """Compute everything from a folder that `make` wrote."""
    inputs, results = np.load(folder / "inputs.npz"), {}
    for path in sorted([*folder.glob("*.pth"), *folder.glob("*.safetensors")]):
        propagator = cmp.load_propagator(path)
        for height, _ in SIZES_HW:
            given = [inputs[f"{what}_{height}"] for what in ("image", "points", "vectors")]
            sure = "regression" not in path.stem
            found = propagator.predict(*given, return_confidence=sure)
            results[f"{path.stem} {height}"] = (found[0] if sure else found).numpy()
            if sure:
                results[f"{path.stem} {height} confidence"] = found[1].numpy()
    image = inputs["image_96"]
    tracks = interpolate_tracks([[(10, 10), (20, 14), (40, 30)], [(100, 80)], [(64, 48), (60, 20)]], 5)
    sparse, mask = tracks_to_guidance(tracks, SIZES_HW[0])
    results["tracks"] = tracks
    results["resized guidance"] = resize_guidance(sparse, mask, (144, 160))[0]
    frame = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
    both = torch.from_numpy(mask).repeat(1, 2, 1, 1)
    for config in sorted(folder.glob("peer_*/config.yaml")):
        network = CMP_demo(config, 42000, device="cpu")
        flow = network.run(frame.repeat(len(sparse), 1, 1, 1), torch.from_numpy(sparse), both)
        results[f"CMP_demo {config.parent.name}"] = flow.numpy()
        results[f"enlarged {config.parent.name}"] = resize_flow_batch(flow, (192, 200)).numpy()
    precise = cmp.load_propagator(folder / "starter_like.pth", dtype=torch.float64)
    results["starter_like float64"] = precise.predict(
        *(inputs[f"{w}_96"] for w in ("image", "points", "vectors"))
    ).numpy()
    propagator = cmp.load_propagator(folder / "starter_like.pth")
    selection = segment_from_clicks(propagator, image, np.array([[64, 48]]), np.array([[5, 5]]))
    results["selection"] = np.asarray(selection[0] if isinstance(selection, tuple) else selection, np.float32)
    field = results["starter_like 96"][0].transpose(1, 2, 0).copy()
    results["color"] = flow_to_color(field).astype(np.float32)
    options = dict(strategies=("grid", "watershed"), grid_stride_px=16, nms_kernel=9)
    results["points"] = sample_guidance(field, rng=np.random.default_rng(0), **options).astype(np.float32)
    results["step"] = np.float32(read_checkpoint(folder / "resnet18.pth").step)
    return results


def compare(first: Path, second: Path) -> bool:
    """Print how far two files of results are apart; True if no result differs by more than the tolerance."""
    a, b = np.load(first), np.load(second)
    good = set(a.files) == set(b.files)
    if not good:
        print("only in one:", sorted(set(a.files) ^ set(b.files)))
    for name in sorted(set(a.files) & set(b.files)):
        if a[name].shape != b[name].shape:
            print(f"{name}: shapes {a[name].shape} and {b[name].shape}")
            good = False
            continue
        largest = float(np.abs(a[name]).max())
        difference = float(np.abs(a[name].astype(np.float64) - b[name]).max())
        close = difference <= TOLERANCE * max(largest, 1e-9)
        good &= close
        print(f"{name}: largest {largest:.4g}, difference {difference:.2g}{'' if close else '  TOO LARGE'}")
    print("equal within the tolerance" if good else "NOT equal")
    return good


def main(argv=None) -> int:
    """Run one of the three steps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("make", "run", "compare"))
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path, nargs="?")
    arguments = parser.parse_args(argv)
    if (arguments.second is None) != (arguments.step == "make"):
        parser.error("make takes one path, run and compare take two")
    if arguments.step == "make":
        make(arguments.first)
    elif arguments.step == "run":
        np.savez(arguments.second, **run(arguments.first))
        print(f"cmp from {Path(cmp.__file__).parent}, torch {torch.__version__}, numpy {np.__version__}")
    else:
        return 0 if compare(arguments.first, arguments.second) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
