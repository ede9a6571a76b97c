"""Run everything that reads checkpoints on a file of Zhan et al.: what `cmp-motion checkpoint check` does."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image

from cmp.checkpoints import convert_checkpoint, read_checkpoint, read_peer_checkpoint
from cmp.compat import CMP_demo
from cmp.export import export_backbone
from cmp.files import check_paths, files_in, write_file
from cmp.inference import load_propagator
from cmp.inference.animation import animate_file
from cmp.inference.annotation import annotate_file
from cmp.inference.export import export_propagator
from cmp.models import AlexNetFCN, SkipPropagationDecoder
from cmp.video.writers import write_png

ITERATION = 42000
SIZE_HW = (128, 192)
CONVERTED = ("ours.safetensors", "back.pth.tar", "their_backbone.pth.tar")
EXPORTED = ("propagator.onnx", "propagator.pt2", "backbone.pth", "backbone.safetensors")
MADE = (*CONVERTED, *EXPORTED, "image.png", "video.gif", "mask.png", "config.yaml")


def example() -> tuple[np.ndarray, torch.Tensor, torch.Tensor, list, list]:
    """An image of soft noise, and the same two arrows as maps and as points."""
    coarse = np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8)
    image = np.array(Image.fromarray(coarse).resize(SIZE_HW[::-1], Image.Resampling.BICUBIC))
    height, width = SIZE_HW
    points = [[5 * width // 16, 5 * height // 16], [25 * width // 32, 45 * height // 64]]
    vectors = [[9.0, -4.0], [0.0, 0.0]]
    sparse, mask = torch.zeros(1, 2, *SIZE_HW), torch.zeros(1, 1, *SIZE_HW)
    for (x, y), vector in zip(points, vectors):
        sparse[0, :, y, x], mask[0, 0, y, x] = torch.tensor(vector), 1
    return image, sparse, mask, points, vectors


def require(truth: bool, message: str) -> None:
    """Raise ValueError with a message where something is not true."""
    if not truth:
        raise ValueError(message)


def check_conversion(checkpoint: Path, out: Path) -> str:
    """To our layout and back; nothing changes."""
    convert_checkpoint(checkpoint, out / "ours.safetensors")
    convert_checkpoint(out / "ours.safetensors", out / "back.pth.tar", to="peer")
    convert_checkpoint(checkpoint, out / "their_backbone.pth.tar", to="peer-backbone")
    theirs, back = (read_checkpoint(path).state_dict for path in (checkpoint, out / "back.pth.tar"))
    counters = {key for key in back if key.endswith("num_batches_tracked")}  # files of 2019 lack them
    require(theirs.keys() | counters == back.keys(), "keys are lost or added on the way there and back")
    require(all(torch.equal(back[key], value) for key, value in theirs.items()), "weights change there and back")
    return f"{len(theirs)} tensors equal there and back"


def check_prediction(checkpoint: Path, out: Path) -> str:
    """The same flow from three files, and from arrows as from maps."""
    image, sparse, mask, points, vectors = example()
    files = (checkpoint, out / "ours.safetensors", out / "back.pth.tar")
    flows = [torch.as_tensor(load_propagator(path).predict_dense(image, sparse, mask)) for path in files]
    require(all(torch.equal(flow, flows[0]) for flow in flows), "the three files predict different flow")
    by_arrows = load_propagator(checkpoint).predict(image, points, vectors)
    require(torch.equal(by_arrows, flows[0]), "predict and predict_dense differ")
    return f"flow of up to {float(flows[0].abs().max()):.2f} px, the same from {len(files)} files and from arrows"


def check_compat(checkpoint: Path, out: Path) -> str:
    """The wrapper for other projects gives the same flow."""
    network = read_peer_checkpoint(checkpoint).network()
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
    write_file(out / "config.yaml", yaml.safe_dump({"model": {"module": module}}))
    convert_checkpoint(checkpoint, out / "checkpoints" / f"ckpt_iter_{ITERATION}.pth.tar", to="peer")
    image, sparse, mask, _, _ = example()
    image = torch.from_numpy(image).permute(2, 0, 1)[None] / 255
    flow = CMP_demo(out / "config.yaml", ITERATION, device="cpu").run(image, sparse, mask.repeat(1, 2, 1, 1))
    expected = load_propagator(checkpoint, normalize="unit").predict_dense(image, sparse, mask)
    require(torch.equal(flow, expected), "the wrapper and predict_dense differ")
    return "CMP_demo(config, iteration).run gives what predict_dense gives with normalize='unit'"


def check_commands(checkpoint: Path, out: Path) -> str:
    """A video and a mask have the size of the image."""
    image, _, _, ((x, y), _), _ = example()
    write_png(out / "image.png", image)
    video, mask = out / "video.gif", out / "mask.png"
    animate_file(out / "image.png", video, checkpoint, arrows=[[x, y, x + 3 * image.shape[1] // 64, y - 4]], frames=4)
    annotate_file(out / "image.png", mask, checkpoint, [[x, y]])
    with Image.open(video) as frames, Image.open(mask) as inside:
        require(frames.size == inside.size == SIZE_HW[::-1], "video or mask have another size")
    return f"{video.name}, {mask.name}"


def check_graphs(checkpoint: Path, out: Path) -> str:
    """ONNX and torch.export."""
    found = [
        export_propagator(checkpoint, out / name, format, overwrite=True)
        for name, format in (("propagator.onnx", "onnx"), ("propagator.pt2", "torch_export"))
    ]
    return "; ".join(str(report.check or "already there") for report in found)


def check_backbone(checkpoint: Path, out: Path) -> str:
    """The backbone loads in another library."""
    alexnet = isinstance(read_peer_checkpoint(checkpoint).network().image_encoder, AlexNetFCN)
    name, format = ("backbone.safetensors", "safetensors") if alexnet else ("backbone.pth", "torchvision")
    return str(export_backbone(checkpoint, out / name, format, overwrite=True).load_back)


STEPS = {
    "conversion": check_conversion,
    "prediction": check_prediction,
    "compatibility": check_compat,
    "video and mask": check_commands,
    "graphs": check_graphs,
    "backbone": check_backbone,
}


def run_steps(checkpoint: Path, out: Path) -> Iterator[tuple[str, bool, str]]:
    """Run all steps; yields the name of each, whether it passed, and what it showed."""
    for name, step in STEPS.items():
        try:
            yield name, True, step(checkpoint, out)
        except (ValueError, OSError, ModuleNotFoundError) as error:
            yield name, False, str(error)


def check_checkpoint(checkpoint: Path, out: Path) -> Iterator[tuple[str, bool, str]]:
    """Check the paths and the file, then run all steps, as `run_steps`.

    Raises:
        FileNotFoundError, OSError, ValueError: the checkpoint is not a whole network in the layout of Zhan et al., or a
            file that is made would overwrite it.
    """
    check_paths(
        reads={"CHECKPOINT": checkpoint},
        writes={"a file that is made": files_in(out, MADE)},
        folders={"OUT_DIR": out},
    )
    read_peer_checkpoint(checkpoint).network()
    out.mkdir(parents=True, exist_ok=True)
    return run_steps(checkpoint, out)
