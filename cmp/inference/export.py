"""Export the propagator as a graph for other runtimes, ONNX or torch.export, and check it by running it.

Legend: B batch (an image and its guidance each), H W image pixels.
"""

import hashlib
import importlib.util
import json
import warnings
import zipfile
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.export import Dim

from cmp.files import NewFile, check_paths, move_into_place, staging_folder, write_file
from cmp.inference.propagator import MotionPropagator, load_propagator
from cmp.version import __version__
from cmp.weights import parse_json

GRAPH_FORMATS = ("onnx", "torch_export")
TOLERANCE = 1e-3  # of the largest flow: ten times what another convolution library makes of the published network
INPUTS = ("image", "sparse", "mask")
METADATA_NAME = "cmp_metadata.json"  # inside a torch.export archive
MAX_METADATA_BYTES = 1 << 20


class GraphCheck(NamedTuple):
    """What running a written graph showed, compared with `MotionPropagator.predict_dense` on the same inputs."""

    runtime: str  # name and version; only the name where it is not installed
    shapes: tuple[tuple[int, int, int], ...]  # (B, H, W) tried; empty: not checked
    largest_difference_px: float
    largest_flow_px: float

    def __str__(self) -> str:
        if not self.shapes:
            return f"not run: {self.runtime} is not installed here"
        sizes = ", ".join("x".join(map(str, shape)) for shape in self.shapes)
        return (
            f"run in {self.runtime} on {sizes} (batch x height x width): largest difference "
            f"{self.largest_difference_px:.2g} px (largest flow {self.largest_flow_px:.3g} px)"
        )


class GraphReport(NamedTuple):
    """What an export of the propagator did."""

    path: Path
    written: bool  # False: a graph of the same checkpoint and settings was there already
    metadata: dict[str, str]
    check: GraphCheck | None  # None where nothing was written


