"""The install for inference alone: its requirements, and that nothing else is needed to predict."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from setuptools import find_packages

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "infer" / "pyproject.toml").read_text())
IMPORT_NAMES = {"opencv-python-headless": "cv2", "scikit-image": "skimage", "pillow": "PIL", "pyyaml": "yaml"}


def requirement_names(requirements) -> set[str]:
    return {re.match(r"[\w-]+", requirement)[0] for requirement in requirements}


def left_out() -> set[str]:
    """What infer/setup.py leaves out of the packages."""
    for node in ast.parse((ROOT / "infer" / "setup.py").read_text()).body:
        if isinstance(node, ast.Assign) and node.targets[0].id == "LEFT_OUT":
            return set(ast.literal_eval(node.value))
    raise AssertionError("no LEFT_OUT")


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def packaged_files() -> list[Path]:
    include = PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]
    packages = find_packages(str(ROOT), include=include)
    paths = [path for package in packages for path in sorted((ROOT / package.replace(".", "/")).glob("*.py"))]
    assert left_out() <= {module_name(path) for path in paths}
    return [path for path in paths if module_name(path) not in left_out()]


def imported_at_start(path: Path) -> set[str]:
    """Modules that a file imports at its top level, where a missing one makes the file useless; without `try`."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module)
    return found


def test_the_light_install_requires_what_its_modules_import_and_nothing_else():
    required = {IMPORT_NAMES.get(n, n) for n in requirement_names(PROJECT["project"]["dependencies"])}
    imported = {module.split(".")[0] for path in packaged_files() for module in imported_at_start(path)}
    # triton comes with torch for CUDA, and cmp.guidance.batched imports its kernels only there
    assert imported - set(sys.stdlib_module_names) - {"cmp", "triton"} == required


def test_its_modules_import_only_each_other():
    files = packaged_files()
    modules = {module_name(path).removesuffix(".__init__") for path in files}
    missing = {
        f"{path.relative_to(ROOT)}: {module}"
        for path in files
        for module in imported_at_start(path)
        if module.split(".")[0] == "cmp" and module not in modules
    }
    assert missing == set() and {"cmp.compat", "cmp.inference.trajectories", "cmp.flow"} <= modules


def test_it_predicts_with_every_other_requirement_of_the_full_install_out_of_reach(tmp_path):
    full = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    others = requirement_names(full["dependencies"] + full["optional-dependencies"]["playground"])
    others -= requirement_names(PROJECT["project"]["dependencies"]) | {"opencv-python"}
    assert {"mmengine", "av", "decord", "gradio", "tensorboard"} <= others
    code = f"""
import sys
for name in {sorted(others)!r}:
    sys.modules[name] = None  # an import of it raises ImportError
import numpy as np, torch
import cmp
from cmp.checkpoints import write_peer_checkpoint
from cmp.compat import CMP_demo
from cmp.flow import FlowQuantizer, flow_to_color
from cmp.guidance import sample_guidance
from cmp.inference import interpolate_tracks, tracks_to_guidance
from cmp.models import CMP, DiscreteLoss, MotionEncoder, ResNet, SkipPropagationDecoder

parts = (dict(type=ResNet, depth=18), dict(type=MotionEncoder), dict(type=SkipPropagationDecoder))
model = CMP(*parts, dict(type=FlowQuantizer), dict(type=DiscreteLoss), init="default")
path = {str(tmp_path)!r} + "/checkpoints/ckpt_iter_42000.pth.tar"
write_peer_checkpoint(path, model.state_dict(), step=42000)
open({str(tmp_path)!r} + "/config.yaml", "w").write(
    "model: {{module: {{image_encoder: resnet18, flow_decoder: MotionDecoderSkipLayer, nbins: 99, fmax: 50}}}}"
)
image = torch.rand(1, 3, 64, 96)
tracks = interpolate_tracks(np.array([[[8, 9], [30, 20]]]), 3)
sparse, mask = map(torch.from_numpy, tracks_to_guidance(tracks, (64, 96)))
flow = cmp.load_propagator(path, normalize="unit").predict_dense(image, sparse, mask)
assert torch.equal(flow, CMP_demo({str(tmp_path)!r} + "/config.yaml", 42000, device="cpu").run(image, sparse, mask))
field = flow[0].permute(1, 2, 0).numpy()
points_yx = sample_guidance(field, rng=np.random.default_rng(0), strategies=("grid",), grid_stride_px=16)
assert flow_to_color(field).shape == (64, 96, 3) and len(points_yx) == 24
print(tuple(flow.shape))
"""
    (tmp_path / "checkpoints").mkdir()
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (process.returncode, process.stdout.strip()) == (0, "(2, 2, 64, 96)"), process.stderr


def test_both_installs_are_one_version():
    version = {"attr": "cmp.version.__version__"}
    full = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert PROJECT["tool"]["setuptools"]["dynamic"]["version"] == version
    assert full["tool"]["setuptools"]["dynamic"]["version"] == version