class PropagatorGraph(nn.Module):
    """The part of a propagator that is exported: from tensors to a tensor, without checks.

    From image (B, 3, H, W) float32 in 0..1, sparse (B, 2, H, W) px and mask (B, 1, H, W) to flow (B, 2, H, W) px; H and
    W are multiples of the propagator's stride.
    """

    def __init__(self, propagator: MotionPropagator) -> None:
        super().__init__()
        self.propagator = propagator

    def forward(self, image: torch.Tensor, sparse: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        network = self.propagator.network
        features = network.decoder.prepare(network.image_encoder(self.propagator._normalized(image)))
        return network.decode(self.propagator._logits(features, sparse, mask), sparse, mask)


def least_side_px(propagator: MotionPropagator) -> int:
    """Smallest side of an image that the exported graph takes: below it a map inside has one cell, a special case."""
    stride = propagator.stride_px
    return stride * max(2 * max(propagator.network.decoder.propagation.strides), -(-64 // stride))


def graph_metadata(propagator: MotionPropagator) -> dict[str, str]:
    """What the user of a graph must know, as strings."""
    network, stride, least = propagator.network, propagator.stride_px, least_side_px(propagator)
    mean, std = (json.dumps([round(float(v), 4) for v in t.flatten()]) for t in (network.mean, network.std))
    inside = f"(255 * x - {mean}) / {std}" if propagator.normalize == "imagenet" else "2 * x - 1"
    return {
        "input.image": f"float32 (batch, 3, height, width), RGB in 0..1; the graph itself applies {inside}",
        "input.sparse": "float32 (batch, 2, height, width), px: motion at the points, channel 0 to the right, 1 down; "
        "0 elsewhere",
        "input.mask": "float32 (batch, 1, height, width): 1 where a point is, else 0",
        "output.flow": "float32 (batch, 2, height, width), px, channels as in sparse",
        "stride_px": str(stride),
        "least_side_px": str(least),
        "size": f"height and width: multiples of {stride}, at least {least}; pad the image at the right and the bottom "
        "by its last pixels, sparse and mask by 0, and crop the flow back",
        "normalize": propagator.normalize,
        "mean": mean,
        "std": std,
        "max_flow_px": f"{propagator.max_flow_px:.4g}",
        "encoder": str(getattr(network.image_encoder, "name", type(network.image_encoder).__name__)),
        "written_by": f"cmp-motion {__version__}",
    }


def export_propagator(
    checkpoint: str | PathLike,
    out: str | PathLike,
    format: str,
    *,
    normalize: str = "imagenet",
    max_flow_px: float = 50.0,
    alexnet_stride: int = 32,
    overwrite: bool = False,
) -> GraphReport:
    """Write a propagator as a graph with free batch, height and width, after running it at two sizes.

    Args:
        checkpoint: ours or Zhan et al.'s.
        out: file to write: .onnx, or .pt2 for torch.export.
        format: "onnx" or "torch_export".
        normalize, max_flow_px, alexnet_stride: see `load_propagator`.
        overwrite: replace an existing file that was made of something else.

    Returns:
        What was written and what running it showed. Where onnxruntime is not installed, nothing was checked.

    Raises:
        FileNotFoundError: the checkpoint does not exist.
        FileExistsError: out exists and was made of something else.
        ModuleNotFoundError: "onnx" without the packages onnx and onnxscript.
        ValueError: the checkpoint is broken, an argument is none of those offered, or the graph computes something
            else; nothing is written then.
    """
    out = Path(out)
    if format not in GRAPH_FORMATS:
        raise ValueError(f"format must be one of {GRAPH_FORMATS}, got {format!r}")
    suffix = {"onnx": ".onnx", "torch_export": ".pt2"}[format]
    if out.suffix != suffix:
        raise ValueError(f"out must end in {suffix} for {format}, got {out}")
    check_paths(reads={"CHECKPOINT": checkpoint}, writes={"OUT": out})
    if format == "onnx":
        missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
        if missing:
            raise ModuleNotFoundError(f"the format onnx needs {' and '.join(missing)}: pip install 'cmp-motion[onnx]'")
    propagator = load_propagator(
        checkpoint, normalize=normalize, max_flow_px=max_flow_px, alexnet_stride=alexnet_stride
    )
    digest = hashlib.sha256(Path(checkpoint).read_bytes()).hexdigest()
    metadata = graph_metadata(propagator) | {"checkpoint_sha256": digest}
    if out.exists():
        try:
            if read_graph_metadata(out) == metadata:
                return GraphReport(out, False, metadata, None)
        except ValueError:
            pass
        if not overwrite:
            raise FileExistsError(f"{out} exists and was made of something else")

    with staging_folder(out) as folder:
        path = folder / out.name
        write_graph(propagator, path, format, metadata)
        check = check_graph(propagator, path)
        move_into_place(path, out)
    return GraphReport(out, True, metadata, check)


def write_graph(propagator: MotionPropagator, path: Path, format: str, metadata: dict[str, str]) -> None:
    """Trace the propagator with free sizes and save it with its metadata."""
    stride, least = propagator.stride_px, least_side_px(propagator)
    # All sizes differ and none is 1: the tracer would treat equal sizes as one, and a size of 1 as constant.
    inputs = _example(2, least + stride, least + 3 * stride)
    height, width = (stride * Dim(name, min=least // stride) for name in ("rows", "columns"))
    sizes = {0: Dim("batch"), 2: height, 3: width}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporters, none of them about the result
        program = torch.export.export(
            PropagatorGraph(propagator).eval(), inputs, dynamic_shapes=(sizes,) * 3, strict=False
        )
        if format == "torch_export":
            with NewFile(path) as file:
                torch.export.save(program, file, extra_files={METADATA_NAME: json.dumps(metadata)})
            return
        graph = torch.onnx.export(
            program, dynamo=True, input_names=list(INPUTS), output_names=["flow"], verbose=False, external_data=False
        )
    for value in (*graph.model.graph.inputs, *graph.model.graph.outputs):
        value.shape = type(value.shape)(["batch", value.shape[1], "height", "width"])
    graph.model.metadata_props.update(metadata)
    write_file(path, graph.model_proto.SerializeToString())


def read_graph_metadata(path: str | PathLike) -> dict[str, str]:
    """What an exported file states about its inputs.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: it is not an .onnx or .pt2 file that was written here.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path}")
    try:
        if path.suffix == ".onnx":
            import onnx

            # Files that the graph names are not read: the metadata is in the file itself.
            metadata = {entry.key: entry.value for entry in onnx.load(path, load_external_data=False).metadata_props}
        else:
            metadata = _archived_metadata(path)
    except ModuleNotFoundError:
        raise
    except Exception as error:  # each library has its own errors for a broken file
        raise ValueError(f"{path} cannot be read as an exported graph: {error}") from error
    if "input.image" not in metadata:
        raise ValueError(f"{path} was not written by this package: it does not describe its inputs")
    return metadata


def _archived_metadata(path: Path) -> dict:
    """The metadata in a torch.export archive, without loading the program, which would unpickle what is in it."""
    with zipfile.ZipFile(path) as archive:
        (entry,) = (e for e in archive.infolist() if e.filename.rpartition("/")[2] == METADATA_NAME)
        if entry.file_size > MAX_METADATA_BYTES:
            raise ValueError(f"its metadata has {entry.file_size} bytes, at most {MAX_METADATA_BYTES} are read")
        metadata = parse_json(archive.read(entry).decode("utf-8"), source=METADATA_NAME)
    if not isinstance(metadata, dict):
        raise ValueError("its metadata is not a mapping")
    return metadata


def check_graph(propagator: MotionPropagator, path: Path) -> GraphCheck:
    """Run a written graph on inputs of two shapes that were not traced, and compare it with the propagator.

    Raises:
        ValueError: the two differ by more than rounding.
    """
    if path.suffix == ".onnx":
        try:
            import onnxruntime
        except ImportError:
            return GraphCheck("onnxruntime", (), 0.0, 0.0)
        runtime = f"onnxruntime {onnxruntime.__version__}"
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

        def run(*inputs: torch.Tensor) -> np.ndarray:
            return session.run(["flow"], {name: value.numpy() for name, value in zip(INPUTS, inputs)})[0]
    else:
        runtime = f"torch {torch.__version__}"
        module = torch.export.load(path).module()

        def run(*inputs: torch.Tensor) -> np.ndarray:
            with torch.no_grad():
                return module(*inputs).numpy()

    stride, least = propagator.stride_px, least_side_px(propagator)
    shapes = ((1, least, least + 2 * stride), (3, least + 4 * stride, least + stride))
    difference = largest = 0.0
    for shape in shapes:
        inputs = _example(*shape)
        expected = propagator.predict_dense(*inputs).numpy()
        flow = run(*inputs)
        if flow.shape != expected.shape:
            raise ValueError(f"{runtime} gives {flow.shape} where {expected.shape} is expected")
        difference = max(difference, float(np.abs(flow - expected).max()))
        largest = max(largest, float(np.abs(expected).max()))
    if not difference <= TOLERANCE * largest:
        raise ValueError(f"{runtime} computes another flow: off by {difference:.3g} px (largest flow {largest:.3g} px)")
    return GraphCheck(runtime, shapes, difference, largest)


def _example(batch: int, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Noise, with a guidance point in about every 500th pixel; the last of several images has none."""
    random = torch.Generator().manual_seed(0)
    image = torch.rand(batch, 3, height, width, generator=random)
    mask = (torch.rand(batch, 1, height, width, generator=random) < 2e-3).float()
    mask[1:][-1:] = 0
    sparse = mask * (40 * torch.rand(batch, 2, height, width, generator=random) - 20)
    return image, sparse, mask
